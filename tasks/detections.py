"""What becomes of the objects of Detect Objects once they are found: which stay, and their columns (F.4, F.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from registry.errors import OptionsError
from tasks.feature_sets import Detection, Field
from tasks.inference_options import DetectOptions
from tasks.overlap import keep_best, ranks
from tasks.parts import Part, Readable
from tasks.placement import Placement, applied
from tasks.projecting import projected, projected_between


@dataclass(frozen=True)
class Layer:
    """n features: their shapes in `crs` and their columns."""

    shapes: NDArray[np.object_]
    columns: Mapping[str, Any]
    crs: CRS


def chosen(
    found: Sequence[Detection], polygons: NDArray[np.object_], image: Readable, options: DetectOptions
) -> NDArray[np.bool_]:
    """Which of n objects stay: those of the wanted classes that touch extent and mask, without copies.

    Raises OptionsError for a field to rank or compare copies by that the function does not give.
    """
    stays = np.ones(len(found), bool)
    if options.in_objects_of_interest:
        stays &= np.isin([d.class_name for d in found], options.in_objects_of_interest)
    if isinstance(image, Part) and stays.any():
        wanted = np.flatnonzero(stays)
        pixels = shapely.transform(polygons[wanted], partial(applied, ~image.transform))
        stays[wanted] = image.wants(pixels)
    if options.run_nms and stays.any():
        rows = np.flatnonzero(stays)
        some = [found[row] for row in rows.tolist()]
        sure, classes = _ranks(some, options.confidence_score_field), _classes(some, options.class_value_field)
        stays[rows] = keep_best(polygons[rows], sure, classes, options.max_overlap_ratio)
    return stays


def layer(
    found: Sequence[Detection], polygons: NDArray[np.object_], place: Placement, fields: Sequence[Field], to: str | None
) -> Layer:
    """The objects on the map, in the coordinate system `to`; None: that of the raster that `place` is of."""
    if place.transformer is not None:
        polygons = shapely.transform(polygons, place.to_map)
    shapes, crs = projected(polygons, place.crs, to)
    return Layer(shapes, columns(found, fields), crs)


def joined(layers: Sequence[Layer]) -> tuple[NDArray[np.object_], dict[str, Any], CRS]:
    """Several layers as one, in the coordinate system of the first."""
    crs = layers[0].crs
    if len(layers) == 1:
        return layers[0].shapes, dict(layers[0].columns), crs
    shapes = [projected_between(layer.shapes, layer.crs, crs) for layer in layers]
    tables = [pandas.DataFrame(dict(layer.columns)) for layer in layers if len(layer.shapes)]
    table = pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(dict(layers[0].columns))
    return np.concatenate(shapes), {str(name): table[name].array for name in table}, crs


def columns(found: Sequence[Detection], fields: Sequence[Field]) -> dict[str, Any]:
    """Class, Confidence, Value and the function's own fields."""
    told: dict[str, Any] = {
        "Class": np.array([d.class_name for d in found], dtype=object),
        "Confidence": np.array([d.confidence for d in found], dtype=np.float64),
    }
    if all(d.value is not None for d in found):  # also where nothing was found: the same schema
        told["Value"] = np.array([d.value for d in found], dtype=np.int32)
    return told | {field.name: _column(found, field) for field in fields}


def _column(found: Sequence[Detection], field: Field) -> Any:
    """What the function tells of its own, in letters of any case; a number that is missing is null."""
    told = {name for d in found for name in d.extra}
    name = field.name if field.name in told else next((n for n in told if n.lower() == field.name.lower()), field.name)
    values = [d.extra.get(name) for d in found]
    if field.kind is str:
        return np.array([None if v is None else str(v) for v in values], dtype=object)
    kind = "Int64" if field.kind is int else "Float64"
    return pandas.Series([None if v in (None, "") else field.kind(v) for v in values], dtype=kind)


def _ranks(found: Sequence[Detection], field: str) -> NDArray[np.float64]:
    if field == "Confidence":
        return np.array([d.confidence for d in found])
    values = _extra(found, field, "confidence_score_field")
    try:
        return ranks(values)
    except ValueError as error:
        raise OptionsError("confidence_score_field: expected numbers", got=field) from error


def _classes(found: Sequence[Detection], field: str) -> NDArray[Any]:
    """Value and Class tell apart the same objects, where a function gives both."""
    if field in ("", "Class", "Value"):
        return np.array([d.class_name for d in found])
    return np.array([str(v) for v in _extra(found, field, "class_value_field")])


def _extra(found: Sequence[Detection], field: str, option: str) -> list[Any]:
    if any(field not in d.extra for d in found):
        have = ", ".join(["Confidence", "Class", "Value", *sorted(found[0].extra)])
        raise OptionsError(f"{option}: the function gives no such field", got=field, do=f"it gives {have}")
    return [d.extra[field] for d in found]
