"""Several rasters of one export: of one kind or refused, brought to the first on request, laid together as a mosaic.

A mosaic is a GDAL VRT, as gdalbuildvrt would make it: the grid is that of the first raster, later rasters lie above
earlier ones, and where none has a valid pixel the mosaic has none.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio import shutil
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from registry.errors import ImageryError
from tasks.imagery import SAME_CELL, Imagery, cell_of, data_bands, open_raster, outside, same_cell, short_name
from tasks.placement import applied

GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32"} | {
    "float32": "Float32",
    "float64": "Float64",
}
GDAL_TYPES |= {"int8": "Int8", "int64": "Int64", "uint64": "UInt64"}  # of classes alone
SAME_PLACE = 0.05  # pixels: what lies no further off lies on the other's pixel
Box = tuple[float, float, float, float]  # column, row, width, height in pixels of a grid
NO_COLOURS = ("alpha", "palette")  # of a band that is measured, or of classes


@dataclass(frozen=True)
class Kind:
    """What rasters of one export must have in common, and where this one lies."""

    name: str
    crs: CRS | None
    transform: Affine
    width: int
    height: int
    bands: tuple[int, ...]
    dtype: str
    masked: bool  # some pixels may be nodata
    colours: tuple[str, ...]  # of the bands
    descriptions: tuple[str | None, ...]
    masks: tuple[str, ...]  # of a masked one: bands, as VRT names them, of which any is not 0 where a pixel is valid
    nodata: float | None  # the value that tells all of these

    @property
    def cell(self) -> tuple[float, float]:
        a, b, _, d, e, *_ = self.transform
        return math.hypot(a, d), math.hypot(b, e)

    @property
    def turned(self) -> tuple[bool, bool, bool]:
        """Whether its columns go west, its rows north, and both askew."""
        return self.transform.a < 0, self.transform.e > 0, bool(self.transform.b or self.transform.d)

    @property
    def placed(self) -> bool:
        return self.crs is not None or not self.transform.is_identity

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple((name or "").lower() for name in self.descriptions)

    @property
    def has_one_mask(self) -> bool:
        """At most, that is, and one that GDAL knows of every band."""
        return not self.masked or self.masks == (f"mask,{self.bands[0]}",)


def kind_of(name: str, *, classes: bool = False) -> Kind:
    """Reads the header only. `classes`: its first band is of these, whatever it looks like. Raises ImageryError."""
    with open_raster(name) as source:
        bands = (1,) if classes else data_bands(short_name(name), source)
        place = Affine(*source.transform[:6])
        image = Imagery(short_name(name), source, bands)
        masked = image.validity != "all"
        colours = tuple(source.colorinterp[i - 1].name for i in bands)
        descriptions = tuple(source.descriptions[i - 1] for i in bands)
        size, dtype = (source.width, source.height), source.dtypes[0]
        nodata = image.nodata if image.validity == "nodata" else None
        masks = _masks(image)
        return Kind(name, source.crs, place, *size, bands, dtype, masked, colours, descriptions, masks, nodata)


def _masks(image: Imagery) -> tuple[str, ...]:
    if image.validity == "alpha":
        return (str(image.alpha),)
    by_band = any(image.dataset.mask_flag_enums[i - 1] == [MaskFlags.nodata] for i in image.data_bands)
    return tuple(f"mask,{i}" for i in (image.data_bands if by_band else image.data_bands[:1]))


def honest(name: str) -> str:
    """The raster, without the claim that a measured band were alpha: GDAL would mix pixels by it when it resamples."""
    return mosaic((name,)) if "alpha" in kind_of(name).colours else name


def alike(names: Sequence[str], *, warp: bool, any_cell: bool) -> tuple[str, ...]:
    """The rasters, each of the kind of the first; with `warp` others are brought to it (nearest neighbour never).

    `any_cell`: cell sizes may differ, because all are resampled anyway. Raises ImageryError that names both files.
    """
    first, *others = map(kind_of, names)
    return (first.name, *(_like(first, other, warp=warp, any_cell=any_cell) for other in others))


def mosaic(names: Sequence[str], *, classes: bool = False) -> str:
    """The VRT of several rasters of one kind, as XML that GDAL opens like a file name; `classes` as of `kind_of`."""
    kinds = [kind_of(name, classes=classes) for name in names]
    if len(kinds) > 1:
        kinds = [with_one_mask(kind, classes=classes) for kind in kinds]
    first, dtype = kinds[0], str(np.result_type(*(kind.dtype for kind in kinds)))
    _refuse_turned(kinds)
    _refuse_unplaced(kinds)
    boxes = [box_on(first.transform, kind) for kind in kinds]
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    width, height = (round(max(b[i] + b[i + 2] for b in boxes) - corner) for i, corner in enumerate((left, top)))
    root = grid_of(first, left, top, width, height)
    places = [(kind, (b[0] - left, b[1] - top, b[2], b[3])) for kind, b in zip(kinds, boxes, strict=True)]
    masked = any(kind.masked for kind in kinds)
    by_number = _is_float(first) and not masked  # valid is then what is a number
    for number, (description, colour) in enumerate(zip(first.descriptions, first.colours, strict=True)):
        band = ET.SubElement(root, "VRTRasterBand", dataType=GDAL_TYPES[dtype], band=str(number + 1))
        if description:
            ET.SubElement(band, "Description").text = description
        ET.SubElement(band, "ColorInterp").text = "Undefined" if colour in NO_COLOURS else colour.title()
        if by_number:
            ET.SubElement(band, "NoDataValue").text = "nan"
        for kind, place in places:
            add_source(band, kind, str(kind.bands[number]), place, **(_hidden(kind) if len(kinds) > 1 else {}))
    covered = shapely.union_all(shapely.box(*np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in places]).T))
    if by_number or (covered.area == width * height and not masked):
        return ET.tostring(root, encoding="unicode")
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    for kind, place in places:
        _add_mask(mask, kind, place)
    return ET.tostring(root, encoding="unicode")


def grid_of(first: Kind, left: float, top: float, width: int, height: int) -> ET.Element:
    """A VRT without bands in the cells of a raster, from a column and row of it on."""
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if first.crs:
        ET.SubElement(root, "SRS").text = first.crs.to_wkt()
    moved = first.transform @ Affine.translation(left, top)
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, moved.to_gdal()))
    return root


def with_one_mask(kind: Kind, *, classes: bool = False) -> Kind:
    """For all of its bands: by a nodata value of each, the raster below would shine through some of them."""
    return kind if kind.has_one_mask else kind_of(mosaic((kind.name,), classes=classes), classes=classes)


def on_grid_of(grid: Imagery, source: rasterio.DatasetReader, resampling: Resampling) -> rasterio.DatasetReader:
    """The raster resampled to the grid of another; what it does not cover is nodata. Close it after use.

    Raises ImageryError where no way leads from one coordinate system to the other.
    """
    shape = {"transform": grid.transform, "width": grid.width, "height": grid.height}
    crs = grid.crs or CRS.from_epsg(3857)  # a grid without a CRS is resampled in plain coordinates
    if (source.crs or crs) == crs:  # else GDAL takes it from the sides of what it reads, and blurs small rasters
        (x, y), (own_x, own_y) = grid.cell, cell_of(source.transform)
        shape |= {"XSCALE": own_x / x, "YSCALE": own_y / y}
    try:
        return WarpedVRT(source, crs=crs, src_crs=source.crs or crs, resampling=resampling, **shape, **outside(source))
    except CPLE_BaseError as error:  # of a plan or a model, which lies nowhere on the earth
        what = f"has a coordinate system from which none leads to that of {grid.path.name}"
        do = "give both a true one: gdal_edit.py -a_srs EPSG:code FILE"
        raise ImageryError(what, where=short_name(source.name), do=do) from error


@contextmanager
def laid_on(grid: Imagery, name: str) -> Iterator[Imagery]:
    """A raster on the grid of another: as it is where the grids are one, else resampled (bilinear).

    Raises ImageryError when only one of them has a coordinate system.
    """
    path = short_name(name)
    with open_raster(name) as source:
        bands = data_bands(path, source)
        shift = shift_of(grid, source)
        if shift is not None:
            yield Imagery(path, source, bands, shift)
            return
        if (source.crs is None) != (grid.crs is None):
            odd = path if source.crs is None else grid.path
            raise ImageryError("has no coordinate system, the other raster has", where=odd, do="gdal_edit.py -a_srs")
    with open_raster(honest(name)) as source, on_grid_of(grid, source, Resampling.bilinear) as working:
        yield Imagery(path, working, bands)


def shift_of(grid: Imagery, source: rasterio.DatasetReader) -> tuple[int, int] | None:
    """Columns and rows from one grid's corner to the other's when they are one grid, else None.

    A raster of the same size that has no place on the map is taken to lie pixel on pixel.
    """
    placed = not source.transform.is_identity
    if not placed and source.crs is None:
        return (0, 0) if (source.width, source.height) == (grid.width, grid.height) else None
    if source.crs and grid.crs and source.crs != grid.crs:
        return None
    corners = np.array([(0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height)], np.float64)
    between = corners - applied(~Affine(*source.transform[:6]) @ grid.transform, corners)
    column, row = between[0].round()
    same = np.abs(between - (column, row)).max() < SAME_PLACE
    return (int(column), int(row)) if same else None


def _refuse_unplaced(kinds: Sequence[Kind]) -> None:
    """Raises ImageryError for several that would all lie in the same corner."""
    if len(unplaced := [kind.name for kind in kinds if not kind.placed]) > 1:
        what = f"{len(unplaced)} rasters have no place on the map, so they would lie on each other in a mosaic"
        do = "choose PROCESS_ITEMS_SEPARATELY, or give each a world file"
        raise ImageryError(what, where=short_name(unplaced[0]), do=do)


def _like(first: Kind, other: Kind, *, warp: bool, any_cell: bool) -> str:
    """Raises ImageryError, or returns a raster like the first."""
    names = [short_name(kind.name).name for kind in (first, other)]
    if len(first.bands) != len(other.bands):
        do = "export scenes of one sensor together, others apart"
        what = f"expected {len(first.bands)} bands as in {names[0]}"
        raise ImageryError(what, where=other.name, got=len(other.bands), do=do)
    if other.band_names != first.band_names and sorted(other.band_names) == sorted(first.band_names):
        what = f"expected the bands of {names[0]} in their order, {', '.join(first.band_names)}"
        raise ImageryError(what, where=other.name, got=", ".join(other.band_names), do="order them: gdal_translate -b")
    same = {
        "coordinate system": (first.crs, other.crs),
        "data type": (first.dtype, other.dtype),
        "cell size": (first.cell, first.cell if any_cell or _same_cells(first, other) else other.cell),
    }
    odd = {what: pair for what, pair in same.items() if pair[0] != pair[1]}
    if not odd:
        return _warped(first, other) if warp and first.turned != other.turned else other.name
    what, (want, got) = next(iter(odd.items()))
    if not warp:
        do = "export them apart, or set warp to bring it to the first"
        raise ImageryError(f"expected the {what} of {names[0]}, {_text(want)}", where=other.name, got=_text(got), do=do)
    if not np.can_cast(other.dtype, first.dtype):
        what = f"{other.dtype} does not fit into {first.dtype} of {names[0]} without loss"
        raise ImageryError(what, where=other.name, do="name the raster with the larger type first, or convert one")
    return _warped(first, other)


def _warped(first: Kind, other: Kind) -> str:
    """A warped VRT in memory: the coordinate system, cell size and grid lines of the first."""
    if first.crs is None or other.crs is None:
        odd = first if first.crs is None else other
        raise ImageryError(
            "has no coordinate system, so nothing can be warped", where=odd.name, do="gdal_edit.py -a_srs"
        )
    with open_raster(honest(other.name)) as source:
        with WarpedVRT(source, crs=first.crs, **outside(source)) as whole:
            box = rasterio.transform.array_bounds(whole.height, whole.width, whole.transform)
        corners = (~first.transform @ xy for xy in ((box[0], box[3]), (box[2], box[1])))
        (left, right), (top, bottom) = (sorted(map(round, side)) for side in zip(*corners, strict=True))
        grid = {
            "transform": first.transform @ Affine.translation(left, top),
            "width": right - left,
            "height": bottom - top,
        }
        coarser = np.prod(first.cell) > np.prod([abs(whole.transform.a), abs(whole.transform.e)]) * 1.1
        resampling = Resampling.average if coarser else Resampling.bilinear
        number = hashlib.sha256(f"{other} {first.crs} {grid}".encode()).hexdigest()[:16]
        own = short_name(other.name).with_suffix(".vrt").parts  # labels are found by folders and name
        name = f"/vsimem/{number}/{'/'.join(part for part in own if part not in ('/', '..'))}"
        kind = {"dtype": first.dtype, "resampling": resampling}
        with WarpedVRT(source, crs=first.crs, **grid, **kind, **outside(source)) as warped:
            shutil.copy(warped, name, driver="VRT")
    return name


def box_on(grid: Affine, kind: Kind) -> Box:
    """Where a raster lies on a grid."""
    left, top = ~grid @ (kind.transform.c, kind.transform.f)
    right, bottom = ~grid @ (kind.transform @ (kind.width, kind.height))
    return _near(left), _near(top), _near(right - left), _near(bottom - top)


def _near(number: float) -> float:
    """Whole where it is meant to be whole: world files are rounded."""
    return float(round(number)) if abs(number - round(number)) < SAME_CELL else number


def _refuse_turned(kinds: Sequence[Kind]) -> None:
    """Raises ImageryError for what does not lie straight on the grid of the first; one raster has its own."""
    first = kinds[0]
    for kind in kinds if len(kinds) > 1 else ():
        if kind.turned[2] or kind.turned != first.turned:
            what = "is rotated" if kind.turned[2] else f"lies the other way up than {short_name(first.name).name}"
            do = "straighten it with gdalwarp, or choose PROCESS_ITEMS_SEPARATELY"
            raise ImageryError(f"{what}, so it cannot be part of a mosaic", where=short_name(kind.name), do=do)


def _hidden(kind: Kind) -> dict[str, str]:
    """What tells the pixels that leave what lies below: of floats without a mask that they are no numbers."""
    if kind.masked:
        return {"UseMaskBand": "true"}
    return {"NODATA": "nan"} if _is_float(kind) else {}


def _is_float(kind: Kind) -> bool:
    return np.dtype(kind.dtype).kind == "f"


def add_source(
    band: ET.Element,
    kind: Kind,
    index: str,
    place: Box,
    resampling: str = "",
    **elements: str,
) -> None:
    """A band of a raster, by number or as mask,number, laid at column, row, width, height of the VRT's grid."""
    how = {"resampling": resampling} if resampling else {}
    source = ET.SubElement(band, "ComplexSource" if elements else "SimpleSource", how)
    ET.SubElement(source, "SourceFilename", relativeToVRT="0").text = kind.name
    ET.SubElement(source, "SourceBand").text = index
    ET.SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=str(kind.width), ySize=str(kind.height))
    ET.SubElement(source, "DstRect", dict(zip(("xOff", "yOff", "xSize", "ySize"), map(repr, place), strict=True)))
    for name, text in elements.items():
        ET.SubElement(source, name).text = text


def _add_mask(band: ET.Element, kind: Kind, place: Box) -> None:
    if not kind.masked:
        add_source(band, kind, str(kind.bands[0]), place, ScaleOffset="255", ScaleRatio="0", **_hidden(kind))
    for index in kind.masks if kind.masked else ():
        add_source(band, kind, index, place, NODATA="0")  # what is not valid here leaves what lies below


def _same_cells(first: Kind, other: Kind) -> bool:
    return same_cell(first.transform, other.cell)


def _text(value: object) -> str:
    if isinstance(value, CRS):
        return str(value.to_string() if value.to_epsg() else value.to_wkt()[:60])
    return " x ".join(f"{n:.6g}" for n in value) if isinstance(value, tuple) else str(value or "none")
