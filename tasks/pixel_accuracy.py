"""Compute Accuracy For Pixel Classification: a class raster beside the truth, as a confusion matrix (F.6)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from xml.etree.ElementTree import ParseError

import numpy as np
import pandas
import pyogrio
import rasterio
import shapely
from affine import Affine
from defusedxml.ElementTree import parse
from numpy.typing import NDArray
from pydantic import Field
from pyogrio.errors import DataSourceError
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from registry.emd import ClassLabel
from registry.errors import ImageryError, LabelError
from tasks.class_values import NAME_FIELDS, class_values, field_of_names
from tasks.feature_files import read_features
from tasks.imagery import bounds_of
from tasks.labels import is_vector
from tasks.layers import file_of
from tasks.nearby import nearby
from tasks.options import Options
from tasks.tables import check_table, write_rows

SIDE = 2048  # pixels of a block that is compared at once
NOTHING = int(np.iinfo(np.int32).min)  # where no feature lies
SPARE = 10  # times as many points are drawn as are wanted, where some may lie too close to each other
Matrix = Counter[tuple[int, int]]  # (class of the raster, true class): pixels or points
Stratum = int | None  # class that points are drawn of; None: all of them together
Ints = NDArray[np.int64]
Block = tuple[Ints, Ints, Ints]


class PixelAccuracyOptions(Options):
    """The parameters of the tool."""

    class_value_field: str = Field(
        "", description="field of the true class, of features; empty: Classvalue, class_value or Value"
    )
    num_random_points: int | None = Field(None, ge=1, description="compare at so many random points; none: every pixel")
    sampling: Literal["STRATIFIED_RANDOM", "EQUALIZED_STRATIFIED_RANDOM", "RANDOM"] = Field(
        "STRATIFIED_RANDOM", description="points of a class by its true area; as many of each; or anywhere"
    )
    min_point_distance: float = Field(0.0, ge=0, description="least distance of two points, in map units")
    seed: int = Field(42, ge=0, description="start of the random draw")


class Truth(Protocol):
    def read(self, window: Window) -> tuple[Ints, NDArray[np.bool_]]:
        """(rows, cols) true class, and where it is known."""


def compute_pixel_accuracy(
    in_raster: Path, in_ground_truth_data: Path, out_confusion_matrix: Path, options: PixelAccuracyOptions
) -> dict[str, Any]:
    """Write the matrix (.csv, .dbf, .json or .gpkg) and tell accuracy, kappa and mIoU.

    Rows are the classes of the raster, columns the true ones: C_<value>, Total, U_Accuracy (user's), IoU; below them
    Total, P_Accuracy (producer's) and Kappa. The truth is a class raster, warped onto the grid of `in_raster` by the
    nearest pixel where its grid differs, or features; where it says nothing, or the raster is nodata, nothing is
    counted. Memory follows the block. Raises ImageryError, LabelError or OptionsError for what cannot be compared.
    """
    check_table(out_confusion_matrix)
    with _opened(in_raster) as raster, _truth(in_ground_truth_data, raster, options) as truth:
        blocks = partial(_blocks, raster, truth)
        if options.num_random_points is None:
            matrix = _counted((found, true) for _, found, true in blocks())
        else:
            matrix = _at_points(blocks, raster, options)
    if not matrix:
        do = "check that both show the same place, and the class values"
        raise LabelError("says nothing where the raster does", where=in_ground_truth_data, do=do)
    rows, facts = _table(matrix)
    write_rows(out_confusion_matrix, rows)
    return {"points" if options.num_random_points else "pixels": sum(matrix.values()), **facts}


def _blocks(raster: Any, truth: Truth) -> Iterator[Block]:
    """(n, 2) row and column, (n,) class of the raster and (n,) true class, where both are known, block by block."""
    for row in range(0, raster.height, SIDE):
        for col in range(0, raster.width, SIDE):
            window = Window(col, row, min(SIDE, raster.width - col), min(SIDE, raster.height - row))
            true, known = truth.read(window)
            known = known & (raster.read_masks(1, window=window) > 0)
            if known.any():
                found = raster.read(1, window=window)[known].astype(np.int64)
                yield np.argwhere(known) + np.array([row, col]), found, true[known]


def _counted(pairs: Iterable[tuple[Ints, Ints]]) -> Matrix:
    matrix: Matrix = Counter()
    for found, true in pairs:
        kinds, counts = np.unique(np.stack([found, true]), axis=1, return_counts=True)
        matrix.update(dict(zip(map(tuple, kinds.T.tolist()), counts.tolist(), strict=True)))
    return matrix


def _at_points(blocks: Callable[[], Iterator[Block]], raster: Any, options: PixelAccuracyOptions) -> Matrix:
    """One pass counts the classes, a second takes the pixels that were drawn."""
    sizes: Counter[Stratum] = Counter()
    for _, _, true in blocks():
        values, counts = np.unique(true, return_counts=True)
        sizes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    dice, wanted = np.random.default_rng(options.seed), _quotas(sizes, options)
    spare = SPARE if options.min_point_distance else 1
    drawn = {kind: _drawn(dice, size, spare * wanted[kind]) for kind, size in _strata(sizes, options).items()}
    taken: list[tuple[Stratum, int, int, int, int]] = []  # and place in the draw, row, column, index of the pair
    pairs: list[tuple[int, int]] = []
    seen: Counter[Stratum] = Counter()
    for places, found, true in blocks():
        for kind, picks in drawn.items():
            mine = np.arange(len(true)) if kind is None else np.flatnonzero(true == kind)
            order = np.flatnonzero((picks >= seen[kind]) & (picks < seen[kind] + len(mine)))
            for turn, i in zip(order.tolist(), mine[picks[order] - seen[kind]].tolist(), strict=True):
                taken.append((kind, turn, *places[i].tolist(), len(pairs)))
                pairs.append((int(found[i]), int(true[i])))
            seen[kind] += len(mine)
    return Counter(pairs[i] for i in _apart(sorted(taken), wanted, raster, options.min_point_distance))


def _strata(sizes: Mapping[Stratum, int], options: PixelAccuracyOptions) -> dict[Stratum, int]:
    """Pixels of each class, or of all together (None)."""
    return {None: sum(sizes.values())} if options.sampling == "RANDOM" else dict(sizes)


def _quotas(sizes: Mapping[Stratum, int], options: PixelAccuracyOptions) -> dict[Stratum, int]:
    """Points of each stratum; each class has one at least."""
    number, total = options.num_random_points or 0, sum(sizes.values())
    if options.sampling == "RANDOM":
        return {None: number}
    if options.sampling == "EQUALIZED_STRATIFIED_RANDOM":
        return {kind: max(1, round(number / len(sizes))) for kind in sizes}
    return {kind: max(1, round(number * size / total)) for kind, size in sizes.items()}


def _drawn(dice: np.random.Generator, size: int, number: int) -> Ints:
    """Without putting back, in the order of the draw."""
    return dice.choice(size, min(size, number), replace=False, shuffle=True).astype(np.int64)


def _apart(
    taken: Sequence[tuple[Stratum, int, int, int, int]], wanted: Mapping[Stratum, int], raster: Any, least: float
) -> Iterator[int]:
    """Pairs of the first points of each stratum to which no earlier one is closer than `least`, by cells."""
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    left = dict(wanted)
    for kind, _, row, col, pair in taken:
        if not left[kind]:
            continue
        if least:
            x, y = raster.xy(row, col)
            at = int(x // least), int(y // least)
            near = [p for i in (-1, 0, 1) for j in (-1, 0, 1) for p in cells.get((at[0] + i, at[1] + j), ())]
            if any(np.hypot(x - a, y - b) < least for a, b in near):
                continue
            cells.setdefault(at, []).append((x, y))
        left[kind] -= 1
        yield pair


def _table(matrix: Matrix) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    kinds = sorted({value for pair in matrix for value in pair})
    counts = np.array([[matrix[found, true] for true in kinds] for found in kinds], np.int64)
    right, by_raster, by_truth, total = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), int(counts.sum())
    user, producer = right / np.maximum(by_raster, 1), right / np.maximum(by_truth, 1)
    ious = right / np.maximum(by_raster + by_truth - right, 1)
    chance = float((by_raster / total) @ (by_truth / total))  # shares: counts of large rasters overflow
    accuracy = float(right.sum()) / total
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else 1.0
    heads, nan = [f"C_{value}" for value in kinds], float("nan")
    rows = [
        {
            "ClassValue": head,
            **dict(zip(heads, map(float, line), strict=True)),
            "Total": float(sum(line)),
            "U_Accuracy": u,
            "IoU": iou,
            "Kappa": nan,
        }
        for head, line, u, iou in zip(heads, counts.tolist(), user.tolist(), ious.tolist(), strict=True)
    ]
    totals = dict(zip(heads, map(float, by_truth), strict=True))
    rows.append({"ClassValue": "Total", **totals, "Total": float(total), "U_Accuracy": nan, "IoU": nan, "Kappa": nan})
    producers = dict(zip(heads, producer.tolist(), strict=True))
    rows.append(
        {"ClassValue": "P_Accuracy", **producers, "Total": nan, "U_Accuracy": accuracy, "IoU": nan, "Kappa": nan}
    )
    nothing = dict.fromkeys(heads, nan)
    rows.append({"ClassValue": "Kappa", **nothing, "Total": nan, "U_Accuracy": nan, "IoU": nan, "Kappa": kappa})
    told = [iou for iou, number in zip(ious.tolist(), by_truth.tolist(), strict=True) if number]
    return rows, {"accuracy": accuracy, "kappa": kappa, "mIoU": float(np.mean(told))}


# -- truth -------------------------------------------------------------------------------------------------------------
def _opened(path: Path) -> AbstractContextManager[Any]:
    try:
        raster = rasterio.open(path)
    except RasterioIOError as error:
        raise ImageryError(f"cannot be read as a raster ({error})", where=path, do="check the path") from error
    if np.dtype(raster.dtypes[0]).kind not in "iu":
        raise ImageryError("is no class raster", where=path, got=raster.dtypes[0], do="give whole numbers")
    return closing(raster)


@contextmanager
def _truth(path: Path, raster: Any, options: PixelAccuracyOptions) -> Iterator[Truth]:
    path = nearby(path)
    if file_of(path).exists() and is_vector(path):
        yield _Features(path, raster, options.class_value_field)
        return
    with _opened(path) as source:
        same = source.crs == raster.crs and source.transform == raster.transform and source.shape == raster.shape
        if same:
            yield _Raster(source)
            return
        if source.crs is None or raster.crs is None:
            raise ImageryError("has another grid, and one of both has no coordinate system", where=path, do="assign it")
        grid = {"crs": raster.crs, "transform": raster.transform, "width": raster.width, "height": raster.height}
        grid |= {"dtype": "float64", "nodata": NOTHING}  # GDAL heeds an alpha band of 8 or 16 bits only
        with WarpedVRT(source, resampling=Resampling.nearest, **grid) as warped:
            yield _Raster(warped)


class _Raster:
    def __init__(self, source: Any) -> None:
        self.source = source

    def read(self, window: Window) -> tuple[Ints, NDArray[np.bool_]]:
        known: NDArray[np.bool_] = self.source.read_masks(1, window=window) > 0
        return self.source.read(1, window=window).astype(np.int64), known


class _Features:
    def __init__(self, path: Path, raster: Any, field: str) -> None:
        table = read_features(path)
        if table.crs is None or raster.crs is None:
            raise LabelError("or the raster has no coordinate system", where=path, do="assign it one")
        names = field_of_names(path, table, field)
        known = _named(Path(raster.name)) if names else ()
        if names and not known:
            do = "give the raster its attribute table (Value, Class) or name a field of Values by class_value_field"
            raise LabelError(f"field {names} names classes, {raster.name} has only Values", where=path, do=do)
        self.values, _ = class_values(path, table, names or field, known, least=0)
        self.shapes = shapely.make_valid(table.geometry.to_crs(raster.crs.to_wkt()).to_numpy())
        self.tree, self.raster = shapely.STRtree(self.shapes), raster

    def read(self, window: Window) -> tuple[Ints, NDArray[np.bool_]]:
        """A pixel is of the last feature that its middle lies in."""
        place = self.raster.transform @ Affine.translation(window.col_off, window.row_off)
        bounds = bounds_of(place, window.width, window.height)
        rows = np.sort(self.tree.query(shapely.box(*bounds), "intersects"))
        if not len(rows):
            return np.zeros((window.height, window.width), np.int64), np.zeros((window.height, window.width), bool)
        burnt = [(self.shapes[row], int(self.values[row])) for row in rows.tolist()]
        true = rasterize(burnt, (window.height, window.width), fill=NOTHING, transform=place, dtype="int32")
        return true.astype(np.int64), true != NOTHING


def _named(raster: Path) -> tuple[ClassLabel, ...]:
    """The classes that the attribute table of a class raster names; not those of whose name there are several."""
    try:
        table = _attributes(raster).rename(columns=str.lower)
        name = next((field for field in NAME_FIELDS if field in table), None)
        if name is None or "value" not in table:
            return ()
        rows = table[["value", name]].dropna().drop_duplicates(name, keep=False)
        return tuple(ClassLabel(int(value), str(text)) for value, text in rows.itertuples(index=False))
    except (DataSourceError, ParseError, ValueError) as error:
        do = "build it again, or remove it"
        raise LabelError(f"has an attribute table that cannot be read ({error})", where=raster, do=do) from error


def _attributes(raster: Path) -> pandas.DataFrame:
    """The table beside a raster, as ArcGIS or GDAL keeps it (ArcGIS formats F.4); an empty one where there is none."""
    dbf, xml = (raster.with_name(f"{raster.name}{end}") for end in (".vat.dbf", ".aux.xml"))
    if dbf.is_file():
        return pandas.DataFrame(pyogrio.read_dataframe(dbf, read_geometry=False))
    table = parse(xml).find(".//GDALRasterAttributeTable") if xml.is_file() else None
    if table is None:
        return pandas.DataFrame()
    rows = [[cell.text for cell in row.iter("F")] for row in table.iter("Row")]
    return pandas.DataFrame(rows, columns=[field.findtext("Name") for field in table.iter("FieldDefn")])
