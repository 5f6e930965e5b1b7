"""The rasters below a prefix of an S3 store; or one raster. Content: the ETag; an object is there only when whole."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from registry.errors import NotFound
from registry.scenes import Scene, Search
from registry.stores import open_store
from registry.stores.s3 import S3Store


def find(place: str, search: Search) -> Iterator[Scene]:
    """One request for a thousand objects."""
    top, _, name = place.rpartition("/")
    if _suffix(name) in search.suffixes and (facts := _store(top).head(name)):
        yield _scene(_store(top), name, facts)
        return
    store = _store(place)
    for key, facts in store.facts():
        if _suffix(key) in search.suffixes and not any(part.startswith(".") for part in PurePosixPath(key).parts):
            yield _scene(store, key, facts)


def content(scene: Scene) -> str:
    """The ETag now."""
    store, key = _object(scene)
    facts = store.head(key)
    if facts is None:
        raise NotFound("the scene is gone", where=scene.place)
    return _tag(facts)


def fetch(scene: Scene, folder: Path) -> Path:
    """A copy: inference reads every pixel anyway, and what is read then cannot change meanwhile."""
    store, key = _object(scene)
    return store.get(key, folder / PurePosixPath(key).name)


def _scene(store: S3Store, key: str, facts: dict[str, Any]) -> Scene:
    return Scene(key, _tag(facts), f"{store.uri}/{key}", "s3", facts["LastModified"].isoformat(timespec="seconds"))


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def _object(scene: Scene) -> tuple[S3Store, str]:
    bucket, _, key = scene.place.removeprefix("s3://").partition("/")
    return _store(f"s3://{bucket}"), key


def _store(place: str) -> S3Store:
    return cast("S3Store", open_store(place))


def _tag(facts: dict[str, Any]) -> str:
    return str(facts["ETag"]).strip('"')
