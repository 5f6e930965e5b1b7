"""Whole or not at all: how a file comes into being, and how its content is named."""

import glob
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.errors import StoreError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name only when the block ends well.

    A kill leaves at most a hidden `.<name>.<random>.part`, never a torn `path`.
    A full disk raises StoreError and leaves nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
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
    """A hidden name beside `path`, to write to before it takes the name."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def sweep_parts(path: Path, older_than: float = 86_400) -> None:
    """Remove what killed writers of `path` left behind, once nobody can still be writing it (seconds)."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(FileNotFoundError):  # another sweeper was quicker
            if time.time() - part.stat().st_mtime >= older_than:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
