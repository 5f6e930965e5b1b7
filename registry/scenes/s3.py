"""The rasters below a prefix of an S3 store; or one raster. An object is there only when whole.

Content: the ETag, and those of the files beside that the raster is read with: `e1 .tif.msk:e2 .tfw:e3`.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from registry.errors import Denied, NotFound
from registry.scenes import Scene, Search
from registry.scenes.beside import ends
from registry.stores import open_store
from registry.stores.s3 import S3Store


def find(place: str, search: Search) -> Iterator[Scene]:
    """One request for a thousand objects. What is empty, as the mark of a folder is, is no scene."""
    top, _, name = place.rpartition("/")
    if _suffix(name) in search.suffixes and (facts := _store(top).head(name)):
        if not facts["ContentLength"]:
            return
        others = dict[str, str]()
        with suppress(Denied):  # who may read it need not be allowed to list what is beside it
            others = {key: _tag(other) for key, other in _store(top).facts(f"{_stem(name)}.")}
        yield _with_others(_scene(_store(top), name, facts), others)
        return
    store, found, others = _store(place), list[Scene](), dict[str, str]()
    for key, facts in store.facts():
        if _suffix(key) not in search.suffixes:
            others[key] = _tag(facts)
        elif facts["Size"] and not any(part.startswith(".") for part in PurePosixPath(key).parts):
            found.append(_scene(store, key, facts))
    yield from (_with_others(scene, others) for scene in found)


def content(scene: Scene) -> str:
    """The ETags now."""
    store, key = _object(scene)
    facts = store.head(key)
    if facts is None:
        raise NotFound("the scene is gone", where=scene.place)
    others = {_stem(key) + end: store.head(_stem(key) + end) for end in _ends(scene)}
    return _told(_tag(facts), key, {name: _tag(other) for name, other in others.items() if other})


def fetch(scene: Scene, folder: Path) -> Path:
    """A copy: inference reads every pixel anyway, and what is read then cannot change meanwhile."""
    store, key = _object(scene)
    for end in _ends(scene):
        store.get(_stem(key) + end, folder / PurePosixPath(_stem(key) + end).name)
    return store.get(key, folder / PurePosixPath(key).name)


def _scene(store: S3Store, key: str, facts: dict[str, Any]) -> Scene:
    return Scene(key, _tag(facts), f"{store.uri}/{key}", "s3", facts["LastModified"].isoformat(timespec="seconds"))


def _with_others(scene: Scene, others: Mapping[str, str]) -> Scene:
    return replace(scene, content=_told(scene.content, scene.id, others))


def _told(tag: str, key: str, others: Mapping[str, str]) -> str:
    """What a raster's content is called, with those of the others that lie beside it."""
    stem = _stem(key)
    beside = (f"{end}:{others[stem + end]}" for end in ends(key.removeprefix(stem)) if stem + end in others)
    return " ".join((tag, *beside))


def _ends(scene: Scene) -> list[str]:
    """Of the files beside it, as its content tells them."""
    return [part.partition(":")[0] for part in scene.content.split()[1:]] if scene.source == "s3" else []


def _stem(key: str) -> str:
    return key.removesuffix(PurePosixPath(key).suffix)


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def _object(scene: Scene) -> tuple[S3Store, str]:
    bucket, _, key = scene.place.removeprefix("s3://").partition("/")
    return _store(f"s3://{bucket}"), key


def _store(place: str) -> S3Store:
    return cast("S3Store", open_store(place))


def _tag(facts: dict[str, Any]) -> str:
    return str(facts["ETag"]).strip('"')
