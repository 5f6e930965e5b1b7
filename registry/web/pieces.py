"""Single files out of a package in the store, read where it lies: a picture costs its own bytes, not the package.

What is read was checked once, when it was published; the manifest's sha256 of the member is asked again here.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from functools import lru_cache

from registry.archive import read
from registry.catalog import MEND, Version, manifest_of
from registry.errors import NotFound, PackageError, StoreError
from registry.stores import Store, locate

PIECE = 2**20
MOST_BYTES = 32 * 2**20  # of a picture or a report
PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}


class StoredFile(io.RawIOBase):
    """An object of a store as a file that can be read and sought, a range at a time."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        content = self._store.get_range(self._key, self._at, length)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def member(version: Version, name: str) -> bytes:
    """A file out of the package. Raises NotFound, PackageError for a damaged one, StoreError."""
    return _member(version.uri, version.size, version.sha256, name)


@lru_cache(maxsize=64)
def _member(uri: str, size: int, _sha256: str, name: str) -> bytes:
    store, key = locate(uri, depth=3)
    try:
        with zipfile.ZipFile(io.BufferedReader(StoredFile(store, key, size), PIECE // 4)) as archive:
            info = archive.getinfo(name)
            if info.file_size > MOST_BYTES:
                raise PackageError(f"is larger than {MOST_BYTES:,} bytes", where=name, got=info.file_size)
            return b"".join(read(archive, info))
    except KeyError as error:
        raise NotFound("the package has no such file", where=name) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise PackageError(f"is damaged ({error})", where=uri, do=MEND) from error


def checked(version: Version, name: str) -> bytes:
    """The same, and it is what was published. Raises StoreError when it is not."""
    content = member(version, name)
    told = manifest_of(version).get("members", {}).get(name)
    if told and hashlib.sha256(content).hexdigest() != told:
        raise StoreError("is not what was published", where=f"{version.uri} {name}", do=MEND)
    return content


def stream(version: Version, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes of the package from `start` to `end` (not included), a few MiB at a time."""
    store, key = locate(version.uri, depth=3)
    at, stop = start, version.size if end is None else end
    while at < stop:
        content = store.get_range(key, at, min(4 * PIECE, stop - at))
        if not content:
            raise StoreError("ended too early", where=version.uri, do=MEND)
        yield content
        at += len(content)
