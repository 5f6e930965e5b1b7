"""What a STAC API finds. Content: the checksum of the asset, else `updated` of the item, else what its server says.

`updated` tells of all assets, so one that is named stands behind it: `updated:2026-05-03T00:00:00Z#red`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from registry.errors import Denied, NotFound, OptionsError, StoreError
from registry.files import atomic
from registry.scenes import UNKNOWN, Scene, Search, composite
from registry.scenes.assets import data_assets

PAGE = 100  # items in one answer
SECONDS = 60.0
FOR_A_WHILE = (408, 425, 429)  # of the answers that say the question was wrong
ANSWERS = ("etag", "last-modified", "content-length")  # of a server, the first that it gives
OF_GET_ONLY = (403, 405)  # answers to a HEAD where an address is good for GET alone, as presigned ones are


def find(place: str, search: Search) -> Iterator[Scene]:
    """All pages of a search. Raises StoreError when the API does not answer as one."""
    from pystac_client import Client
    from pystac_client.exceptions import APIError

    wanted: dict[str, Any] = {"collections": list(search.collections), "bbox": search.bbox, "datetime": search.dates}
    wanted |= {"query": search.query}
    try:
        client = Client.open(place, timeout=SECONDS)
        found = client.search(limit=PAGE, **{key: value for key, value in wanted.items() if value})
        for item in found.items_as_dicts():
            yield _scene(item, search)
    except (APIError, NotImplementedError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, NotFound | OptionsError | StoreError):
            raise
        do = "give the landing page of a STAC API with item search"
        raise StoreError(f"the STAC search failed ({error})", where=place, do=do) from error


def content(scene: Scene) -> str:
    """Items are not asked for again: what the catalogue called it stays, unless its server tells of the bytes."""
    kind, _, _ = scene.content.partition(":")
    return scene.content if kind in ("checksum", "updated", UNKNOWN) else _told_by_server(scene.place)


def fetch(scene: Scene, folder: Path) -> Path:
    """A copy."""
    if scene.place.startswith("s3://"):
        from registry.scenes import s3

        return s3.fetch(scene, folder)
    if (local := _local(scene.place)) is not None:
        return local
    target = folder / (unquote(PurePosixPath(urlsplit(scene.place).path).name) or "scene.tif")
    try:
        with httpx.stream("GET", scene.place, timeout=SECONDS, follow_redirects=True) as answer:
            _check(answer)
            with atomic(target) as part, part.open("wb") as file:
                for piece in answer.iter_bytes(2**20):
                    file.write(piece)
    except httpx.HTTPError as error:
        raise StoreError(f"cannot be fetched ({error})", where=scene.place, do="try again later") from error
    return target


def _scene(item: Mapping[str, Any], search: Search) -> Scene:
    name = f"{item['collection']}/{item['id']}" if item.get("collection") else str(item["id"])
    keys = [key.strip() for key in search.asset.split(",")]
    if len(keys) == 1:
        return _of_asset(item, name, keys[0])
    return composite(name, [_of_asset(item, key, key) for key in keys])


def _of_asset(item: Mapping[str, Any], name: str, key: str) -> Scene:
    asset, properties = _asset(item, key), item["properties"]
    href = str(asset["href"])
    if checksum := asset.get("file:checksum"):
        called = f"checksum:{checksum}"
    elif updated := asset.get("updated") or properties.get("updated"):
        called = f"updated:{updated}#{key}" if key else f"updated:{updated}"
    else:
        called = _told_or_unknown(href)
    taken = properties.get("datetime") or properties.get("start_datetime") or ""
    return Scene(name, called, href, "https", str(taken))


def _asset(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    assets: Mapping[str, Mapping[str, Any]] = item["assets"]
    if name:
        if name not in assets:
            raise OptionsError(f"the item has no asset {name!r}", where=item["id"], got=sorted(assets))
        return assets[name]
    chosen = data_assets(assets)
    if len(chosen) != 1:
        what = "the item has several rasters" if chosen else "the item has no raster"
        do = "name one as asset, or several that are the bands of one raster: red,green,nir"
        raise OptionsError(what, where=item["id"], got=sorted(chosen or assets), do=do)
    return assets[chosen[0]]


def _told_or_unknown(href: str) -> str:
    """An item whose data are away, or of which a server hands out nothing else, keeps no other from being found."""
    try:
        return _told_by_server(href)
    except (NotFound, Denied, FileNotFoundError):
        return UNKNOWN


def _told_by_server(href: str) -> str:
    if (local := _local(href)) is not None:
        facts = local.stat()
        return f"file:{facts.st_size}-{facts.st_mtime_ns}"
    if href.startswith("s3://"):
        from registry.scenes import s3

        return f"etag:{s3.content(Scene('', '', href, 's3'))}"
    try:
        answer = httpx.head(href, timeout=SECONDS, follow_redirects=True)
        if answer.status_code in OF_GET_ONLY:
            with httpx.stream("GET", href, timeout=SECONDS, follow_redirects=True) as answer:
                pass  # the head of the answer tells all
    except httpx.HTTPError as error:
        raise StoreError(f"does not answer ({error})", where=href, do="try again later") from error
    _check(answer)
    return next((f"{name}:{answer.headers[name]}" for name in ANSWERS if name in answer.headers), UNKNOWN)


def _check(answer: httpx.Response) -> None:
    if answer.status_code in (404, 410):
        raise NotFound("the scene is gone", where=answer.url)
    if answer.is_client_error and answer.status_code not in FOR_A_WHILE:
        raise Denied(f"answered {answer.status_code}", where=answer.url, do="check the address and the rights")
    if not answer.is_success:
        raise StoreError(f"answered {answer.status_code}", where=answer.url, do="try again later")


def _local(href: str) -> Path | None:
    if href.startswith("file://"):
        return Path(unquote(urlsplit(href).path))
    return None if "://" in href else Path(href)
