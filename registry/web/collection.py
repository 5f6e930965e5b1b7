"""Results of inference: a STAC collection in a folder or on S3, written by the flows, read here.

<results>/collection.json
<results>/<item id>/item.json     written last; its assets lie below the same folder:
                                  data, preview (GeoJSON), overlay (picture over the item's bbox), thumbnail
"""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from registry.errors import DlpkError, NotFound
from registry.settings import settings
from registry.stores import open_store

ITEM = "/item.json"
DRAWN = ("preview", "overlay", "thumbnail")  # assets that are handed out
MOST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Result:
    """One result over one scene."""

    id: str
    document: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        return _mapping(self.document.get("properties"))

    @property
    def made(self) -> datetime | None:
        text = self.properties.get("created") or self.properties.get("datetime")
        try:
            return datetime.fromisoformat(text) if text else None
        except (TypeError, ValueError):
            return None

    @property
    def model(self) -> str:
        return str(self.properties.get("dlpk:model", ""))

    @property
    def sha256(self) -> str:
        return str(self.properties.get("dlpk:sha256", ""))

    @property
    def bbox(self) -> list[float] | None:
        """west, south, east, north in degrees."""
        box = self.document.get("bbox")
        if not isinstance(box, list) or len(box) not in (4, 6):
            return None
        half = len(box) // 2
        try:
            return [float(n) for n in (box[0], box[1], box[half], box[half + 1])]
        except (TypeError, ValueError):
            return None

    @property
    def assets(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: entry for name, entry in _mapping(self.document.get("assets")).items() if _mapping(entry)}

    @property
    def title(self) -> str:
        """The scene's name, else the item's."""
        scene = str(self.properties.get("dlpk:scene") or self.properties.get("dlpk:imagery") or self.id)
        return scene.rstrip("/").rpartition("/")[2] or self.id

    @property
    def counts(self) -> Mapping[str, Any]:
        """Objects or cells of each class."""
        return _mapping(self.properties.get("dlpk:counts"))

    @property
    def colors(self) -> Mapping[str, Any]:
        return _mapping(self.properties.get("dlpk:colors"))

    def has(self, asset: str) -> bool:
        return asset in DRAWN and asset in self.assets


def results(*, sha256: str = "", model: str = "") -> list[Result]:
    """Newest first; those of one package, or of one model."""
    found = [_result(settings().results, item) for item in item_ids()]
    chosen = [
        one
        for one in found
        if one is not None
        and (not sha256 or one.sha256 == sha256)
        and (not model or one.model.partition("@")[0] == model)
    ]
    return sorted(chosen, key=lambda one: (str(one.properties.get("created", "")), one.id), reverse=True)


def result(item: str) -> Result:
    """Raises NotFound."""
    found = _result(settings().results, item) if item in item_ids() else None
    if found is None:
        raise NotFound("there is no such result", where=item)
    return found


def asset(found: Result, name: str) -> tuple[bytes, str]:
    """Content and media type of something to draw. Raises NotFound."""
    if not found.has(name):
        raise NotFound(f"has no {name}", where=found.id)
    entry = found.assets[name]
    key = posixpath.normpath(f"{found.id}/{entry.get('href', '')}")
    if not key.startswith(f"{found.id}/"):
        raise NotFound("lies outside of its result", where=f"{found.id} {name}")
    content = open_store(settings().results).get_range(key, 0, MOST_BYTES)
    return content, str(entry.get("type", ""))


def item_ids() -> list[str]:
    try:
        keys = open_store(settings().results).list()
    except NotFound:
        return []
    return [key.removesuffix(ITEM) for key in keys if key.endswith(ITEM) and key.count("/") == 1]


def _result(uri: str, item: str) -> Result | None:
    """None for one that cannot be read."""
    try:
        return _read(uri, item)
    except (DlpkError, ValueError, AttributeError):
        return None


@lru_cache(maxsize=4096)
def _read(uri: str, item: str) -> Result:
    """A store never overwrites, so an item that was read stays as it is."""
    document = json.loads(open_store(uri).get_bytes(f"{item}{ITEM}"))
    return Result(item, dict(document.items()))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
