"""Where published files are kept: one file a backend, its name is the scheme of the URI.

A backend has `connect(uri) -> Store`. What every one of them must keep (tests/registry/test_stores.py asks all):

    put         never overwrites: the same bytes again are a success, other bytes a Conflict; of many writers one wins
    replace     overwrites something small, whole or not at all; for what can be made again from the rest, as an index
    whole       a key is listed, exists and can be read only when all of its bytes are there, whatever is killed when
    get         the bytes that were put, checked against their sha256, or no file at all
    errors      StoreError when the place cannot be reached or used, NotFound when there is no such key

A key is a path of plain names, `roofs/<sha256>/roofs.dlpk`. Names that start with a dot belong to the backend.
"""

import sys
from pathlib import Path
from typing import Protocol, cast

from registry import plugins
from registry.errors import NotFound, OptionsError, StoreError


class Store(Protocol):
    """One place, addressed by `uri`, without a slash at its end."""

    uri: str

    def put(self, key: str, path: Path, digest: str = "") -> str:
        """Keep a file under a key; its URI. `digest` is its sha256, if known. Raises Conflict for other bytes."""

    def put_bytes(self, key: str, content: bytes) -> str:
        """The same for something small."""

    def replace(self, key: str, content: bytes) -> str:
        """Put something small in place of what is there; of many writers the last one wins."""

    def get(self, key: str, into: Path) -> Path:
        """Write the file `into`, whole or not at all."""

    def get_bytes(self, key: str) -> bytes:
        """The content of something small."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the object; not checked against its sha256."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys that start with `prefix`, sorted."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove an object; it is no error when there is none."""


def open_store(uri: str) -> Store:
    """The store behind `file:///folder`, `s3://bucket/prefix` or a plain folder path."""
    scheme, separator, _ = uri.partition("://")
    try:
        backend = plugins.load(sys.modules[__name__], scheme if separator else "file")
    except NotFound as error:
        raise OptionsError(str(error), where=uri, do="write file:///folder or s3://bucket/prefix") from error
    return cast("Store", backend.connect(uri))


def locate(uri: str, depth: int) -> tuple[Store, str]:
    """The store and the key (of `depth` names) that make up the URI of an object."""
    root, *names = uri.rsplit("/", depth)
    return open_store(root), "/".join(names)


def check_key(key: str) -> str:
    """The key. Raises StoreError when it could leave the store or meet a backend's own names."""
    if not all(name and not name.startswith(".") and "\\" not in name for name in key.split("/")):
        raise StoreError("expected a key of plain names", got=key, do="use names that do not start with a dot")
    return key
