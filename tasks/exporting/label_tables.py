"""Labels as a table: a class for each picture of a folder, or points as coordinates in two columns.

image,class              for Labeled_Tiles, MultiLabeled_Tiles and Imagenet; several rows for an image, or
plot_7.tif,pine          several names joined by commas, are several classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyogrio
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.class_values import NAME_FIELDS, VALUE_FIELDS, class_values

TABLE_SUFFIXES = {".csv", ".dbf"}
IMAGE_FIELDS = ("image", "image_name", "imagename", "image_path", "filename", "file_name", "file", "path", "name")
PLACES = (("longitude", "latitude"), ("lon", "lat"), ("x", "y"), ("point_x", "point_y"), ("easting", "northing"))


@dataclass(frozen=True)
class ImageLabels:
    """The classes of whole pictures."""

    path: Path
    images: tuple[str, ...]  # name of the picture of each row, without its suffix
    values: NDArray[np.int64]  # (rows,) class Value
    classes: tuple[ClassLabel, ...]

    @cached_property
    def by_image(self) -> dict[str, NDArray[np.int64]]:
        """Class indexes of each picture, each once, ascending."""
        indexes = np.searchsorted([label.value for label in self.classes], self.values) + 1
        groups = pandas.Series(indexes).groupby(np.array(self.images)).unique()
        return {str(name): np.sort(found) for name, found in groups.items()}

    def of(self, image: Path) -> NDArray[np.int64]:
        """Empty for a picture that the table does not name."""
        return self.by_image.get(image.stem.lower(), np.zeros(0, np.int64))


def is_table(path: Path) -> bool:
    """A table without geometry."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        return True
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return False
    try:
        return pyogrio.read_info(path)["geometry_type"] is None
    except (DataSourceError, DataLayerError):
        return False


def read_table(path: Path) -> pandas.DataFrame:
    """Raises LabelError."""
    try:
        if path.suffix.lower() == ".csv":
            return pandas.read_csv(path, encoding="utf-8-sig", sep=None, engine="python")
        return pandas.DataFrame(pyogrio.read_dataframe(path, read_geometry=False))
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        do = "check the path" if not path.exists() else "save it as CSV in UTF-8 with a header line"
        raise LabelError(f"cannot be read as a table ({error})", where=path, do=do) from error


def points_of(table: pandas.DataFrame, crs: object) -> geopandas.GeoDataFrame | None:
    """Points from columns x and y in `crs`, or longitude and latitude; None where there are none."""
    fields = {str(name).lower(): name for name in table.columns}
    pair = next((pair for pair in PLACES if set(pair) <= set(fields)), None)
    if pair is None:
        return None
    x, y = (pandas.to_numeric(table[fields[name]], errors="coerce") for name in pair)
    return geopandas.GeoDataFrame(
        table, geometry=geopandas.points_from_xy(x, y), crs="EPSG:4326" if pair[0].startswith("lon") else crs
    )


def image_labels(path: Path, table: pandas.DataFrame, value_field: str, given: Sequence[ClassLabel]) -> ImageLabels:
    """Raises LabelError when no column names the pictures, or the classes do not fit."""
    fields = {str(name).lower(): str(name) for name in table.columns}
    image = next((fields[f] for f in IMAGE_FIELDS if f in fields), None)
    if image is None:
        what = f"expected a column {', '.join(IMAGE_FIELDS[:4])} with names of pictures, or columns x and y"
        raise LabelError(what, where=path, got=list(fields.values()))
    value_field = value_field or _class_field(fields, image)
    table = _one_class_a_row(table, value_field)
    values, classes = class_values(path, table, value_field, given)
    stems = tuple(Path(str(name).replace("\\", "/")).stem.lower() for name in table[image])
    return ImageLabels(path, stems, values, classes)


def _class_field(fields: dict[str, str], image: str) -> str:
    known = [fields[f] for f in (*VALUE_FIELDS, *NAME_FIELDS, "label", "labels") if f in fields]
    return next((field for field in known if field != image), "")


def _one_class_a_row(table: pandas.DataFrame, field: str) -> pandas.DataFrame:
    if field not in table or pandas.api.types.is_numeric_dtype(table[field]):
        return table
    texts = table[field].astype("string").str.split(",")
    return (
        table.assign(**{field: texts})
        .explode(field, ignore_index=True)
        .assign(**{field: lambda rows: rows[field].str.strip()})
    )
