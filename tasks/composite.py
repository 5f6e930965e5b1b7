"""Composite Bands: bands that lie in files of their own become one raster, and no pixel is copied.

What comes out is a GDAL VRT in the smallest cells of the rasters, over the ground that all of them cover. Its bands are
theirs, in their order; coarser ones are interpolated (bilinear), as ArcGIS shows the bands of a Sentinel-2 product.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from registry.errors import ImageryError, OptionsError
from registry.files import write_text
from registry.settings import settings
from tasks.imagery import COLOURS, DTYPES, SAME_CELL, gdal_settings, short_name
from tasks.layers import named_from
from tasks.mosaic import GDAL_TYPES, NO_COLOURS, Box, Kind, add_source, box_on, grid_of, kind_of, with_one_mask
from tasks.sources import files_read, gdal_name, refuse_overwriting

KEPT = "composites"  # in the cache
ANY_ALPHA = "0:0,1:255,255:255"  # a table of values: whatever is not wholly transparent is valid


def composite_bands(rasters: Sequence[str], out: Path, band_names: Sequence[str] = ()) -> Path:
    """Write the VRT of the bands of several rasters.

    `band_names`: one for each raster, of which one with several bands has NAME_1, NAME_2. None: the rasters' own
    descriptions, else what differs in their file names, such as B02 and B03.
    A pixel is valid where any band is, if one value of nodata is that of all rasters; else where all rasters are.
    Raises ImageryError for rasters of which no pixel can lie on another, OptionsError for names that do not fit.
    """
    if out.suffix.lower() != ".vrt":
        raise OptionsError("expected a .vrt, for no pixel is copied", where=out, do="give it the suffix .vrt")
    if band_names and len(band_names) != len(rasters):
        raise OptionsError(f"expected {len(rasters)} names, one for each raster", where="band_names", got=band_names)
    refuse_overwriting(files_read(rasters), out)
    text = _written(rasters, band_names, out.resolve().parent)
    if not out.is_file() or out.read_text(encoding="utf-8") != text:  # so what is unchanged looks unchanged
        write_text(out, text)
    return out


def kept_composite(rasters: Sequence[str], band_names: Sequence[str], stem: str) -> Path:
    """The same in the cache, under a name that people know it by."""
    number = hashlib.sha256(json.dumps([[*rasters], [*band_names]]).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "scene"
    return composite_bands(rasters, settings().cache / KEPT / number / f"{name}.vrt", band_names)


def _written(rasters: Sequence[str], band_names: Sequence[str], folder: Path) -> str:
    with gdal_settings():
        kinds = [kind_of(_from_anywhere(name)) for name in rasters]
        by_value = len({repr(kind.nodata) for kind in kinds}) == 1 and kinds[0].nodata is not None
        kinds = kinds if by_value else [with_one_mask(kind) for kind in kinds]
    names = band_names or [short_name(name).stem for name in rasters]
    finest = min(kinds, key=lambda kind: math.prod(kind.cell))
    boxes = [_placed(finest, kind, name) for kind, name in zip(kinds, rasters, strict=True)]
    left, top = (math.ceil(max(box[i] for box in boxes)) for i in (0, 1))
    width, height = (math.floor(min(b[i] + b[i + 2] for b in boxes)) - start for i, start in ((0, left), (1, top)))
    if min(width, height) < 1:
        do = "name rasters of one place"
        raise ImageryError("the rasters cover no ground in common", where=short_name(rasters[0]), do=do)
    places: list[Box] = [(x - left, y - top, w, h) for x, y, w, h in boxes]
    root = grid_of(finest, left, top, width, height)
    _add_bands(root, kinds, places, _called(kinds, names, given=bool(band_names)), by_value=by_value)
    if not by_value and any(kind.masked for kind in kinds):
        _add_mask(root, kinds, places)
    for source in root.iter("SourceFilename"):
        _shorten(source, folder)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _from_anywhere(name: str) -> str:
    """The raster by a name that does not depend on the folder we are in."""
    known = gdal_name(name)
    return known if known.startswith(("/vsi", "<")) else named_from(known, Path.cwd()) or str(Path(known).absolute())


def _placed(finest: Kind, kind: Kind, name: str) -> Box:
    """Column, row, width and height of a raster in the cells of the finest. Raises ImageryError."""
    where, other = short_name(name), short_name(finest.name).name
    if kind.crs != finest.crs:
        do = "bring it to that of the others: gdalwarp -t_srs, or gdal_edit.py -a_srs where it has none"
        raise ImageryError(f"expected the coordinate system of {other}", where=where, got=str(kind.crs), do=do)
    if not (kind.placed or finest.placed) and (kind.width, kind.height) != (finest.width, finest.height):
        what = f"expected the size of {other}, for neither has a place on the map"
        raise ImageryError(what, where=where, got=(kind.width, kind.height), do="give both a world file")
    between = ~finest.transform @ kind.transform
    askew = max(abs(between.b) * kind.height, abs(between.d) * kind.width)
    if askew > SAME_CELL or min(between.a, between.e) <= 0:
        raise ImageryError(f"is turned against {other}", where=where, do="lay it on the grid of the others: gdalwarp")
    return box_on(finest.transform, kind)


def _add_bands(
    root: ET.Element, kinds: Sequence[Kind], places: Sequence[Box], names: Sequence[str], *, by_value: bool
) -> None:
    dtype = str(np.result_type(*(kind.dtype for kind in kinds)))
    if dtype not in DTYPES:
        do = "give the rasters one type: gdal_translate -ot"
        raise ImageryError("no type holds the pixels of all", where="rasters", got=[k.dtype for k in kinds], do=do)
    bands = [(kind, place, i) for kind, place in zip(kinds, places, strict=True) for i in range(len(kind.bands))]
    for number, ((kind, place, i), name) in enumerate(zip(bands, names, strict=True), 1):
        band = ET.SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number))
        ET.SubElement(band, "Description").text = name
        colour = name if name.lower() in COLOURS else kind.colours[i]
        ET.SubElement(band, "ColorInterp").text = "Undefined" if colour in NO_COLOURS else colour.title()
        if by_value:
            ET.SubElement(band, "NoDataValue").text = repr(kind.nodata)
        add_source(band, kind, str(kind.bands[i]), place, "" if _on_the_grid(kind, place) else "bilinear")


def _on_the_grid(kind: Kind, place: Box) -> bool:
    return place[2:] == (kind.width, kind.height) and all(float(start).is_integer() for start in place[:2])


def _add_mask(root: ET.Element, kinds: Sequence[Kind], places: Sequence[Box]) -> None:
    """Valid is what each raster with a mask calls so: the first tells, each later one takes away."""
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    masked = [(kind, place) for kind, place in zip(kinds, places, strict=True) if kind.masked]
    for number, (kind, place) in enumerate(masked):
        taken_away = {"NODATA": "255"} if number else {}
        add_source(mask, kind, kind.masks[0], place, LUT=ANY_ALPHA, **taken_away)


def _called(kinds: Sequence[Kind], names: Sequence[str], *, given: bool) -> list[str]:
    """A name for each band."""
    own = [name or "" for kind in kinds for name in kind.descriptions]
    if not given and all(own) and len(set(own)) == len(own):
        return own
    short = names if given else _what_differs(names)
    return [
        one if len(kind.bands) == 1 else description or (colour if colour in COLOURS else f"{one}_{i}")
        for kind, one in zip(kinds, short, strict=True)
        for i, (description, colour) in enumerate(zip(kind.descriptions, kind.colours, strict=True), 1)
    ]


def _what_differs(stems: Sequence[str]) -> list[str]:
    """B02 and B03 of T33UUU_20170216_B02_10m and T33UUU_20170216_B03_10m; the whole where no part tells all apart."""
    parts = [re.findall(r"[^\W_]+", stem) for stem in stems]
    if len({len(part) for part in parts}) == 1:
        for column in zip(*parts, strict=True):
            if len(set(column)) == len(stems):
                return list(column)
    return list(stems)


def _shorten(source: ET.Element, folder: Path) -> None:
    """A file below the VRT is named from there, so that the folder may move."""
    path = Path(source.text or "")
    if path.is_absolute() and not path.parts[1].startswith("vsi") and path.resolve().is_relative_to(folder):
        source.text = path.resolve().relative_to(folder).as_posix()
        source.set("relativeToVRT", "1")
