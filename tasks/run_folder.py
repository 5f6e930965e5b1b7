"""What a run has finished, kept beside its result until that is whole: a killed run goes on where it was.

    with run_folder(out, facts) as done:            .out.tif.run/ beside out.tif
        if not done.has("00007"): done.write("00007", bytes)

`facts` say what the run is (model, imagery, options); a folder of another run is emptied. Files are written whole or
not at all, so whatever has its name is finished. The folder goes when the block ends well, or when nothing is in it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry.dlpk import ModelFolder
from registry.errors import OptionsError, StoreError
from registry.files import atomic, part_of, write_text
from registry.locks import locked

FACTS, LOCK, DOOR = "run.json", "lock", "door"
VERSION = 2  # of what units hold


@dataclass(frozen=True)
class RunFolder:
    path: Path

    def file(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return self.file(name).exists()

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        with atomic(self.file(name)) as part, part.open("wb") as file:
            file.writelines(parts)

    def finished(self) -> list[str]:
        return sorted(p.name for p in self.path.iterdir() if p.name not in {FACTS, LOCK, DOOR} and p.name[0] != ".")


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a run: the `part`-th of `of` parts, counted from 0."""

    part: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.of:
            raise OptionsError(f"expected a part from 0 to {self.of - 1}", where="share", got=self.part)

    def range(self, count: int) -> range:
        """Its neighbours among `count`."""
        return range(count * self.part // self.of, count * (self.part + 1) // self.of)


@contextmanager
def run_folder(out: Path, facts: Mapping[str, Any], share: Share | None = None) -> Iterator[RunFolder]:
    """With a `share` others work in it meanwhile, and it stays; a run without puts together what they did.

    Raises StoreError when another process is writing the same result, or a share of another run.
    """
    path = _folder(out)
    run, missing = RunFolder(path), [folder for folder in path.parents if not folder.exists()]
    told = json.dumps({"version": VERSION, **facts}, sort_keys=True, default=str)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / LOCK).open("a") as lock:
            if share:
                _join(lock, run, told, out)
            else:
                _lock(lock, out)
                _begin(run, told)
            yield run
    except BaseException as error:
        if share or (isinstance(error, StoreError) and error.__cause__ is BUSY):
            raise
        if not (path.is_dir() and run.finished()):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # something else has come to lie there
                for folder in missing:
                    folder.rmdir()
        raise
    if not share:
        _leave(run, out)


def _leave(run: RunFolder, out: Path) -> None:
    """What it knows of the result goes last, and at once."""
    with suppress(OSError):
        for name in run.finished():
            run.file(name).unlink()
        run.path.rename(gone := part_of(out))
        shutil.rmtree(gone, ignore_errors=True)


BUSY = BlockingIOError("locked")


def is_begun(out: Path) -> bool:
    """Whether a run for this result, which may be there already, has not come to its end."""
    return _folder(out).is_dir()


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.run")


def _join(lock: IO[str], run: RunFolder, facts: str, out: Path) -> None:
    """The first of the shares begins the run, one after the other looks whether it is theirs."""
    with run.file(DOOR).open("a") as door:
        _lock(door, out, wait=True)
        try:
            _lock(lock, out)
            _begin(run, facts)
        except StoreError:
            known = run.file(FACTS)
            if not known.exists() or known.read_text(encoding="utf-8") != facts:
                raise
        _lock(lock, out, shared=True)


def _lock(file: IO[str], out: Path, *, shared: bool = False, wait: bool = False) -> None:
    if not locked(file, shared=shared, wait=wait, optional=True):
        raise StoreError("is being written by another run", where=out, do="wait for it, or end it") from BUSY


def _begin(run: RunFolder, facts: str) -> None:
    known = run.file(FACTS)
    if known.exists() and known.read_text(encoding="utf-8") == facts:
        return
    for path in run.path.iterdir():
        if path.name not in {LOCK, DOOR}:
            path.unlink()
    write_text(known, facts)


def facts_of_files(names: Iterable[str]) -> list[list[object]]:
    """Name, size and time of files, where they are files of this machine."""
    told: list[list[object]] = []
    for name in names:
        try:
            found = os.stat(name)  # noqa: PTH116 - GDAL's names need not be paths
        except (OSError, ValueError):
            told.append([name])
        else:
            told.append([name, found.st_size, found.st_mtime_ns])
    return told


def facts_of_model(model: ModelFolder, sha256: str) -> object:
    """Its digest where that is known, else what its files look like."""
    if sha256 and model.path.name == sha256:
        return sha256
    return facts_of_files(sorted(str(path) for path in model.path.rglob("*") if path.is_file()))
