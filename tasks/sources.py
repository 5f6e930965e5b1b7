"""What people mean by "the imagery": a raster, a folder, a list, a VRT, a STAC item or collection, near or far.

Everything becomes a list of names that GDAL opens:

    town.tif                     itself
    scenes/                      every raster in the folder, sorted by name
    scenes.txt                   one raster a line
    item.json, collection.json   the data assets of a STAC item, of all items of a collection or feature collection
    item.json#red,green,nir      these assets of an item, or of each, as the bands of one raster
    s3://bucket/town.tif         /vsis3/bucket/town.tif, read by ranges; likewise https://
    https://host/.../ImageServer an image service of ArcGIS, see `tasks.image_services`
    NETCDF:"town.nc":Band1       itself: one of several rasters in a file, as GDAL names it
    S2A_..._MSIL2A_....SAFE      the metadata, which tell the names of the rasters in it; likewise a Zarr store
"""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pystac
from pystac.errors import STACError, STACTypeError
from pystac.stac_io import DefaultStacIO

from registry.errors import DlpkError, ImageryError, OptionsError
from registry.scenes.assets import RASTERS, data_assets
from tasks import image_services
from tasks.layers import REMOTE, address, file_within, named_from

OF_FILE = re.compile(r"^file:/+", re.IGNORECASE)
OF_HDF5 = re.compile(r"^(HDF5:.+?):/+", re.IGNORECASE)
PRODUCT = "MTD_MSI*.xml"  # of a Sentinel-2 product, in whose folder rasters lie deep
STORE = ".zarr"
FAR = re.compile(r"/vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(?:_streaming)?/")  # GDAL's names of other machines
ENDPOINTS = ("DLPK_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

Imageries = str | Path | Sequence[str | Path]


def find_rasters(imagery: Imageries) -> tuple[str, ...]:
    """Names that GDAL opens, in a fixed order. Raises ImageryError where nothing is found."""
    many = [imagery] if isinstance(imagery, str | Path) else list(imagery)
    found = tuple(name for one in many for name in _find(str(one)))
    if not found:
        raise ImageryError("no imagery was given", do="name at least one raster")
    return found


def files_read(imagery: Imageries) -> list[str]:
    """The rasters, and the files beside and behind them on this machine; each once."""
    names = find_rasters(imagery)
    near = (name for name in names if not name.startswith("/vsi"))
    return list(dict.fromkeys([*names, *(file for name in near for file in files_behind(Path(name)))]))


def refuse_overwriting(read: Iterable[str], *results: str | Path) -> None:
    """Raises OptionsError where a result would take the place of a file that is read."""
    files = {Path(name).resolve() for name in read}
    for result in map(Path, results):
        if result.resolve() in files:
            raise OptionsError("is imagery that is read, and would be replaced", where=result, do="choose another OUT")


def gdal_name(text: str) -> str:
    """s3:// and https:// as GDAL spells them; also where pathlib has eaten a slash."""
    match = REMOTE.match(text)
    if match is None:
        return OF_HDF5.sub(r"\1://", text)
    scheme, rest = match[1].lower(), text[match.end() :]
    return f"/vsis3/{rest}" if scheme == "s3" else f"/vsicurl/{scheme}://{rest}"


def is_far(name: str) -> bool:
    """Whether GDAL reads it from another machine: a server may be busy, a connection lost."""
    return name.endswith(image_services.SUFFIX) or bool(FAR.search(name))


def files_behind(path: Path) -> list[str]:
    """What GDAL reads with a raster: of a VRT, also one of VRTs, what it is made of; [] where it cannot be opened."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(gdal_name(str(path))) as file,
        ):
            return sorted(name for name in file.files if Path(name) != path)
    except RasterioError:
        return []


def remote_settings() -> dict[str, str]:
    """GDAL's options for an S3 server other than Amazon's, from the variables that boto3 knows."""
    url = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    if not url or os.environ.get("AWS_S3_ENDPOINT"):
        return {}
    parts = urlsplit(url)
    secure = "YES" if parts.scheme == "https" else "NO"
    return {"AWS_S3_ENDPOINT": parts.netloc, "AWS_HTTPS": secure, "AWS_VIRTUAL_HOSTING": "FALSE"}


def _find(text: str) -> Iterator[str]:
    if text.startswith("<VRTDataset"):
        yield text
    elif image_services.is_image_service(where := address(text)):
        yield str(image_services.description(where))
    elif text.lower().partition("#")[0].partition("?")[0].endswith(".json"):
        yield from _stac(text)
    elif REMOTE.match(text) or text.startswith("/vsi") or file_within(text):
        yield gdal_name(text)
    else:
        yield from _local(Path(text))


def _local(path: Path) -> Iterator[str]:
    if not path.exists():
        raise ImageryError("does not exist", where=path, do="check the path")
    if path.is_dir() and path.suffix.lower() != STORE:
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))
        files = files or sorted(path.glob(PRODUCT))
        if not files:
            raise ImageryError("is a folder without rasters", where=path, do=f"expected {', '.join(sorted(RASTERS))}")
        yield from map(str, files)
    elif path.suffix.lower() == ".txt":
        yield from (name for line in _lines(path) for name in _find(_beside(line, path.parent)))
    else:
        yield str(path)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageryError(f"is no list of rasters ({error})", where=path, do="save it as text in UTF-8") from error
    return [line for line in map(str.strip, text.splitlines()) if line]


def _beside(name: str, folder: Path) -> str:
    if REMOTE.match(name) or name.startswith("/"):
        return name
    return named_from(name, folder) or str(folder / name)


def _stac(text: str) -> Iterator[str]:
    where, _, assets = (address(text) or text).partition("#")
    try:
        for item in _items(where):
            yield from _named(item, [key.strip() for key in assets.split(",")]) if assets else _assets(item)
    except (OSError, ValueError, KeyError, AttributeError, STACError, STACTypeError) as error:
        do = "check that it is a STAC item, collection or feature collection"
        if isinstance(error, DlpkError):
            raise
        raise ImageryError(f"cannot be read as STAC ({error})", where=text, do=do) from error


class _Reader(DefaultStacIO):
    """Of STAC documents here, on the web and in a bucket."""

    def read_text_from_href(self, href: str) -> str:
        if href.startswith("s3://"):
            from registry.stores import locate

            store, key = locate(href, 1)
            return store.get_bytes(key).decode()
        try:
            return str(super().read_text_from_href(href))
        except Exception as error:
            raise OSError(f"{error}") from error  # pystac raises anything


def _items(where: str) -> Iterable[pystac.Item]:
    reader = _Reader()
    document: dict[str, Any] = json.loads(reader.read_text(where))
    if document.get("type") == "FeatureCollection":
        return [pystac.Item.from_dict(feature, href=where) for feature in document["features"]]
    read = pystac.read_file(where, stac_io=reader)
    if isinstance(read, pystac.Item):
        return [read]
    assert isinstance(read, pystac.Catalog)  # a collection is one
    return sorted(read.get_items(recursive=True), key=lambda item: item.id)


def _assets(item: pystac.Item) -> Iterator[str]:
    """The one raster of data that it has."""
    chosen = data_assets({key: asset.to_dict() for key, asset in item.assets.items()})
    if len(chosen) != 1:
        do = "name it behind a #, or several that are the bands of one raster: item.json#red,green,nir"
        what = "expected one asset with the role data"
        raise ImageryError(what, where=item.get_self_href() or item.id, got=sorted(chosen), do=do)
    yield from _rasters_of(item, *chosen)


def _named(item: pystac.Item, keys: Sequence[str]) -> Iterator[str]:
    """The asset of that name, or a raster of several."""
    if missing := sorted({*keys} - item.assets.keys()):
        what = f"the item has no asset {', '.join(map(repr, missing))}"
        raise ImageryError(what, where=item.get_self_href() or item.id, got=sorted(item.assets), do="name one of these")
    rasters = [name for key in keys for name in _rasters_of(item, key)]
    if len(rasters) > 1:
        from tasks.composite import kept_composite

        rasters = [str(kept_composite(rasters, keys, item.id))]
    yield from rasters


def _rasters_of(item: pystac.Item, key: str) -> Iterator[str]:
    asset = item.assets[key]
    yield from _find(_path_of(asset.get_absolute_href() or asset.href))


def _path_of(href: str) -> str:
    """Of a file on this machine, which STAC names as an address: file:///data/a%20b.tif; others as they are."""
    path = OF_FILE.sub("/", href)
    return path if Path(path).exists() or not Path(unquote(path)).exists() else unquote(path)
