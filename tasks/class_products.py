"""What is made of a finished class raster: another coordinate system, polygons, ArcGIS's attribute table (F.4)."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyogrio
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
    reds, greens, blues = zip(*((max(0, c) for c in label.color) for label in classes), strict=True)
    rows: dict[str, Any] = {"Value": [c.value for c in classes], "Class": [c.name for c in classes]}
    rows |= {"Red": reds, "Green": greens, "Blue": blues}
    table = pandas.DataFrame(rows).astype(dict.fromkeys(("Value", "Red", "Green", "Blue"), "int32"))
    with workshop(out.with_name(f"{out.name}.vat.dbf")) as folder:
        file = folder / f"{out.name}.vat.dbf"
        pyogrio.write_dataframe(table, file, driver="ESRI Shapefile", encoding="UTF-8", DBF_DATE_LAST_UPDATE=UNDATED)


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
