"""Where new scenes come from: one file a source, its name is the scheme of the address.

    /data/scenes, file:///data/scenes     every raster below a folder
    s3://bucket/scenes                    every raster below a prefix
    https://host/stac                     the items that a STAC API finds

A source has `find(place, search) -> Iterator[Scene]`, `content(scene) -> str` and `fetch(scene, folder) -> Path`. A
scene is known by its id and by what its content is called there (an ETag, a checksum, size and time of change): one
that is replaced under the same name is a new scene. What still grows is not found until it has come to rest.

Bands may lie in files of their own, each found like a scene: what shares all but the name of the band is one scene.
"""

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from registry import plugins
from registry.errors import NotFound, OptionsError

UNKNOWN = "unknown"  # content of which its server tells nothing
SUFFIXES = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".vrt", ".img", ".png", ".jpg", ".jpeg")  # whole in one file


@dataclass(frozen=True)
class Search:
    """What of a source is wanted."""

    suffixes: tuple[str, ...] = SUFFIXES
    settle: float = 60.0  # seconds that a file must have been left alone
    collections: tuple[str, ...] = ()
    bbox: tuple[float, ...] = ()  # west, south, east, north in degrees
    dates: str = ""  # as STAC writes them: 2026-01-01/.. or 2026-03
    query: dict[str, Any] = field(default_factory=dict)  # of the Query extension: {"eo:cloud_cover": {"lt": 20}}
    asset: str = ""  # of a STAC item, or several that are its bands: red,green,nir; none: its only data raster
    bands: tuple[str, ...] = ()  # of files: patterns of which each finds a band, *_B02.tif; * is alike in all


@dataclass(frozen=True)
class Scene:
    """One piece of imagery, somewhere."""

    id: str  # path below the folder or prefix, or collection/item
    content: str  # changes with its bytes
    place: str  # a path, s3://... or https://...
    source: str  # the scheme that found it
    taken: str = ""  # ISO 8601; of a file: when it was last changed
    bands: tuple["Scene", ...] = ()  # files that together are its bands, each known by what the band is called

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
    scheme = _scheme(place)
    found = _source(scheme).find(place, search)
    if search.bands and scheme == "https":
        raise OptionsError("are of files", where="bands", do="name the assets of an item as asset: red,green,nir")
    return iter(sorted(_composites(found, search.bands) if search.bands else found, key=lambda scene: scene.id))


def composite(name: str, bands: Sequence[Scene]) -> Scene:
    """One scene of files that hold a band or some each."""
    content, place = (", ".join(getattr(band, key) for band in bands) for key in ("content", "place"))
    return Scene(name, content, place, bands[0].source, max(band.taken for band in bands), tuple(bands))


def content(scene: Scene) -> str:
    """What its content is called now. Raises NotFound when it is gone."""
    if scene.bands:
        return composite(scene.id, [replace(band, content=content(band)) for band in scene.bands]).content
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


def fetch_all(scene: Scene, folder: Path) -> list[Path]:
    """The same of a scene whose bands may lie in files of their own."""
    return [fetch(band, folder / str(i)) for i, band in enumerate(scene.bands, 1)] or [fetch(scene, folder)]


def _composites(found: Iterable[Scene], patterns: Sequence[str]) -> Iterator[Scene]:
    """Of the files that a pattern finds those that are there for all of them, by what * stands for."""
    groups: dict[str, dict[str, Scene]] = defaultdict(dict)
    for scene in found:
        for pattern in patterns:
            if match := _pattern(pattern).fullmatch(scene.id):
                groups[f"{match['above']}{match['alike']}"][pattern] = scene
    called = _called(patterns)
    for name, group in groups.items():
        if len(group) == len(patterns):
            bands = [replace(group[pattern], id=band) for pattern, band in zip(patterns, called, strict=True)]
            yield composite(name.rstrip("/_-. ") or "scene", bands)


def _called(patterns: Sequence[str]) -> list[str]:
    """B02_10m of R10m/*_B02_10m.jp2."""
    return [PurePosixPath(pattern.replace("*", "")).stem.strip("_-. ") for pattern in patterns]


@cache
def _pattern(text: str) -> re.Pattern[str]:
    before, _, after = text.partition("*")
    return re.compile(rf"(?P<above>(?:.*/)?){re.escape(before)}(?P<alike>[^/]*){re.escape(after)}", re.DOTALL)


def _scheme(place: str) -> str:
    scheme, separator, _ = place.partition("://")
    return (scheme.lower() if scheme.lower() != "http" else "https") if separator else "file"


def _source(scheme: str) -> ModuleType:
    try:
        return plugins.load(sys.modules[__name__], scheme)
    except NotFound as error:
        do = "give a folder, s3://bucket/prefix or the address of a STAC API"
        raise OptionsError(str(error), where="imagery", do=do) from error
