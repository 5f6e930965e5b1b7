"""Feature files that people give: in any format that GDAL or GeoParquet reads."""

from contextlib import suppress
from pathlib import Path

import geopandas
import pyogrio
from pyogrio.errors import DataSourceError

from registry.errors import LabelError, OptionsError

OF_LAYERS = {".gpkg", ".gdb", ".gml", ".kml"}  # may hold several


def read_features(path: Path) -> geopandas.GeoDataFrame:
    """Raises LabelError when it holds no features, or several layers of them."""
    layer = layer_to_read(path)
    try:
        parquet = path.suffix.lower() == ".parquet"
        table = geopandas.read_parquet(path) if parquet else pyogrio.read_dataframe(path, layer=layer)
    except (OSError, ValueError, DataSourceError) as error:
        raise LabelError(f"cannot be read as features ({error})", where=path, do="give e.g. a GeoPackage") from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise LabelError("is a table without geometries", where=path, do="give features")
    return table


def layer_to_read(path: Path) -> str | None:
    """The layer of features where there are others, of styles or the like; of several that with the name of the file.

    Raises LabelError where none has it.
    """
    layers = list[str]()
    if path.suffix.lower() in OF_LAYERS:
        with suppress(DataSourceError):  # why, is told by reading it
            layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    if len(layers) > 1 and path.stem not in layers:
        do = f"take one out: ogr2ogr {path.stem}_one.gpkg {path.name} LAYER"
        raise LabelError("holds several layers of features", where=path, got=layers, do=do)
    return path.stem if path.stem in layers else next(iter(layers), None)


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
