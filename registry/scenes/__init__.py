"""Where new scenes come from: one file a source, its name is the scheme of the address.

    /data/scenes, file:///data/scenes     every raster below a folder
    s3://bucket/scenes                    every raster below a prefix
    https://host/stac                     the items that a STAC API finds

A source has `find(place, search) -> Iterator[Scene]`, `content(scene) -> str` and `fetch(scene, folder) -> Path`. A
scene is known by its id and by what its content is called there (an ETag, a checksum, size and time of change): one
that is replaced under the same name is a new scene. What still grows is not found until it has come to rest.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from registry import plugins
from registry.errors import NotFound, OptionsError

UNKNOWN = "unknown"  # content of which its server tells nothing
RASTERS = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".png", ".jpg")


@dataclass(frozen=True)
class Search:
    """What of a source is wanted."""

    suffixes: tuple[str, ...] = RASTERS
    settle: float = 60.0  # seconds that a file must have been left alone
    collections: tuple[str, ...] = ()
    bbox: tuple[float, ...] = ()  # west, south, east, north in degrees
    dates: str = ""  # as STAC writes them: 2026-01-01/.. or 2026-03
    query: dict[str, Any] = field(default_factory=dict)  # of the Query extension: {"eo:cloud_cover": {"lt": 20}}
    asset: str = ""  # of a STAC item; none: the first that is a data raster


@dataclass(frozen=True)
class Scene:
    """One piece of imagery, somewhere."""

    id: str  # path below the folder or prefix, or collection/item
    content: str  # changes with its bytes
    place: str  # a path, s3://... or https://...
    source: str  # the scheme that found it
    taken: str = ""  # ISO 8601; of a file: when it was last changed

    @property
    def key(self) -> str:
        """16 hex digits of id and content."""
        return hashlib.sha256(f"{self.id}\n{self.content}".encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its id as files and objects may be called."""
        stem = re.sub(r"\.[A-Za-z0-9]{1,4}$", "", self.id)
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[-80:].strip("-") or "scene"

    def since(self, day: datetime) -> bool:
        """Whether it was taken then or later; one that tells no date was. A moment without a zone is one of UTC."""
        if not self.taken:
            return True
        taken = datetime.fromisoformat(self.taken)
        return (taken if taken.tzinfo else taken.replace(tzinfo=UTC)) >= day

    def document(self) -> dict[str, Any]:
        return asdict(self)


def find(place: str, search: Search) -> Iterator[Scene]:
    """The scenes of a place, by id. Raises OptionsError for an unknown kind of address, StoreError, NotFound."""
    return iter(sorted(_source(_scheme(place)).find(place, search), key=lambda scene: scene.id))


def content(scene: Scene) -> str:
    """What its content is called now. Raises NotFound when it is gone."""
    return str(_source(scene.source).content(scene))


def content_of(place: str) -> str:
    """The same of any file by its path or address."""
    return content(scene_at(place))


def scene_at(place: str) -> Scene:
    """A file by its path or address, of whose content nothing is known yet."""
    scheme = _scheme(place)
    local = unquote(urlsplit(place).path) if scheme == "file" and "://" in place else place
    return Scene(place, "", local, scheme)


def fetch(scene: Scene, folder: Path) -> Path:
    """A file on this machine with its pixels: itself, or a copy in `folder`."""
    found: Path = _source(scene.source).fetch(scene, folder)
    return found


def _scheme(place: str) -> str:
    scheme, separator, _ = place.partition("://")
    return (scheme.lower() if scheme.lower() != "http" else "https") if separator else "file"


def _source(scheme: str) -> ModuleType:
    try:
        return plugins.load(sys.modules[__name__], scheme)
    except NotFound as error:
        do = "give a folder, s3://bucket/prefix or the address of a STAC API"
        raise OptionsError(str(error), where="imagery", do=do) from error
