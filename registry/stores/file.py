"""A folder as a store: `file:///srv/models`, on any disk with hard links.

A file comes into being as a hidden part beside its final name, is synced, and takes the name with a hard link, which
the system refuses when the name is taken: of many writers, on one or many machines, exactly one wins.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.errors import Conflict, NotFound, OptionsError, StoreError
from registry.files import atomic, part_of, sha256, sweep_parts, sync
from registry.stores import check_key

TRIES = 5  # to put something into a folder that others take away as soon as it is empty


def connect(uri: str) -> "FileStore":
    """The folder need not exist yet. Raises OptionsError for a relative path or another host's."""
    parts = urlsplit(uri)
    path = unquote(parts.path) if parts.scheme == "file" else uri
    if not Path(path).is_absolute() or (parts.scheme == "file" and parts.netloc not in ("", "localhost")):
        raise OptionsError("expected an absolute folder", where="store", got=uri, do="write file:///folder")
    return FileStore(Path(path))


class FileStore:
    """See the contract in registry.stores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = folder.as_uri()

    def put(self, key: str, path: Path, digest: str = "") -> str:
        return self._put(key, digest or sha256(path), lambda part: _copy(path, part))

    def put_bytes(self, key: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()

        def write(part: Path) -> str:
            part.write_bytes(content)
            return digest

        return self._put(key, digest, write)

    def replace(self, key: str, content: bytes) -> str:
        final = self._path(key)
        with _told(final):
            _make_folder(final.parent)
            with atomic(final) as part:
                part.write_bytes(content)
        return final.as_uri()

    def get(self, key: str, into: Path) -> Path:
        source = self._file(key)
        with atomic(into) as part, _told(source):
            shutil.copyfile(source, part)
        return into

    def get_bytes(self, key: str) -> bytes:
        with _told(source := self._file(key)):
            return source.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with _told(source := self._file(key)), source.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def list(self, prefix: str = "") -> list[str]:
        with _told(self.folder):
            below = os.walk(self.folder / prefix.rpartition("/")[0], onerror=_unless_gone)
            found = [Path(folder, name).relative_to(self.folder) for folder, _, names in below for name in names]
        keys = [path.as_posix() for path in found if not any(name.startswith(".") for name in path.parts)]
        return sorted(key for key in keys if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _told(path):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # others lie beside it
                path.parent.rmdir()

    def _put(self, key: str, digest: str, write: Callable[[Path], str]) -> str:
        final = self._path(key)
        with _told(final):
            for left in reversed(range(TRIES)):
                try:
                    there = _placed(final, digest, write) or sha256(final)
                    break
                except FileNotFoundError:  # the last neighbour was deleted, and the folder with it
                    if not left:
                        raise
            if there != digest:
                raise Conflict(
                    "holds other bytes", where=final, do="publish under another name; a store never overwrites"
                )
        return final.as_uri()

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    def _file(self, key: str) -> Path:
        if not (path := self._path(key)).is_file():
            raise NotFound("no such object", where=path.as_uri())
        return path


def _placed(final: Path, digest: str, write: Callable[[Path], str]) -> str:
    """The sha256 of what was written, "" where something is already."""
    part = part_of(final)
    _make_folder(final.parent)
    sweep_parts(final)
    try:
        if final.exists():  # only spares the copy: the link decides
            return ""
        if (written := write(part)) != digest:
            raise StoreError("the file changed while it was read", where=final, do="publish it again")
        sync(part)
        os.link(part, final)
        sync(final.parent)
    except FileExistsError:
        return ""
    else:
        return written
    finally:
        part.unlink(missing_ok=True)


def _copy(source: Path, part: Path) -> str:
    """The sha256 of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as file, part.open("wb") as target:
        while piece := file.read(2**20):
            digest.update(piece)
            target.write(piece)
    return digest.hexdigest()


def _unless_gone(error: OSError) -> None:
    """Of a folder that is listed: others remove some meanwhile, and one that is not ours holds nothing of ours."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync(place.parent)


@contextmanager
def _told(where: Path) -> Iterator[None]:
    try:
        yield
    except (StoreError, Conflict):
        raise
    except OSError as error:
        do = "check the disk, its free space and the rights on the folder, then run the same command again"
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV) and error.filename2:
            do = "this disk has no hard links: choose another, or an s3:// store"
        raise StoreError(f"the store failed ({error.strerror})", where=where, do=do) from error
