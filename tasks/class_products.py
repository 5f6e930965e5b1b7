"""What is made of a finished class raster: another coordinate system, polygons."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from rasterio.crs import CRS

from registry.emd import ClassLabel
from registry.errors import ImageryError, OptionsError
from tasks.areas import Polygons, areas
from tasks.feature_streams import stream_features
from tasks.imagery import gdal_settings
from tasks.inference_options import ModelSource, PixelOptions
from tasks.parts import Readable
from tasks.projecting import place_result, refuse_across, system, warp_result
from tasks.replacing import check_out
from tasks.results import check_raster, write_attribute_table

GIVE_ONE = "give it one: gdal_edit.py -a_srs EPSG:CODE FILE"


def check_products(image: Readable, out: Path, options: PixelOptions) -> None:
    """Raises before the work what `finish` or the second look would raise behind it: ImageryError or OptionsError."""
    if options.output_coordinate_system:
        system(options.output_coordinate_system)
        if image.crs is None and image.placed:
            what = "has no coordinate system, so its result cannot be brought to another"
            raise ImageryError(what, where=image.path, do=GIVE_ONE)
        refuse_across(image, options.output_coordinate_system)
    if options.polygons:
        check_out(Path(options.polygons), options.mask)
        if image.crs is None and not options.output_coordinate_system:
            do = "choose an output_coordinate_system" if not image.placed else GIVE_ONE
            raise ImageryError("has no coordinate system, so polygons would lie nowhere", where=image.path, do=do)
    if options.probabilities:
        check_raster(shares := Path(options.probabilities))
        if shares.resolve() == out.resolve():
            what, do = "probabilities would take the place of the classes", "name another file"
            raise OptionsError(what, where=shares, do=do)


def finish(
    file: Path, image: Readable, classes: Sequence[ClassLabel], options: PixelOptions, source: ModelSource
) -> None:
    """The steps that the options ask for; `file`, in a `workshop`, is replaced by its last form."""
    if not image.placed:
        place_result(file, image)
    if options.output_coordinate_system:
        counts = warp_result(file, options.output_coordinate_system)
        if counts and file.with_name(f"{file.name}.aux.xml").exists():
            write_attribute_table(file, classes, counts)
    if options.polygons:
        write_polygons(file, Path(options.polygons), classes, options, source)


def write_polygons(
    raster: Path, out: Path, classes: Sequence[ClassLabel], options: PixelOptions, source: ModelSource
) -> Path:
    """The areas of one class as polygons with Class, Value and Area; background and nodata give none.

    Raises ImageryError without a coordinate system.
    """
    names = {c.value: c.name for c in classes if c.value}
    with gdal_settings(), rasterio.open(raster) as opened:
        if opened.crs is None:
            raise ImageryError("has no coordinate system, so polygons would lie nowhere", where=raster, do=GIVE_ONE)
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
