"""A folder, with all below it; or one raster. Content: size and time of change, also of what lies beside a raster."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.errors import NotFound
from registry.scenes import Scene, Search
from registry.scenes.beside import TOLD, ends, told_beside


def find(place: str, search: Search) -> Iterator[Scene]:
    """A file that was touched within the last `settle` seconds may still be written, and is left for the next look."""
    top = Path(unquote(urlsplit(place).path) if "://" in place else place).expanduser().absolute()
    if not top.exists():
        raise NotFound("there is no such folder of scenes", where=top)
    for path in [top] if top.is_file() else _below(top):
        name = path.relative_to(top if path != top else top.parent)
        if path.suffix.lower() not in search.suffixes or any(part.startswith(".") for part in name.parts):
            continue
        try:
            facts = path.stat()
        except FileNotFoundError:  # gone meanwhile, or a link to nowhere
            continue
        touched = min(facts.st_mtime, facts.st_ctime)  # a time of change in the future was set by hand, or unpacked
        if time.time() - touched >= search.settle and facts.st_size:
            changed = datetime.fromtimestamp(int(facts.st_mtime), UTC).isoformat()
            known = os.fsencode(name.as_posix()).decode(errors="replace")  # of a disk that wrote names in Latin-1
            yield Scene(known, _content(path), str(path), "file", changed)


def content(scene: Scene) -> str:
    """Size and time of change now."""
    return _content(Path(scene.place))


def fetch(scene: Scene, _folder: Path) -> Path:
    """It is here."""
    return Path(scene.place)


def _below(top: Path) -> Iterator[Path]:
    """All files; folders that go meanwhile are passed over."""
    return (Path(folder, name) for folder, _, names in os.walk(top) for name in names)


def _content(path: Path) -> str:
    try:
        own = _facts(path)
    except FileNotFoundError as error:
        raise NotFound("the scene is gone", where=path) from error
    return " ".join((own, *_beside(path)))


def _beside(path: Path) -> Iterator[str]:
    for end in ends(path.suffix):
        other = path.with_name(path.stem + end)
        with suppress(FileNotFoundError):
            if told := told_beside(other) if end.endswith(TOLD) else _facts(other):
                yield f"{end}:{told}"


def _facts(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"
