"""Scenes on real imagery: every label comes back in map coordinates, every odd raster is right or refused."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from registry.errors import DlpkError
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene import open_scenes

pytestmark = [pytest.mark.shared, pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]

OBJECTS = {
    "banepa_buildings/image.tif": ("banepa_buildings/labels.gpkg", 935),
    "neon_trees/YELL_528000_4978000/image.tif": ("neon_trees/YELL_528000_4978000/labels.gpkg", 574),
    "neon_trees/OSBS_029/image.tif": ("neon_trees/OSBS_029/labels.geojson", 61),
    "idtrees_crowns/rgb": ("idtrees_crowns", 863),
}


def labels_of(path: Path) -> Path:
    return path if path.is_file() else min(path.glob("labels*.gpkg"))


@pytest.mark.slow
@pytest.mark.parametrize("imagery", OBJECTS)
def test_every_object_comes_back_where_it_was_drawn(shared_data: Path, imagery: str) -> None:
    """The boxes of all chips, put together on the map, are the boxes of the features: none lost, none invented."""
    name, number = OBJECTS[imagery]
    path = labels_of(shared_data / name)
    back = defaultdict(list)
    with open_scenes(shared_data / imagery, path, ExportOptions(tile_size=256, stride=192)) as scenes:
        surveys = []
        for scene in scenes:
            for window in scene.windows():
                survey = scene.survey(window)
                surveys.append(survey)
                if survey.reason is None:
                    chip = scene.cut(window)
                    assert chip.grid is not None
                    place = Affine(*chip.grid.transform)
                    for row, box in zip(survey.held.features.tolist(), chip.boxes.tolist(), strict=True):
                        back[row].append(shapely.box(*place @ (box[0], box[3]), *place @ (box[2], box[1])))
        assert not scenes.lost(surveys)
        frame = geopandas.read_file(path).to_crs(scenes[0].imagery.crs)
        areas = [shapely.box(*scene.imagery.bounds) for scene in scenes]
    assert number == len(frame) == len(back)
    tree = shapely.STRtree(areas)
    for row, boxes in back.items():
        shape = frame.geometry.iloc[row]
        true = shapely.union_all([shapely.box(*shape.intersection(areas[i]).bounds) for i in tree.query(shape)])
        found = shapely.box(*shapely.union_all(boxes).bounds)
        assert found.intersection(true).area / found.union(true).area > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["labels.tif", "labels.gpkg"])
def test_land_use_pixels_are_those_of_the_source(shared_data: Path, labels: str) -> None:
    folder = shared_data / "berlin_landuse_s2"
    options = ExportOptions(tile_size=128, stride=128, metadata_format="Classified_Tiles")
    with (
        open_scenes(folder / "image.tif", folder / labels, options) as scenes,
        rasterio.open(folder / "labels.tif") as truth,
    ):
        values = np.array([0, *(label.value for label in scenes.classes)])
        scene, same, count = scenes[0], 0, 0
        wanted = truth.read(1)
        for window in scene.windows():
            mask = scene.cut(window).mask
            assert mask is not None
            part = wanted[window[1] : window[3], window[0] : window[2]]
            got = values[mask[: part.shape[0], : part.shape[1]]]
            same, count = same + int((got == part).sum()), count + part.size
    assert same / count > (0.9999 if labels.endswith(".tif") else 0.99)


def test_ten_dates_find_their_own_masks(shared_data: Path) -> None:
    folder = shared_data / "prairie_water"
    options = ExportOptions(tile_size=256, stride=256, metadata_format="Classified_Tiles")
    with open_scenes(folder / "images", folder / "water", options) as scenes:
        shares = {}
        for scene in scenes:
            masks = [scene.cut(w).mask for w in scene.windows()]
            wet = sum(int(mask.sum()) for mask in masks if mask is not None)
            with rasterio.open(folder / "water" / scene.imagery.path.name) as truth:
                shares[scene.imagery.path.stem] = (wet, int((truth.read(1) == 1).sum()))
    assert 10 == len(shares)
    assert all(wet == truth for wet, truth in shares.values())


PIXELS = "IMAGE_SPACE"
ODD: dict[str, tuple[str, str]] = {  # what comes of it on the map, and in pixels where it has no place there
    "jpeg_named_tif.tif": ("uint8 3", ""),
    "deepforest_rd_new_1000px.tif": ("uint8 3", ""),
    "opengeotutorial_landsat7_8band_1999.gtif": ("int16 8", ""),
    "opengeotutorial_landsat7_8band_2002.gtif": ("int16 8", ""),
    "rasterio_RGB.byte.tif": ("uint8 3", ""),
    "rasterio_alpha.tif": ("uint8 3", ""),
    "rasterio_float.tif": ("has no coordinate system.*PIXEL_SPACE", "float64 1"),
    "rasterio_float_nan.tif": ("has no coordinate system.*PIXEL_SPACE", "float32 1"),
    "rasterio_rgb1_fake_nir_epsg3857.tif": ("uint8 1", ""),
    "rasterio_rotated.tif": ("has no coordinate system.*PIXEL_SPACE", "uint8 1"),
    "rasterio_shade.tif": ("uint8 1", ""),
    "riotiler_cog_cmap.tif": ("colour palette.*gdal_translate -expand rgb", ""),
    "riotiler_cog_dateline.tif": ("uint16 1", ""),
    "riotiler_cog_gcps.tif": ("control points only; .*gdalwarp.*IMAGE_SPACE", "uint16 1"),
    "riotiler_cog_int16.tif": ("int16 1", ""),
    "riotiler_cog_nodata.tif": ("uint16 1", ""),
    "riotiler_cog_nodata_nan.tif": ("float32 1", ""),
    "riotiler_cog_nonearth.tif": ("float32 1", ""),
    "riotiler_cog_tags.tif": ("int16 1", ""),
    "riotiler_scene_band1.tif": ("uint16 1", ""),
    "rioxarray_test_rpcs.tif": ("RPCs only; .*gdalwarp.*IMAGE_SPACE", "uint16 1"),
    "scikiteo_landsat8_int16_nodata.tif": ("int16 6", ""),
    "solaris_landsat_int16_albers_nodata.tif": ("int16 3", ""),
}


def one_box(imagery: Path, labels: Path, space: str) -> tuple[float, float, float, float]:
    """A label in the midst of the valid pixels of the raster; its box in columns and rows."""
    with rasterio.open(imagery) as source:
        shown = source.dataset_mask(out_shape=(min(source.height, 600), min(source.width, 600))) > 0
        depth = cv2.distanceTransform(np.pad(shown, 1).astype(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)  # farthest from all nodata
        scale = source.width / shown.shape[1], source.height / shown.shape[0]
        half = max(0.5, min(float(depth.max()) / 2 * min(scale), source.width / 12))
        x, y = (column + 0.5) * scale[0] - half, (row + 0.5) * scale[1] - half
        side = 2 * half
        box = (x, y, x + side, y + side)
        place = Affine(*source.transform[:6])
        crs = source.crs if space == "MAP_SPACE" else None
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    shape = shapely.Polygon([place @ corner for corner in corners])
    geopandas.GeoDataFrame({"Classvalue": [1]}, geometry=[shape], crs=crs).to_file(labels)
    return box


def told(imagery: Path, folder: Path, space: str) -> str:
    """dtype and bands of a right export, or what the error says."""
    box = one_box(imagery, folder / f"{space}.gpkg", space)
    options: dict[str, Any] = {"max_nodata_share": 0.9999, "reference_system": space}
    try:
        with open_scenes(
            imagery, folder / f"{space}.gpkg", ExportOptions(tile_size=128, stride=128, **options)
        ) as scenes:
            scene = scenes[0]
            windows = [w for w in scene.windows() if scene.survey(w).reason is None]
            assert windows
            boxes = [scene.cut(w).boxes[0] + np.tile(w[:2], 2) for w in windows]
            chip = scene.cut(windows[0])
    except DlpkError as error:
        return str(error)
    found = np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])
    assert list(box) == pytest.approx(found.tolist(), abs=1.01)
    assert chip.valid.any()
    assert np.isfinite(chip.image).all()
    return f"{chip.image.dtype} {chip.image.shape[0]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_raster_is_exported_right_or_refused_with_a_remedy(shared_data: Path, tmp_path: Path, name: str) -> None:
    import re

    imagery = shared_data / "extras/odd_rasters" / name
    on_map, in_pixels = ODD[name]
    assert re.search(on_map, told(imagery, tmp_path, "MAP_SPACE"))
    if in_pixels:
        assert re.search(in_pixels, told(imagery, tmp_path, PIXELS))


def test_every_odd_raster_is_in_the_list(shared_data: Path) -> None:
    assert sorted(ODD) == sorted(path.name for path in (shared_data / "extras/odd_rasters").glob("*.*tif"))
