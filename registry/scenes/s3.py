"""The rasters below a prefix of an S3 store. Content: the ETag; an object is there only when it is whole."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from registry.errors import NotFound
from registry.scenes import Scene, Search
from registry.stores import open_store
from registry.stores.s3 import S3Store


def find(place: str, search: Search) -> Iterator[Scene]:
    """One request for a thousand objects."""
    store = cast("S3Store", open_store(place))
    for key, facts in store.facts():
        names = PurePosixPath(key)
        if names.suffix.lower() in search.suffixes and not any(name.startswith(".") for name in names.parts):
            taken = facts["LastModified"].isoformat(timespec="seconds")
            yield Scene(key, _tag(facts), f"{store.uri}/{key}", "s3", taken)


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


def _object(scene: Scene) -> tuple[S3Store, str]:
    bucket, _, key = scene.place.removeprefix("s3://").partition("/")
    return cast("S3Store", open_store(f"s3://{bucket}")), key


def _tag(facts: dict[str, Any]) -> str:
    return str(facts["ETag"]).strip('"')
