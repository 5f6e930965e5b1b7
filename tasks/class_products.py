"""What is made of a finished class raster: another coordinate system, polygons, ArcGIS's attribute table (F.4)."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import ImageryError
from tasks.inference_options import ModelSource, PixelOptions
from tasks.parts import Readable
from tasks.projecting import place_result, warp_result
from tasks.results import workshop, write_features

UNDATED = "1980-01-01"  # a table of the same classes is the same bytes


def finish(
    out: Path, image: Readable, classes: Sequence[ClassLabel], options: PixelOptions, source: ModelSource
) -> Path:
    """The steps that the options ask for; `out` is replaced by its last form."""
    if not image.placed:
        place_result(out, image)
    if options.output_coordinate_system:
        warp_result(out, options.output_coordinate_system)
    write_table_for_arcgis(out, classes)
    if options.polygons:
        write_polygons(out, Path(options.polygons), classes, options, source)
    return out


def write_table_for_arcgis(out: Path, classes: Sequence[ClassLabel]) -> None:
    """`<out>.vat.dbf` with Value, Class, Red, Green, Blue, where ArcGIS looks for the table of a TIFF."""
    with rasterio.open(out) as raster:
        if not classes or raster.count != 1 or np.dtype(raster.dtypes[0]).kind == "f":
            return
    colors = np.array([label.color for label in classes], np.int32).clip(min=0)
    columns = {
        "Value": np.array([label.value for label in classes], np.int32),
        "Class": np.array([label.name for label in classes], object),
        **dict(zip(("Red", "Green", "Blue"), colors.T, strict=True)),
    }
    with workshop(out.with_name(f"{out.name}.vat.dbf")) as folder:
        file = folder / f"{out.name}.vat.dbf"
        options = {"encoding": "UTF-8", "layer_options": {"DBF_DATE_LAST_UPDATE": UNDATED}}
        pyogrio.raw.write(file, None, [*columns.values()], [*columns], driver="ESRI Shapefile", **options)


def write_polygons(
    raster: Path, out: Path, classes: Sequence[ClassLabel], options: PixelOptions, source: ModelSource
) -> Path:
    """The areas of one class as polygons with Class, Value and Area; background and nodata give none.

    Outlines of neighbours are simplified as one line, so that no gaps open between them. Raises ImageryError without
    a coordinate system.
    """
    names = {c.value: c.name for c in classes}
    with rasterio.open(raster) as source_raster:
        if source_raster.crs is None:
            do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
            raise ImageryError("has no coordinate system, so polygons would lie nowhere", where=raster, do=do)
        crs = source_raster.crs
        shapes, values = _areas(source_raster, names)
    if len(shapes) and options.simplify:
        shapes = shapely.make_valid(shapely.coverage_simplify(shapes, options.simplify))
    large = shapely.area(shapes) >= max(options.minimum_area, np.finfo(float).tiny)
    shapes, values = shapes[large], values[large]
    columns: dict[str, Any] = {"Class": np.array([names[v] for v in values.tolist()], dtype=object), "Value": values}
    columns |= {"Area": shapely.area(shapes)} | source.columns(len(values))
    return write_features(out, shapes, columns, crs, source.tags())


def _areas(raster: rasterio.DatasetReader, wanted: Container[int]) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """(n,) polygons and their values; each leaves GDAL's form at once: lists of numbers take far more memory."""
    shapes: list[shapely.Geometry] = []
    values: list[int] = []
    for outline, value in rasterio.features.shapes(rasterio.band(raster, 1), transform=raster.transform):
        if value and int(value) in wanted:
            shapes.append(shapely.geometry.shape(outline))
            values.append(int(value))
    return np.array(shapes, dtype=object), np.array(values, np.int32)
