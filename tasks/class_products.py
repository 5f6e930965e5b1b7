"""What is made of a finished class raster: another coordinate system, polygons, ArcGIS's attribute table (F.4)."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio.raw
import rasterio
import shapely
from rasterio.crs import CRS

from registry.emd import ClassLabel
from registry.errors import ImageryError
from tasks.areas import Polygons, areas
from tasks.imagery import gdal_settings
from tasks.inference_options import ModelSource, PixelOptions
from tasks.parts import Readable
from tasks.projecting import place_result, warp_result
from tasks.results import stream_features, workshop

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

    Raises ImageryError without a coordinate system.
    """
    names = {c.value: c.name for c in classes if c.value}
    with gdal_settings(), rasterio.open(raster) as opened:
        if opened.crs is None:
            do = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"
            raise ImageryError("has no coordinate system, so polygons would lie nowhere", where=raster, do=do)
        tables = _tables(areas(opened, [*names], simplify=options.simplify), names, opened.crs, options, source)
        return stream_features(out, tables, source.tags(), geometry_type="Polygon")


def _tables(
    found: Iterable[tuple[Polygons, int]],
    names: Mapping[int, str],
    crs: CRS,
    options: PixelOptions,
    source: ModelSource,
) -> Iterator[geopandas.GeoDataFrame]:
    """The features as they come, a table of none first."""
    for shapes, value in itertools.chain([(np.zeros(0, object), 0)], found):
        sizes = shapely.area(shapes)
        large = sizes >= max(options.minimum_area, np.finfo(float).tiny)
        n = int(large.sum())
        columns: dict[str, Any] = {"Class": np.full(n, names.get(value, ""), object), "Value": np.full(n, value, "i4")}
        columns |= {"Area": sizes[large]} | source.columns(n)
        yield geopandas.GeoDataFrame(columns, geometry=shapes[large], crs=crs.to_wkt())
