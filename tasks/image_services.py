"""Image services of ArcGIS as imagery, read block by block by GDAL's WMS driver.

    https://gis.town.org/server/rest/services/ortho/ImageServer
    .../ImageServer?bandIds=3,0,1       with parameters of the server's `exportImage`: mosaicRule, bandIds, time, ...

Pixels come in the cells and the type of the service, so nothing is resampled or stretched. Tested against a stand-in
that answers as the REST interface is described, not against ArcGIS itself.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from registry.errors import ImageryError, OptionsError
from registry.files import atomic
from registry.settings import settings
from tasks.arcgis_services import address_of, token_for, told_by

SERVICE = re.compile(r"/(?P<name>[^/]+)/ImageServer/?$", re.IGNORECASE)
KEPT = "services"  # in the cache
SUFFIX = ".imageserver"
SIZE = 16_384  # bytes of every description
BLOCK = 1024  # pixels of a side; a server may hand out less at once
TYPES = {  # of ArcGIS: that of GDAL, and what the server is asked for
    **dict.fromkeys(("U1", "U2", "U4", "U8"), ("Byte", "U8")),
    **dict.fromkeys(("S8", "S16"), ("Int16", "S16")),
    "U16": ("UInt16", "U16"),
    "U32": ("UInt32", "U32"),
    "S32": ("Int32", "S32"),
    "F32": ("Float32", "F32"),
    "F64": ("Float64", "F64"),
}
MATTER = ("extent", "fullExtent", "pixelSizeX", "pixelSizeY", "bandCount", "bandNames", "pixelType", "noDataValue")
CONTENT = ("minValues", "maxValues", "meanValues", "stdvValues", "timeInfo")  # that change when imagery is added
Facts = Mapping[str, Any]


def is_image_service(where: str) -> bool:
    return where.startswith("http") and bool(SERVICE.search(urlsplit(where).path))


def content_of(where: str) -> str:
    """What changes with the extent, bands, statistics and dates of the service: it tells nothing of its pixels."""
    facts = told_by(address_of(where)[0], {})
    return f"told:{_digest({name: facts.get(name) for name in (*MATTER, *CONTENT)})}"


def description(where: str) -> Path:
    """A file in the cache that GDAL opens as the service; it holds the token, if any, and is for its owner alone.

    Raises ImageryError for a service of another kind, StoreError where the server does not answer or refuses.
    """
    url, given = address_of(where)
    facts = told_by(url, {})
    number = _digest({"url": url, "given": given, "facts": {name: facts.get(name) for name in MATTER}})
    name = SERVICE.search(url)["name"]  # type: ignore[index]  # `is_image_service` was asked
    file = settings().cache / KEPT / number / f"{name}{SUFFIX}"
    bands = _bands(facts, given)
    _write(file, _described(url, given, facts, len(bands)))
    _write(file.with_name(f"{file.name}.aux.xml"), _called(bands))
    return file


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _write(file: Path, root: ET.Element) -> None:
    """Of one size and time whatever the token is: with another one it is no other imagery."""
    text = ET.tostring(root, encoding="unicode").ljust(SIZE)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    with atomic(file) as part:
        part.touch(mode=0o600)
        part.write_text(text, encoding="utf-8")
        os.utime(part, (0, 0))


def _bands(facts: Facts, given: Mapping[str, str]) -> list[str]:
    """What they are called, in the order that is asked for."""
    names = list(facts.get("bandNames") or ())
    names += [f"Band_{i}" for i in range(len(names) + 1, int(facts.get("bandCount") or 0) + 1)]
    asked = given.get("bandIds", "")
    if not all(i.isdecimal() and int(i) < len(names) for i in asked.split(",") if asked):
        raise OptionsError(f"expected numbers of bands below {len(names)}", where="bandIds", got=asked)
    return [names[int(i)] for i in asked.split(",")] if asked else names


def _described(url: str, given: Mapping[str, str], facts: Facts, bands: int) -> ET.Element:
    extent = facts.get("fullExtent") or facts.get("extent") or {}
    try:
        x, y = float(facts["pixelSizeX"]), float(facts["pixelSizeY"])
        west, south, east, north = (float(extent[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
        kind, asked = TYPES[facts["pixelType"]]
        columns, rows = round((east - west) / x), round((north - south) / y)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"is no image service with an extent, a cell size and one of {', '.join(TYPES)} as pixelType"
        got = {name: facts.get(name) for name in MATTER}
        raise ImageryError(what, where=url, got=got, do="check the address") from error
    code = _code(url, extent.get("spatialReference") or facts.get("spatialReference") or {})
    form = {"pixelType": asked, "interpolation": "RSP_NearestNeighbor", "adjustAspectRatio": "false", **given}
    token = {"token": found} if (found := token_for(url)) else {}
    root = ET.Element("GDAL_WMS")
    service = ET.SubElement(root, "Service", name="AGS")
    _texts(service, ServerUrl=f"{url}/exportImage?{urlencode({**form, **token})}", SRS=code, ImageFormat="tiff")
    window = ET.SubElement(root, "DataWindow")
    _texts(window, UpperLeftX=west, UpperLeftY=north, LowerRightX=west + columns * x, LowerRightY=north - rows * y)
    _texts(window, SizeX=columns, SizeY=rows)
    most = [int(facts.get(f"maxImage{side}") or BLOCK) for side in ("Width", "Height")]
    block = {f"BlockSize{axis}": min(BLOCK, side) for axis, side in zip("XY", most, strict=True)}
    _texts(root, Projection=code, BandsCount=bands, DataType=kind, **block)
    if (nodata := facts.get("noDataValue")) is not None:
        ET.SubElement(root, "DataValues", NoData=str(nodata))
    return root


def _code(url: str, reference: Facts) -> str:
    """EPSG:code, also of a WKID of Esri's own, which GDAL and the server know as well."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    for name in (f"EPSG:{reference[key]}" for key in ("latestWkid", "wkid") if reference.get(key)):
        with suppress(CRSError):
            CRS.from_string(name)
            return name
    do = "publish it in a coordinate system that has one"
    raise ImageryError("has no coordinate system with a known WKID", where=url, got=dict(reference), do=do)


def _called(bands: list[str]) -> ET.Element:
    """What GDAL reads beside a raster."""
    root = ET.Element("PAMDataset")
    for number, name in enumerate(bands, 1):
        _texts(ET.SubElement(root, "PAMRasterBand", band=str(number)), Description=name)
    return root


def _texts(parent: ET.Element, **texts: object) -> None:
    for name, text in texts.items():
        ET.SubElement(parent, name).text = repr(text) if isinstance(text, float) else str(text)
