"""Feature files that people give: in any format that GDAL or GeoParquet reads."""

import zipfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

import geopandas
import pandas
import pyarrow
import pyarrow.parquet
import pyogrio
from pyogrio.errors import DataSourceError
from shapely.errors import GEOSException

from registry.errors import LabelError, OptionsError
from tasks.layers import OF_LAYERS, PACKED, file_of, layer_of
from tasks.nearby import nearby

FOR_A_MAC = "__MACOSX/"  # in a .zip, what only a Mac needs
TOP = PurePosixPath()
ONE_FILE = {".gpkg", ".geojson", ".json", ".fgb", ".gml", ".kml"}
NULLABLE = {
    **{kind: pandas.Int64Dtype() for kind in (pyarrow.int8(), pyarrow.int16(), pyarrow.int32(), pyarrow.int64())},
    pyarrow.bool_(): pandas.BooleanDtype(),
}
MAIN = "main."  # the schema before which ArcGIS puts the layers of a GeoPackage


def read_features(path: Path) -> geopandas.GeoDataFrame:
    """Raises LabelError when it holds no features, or several layers of which none is named (`layer_to_read`).

    What lies in a bucket or on the web is copied first, see `tasks.nearby`.
    """
    path = nearby(path)
    layer, source = layer_to_read(path), source_of(path)
    try:
        parquet = Path(source).suffix.lower() == ".parquet"
        how = {"layer": layer, "on_invalid": "fix"}
        table = geopandas.read_parquet(source) if parquet else pyogrio.read_dataframe(source, **how)
    except (OSError, ValueError, DataSourceError, GEOSException) as error:
        raise LabelError(f"cannot be read as features ({error})", where=path, do="give e.g. a GeoPackage") from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise LabelError("is a table without geometries", where=path, do="give features")
    return table


def with_whole_numbers(path: Path, table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """What `read_features` gave of it, with whole numbers and truth values as they are also where some are missing.

    pandas makes floats of them, which hold no long number of a cadastre.
    """
    path = nearby(path)
    layer, source = layer_to_read(path), source_of(path)
    floats = [str(name) for name, kind in table.dtypes.items() if kind.kind == "f" and table[name].isna().any()]
    if not floats:
        return table
    if Path(source).suffix.lower() == ".parquet":
        told = pyarrow.parquet.read_table(source, columns=floats)
    else:
        _, told = pyogrio.read_arrow(source, layer=layer, columns=floats, read_geometry=False)
    whole = [name for name in floats if told.schema.field(name).type in NULLABLE]
    return table.assign(**{name: told[name].to_pandas(types_mapper=NULLABLE.get).array for name in whole})


def layer_to_read(path: Path) -> str | None:
    """The layer that is named behind the file: town.gpkg/roofs, or town.gpkg/main.roofs as in ArcGIS.

    Else that of features where there are others, of styles or the like; of several that with the name of the file.
    Raises LabelError where there is none of the name, or none is named and several could be meant.
    """
    file, wanted = file_of(path), layer_of(path)
    layers = layers_of(path)
    if wanted:
        return _called(path, wanted, layers)
    named = [name for name, placed in layers.items() if placed]
    if len(named) > 1 and file.stem not in named:
        do = f"name one: {path / 'LAYER'}"
        raise LabelError("holds several layers of features", where=path, got=named, do=do)
    return file.stem if file.stem in named else next(iter(named), None)


def layers_of(path: Path) -> dict[str, bool]:
    """The layers of a file that may hold several, and whether they have geometries."""
    if file_of(path).suffix.lower() in OF_LAYERS:
        with suppress(DataSourceError):  # why, is told by reading it
            return {str(name): kind is not None for name, kind in pyogrio.list_layers(source_of(path))}
    return {}


def source_of(path: Path) -> Path | str:
    """What GDAL opens: the file; of a .zip or .kmz the geodatabase, file or folder of shapefiles in it.

    Raises LabelError where several are packed together.
    """
    file = file_of(path)
    if file.suffix.lower() not in PACKED or not file.is_file():
        return file
    with suppress(OSError, zipfile.BadZipFile):  # why, is told by reading it
        inside = _packed_in(file)
        if len(inside) > 1:
            do = "unpack it and give one of them"
            raise LabelError("holds several files of features", where=file, got=inside, do=do)
        return f"/vsizip/{{{file.resolve()}}}/{''.join(inside)}"
    return file


def _packed_in(file: Path) -> list[str]:
    """Of shapefiles the folder: each is a layer there."""
    with zipfile.ZipFile(file) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if not name.startswith(FOR_A_MAC)]
    geodatabases = {parent for name in names for parent in name.parents if parent.suffix.lower() == ".gdb"}
    shapes = {name.parent for name in names if name.suffix.lower() == ".shp"}
    others = {name for name in names if name.suffix.lower() in ONE_FILE}
    return sorted("" if name == TOP else str(name) for name in geodatabases or shapes or others)


def _called(path: Path, wanted: str, layers: Collection[str]) -> str:
    for name in (wanted, wanted.removeprefix(MAIN)):
        if name in layers:
            return name
    alike = [name for name in layers if name.lower() == wanted.lower().removeprefix(MAIN)]
    if len(alike) == 1:
        return alike[0]
    raise LabelError("there is no such layer", where=path, got=list(layers), do="name one of these behind the file")


def field_of(path: Path, table: geopandas.GeoDataFrame, name: str) -> str:
    """The field of this name, or else of one that differs in case alone. Raises OptionsError with what there is."""
    fields = list(map(str, table.columns.drop(table.geometry.name)))
    if name in fields:
        return name
    for field in fields:
        if field.lower() == name.lower():
            return field
    have = ", ".join(fields)
    raise OptionsError(f"has no field {name}", where=path, do=f"name one of {have}")
