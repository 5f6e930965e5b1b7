"""Labels as a table: a class for each picture of a folder, or points as coordinates in two columns.

image,class              for Labeled_Tiles, MultiLabeled_Tiles and Imagenet; several rows for an image, or
plot_7.tif,pine          several names joined by commas, are several classes
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from registry.emd import ClassLabel
from registry.errors import LabelError
from registry.scenes.assets import RASTERS
from tasks.class_values import NAME_FIELDS, VALUE_FIELDS, class_values
from tasks.definition_query import meeting
from tasks.feature_files import layer_to_read, layers_of
from tasks.layers import file_of, layer_of

TABLE_SUFFIXES = {".csv", ".dbf"}
DATABASES = {".gpkg", ".gdb"}  # may hold tables
IMAGE_FIELDS = ("image", "image_name", "imagename", "image_path", "filename", "file_name", "file", "path", "name")
PLACES = (("longitude", "latitude"), ("lon", "lat"), ("x", "y"), ("point_x", "point_y"), ("easting", "northing"))
Parts = tuple[str, ...]


@dataclass(frozen=True)
class ImageLabels:
    """The classes of whole pictures."""

    path: Path
    rows: Mapping[Path, Sequence[int]]  # of each picture
    values: NDArray[np.int64]  # (rows,) class Value
    classes: tuple[ClassLabel, ...]

    def of(self, image: Path) -> NDArray[np.int64]:
        """Class indexes, each once, ascending. Empty for a picture that the table does not name."""
        values = np.unique(self.values[list(self.rows.get(image, ()))])
        return np.searchsorted([label.value for label in self.classes], values) + 1


def is_table(path: Path) -> bool:
    """A table without geometry: of a database the layer that is named behind it, or all of them are none."""
    file = file_of(path)
    if file.suffix.lower() in TABLE_SUFFIXES:
        return True
    layers = layers_of(path) if file.suffix.lower() in DATABASES else {}
    if layer_of(path):
        return layers.get(str(layer_to_read(path))) is False
    return bool(layers) and not any(layers.values())


def read_table(path: Path, query: str = "") -> pandas.DataFrame:
    """All rows, or those that meet an SQL condition. Raises LabelError."""
    table = _table(path)
    return meeting(path, table, query) if query else table


def _table(path: Path) -> pandas.DataFrame:
    try:
        if (file := file_of(path)).suffix.lower() == ".csv":
            how: Mapping[str, Any] = {"encoding": "utf-8-sig", "sep": None, "engine": "python"}
            names = [name for name in pandas.read_csv(path, nrows=0, **how) if str(name).lower() in IMAGE_FIELDS]
            return pandas.DataFrame(pandas.read_csv(path, dtype=dict.fromkeys(names, str), **how))  # 007 is a name
        return pandas.DataFrame(pyogrio.read_dataframe(file, layer=layer_to_read(path), read_geometry=False))
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        do = "check the path" if not file_of(path).exists() else "save it as CSV in UTF-8 with a header line"
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


def image_labels(
    path: Path, table: pandas.DataFrame, value_field: str, given: Sequence[ClassLabel], pictures: Sequence[Path]
) -> ImageLabels:
    """Raises LabelError when no column names the pictures, or not clearly, or the classes do not fit."""
    fields = {str(name).lower(): str(name) for name in table.columns}
    image = next((fields[f] for f in IMAGE_FIELDS if f in fields), None)
    if image is None:
        what = f"expected a column {', '.join(IMAGE_FIELDS[:4])} with names of pictures, or columns x and y"
        raise LabelError(what, where=path, got=list(fields.values()))
    value_field = value_field or _class_field(fields, image)
    table = _one_class_a_row(table, value_field)
    values, classes = class_values(path, table, value_field, given)
    return ImageLabels(path, _rows_of(path, [str(name) for name in table[image]], pictures), values, classes)


def _rows_of(path: Path, names: Sequence[str], pictures: Sequence[Path]) -> dict[Path, list[int]]:
    """The rows of each picture: those of its name, and of its folders where they tell any.

    A row with folders that lie elsewhere is taken for the only picture of its name. Raises LabelError for a name that
    several pictures have.
    """
    suffixes = {*RASTERS} | {picture.suffix.lower() for picture in pictures}
    rows, alike = defaultdict[Parts, list[int]](list), defaultdict[str, list[Path]](list)
    for i, name in enumerate(names):
        rows[_parts(name, suffixes)].append(i)
    for picture in dict.fromkeys(pictures):
        alike[_parts(str(picture), suffixes)[-1]].append(picture)
    elsewhere = defaultdict[str, list[Parts]](list)
    for parts in rows:
        elsewhere[parts[-1]].append(parts)
    found: dict[Path, list[int]] = {}
    for stem, group in alike.items():
        whole = ((picture, _parts(str(picture), suffixes)) for picture in group)
        ends = ((picture, next((p[i:] for i in range(len(p)) if p[i:] in rows), None)) for picture, p in whole)
        pairs = [(picture, end) for picture, end in ends if end] or list(product(group, elsewhere[stem]))
        if any(len(set(side)) < len(pairs) for side in zip(*pairs, strict=True)):
            do = "write names with the folders that tell them apart, e.g. a/1.png"
            raise LabelError(f"several pictures or rows are {stem}", where=path, got=[*map(str, group)][:9], do=do)
        found |= {picture: rows[parts] for picture, parts in pairs}
    return found


def _parts(name: str, suffixes: Container[str]) -> Parts:
    """Folders and the name without its suffix, in small letters; what else follows a dot belongs to the name."""
    path = PurePosixPath(name.replace("\\", "/").lower())
    return *path.parts[:-1], path.stem if path.suffix in suffixes else path.name


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
