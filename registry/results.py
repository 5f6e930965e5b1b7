"""Results over scenes, as a STAC collection that QGIS, ArcGIS and the page open where it lies.

collection.json                       the list of all items, made from them again whenever some have come
<item>/item.json                      one scene and one model version; put last, once: now the result is there
<item>/<attempt>/<scene>.parquet      features as GeoParquet, or <scene>.tif, a cloud optimised GeoTIFF
<item>/<attempt>/preview.geojson      the same to look at: few features, simplified, in degrees
<item>/<attempt>/thumbnail.png        the scene with what was found; overlay.png: a class raster to lay over a map
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.errors import Conflict, NotFound
from registry.ledger import Claim, Entry
from registry.secrets import bare
from registry.stores import Store

COLLECTION = "collection.json"
ITEM = "item.json"
WORLD = [-180.0, -90.0, 180.0, 90.0]  # while no result tells where it lies
TITLE = "Results of deep learning models over new scenes"
KINDS = {  # suffix of a file -> asset key, media type, roles
    ".parquet": ("data", "application/vnd.apache.parquet", ["data"]),
    ".tif": ("data", "image/tiff; application=geotiff; profile=cloud-optimized", ["data"]),
    ".gpkg": ("data", "application/geopackage+sqlite3", ["data"]),
    ".geojson": ("preview", "application/geo+json", ["overview"]),
    ".xml": ("attributes", "application/xml", ["metadata"]),
    ".dbf": ("classes", "application/x-dbf", ["metadata"]),  # ArcGIS's attribute table and its encoding
    ".cpg": ("encoding", "text/plain", ["metadata"]),
}
PICTURES = {"thumbnail.png": ["thumbnail"], "overlay.png": ["overview"]}


def publish(store: Store, claim: Claim, files: Sequence[Path], record: Mapping[str, Any]) -> str:
    """Keep the files of an attempt and their item; the item's URI, "" when another attempt was there before.

    The same attempt may be published again, which is needed when an answer of the store was lost.

    `record`: geometry (GeoJSON or none) and bbox in degrees, and properties of the item.
    """
    for file in files:
        store.put(f"{claim.folder}/{file.name}", file)
    content = json.dumps(_item(claim, files, record), indent=1).encode()
    key = f"{claim.entry.item}/{ITEM}"
    with suppress(Conflict):
        store.put_bytes(key, content)
    there = json.loads(store.get_bytes(key))
    won = all(asset["href"].startswith(f"./{Path(claim.folder).name}/") for asset in there["assets"].values())
    _tidy(store, claim, won=won)
    return f"{store.uri}/{key}" if won else ""


def items(store: Store) -> Iterator[dict[str, Any]]:
    """Every result, by id."""
    for key in _item_keys(store):
        yield dict(json.loads(store.get_bytes(key)))


def refresh(store: Store) -> int:
    """Bring the collection in line with the items; how many there are. Anybody may, at any time."""
    while True:
        known, keys = _collection(store), _item_keys(store)
        linked = {link["href"].removeprefix("./") for link in known.get("links", ()) if link["rel"] == "item"}
        if linked == set(keys):
            return len(keys)
        fresh = [json.loads(store.get_bytes(key)) for key in keys if key not in linked]
        store.replace(COLLECTION, json.dumps(_with(known, keys, fresh), indent=1).encode())


def _item(claim: Claim, files: Sequence[Path], record: Mapping[str, Any]) -> dict[str, Any]:
    import pystac

    entry = claim.entry
    made = datetime.now(UTC)
    item = pystac.Item(
        id=entry.item,
        geometry=record.get("geometry"),
        bbox=record.get("bbox"),
        datetime=datetime.fromisoformat(entry.scene.taken) if entry.scene.taken else made,
        properties={**_facts(entry, made), **record.get("properties", {})},
        collection="results",
    )
    for file in files:
        key, kind, roles = _kind(file)
        item.add_asset(key, pystac.Asset(f"./{Path(claim.folder).name}/{file.name}", media_type=kind, roles=roles))
    item.add_link(pystac.Link("collection", f"../{COLLECTION}", "application/json"))
    for source in entry.scene.bands or (entry.scene,):
        item.add_link(pystac.Link("derived_from", bare(source.place)))
    return dict(item.to_dict(include_self_link=False))


def _facts(entry: Entry, made: datetime) -> dict[str, Any]:
    """Which model made it, of what, when."""
    return {
        "created": made.isoformat(timespec="seconds"),
        "dlpk:model": f"{entry.model}@{entry.version}".rstrip("@"),
        "dlpk:version": entry.version,
        "dlpk:sha256": entry.sha256,
        "dlpk:scene": entry.scene.id,
        "dlpk:content": entry.scene.content,
        "dlpk:imagery": bare(entry.scene.place),
    }


def _kind(file: Path) -> tuple[str, str, list[str]]:
    if file.name in PICTURES:
        return file.stem, "image/png", PICTURES[file.name]
    return KINDS.get(file.suffix, (file.name, "application/octet-stream", ["metadata"]))


def _tidy(store: Store, claim: Claim, *, won: bool) -> None:
    """Remove what attempts left behind that nobody will refer to."""
    for key in store.list(f"{claim.entry.item}/"):
        own = key.startswith(f"{claim.folder}/")
        if own != won and not key.endswith(f"/{ITEM}"):
            store.delete(key)


def _item_keys(store: Store) -> list[str]:
    return [key for key in store.list() if key.count("/") == 1 and key.endswith(f"/{ITEM}")]


def _collection(store: Store) -> dict[str, Any]:
    try:
        return dict(json.loads(store.get_bytes(COLLECTION)))
    except NotFound:
        return {}


def _with(known: Mapping[str, Any], keys: Sequence[str], fresh: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The collection, with the extent of before and of the fresh items."""
    import pystac

    extent = known.get("extent", {"spatial": {"bbox": []}, "temporal": {"interval": []}})
    boxes = [*(box for box in extent["spatial"]["bbox"] if box != WORLD), *(i["bbox"] for i in fresh if i.get("bbox"))]
    dates = [day for pair in extent["temporal"]["interval"] for day in pair if day]
    dates += [item["properties"]["datetime"] for item in fresh if item["properties"].get("datetime")]
    days = [datetime.fromisoformat(day) for day in dates]
    west, south, east, north = zip(*boxes or [WORLD], strict=True)
    space = pystac.SpatialExtent([[min(west), min(south), max(east), max(north)]])
    time = pystac.TemporalExtent([[min(days, default=None), max(days, default=None)]])
    made = pystac.Collection("results", TITLE, pystac.Extent(space, time), title=TITLE, license="other")
    for key in keys:
        made.add_link(pystac.Link("item", f"./{key}", "application/geo+json"))
    return dict(made.to_dict(include_self_link=False))
