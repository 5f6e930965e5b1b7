"""Feature files that people give: in any format that GDAL or GeoParquet reads."""

from pathlib import Path

import geopandas
import pyogrio
from pyogrio.errors import DataSourceError

from registry.errors import LabelError, OptionsError


def read_features(path: Path) -> geopandas.GeoDataFrame:
    """Raises LabelError when it holds no features."""
    try:
        table = geopandas.read_parquet(path) if path.suffix.lower() == ".parquet" else pyogrio.read_dataframe(path)
    except (OSError, ValueError, DataSourceError) as error:
        raise LabelError(f"cannot be read as features ({error})", where=path, do="give e.g. a GeoPackage") from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise LabelError("is a table without geometries", where=path, do="give features")
    return table


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
