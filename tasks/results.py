"""Results on disk: features in any vector format, class rasters as cloud optimised GeoTIFF. Whole or not at all."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pandas
import pyogrio
import pyogrio.raw
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError, FeatureError
from rasterio._err import CPLE_BaseError  # what rasterio.shutil lets through
from rasterio.crs import CRS
from rasterio.errors import RasterioError

from registry.emd import ClassLabel
from registry.errors import Conflict, DlpkError, OptionsError, StoreError
from registry.files import part_of, sweep_parts, sync
from tasks.cog import Description, Layer, write_cog
from tasks.progress import ignore

DRIVERS = {
    ".gpkg": "GPKG",
    ".geojson": "GeoJSON",
    ".shp": "ESRI Shapefile",
    ".fgb": "FlatGeobuf",
    ".parquet": "Parquet",
}
LETTERS = 10  # of a Shapefile's names
SHORT = {"ModelVersion": "ModelVer", "ModelSHA256": "ModelSHA"}  # within LETTERS
INDEXES = (".qix", ".sbn", ".sbx")  # that QGIS or ArcGIS put beside a Shapefile: of the features that it had before
RASTERS = (".tif", ".tiff")
PIXEL_TYPES = ("uint8", "uint16", "int16", "int32")
COG = {"compress": "deflate", "blocksize": 512, "overview_resampling": "mode", "bigtiff": "if_safer"}
APPENDED_TO = ("GPKG", "ESRI Shapefile")  # drivers that take a layer in pieces
AT_ONCE = 50_000  # features written in one piece
UNDATED = "1980-01-01"  # a table of the same classes is the same bytes
HELD = {"f": "fiu", "i": "iu", "O": "OU", "U": "OU"}  # kind of a field, as of numpy -> of the values that fit into it
ELSEWHERE = "choose another OUT, or leave out --append"
TYPES = {0: "Point", 1: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}


class Grid(Protocol):
    """Where the pixels of a raster lie."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def crs(self) -> CRS | None: ...
    @property
    def transform(self) -> Affine: ...


@contextmanager
def workshop(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`; when the block ends well its files move beside `out`, the one named so last.

    Whatever a full disk makes GDAL raise becomes a StoreError, and nothing is left behind.
    """
    folder = part_of(out)
    try:
        settle(out)
        with _told_of(out):
            folder.mkdir(parents=True)
            sweep_parts(out)
            yield folder
            for file in folder.iterdir():
                sync(file)
            folder.rename(_whole(out))
        settle(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(out: Path) -> None:
    """The files of a whole result take their names: those of a `workshop`, or what a kill has left of them.

    Where they are several, `out` goes before and comes last, so that it never lies among files of another result. What
    has been put in its place since the kill stays.
    """
    whole = _whole(out)
    if not whole.is_dir():
        return
    with _told_of(out):
        made = whole / out.name
        if made.exists() and out.exists() and out.stat().st_mtime_ns > made.stat().st_mtime_ns:
            shutil.rmtree(whole)
            return
        files = sorted(whole.iterdir(), key=lambda file: (file.name == out.name, file.name))
        if len(files) > 1:
            out.unlink(missing_ok=True)
        for suffix in INDEXES if out.suffix.lower() == ".shp" else ():
            out.with_suffix(suffix).unlink(missing_ok=True)
        for file in files:
            file.replace(out.with_name(file.name))
        whole.rmdir()
        sync(out.parent)


def _whole(out: Path) -> Path:
    """Where a result lies that is whole and has not got its names yet."""
    return out.with_name(f".{out.name}.whole")


@contextmanager
def _told_of(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError, DataSourceError, FeatureError) as error:
        if isinstance(error, DlpkError):
            raise
        do = "free some space or choose another place, then run the same command again"
        raise StoreError(f"cannot be written ({error})", where=out, do=do) from error


def driver_of(out: Path) -> str:
    """The vector driver behind a suffix. Raises OptionsError with the list of suffixes, Conflict where it lies open.

    What another program has written to an open GeoPackage is in a log beside it, which SQLite would put into ours.
    """
    if out.suffix.lower() not in DRIVERS:
        raise OptionsError(
            f"expected {', '.join(DRIVERS)}", where=out, got=out.suffix, do="choose one of these suffixes"
        )
    log = out.with_name(f"{out.name}-wal")
    if log.is_file() and log.stat().st_size:
        do = "close it there; if none has, open and close it once"
        raise Conflict("is open in another program, such as QGIS, which has written to it", where=out, do=do)
    return DRIVERS[out.suffix.lower()]


def write_features(
    out: Path,
    polygons: NDArray[Any],
    columns: Mapping[str, NDArray[Any]],
    crs: CRS,
    metadata: Mapping[str, str],
    *,
    append: bool = False,
    on_made: Callable[[Path], object] = ignore,
) -> Path:
    """Shapes in `crs` with their columns; no rows give an empty layer. A GeoPackage holds `metadata`, too, and keeps
    its other layers.
    """
    table = geopandas.GeoDataFrame(dict(columns), geometry=polygons, crs=crs.to_wkt())
    return write_table(out, table, metadata, geometry_type=_kind_of(polygons), append=append, on_made=on_made)


def _kind_of(shapes: NDArray[Any]) -> str:
    """The type of a layer, as OGR calls it; a layer of nothing is one of polygons."""
    kinds = [TYPES.get(number, "Unknown") for number in np.unique(shapely.get_type_id(shapes)).tolist()]
    return "Polygon" if not kinds else kinds[0] if len(kinds) == 1 else "Unknown"


def write_table(
    out: Path,
    table: pandas.DataFrame,
    metadata: Mapping[str, str],
    *,
    geometry_type: str | None = None,
    append: bool = False,
    on_made: Callable[[Path], object] = ignore,
) -> Path:
    """Features, or rows without geometries; `geometry_type` as of OGR, none: that of the features.

    With `append` the rows follow those that `out` has, in its coordinate system; of a GeoPackage those of the layer
    named like it, or else the first. `on_made` sees the file before it takes the place of `out`.
    Raises OptionsError when their fields are others.
    """
    driver, layer, more = driver_of(out), None, False
    settle(out)
    if append and out.exists():
        layer = layer_of(out)
        there = _rows(out, layer, driver)
        table, more = _fitting(table, there, out, layer), driver == "GPKG" and len(there) > 0
        if len(there) and not more:
            table = pandas.concat([there, table] if len(table) else [there], ignore_index=True)[list(table.columns)]
    with workshop(out) as folder:
        if driver == "Parquet":
            table.to_parquet(folder / out.name)
        else:
            copy_others(out, folder / out.name, layer)
            step = AT_ONCE if driver in APPENDED_TO else max(1, len(table))
            pieces = (table.iloc[first : first + step] for first in range(0, max(1, len(table)), step))
            write_pieces(folder / out.name, pieces, metadata, driver, geometry_type, layer=layer, append=more)
        on_made(folder / out.name)
    return out


def copy_others(out: Path, file: Path, layer: str | None = None) -> None:
    """Begin `file`, which is to become `out`, with the other layers that `out` has, and with `layer` of it."""
    with suppress(DataSourceError):  # what is no GeoPackage is replaced
        if out.suffix.lower() == ".gpkg" and out.is_file() and (layer or {*_layers(out)} - {out.stem}):
            shutil.copyfile(out, file)


def beside(taken: Iterable[str], columns: Mapping[str, Any], driver: str) -> dict[str, Any]:
    """Columns under names that are not taken: to most formats capitals make no other name."""
    names, named = {str(name).lower() for name in taken}, {}
    shapefile = driver == "ESRI Shapefile"
    for name, values in columns.items():
        first = SHORT.get(name, name)[:LETTERS] if shapefile else name
        ends = itertools.chain([""], (f"_{number}" for number in itertools.count(1)))
        some = ((first[: LETTERS - len(end)] if shapefile else first) + end for end in ends)
        named[next(one for one in some if one.lower() not in names)] = values
    return named


def write_pieces(
    file: Path,
    pieces: Iterable[pandas.DataFrame],
    metadata: Mapping[str, str],
    driver: str,
    geometry_type: str | None,
    *,
    layer: str | None = None,
    append: bool = False,
) -> None:
    """Tables of the same columns, one below the other; several only for the drivers that are appended to.

    `layer`: none is that of the file's name; with `append` it is there.
    """
    extra: dict[str, Any] = {"layer_metadata": metadata} if driver == "GPKG" else {}
    target = {"layer": layer or file.stem, "driver": driver, "geometry_type": geometry_type}
    for number, piece in enumerate(pieces):
        named = piece.rename(columns=SHORT) if driver == "ESRI Shapefile" else piece
        if driver == "GPKG" and not number and not append:
            extra["layer_options"] = _own_columns(piece)
        if driver == "FlatGeobuf" and piece.geometry.isna().any():
            extra["layer_options"] = {"SPATIAL_INDEX": "NO"}  # which has no place for what has no geometry
        pyogrio.write_dataframe(named, file, append=append or number > 0, **target, **extra)


def _own_columns(table: pandas.DataFrame) -> dict[str, str]:
    """Names for the two that a GeoPackage adds; what QGIS exports to other formats has a field `fid` of its own."""
    shapes = table.geometry.name if isinstance(table, geopandas.GeoDataFrame) else None
    taken = {str(name).lower() for name in table if name != shapes}
    own = {}
    for option, name in (("FID", "fid"), ("GEOMETRY_NAME", "geom")):
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
        own[option] = next(one for one in names if one not in taken)
    return own


def layer_of(file: Path) -> str | None:
    """Of a GeoPackage the layer named like it, or else the first; other formats have one."""
    names = _layers(file) if file.suffix.lower() == ".gpkg" else []
    return file.stem if file.stem in names else next(iter(names), None)


def _layers(file: Path) -> list[str]:
    return [str(name) for name, _ in pyogrio.list_layers(file)]


def _rows(out: Path, layer: str | None, driver: str) -> pandas.DataFrame:
    """What a file holds; of a GeoPackage, which is added to where it is, one row will do."""
    some = {"layer": layer, "max_features": 1 if driver == "GPKG" else None}
    rows: pandas.DataFrame = geopandas.read_parquet(out) if driver == "Parquet" else pyogrio.read_dataframe(out, **some)
    return rows


def _fitting(table: pandas.DataFrame, there: pandas.DataFrame, out: Path, layer: str | None) -> pandas.DataFrame:
    """The rows with the names and in the coordinate system of those that are there."""
    if out.suffix.lower() == ".shp":
        table = table.rename(columns=SHORT)
    known = len(there) > 0 or out.suffix.lower() != ".geojson"  # which has no fields without features
    if known and set(there.columns) != set(table.columns):
        what = f"has other fields than {', '.join(table.columns)}"
        raise OptionsError(what, where=out, got=[*there], do=ELSEWHERE)
    if len(there):
        _refuse_other_types(table, there, out, layer)
    return table.to_crs(there.crs) if isinstance(table, geopandas.GeoDataFrame) and there.crs else table


def _refuse_other_types(table: pandas.DataFrame, there: pandas.DataFrame, out: Path, layer: str | None) -> None:
    """Raises OptionsError for what a layer of a GeoPackage would make another number or text, or hold elsewhere."""
    kinds = {str(name): _kind(dtype) for name, dtype in there.dtypes.items()}
    if layer:
        facts = pyogrio.read_info(out, layer=layer)
        kinds = {name: np.dtype(dtype).kind for name, dtype in zip(facts["fields"], facts["dtypes"], strict=True)}
        wanted = (facts["geometry_type"] or "Unknown").removeprefix("2.5D ").partition(" ")[0].removeprefix("Multi")
        shapes = geopandas.GeoDataFrame(table).geom_type.dropna().str.removeprefix("Multi").unique()
        if wanted != "Unknown" and not {*shapes} <= {wanted}:
            what = f"has features of another geometry than {', '.join(sorted(shapes))}"
            raise OptionsError(what, where=out, got=facts["geometry_type"], do=ELSEWHERE)
    odd = [n for n in table if n in kinds and table[n].dtype.kind not in HELD.get(kinds[n], kinds[n])]
    if odd:
        raise OptionsError("has fields of these names and another type", where=out, got=odd, do=ELSEWHERE)


def _kind(dtype: Any) -> str:
    """As of numpy; of what is written anew with the new rows, numbers of any kind."""
    return "f" if dtype.kind in "iu" else str(dtype.kind)


def check_raster(out: Path) -> None:
    """Raises OptionsError for a suffix that is none of a GeoTIFF."""
    if out.suffix.lower() not in RASTERS:
        raise OptionsError("expected .tif or .tiff", where=out, got=out.suffix, do="choose one of these suffixes")


def pixel_type(function_type: str, classes: Sequence[ClassLabel]) -> tuple[str, float]:
    """numpy type of a class raster and its nodata value: the smallest type with room for 0, the classes and nodata.

    0 is real background, so nodata is the highest number that no class has. Floating output stays float32, nodata NaN.
    """
    if np.dtype(function_type).kind == "f":
        return "float32", float("nan")
    used = {0, *(c.value for c in classes)}
    for name in PIXEL_TYPES:
        limits = np.iinfo(name)
        if limits.min <= min(used) and max(used) <= limits.max and len(used) < limits.max - limits.min:
            free = next(v for v in range(limits.max, limits.min, -1) if v not in used)
            return name, float(free)
    raise OptionsError("expected class values within 32 bits", where="Classes", got=max(used), do="recode the classes")


def write_class_raster(
    file: Path, layers: Sequence[Layer], description: Description, counts: Mapping[int, int]
) -> None:
    """A cloud optimised GeoTIFF, and beside it the tables of its classes: GDAL's `<file>.aux.xml`, and ArcGIS's.

    They are for a `workshop`: what fails leaves half of them.
    """
    write_cog(file, layers, description)
    if description.profile["count"] == 1 and np.dtype(description.profile["dtype"]).kind != "f":
        write_attribute_table(file, description.classes, counts)
        for suffix, content in table_for_arcgis(tuple(description.classes)).items():
            file.with_name(f"{file.name}{suffix}").write_bytes(content)


def write_attribute_table(file: Path, classes: Sequence[ClassLabel], counts: Mapping[int, int]) -> None:
    text = attribute_table(classes, counts)
    file.with_name(f"{file.name}.aux.xml").write_text(text, encoding="utf-8", newline="")


@lru_cache(maxsize=4)
def table_for_arcgis(classes: tuple[ClassLabel, ...]) -> dict[str, bytes]:
    """`.vat.dbf` with Value, Class, Red, Green, Blue, where ArcGIS looks for the table of a TIFF; `.vat.cpg` (F.4)."""
    if not classes:
        return {}
    colors = np.array([label.color for label in classes], np.int32).clip(min=0)
    columns = {
        "Value": np.array([label.value for label in classes], np.int32),
        "Class": np.array([label.name for label in classes], object),
        **dict(zip(("Red", "Green", "Blue"), colors.T, strict=True)),
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / "table.vat.dbf"
        options = {"encoding": "UTF-8", "layer_options": {"DBF_DATE_LAST_UPDATE": UNDATED}}
        pyogrio.raw.write(file, None, [*columns.values()], [*columns], driver="ESRI Shapefile", **options)
        return {"".join(part.suffixes): part.read_bytes() for part in Path(folder).iterdir()}


def attribute_table(classes: Sequence[ClassLabel], counts: Mapping[int, int]) -> str:
    """GDAL's .aux.xml: category names, and the attribute table (ArcGIS formats F.4).

    Its columns are Value, Class, Red, Green, Blue and Count, the number of pixels of a value.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    if all(0 <= c.value <= 255 for c in classes):
        names = {c.value: c.name for c in classes}
        categories = ET.SubElement(band, "CategoryNames")
        for value in range(max(names, default=0) + 1):
            ET.SubElement(categories, "Category").text = names.get(value, "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # GDAL's codes: type 0 whole number, 1 real, 2 text; usage 5 value, 2 name, 6 red, 7 green, 8 blue, 1 count
    columns = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8), ("Count", 1, 1)]
    for i, (name, kind, usage) in enumerate(columns):
        column = ET.SubElement(table, "FieldDefn", index=str(i))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(text)
    for i, label in enumerate(classes):
        row = ET.SubElement(table, "Row", index=str(i))
        for cell in (label.value, label.name, *(max(0, c) for c in label.color), counts.get(label.value, 0)):
            ET.SubElement(row, "F").text = str(cell)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
