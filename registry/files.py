"""Whole or not at all: how a file comes into being, and how its content is named."""

import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from registry.errors import StoreError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name only when the block ends well.

    A kill leaves at most a hidden `.<name>.<random>.part`, never a torn `path`.
    A disk that is full or may not be written raises StoreError and leaves nothing.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except OSError as error:
        if isinstance(error, StoreError) or error.errno is None:
            raise
        do = "free some space or choose another place, then run the same command again"
        raise StoreError(f"cannot write ({error.strerror})", where=path, do=do) from error
    finally:
        with suppress(OSError):  # the disk lets nobody write there
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically, line ends as given."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return path


def sha256(path: Path) -> str:
    """The hex digest of a file's content, read in 1 MiB pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def part_of(path: Path) -> Path:
    """A hidden name beside `path`, to write to before it takes the name; it tells which process writes."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def sweep_parts(path: Path, older_than: float = 86_400) -> None:
    """Remove what killed writers of `path` left behind: those of this machine at once, others after so many seconds."""
    _sweep(path.parent.glob(f".{glob.escape(path.name)}.*.part"), older_than)


def sweep_folder(folder: Path) -> None:
    """As `sweep_parts`, of all files in it and below."""
    _sweep([*folder.rglob(".*.part")], 86_400)


def _sweep(parts: Iterable[Path], older_than: float) -> None:
    for part in parts:
        with suppress(FileNotFoundError):  # another sweeper was quicker
            if _is_orphan(part) or time.time() - part.stat().st_mtime >= older_than:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def _is_orphan(part: Path) -> bool:
    """Whether the process that wrote it ran here and is gone."""
    written = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part$", part.name)
    if not written or written[1] != _machine():
        return False
    try:
        os.kill(int(written[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # somebody else's process
    return False


@cache
def _machine() -> str:
    """This host, and where containers share its name and a disk, this container."""
    with suppress(OSError):
        return hashlib.sha256(f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}".encode()).hexdigest()[:8]
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
