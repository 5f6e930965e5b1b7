"""Where the chips of a training lie on the earth: what a catalogue of models is asked by place for."""

from typing import Any

import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_geom

from registry.errors import DlpkError
from tasks.chips import ChipFolder

MOST_POINTS = 400  # of the outline; it is a hint of the place, not a survey


def ground_of(chips: ChipFolder) -> dict[str, Any] | None:
    """{"bbox": [west, south, east, north], "geometry": GeoJSON} of all chips, in degrees of WGS 84.

    None for chips that do not say where they lie. The outline is coarsened to at most 400 points.
    """
    cell = chips.definition.cell_size
    if cell is None or cell[2] is None:
        return None
    try:
        crs = CRS.from_user_input(cell[2])
        boxes = [shapely.box(*chips.bounds(name)) for name in chips.names]
        outline = _coarse(shapely.union_all(boxes), max(cell[:2]) * chips.tile_size)
        geometry = transform_geom(crs, "EPSG:4326", shapely.geometry.mapping(outline), precision=6)
    except (DlpkError, CRSError, ValueError):  # a model is published without its place all the same
        return None
    bounds = shapely.geometry.shape(geometry).bounds
    inside = bounds and -180 <= bounds[0] <= bounds[2] <= 180 and -90 <= bounds[1] <= bounds[3] <= 90
    return {"bbox": list(bounds), "geometry": geometry} if inside else None


def _coarse(outline: Any, chip: float) -> Any:
    """Gaps below a chip closed, and fewer points; `chip`: its side in map units."""
    for step in (0.25, 1, 4, 16):
        if shapely.get_num_coordinates(outline) <= MOST_POINTS:
            return outline
        closed = outline.buffer(step * chip, join_style="mitre").buffer(-step * chip, join_style="mitre")
        outline = closed.simplify(step * chip / 2)
    return outline if shapely.get_num_coordinates(outline) <= MOST_POINTS else shapely.convex_hull(outline)
