"""Scenes: imagery of any kind and labels of any kind, cut into chips that are right or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from registry.errors import DlpkError, ImageryError, LabelError, OptionsError
from tasks import town
from tasks.chips import Chip
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene import Scene, Scenes, Survey, open_scenes
from tasks.imagery import open_imagery
from tasks.mosaic import mosaic

Town = tuple[Path, Path]
TILES: dict[str, Any] = {"metadata_format": "Classified_Tiles"}
MOSAIC: dict[str, Any] = {"processing_mode": "PROCESS_AS_MOSAICKED_IMAGE"}
Reports = list[tuple[Scene, tuple[int, ...], Survey]]


@pytest.fixture
def scene(tmp_path: Path) -> Town:
    return town.write(tmp_path / "town")


def whole(**options: Any) -> ExportOptions:
    """One chip for the town, unless other sizes are given."""
    return ExportOptions(**({"tile_size_x": 96, "tile_size_y": 96, "stride_x": 96, "stride_y": 96} | options))


def cut(imagery: Any, labels: Path | None, **options: Any) -> list[Chip]:
    """The chips that are worth writing."""
    with open_scenes(imagery, labels, whole(**options)) as scenes:
        return [s.cut(w) for s in scenes for w in s.windows() if s.survey(w).reason is None]


def lost(imagery: Any, labels: Path, **options: Any) -> dict[str, int]:
    with open_scenes(imagery, labels, whole(**options)) as scenes:
        return dict(scenes.lost([s.survey(w) for s in scenes for w in s.windows()]))


def write_features(path: Path, shapes: list[Any], crs: Any = f"EPSG:{town.EPSG}", **fields: Any) -> Path:
    geopandas.GeoDataFrame(fields, geometry=shapes, crs=crs).to_file(path)
    return path


def on_map(shape: Any) -> Any:
    """Pixels of the town in map coordinates."""
    corner = np.array([town.WEST, town.NORTH])
    return shapely.transform(shape, lambda xy: corner + xy * [town.CELL, -town.CELL])


def rewrite(path: Path, out: Path, pixels: NDArray[Any] | None = None, **profile: Any) -> Path:
    """The raster once more, with another content or profile."""
    with rasterio.open(path) as source:
        image = source.read() if pixels is None else pixels
        names = source.descriptions
        shape = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype}
        kept = {"crs": source.crs, "transform": source.transform, "nodata": source.nodata, "driver": "GTiff"}
    with rasterio.open(out, "w", **(kept | shape | profile)) as file:
        file.write(image)
        if len(names) == image.shape[0]:
            file.descriptions = names
    return out


# Windows


def test_a_survey_promises_what_the_chip_holds(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path, repeat=2)
    options = whole(tile_size=32, stride=16, output_nofeature_tiles=True)
    with open_scenes(imagery, labels, options) as scenes:
        told = [(scenes[0].survey(w).labels.tolist(), scenes[0].cut(w).labels.tolist()) for w in scenes[0].windows()]
    assert 11 * 11 == len(told)
    assert [chip for _, chip in told] == [survey for survey, _ in told]


def test_windows_are_whole_pixels_and_reach_the_far_edge(scene: Town) -> None:
    with open_scenes(*scene, whole(tile_size_x=64, tile_size_y=32, stride_x=48, stride_y=32)) as scenes:
        windows = scenes[0].windows()
    assert [(0, 0, 64, 32), (48, 0, 112, 32), (0, 32, 64, 64)] == windows[:3]
    assert (6, (48, 64, 112, 96)) == (len(windows), windows[-1])


def test_tiles_show_what_the_whole_picture_shows_where_an_outline_turns_on_their_edges(
    scene: Town, tmp_path: Path
) -> None:
    arrow = shapely.Polygon([town.TRANSFORM @ corner for corner in ((16, 80), (64, 16), (64, 64), (48, 48))])
    labels = write_features(tmp_path / "arrow.gpkg", [arrow], Classvalue=[1])
    (picture,) = cut(scene[0], labels, **TILES)
    tiles = [tile.mask for tile in cut(scene[0], labels, tile_size=32, stride=32, output_nofeature_tiles=True, **TILES)]
    rows = [np.hstack([mask for mask in tiles[i : i + 3] if mask is not None]) for i in (0, 3, 6)]
    assert picture.mask is not None
    assert np.array_equal(picture.mask, np.vstack(rows))


def test_a_float_cell_size_makes_no_extra_tiles(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path)
    odd = rewrite(imagery, tmp_path / "odd.tif", transform=Affine(0.1, 0, 500_000.3, 0, -0.1, 4_600_000.7))
    labels = write_features(tmp_path / "one.gpkg", [shapely.box(500_001, 4_599_995, 500_003, 4_599_998)])
    with open_scenes(odd, labels, whole(tile_size=32, stride=32)) as scenes:
        assert 9 == len(scenes[0].windows())


def test_an_extent_may_leave_out_some_of_the_rasters(scene: Town, tmp_path: Path) -> None:
    far = rewrite(scene[0], tmp_path / "far.tif", transform=town.TRANSFORM @ Affine.translation(1000, 0))
    extent = town.outline((0, 0, 96, 48)).bounds
    (chip,) = cut([scene[0], far], scene[1], extent=extent)
    assert [list(box) for box in town.ROOFS[:2]] == chip.boxes.tolist()[:2]
    with pytest.raises(OptionsError, match=r"extent lies outside town.tif .* and all other rasters"):
        cut([scene[0], far], scene[1], extent=(0, 0, 1, 1))


def test_the_same_arguments_give_the_same_scenes(scene: Town) -> None:
    options = whole(tile_size=48, stride=24, rotation_angle=120)
    with open_scenes(*scene, options) as one, open_scenes(*scene, options) as two:
        assert 3 == len(one) == len(two)
        assert [s.windows() for s in one] == [s.windows() for s in two]
        assert np.array_equal(one[1].cut((24, 24, 72, 72)).image, two[1].cut((24, 24, 72, 72)).image)


def test_only_chips_completely_inside_the_mask_polygons_are_cut(scene: Town, tmp_path: Path) -> None:
    left = [town.outline((0, 0, 48, 40)), town.outline((0, 40, 48, 96))]  # together they hold the lower left window
    mask = write_features(tmp_path / "mask.gpkg", left)
    with open_scenes(*scene, whole(tile_size=48, stride=48, in_mask_polygons=str(mask))) as scenes:
        reasons = [scenes[0].survey(w).reason for w in scenes[0].windows()]
    assert [None, "outside the mask polygons", None, "outside the mask polygons"] == reasons


def test_the_whole_world_masks_nothing(scene: Town, tmp_path: Path) -> None:
    mask = write_features(tmp_path / "mask.gpkg", [shapely.box(-180, -90, 180, 90)], crs="EPSG:4326")
    assert 4 == len(cut(*scene, tile_size=48, stride=48, in_mask_polygons=str(mask)))


# Objects of pixels


def test_where_features_overlap_all_chips_show_the_smaller_one(scene: Town, tmp_path: Path) -> None:
    shapes = [town.outline((0, 0, 70, 70)), town.outline((50, 10, 96, 40))]
    labels = write_features(tmp_path / "two.gpkg", shapes, class_value=[1, 2])
    (whole_town,) = cut(scene[0], labels, **TILES)
    chips = cut(scene[0], labels, tile_size=48, stride=48, **TILES)
    masks = [np.asarray(chip.mask) for chip in (whole_town, *chips)]
    assert np.array_equal(masks[0], np.block([[masks[1], masks[2]], [masks[3], masks[4]]]))
    assert [2, 1] == masks[0][[20, 50], [60, 60]].tolist()


@pytest.mark.parametrize(
    ("expected", "box"),
    [
        (1, (20.7, 20.7, 21.2, 21.2)),
        (1, (19.6, 19.6, 20.9, 20.9)),
        (1, (20.2, 20.2, 21.4, 21.4)),
        (40, (8, 20.4, 48, 21.3)),
    ],
)
def test_small_and_thin_objects_have_about_their_area(
    scene: Town, tmp_path: Path, expected: int, box: tuple[float, ...]
) -> None:
    labels = write_features(tmp_path / "one.gpkg", [on_map(shapely.box(*box))], class_value=[1])
    (chip,) = cut(scene[0], labels, **TILES)
    (own,) = cut(scene[0], labels, metadata_format="RCNN_Masks")
    assert [expected] * 2 == [np.count_nonzero(np.asarray(found)) for found in (chip.mask, own.masks)]


# Turned chips


def test_a_quarter_turn_is_exact(scene: Town) -> None:
    straight, *turned = cut(*scene, rotation_angle=90)
    for turns, chip in enumerate(turned, 1):
        assert np.array_equal(np.rot90(straight.image, turns, axes=(1, 2)), chip.image)
    assert [[10, 70, 26, 86], [10, 22, 22, 38], [58, 54, 74, 66], [60, 6, 84, 36]] == turned[0].boxes.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("angle", [30, 45, 100])
def test_a_turned_mask_lies_on_the_turned_picture(scene: Town, angle: int) -> None:
    chip = cut(*scene, rotation_angle=angle, tile_size=64, stride=32, **TILES)[5]
    assert chip.mask is not None
    red = chip.image[0].astype(int)
    assert (np.abs(red - 200) < 5)[chip.mask == 1].mean() > 0.8  # edges are mixed
    assert not (chip.mask == 1)[red < 50].any()


@pytest.mark.parametrize("angle", [30, 145])
def test_the_grid_of_a_turned_chip_finds_the_roof_on_the_map(scene: Town, angle: int) -> None:
    with open_scenes(*scene, whole(tile_size=48, stride=48, rotation_angle=angle)) as scenes:
        chip = scenes[1].cut((0, 0, 48, 48))
    assert chip.grid is not None
    xmin, ymin, xmax, ymax = chip.boxes[0].tolist()
    middle = Affine(*chip.grid.transform) @ ((xmin + xmax) / 2, (ymin + ymax) / 2)
    assert (town.WEST + 18 * 0.5, town.NORTH - 18 * 0.5) == pytest.approx(middle, abs=1e-3)


def test_all_of_a_turned_feature_is_never_too_little(scene: Town) -> None:
    nearly, all_of_it = (cut(*scene, rotation_angle=30, min_polygon_overlap_ratio=least) for least in (0.999, 1.0))
    assert [chip.labels.tolist() for chip in nearly] == [chip.labels.tolist() for chip in all_of_it]


def test_corners_of_a_turned_chip_outside_the_raster_are_nodata(scene: Town) -> None:
    chips = cut(*scene, rotation_angle=45)
    assert 1.0 == chips[0].valid.mean()
    assert not chips[1].valid[0, 0]
    assert 0.82 == pytest.approx(chips[1].valid.mean(), abs=0.02)
    assert not chips[1].image[:, ~chips[1].valid].any()


# Spaces


def _plain(scene: Town, folder: Path, sign: int = 1) -> tuple[Path, Path]:
    """The town as a picture without a place, its roofs in columns and rows."""
    picture = rewrite(scene[0], folder / "plain.tif", crs=None, transform=Affine.identity())
    shapes = [shapely.box(x0, sign * y0, x1, sign * y1) for x0, y0, x1, y1 in town.ROOFS]
    return picture, write_features(folder / "plain.gpkg", shapes, crs=None)


@pytest.mark.filterwarnings("ignore:'crs' was not provided", "ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_picture_without_a_place_is_exported_with_labels_in_pixels(scene: Town, tmp_path: Path, sign: int) -> None:
    chip = cut(*_plain(scene, tmp_path, sign), reference_system="IMAGE_SPACE")[0]
    assert [*map(list, town.ROOFS)] == chip.boxes.tolist()
    assert chip.grid is not None
    assert ("", (1, 0, 0, 0, -1, 0)) == (chip.grid.crs, chip.grid.transform)


@pytest.mark.filterwarnings("ignore:'crs' was not provided", "ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("placed", [False, True])
def test_labels_in_pixels_lie_where_they_were_whatever_the_cell_size(
    scene: Town, tmp_path: Path, sign: int, placed: bool
) -> None:
    picture, labels = _plain(scene, tmp_path, sign)
    options: dict[str, Any] = {"reference_system": "PIXEL_SPACE", "cell_size": 1.0 if placed else 2.0, "tile_size": 48}
    (chip,) = cut(scene[0] if placed else picture, labels, **options)
    assert [[x / 2 for x in roof] for roof in town.ROOFS] == chip.boxes.tolist()
    assert np.abs(chip.image - _halved(town.pixels())).max() <= 0.5  # rounded


def test_a_south_up_raster_has_a_cell_size_too(scene: Town, tmp_path: Path) -> None:
    (chip,) = cut(_upside_down(scene, tmp_path), scene[1], cell_size=1.0, tile_size=48)
    assert np.abs(chip.image - _halved(town.pixels()[:, ::-1])).max() <= 0.5
    assert {(x0 / 2, 48 - y1 / 2, x1 / 2, 48 - y0 / 2) for x0, y0, x1, y1 in (*town.ROOFS, town.POND_BOX)} == set(
        map(tuple, chip.boxes.tolist())
    )


def _halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 2 x 2 pixels."""
    return np.asarray(pixels.reshape(len(pixels), 48, 2, 48, 2).mean(axis=(2, 4)))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_lies_on_a_picture_without_a_place_comes_to_its_cell_size(scene: Town, tmp_path: Path) -> None:
    picture = rewrite(scene[0], tmp_path / "plain.tif", crs=None, transform=Affine.identity())
    values = np.kron(np.arange(48 * 48).reshape(48, 48) % 7 + 1, np.ones((2, 2))).astype(np.uint8)
    classes = rewrite(picture, tmp_path / "classes.tif", values[None])
    options: dict[str, Any] = {"reference_system": "PIXEL_SPACE", "cell_size": 2.0, "tile_size": 48, **TILES}
    (chip,) = cut(picture, classes, in_raster2=str(picture), **options)
    assert chip.mask is not None
    assert chip.image2 is not None
    assert np.array_equal(values[::2, ::2], chip.mask)
    assert town.ROOF == tuple(chip.image2[:, 8, 8])


@pytest.mark.filterwarnings("ignore:'crs' was not provided", "ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_picture_without_a_place_is_refused_in_map_space(scene: Town, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"no coordinate system.*gdal_edit.*PIXEL_SPACE"):
        cut(*_plain(scene, tmp_path))


def test_placed_labels_are_never_taken_for_pixels(scene: Town, tmp_path: Path) -> None:
    picture = rewrite(scene[0], tmp_path / "plain.tif", crs=None)
    with pytest.raises(LabelError, match="no coordinate system"):
        cut(picture, scene[1], reference_system="PIXEL_SPACE")


def test_a_rotated_raster_is_cut_along_its_own_pixels(scene: Town, tmp_path: Path) -> None:
    place = town.TRANSFORM @ Affine.rotation(20)
    tilted = rewrite(scene[0], tmp_path / "tilted.tif", transform=place)
    corners = [place @ xy for xy in ((10, 10), (26, 10), (26, 26), (10, 26))]
    labels = write_features(tmp_path / "roof.gpkg", [shapely.Polygon(corners)])
    chip = cut(tilted, labels)[0]
    assert chip.grid is not None
    assert [10, 10, 26, 26] == pytest.approx(chip.boxes[0].tolist(), abs=1e-3)
    assert tuple(place)[:6] == pytest.approx(chip.grid.transform)


def test_labels_beyond_the_date_line_find_a_raster_that_counts_on(tmp_path: Path) -> None:
    place = Affine(0.01, 0, 179.52, 0, -0.01, 10)
    imagery = rewrite(town.write(tmp_path)[0], tmp_path / "line.tif", crs="EPSG:4326", transform=place)
    labels = write_features(tmp_path / "line.gpkg", [shapely.box(-179.9, 9.5, -179.8, 9.6)], crs="EPSG:4326")
    assert [58, 40, 68, 50] == pytest.approx(cut(imagery, labels)[0].boxes[0].tolist(), abs=0.01)


@pytest.mark.parametrize(("west", "expected"), [(179.52, []), (-179.98, []), (-0.48, [[38, 40, 58, 50]])])
def test_a_label_across_one_end_of_a_raster_of_longitudes_is_not_around_the_world(
    west: float, expected: list[list[float]], tmp_path: Path
) -> None:
    """At 180 degrees nothing of one at Greenwich is seen, whatever the raster counts."""
    place = Affine(0.01, 0, west, 0, -0.01, 10)
    imagery = rewrite(town.write(tmp_path)[0], tmp_path / "line.tif", crs="EPSG:4326", transform=place)
    shapes = [shapely.box(-0.1, 9.5, 0.1, 9.6), shapely.box(west + 0.5, 9.8, west + 0.6, 9.9)]
    labels = write_features(tmp_path / "line.gpkg", shapes, crs="EPSG:4326", Classvalue=[1, 2])
    (chip,) = cut(imagery, labels)
    assert np.allclose([*expected, [50.0, 10.0, 60.0, 20.0]], chip.boxes, atol=0.01)


def test_a_raster_of_the_whole_world_shows_a_label_at_both_of_its_ends(tmp_path: Path) -> None:
    place = Affine(3.75, 0, 0, 0, -1, 96)
    imagery = rewrite(town.write(tmp_path)[0], tmp_path / "world.tif", crs="EPSG:4326", transform=place)
    labels = write_features(tmp_path / "line.gpkg", [shapely.box(-15, 40, 7.5, 50)], crs="EPSG:4326")
    (chip,) = cut(imagery, labels, metadata_format="Classified_Tiles")
    assert chip.mask is not None
    assert [0, 1, 92, 93, 94, 95] == np.flatnonzero(chip.mask[50]).tolist()


@pytest.mark.parametrize("west", [179.52, 179.04, -180.0])
def test_a_label_in_metres_across_the_date_line_lies_on_its_pixels_alone(west: float, tmp_path: Path) -> None:
    place = Affine(0.01, 0, west, 0, -0.01, 0.5)
    imagery = rewrite(town.write(tmp_path)[0], tmp_path / "line.tif", crs="EPSG:4326", transform=place)
    shape = geopandas.GeoSeries([shapely.box(179.9, 0.1, 180.1, 0.2)], crs="EPSG:4326").to_crs("EPSG:32660")
    labels = write_features(tmp_path / "utm.gpkg", [*shape], crs="EPSG:32660")
    (chip,) = cut(imagery, labels)
    left = 179.9 - west if west > 0 else 179.9 - west - 360
    assert [max(left * 100, 0), 30, min(left * 100 + 20, 96), 40] == pytest.approx(chip.boxes[0].tolist(), abs=0.1)


# Several rasters


@pytest.fixture
def halves(scene: Town, tmp_path: Path) -> tuple[Path, Path]:
    """West and east of the town; the seam goes through the pond and, in steps of ten, they overlap."""
    image = town.pixels()
    east = town.TRANSFORM @ Affine.translation(60, 0)
    return (
        rewrite(scene[0], tmp_path / "a_west.tif", image[:, :, :70]),
        rewrite(scene[0], tmp_path / "b_east.tif", image[:, :, 60:], transform=east),
    )


def test_a_mosaic_is_one_picture(halves: tuple[Path, Path], scene: Town) -> None:
    (chip,) = cut(halves, scene[1], processing_mode="PROCESS_AS_MOSAICKED_IMAGE")
    assert np.array_equal(town.pixels(), chip.image)
    assert [*map(list, town.ROOFS), list(town.POND_BOX)] == chip.boxes.tolist()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_without_a_place_are_no_mosaic(scene: Town, tmp_path: Path) -> None:
    plain = [rewrite(scene[0], tmp_path / name, crs=None, transform=Affine.identity()) for name in ("a.tif", "b.tif")]
    options = {"metadata_format": "Export_Tiles", "reference_system": "PIXEL_SPACE"}
    with pytest.raises(ImageryError, match=r"a.tif: 2 rasters have no place on the map.*PROCESS_ITEMS_SEPARATELY"):
        cut(plain, None, **options, processing_mode="PROCESS_AS_MOSAICKED_IMAGE")
    assert 2 == len(cut(plain, None, **options))


def test_item_by_item_each_raster_is_a_scene(halves: tuple[Path, Path], scene: Town) -> None:
    assert [(4, 70), (2, 36)] == [
        (len(c.boxes), int(c.valid[0].sum())) for c in cut(halves, scene[1], max_nodata_share=0.9)
    ]


def test_the_gaps_of_a_mosaic_and_its_nodata_are_no_pixels(scene: Town, tmp_path: Path) -> None:
    image = town.pixels()
    image[:, :10, :70] = 0
    west = rewrite(scene[0], tmp_path / "a.tif", image[:, :90, :40], nodata=0)
    east = rewrite(scene[0], tmp_path / "b.tif", image[:, :, 60:], transform=town.TRANSFORM @ Affine.translation(60, 0))
    (chip,) = cut([west, east], scene[1], processing_mode="PROCESS_AS_MOSAICKED_IMAGE")
    assert (False, True, False, True, False) == tuple(
        chip.valid[y, x] for y, x in ((5, 5), (20, 5), (20, 50), (5, 65), (95, 5))
    )


def test_where_the_upper_raster_has_nodata_the_lower_one_is_seen(scene: Town, tmp_path: Path) -> None:
    image = town.pixels()
    image[:, 40:, :] = 0
    holes = rewrite(scene[0], tmp_path / "z.tif", image, nodata=0)
    (chip,) = cut([scene[0], holes], scene[1], processing_mode="PROCESS_AS_MOSAICKED_IMAGE")
    assert np.array_equal(town.pixels(), chip.image)


def test_a_pixel_of_a_mosaic_is_nodata_where_all_of_its_bands_are(scene: Town, tmp_path: Path) -> None:
    lower, upper = town.pixels(), town.pixels()
    upper[:, 40:50] = 0
    upper[0, 60:70], lower[0, 60:70] = 0, 77  # water: red is 0, other bands are not
    names = [rewrite(scene[0], tmp_path / name, pixels, nodata=0) for name, pixels in (("a", lower), ("b", upper))]
    (chip,) = cut(names, scene[1], processing_mode="PROCESS_AS_MOSAICKED_IMAGE")
    expected = np.where((upper == 0).all(axis=0), lower, upper)
    assert np.array_equal(expected, chip.image)
    assert chip.valid.all()


@pytest.mark.parametrize("lower", [None, -1])
def test_where_the_upper_raster_has_no_numbers_the_lower_one_is_seen(
    scene: Town, tmp_path: Path, lower: int | None
) -> None:
    image = town.pixels().astype(np.float32)
    ground = rewrite(scene[0], tmp_path / "a.tif", image[:, :, :90], nodata=lower)
    image[:, 40:] = np.nan
    (chip,) = cut([ground, rewrite(scene[0], tmp_path / "z.tif", image)], scene[1], **MOSAIC)
    assert np.array_equal(town.pixels()[:, :, :90], chip.image[:, :, :90])
    assert [40 * 6, 0] == [int(chip.valid[:40, 90:].sum()), int(chip.valid[40:, 90:].sum())]


def _upside_down(scene: Town, folder: Path) -> Path:
    """The town, its rows from south to north."""
    place = Affine(town.CELL, 0, town.WEST, 0, town.CELL, town.NORTH - 96 * town.CELL)
    return rewrite(scene[0], folder / "up.tif", town.pixels()[:, ::-1], transform=place)


def test_a_raster_that_lies_another_way_is_in_no_mosaic(scene: Town, tmp_path: Path) -> None:
    askew = rewrite(scene[0], tmp_path / "askew.tif", transform=town.TRANSFORM @ Affine.rotation(20))
    with pytest.raises(ImageryError, match=r"up.tif: lies the other way up than town.tif.*mosaic.*gdalwarp"):
        cut([scene[0], _upside_down(scene, tmp_path)], scene[1], **MOSAIC)
    with pytest.raises(ImageryError, match=r"askew.tif: is rotated.*mosaic"):
        cut([scene[0], askew], scene[1], **MOSAIC)


@pytest.mark.parametrize("first", [0, 1])
def test_warp_brings_a_raster_the_way_up_of_the_first(scene: Town, tmp_path: Path, first: int) -> None:
    both = [scene[0], _upside_down(scene, tmp_path)]
    (chip,) = cut([both[first], both[1 - first]], scene[1], warp=True, **MOSAIC)
    assert np.array_equal(town.pixels()[:, :: 1 - 2 * first], chip.image)


ODD: dict[str, dict[str, Any]] = {
    "coordinate system": {"crs": "EPSG:32634"},
    "cell size": {"transform": town.TRANSFORM @ Affine.scale(2)},
    "data type": {"dtype": "uint16"},
}


@pytest.mark.parametrize("mode", ["PROCESS_AS_MOSAICKED_IMAGE", "PROCESS_ITEMS_SEPARATELY"])
@pytest.mark.parametrize("what", ODD)
def test_rasters_of_different_kinds_are_refused_by_both_names(
    scene: Town, tmp_path: Path, what: str, mode: str
) -> None:
    other = rewrite(scene[0], tmp_path / "other.tif", **ODD[what])
    with pytest.raises(ImageryError, match=rf"other.tif: expected the {what} of town.tif.*warp"):
        cut([scene[0], other], scene[1], processing_mode=mode)


def test_bands_in_another_order_are_refused_by_both_names(scene: Town, tmp_path: Path) -> None:
    other = rewrite(scene[0], tmp_path / "other.tif")
    with rasterio.open(other, "r+") as file:
        file.descriptions = ("blue", "Green", "Red", "NearInfrared")
    told = r"other.tif: expected the bands of town.tif in their order, red, green, blue, .*, got 'blue, green, red, "
    with pytest.raises(ImageryError, match=told):
        cut([scene[0], other], scene[1])


def test_another_number_of_bands_is_refused_even_with_warp(scene: Town, tmp_path: Path) -> None:
    other = rewrite(scene[0], tmp_path / "other.tif", town.pixels()[:3])
    with pytest.raises(ImageryError, match=r"other.tif: expected 4 bands as in town.tif, got 3"):
        cut([scene[0], other], scene[1], warp=True)


@pytest.mark.parametrize("mode", ["PROCESS_AS_MOSAICKED_IMAGE", "PROCESS_ITEMS_SEPARATELY"])
def test_a_raster_of_another_coordinate_system_is_warped_on_request(scene: Town, tmp_path: Path, mode: str) -> None:
    with rasterio.open(scene[0]) as source:
        from rasterio.vrt import WarpedVRT

        with WarpedVRT(source, crs="EPSG:32634") as warped:
            other = rewrite(
                scene[0], tmp_path / "z.tif", warped.read(), crs=warped.crs, transform=warped.transform, nodata=0
            )
    chips = cut([scene[0], other], scene[1], warp=True, processing_mode=mode, tile_size=128, stride=128)
    assert chips[0].grid is not None
    for chip in chips:
        red = chip.image[0].astype(int)
        roof = shapely.box(*chip.boxes[0].tolist()).buffer(-2).bounds
        inside = red[int(roof[1]) : int(roof[3]), int(roof[0]) : int(roof[2])]
        assert 200 == pytest.approx(np.median(inside), abs=3)
        assert {chips[0].grid.crs} == {chip.grid.crs if chip.grid else ""}


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_a_warped_raster_does_not_cover_is_not_there(scene: Town, tmp_path: Path, bands: int, dtype: str) -> None:
    ground = rewrite(scene[0], tmp_path / "a.tif", town.pixels()[:bands].astype(dtype))
    place = Affine(town.CELL, 0, -489, 0, -town.CELL, 4_617_416)  # near that corner, askew to this zone
    other = rewrite(ground, tmp_path / "z.tif", np.full((bands, 96, 96), 9, dtype), crs="EPSG:32634", transform=place)
    options: dict[str, Any] = {"warp": True, "tile_size": 256, "stride": 256, "max_nodata_share": 0.99}
    alone = cut([ground, other], None, metadata_format="Export_Tiles", **options)[1]
    assert alone.valid.sum() == pytest.approx(96 * 96, rel=0.05)
    assert {0, 9} == {*np.unique(alone.image[:, alone.valid]), *np.unique(alone.image[:, ~alone.valid])}
    (both,) = cut([ground, other], None, metadata_format="Export_Tiles", **options, **MOSAIC)
    assert both.valid.sum() > alone.valid.sum()
    assert both.image[:, both.valid].min() > 0


def test_warp_never_loses_what_a_larger_type_holds(scene: Town, tmp_path: Path) -> None:
    wide = rewrite(scene[0], tmp_path / "wide.tif", town.pixels().astype(np.uint16) * 200)
    with pytest.raises(ImageryError, match="uint16 does not fit into uint8 of town.tif"):
        cut([scene[0], wide], scene[1], warp=True)
    first, second = cut([wide, scene[0]], scene[1], warp=True)
    assert ["uint16", "uint16"] == [str(chip.image.dtype) for chip in (first, second)]
    assert [40_000, 200] == [int(chip.image[0, 12, 12]) for chip in (first, second)]


# A second raster


def test_a_second_raster_is_laid_on_the_grid_of_the_first(scene: Town, tmp_path: Path) -> None:
    shifted = rewrite(scene[0], tmp_path / "b.tif", transform=town.TRANSFORM @ Affine.translation(-8, 4))
    (chip,) = cut(*scene, in_raster2=str(shifted), **TILES)
    assert chip.image2 is not None
    assert np.array_equal(town.pixels()[:, :92, 8:], chip.image2[:, 4:, :88])
    assert not chip.valid[:4].any()  # what one of the two has not, neither has
    assert not chip.image[:, :4].any()


def test_a_coarser_second_raster_is_resampled(scene: Town, tmp_path: Path) -> None:
    coarse = rewrite(
        scene[0], tmp_path / "b.tif", town.pixels()[:, ::2, ::2], transform=town.TRANSFORM @ Affine.scale(2)
    )
    (chip,) = cut(*scene, in_raster2=str(coarse), **TILES)
    assert chip.image2 is not None
    assert (4, 96, 96) == chip.image2.shape
    assert 200 == chip.image2[0, 18, 18]


def test_second_rasters_must_pair_with_the_first(scene: Town, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a.tif", "b.tif"):
        rewrite(scene[0], tmp_path / "two" / name)
    with pytest.raises(OptionsError, match="one for each of 3, got 2"):
        cut([scene[0]] * 3, scene[1], in_raster2=str(tmp_path / "two"))


def test_two_dates_have_the_same_bands(scene: Town, tmp_path: Path) -> None:
    grey = rewrite(scene[0], tmp_path / "grey.tif", town.pixels()[:1])
    with pytest.raises(ImageryError, match=r"grey.tif: in_raster2: has other bands, got 1; give the same 4 of both"):
        cut(*scene, in_raster2=str(grey), metadata_format="Classified_Tiles")
    assert cut(*scene, in_raster2=str(grey), metadata_format="Export_Tiles")


# Nodata


def _with_hole(scene: Town, folder: Path, **profile: Any) -> Path:
    image = town.pixels()
    image[:, 8:28, 8:28] = 0
    return rewrite(scene[0], folder / "hole.tif", image, **profile)


def test_an_object_that_only_nodata_shows_is_no_object(scene: Town, tmp_path: Path) -> None:
    imagery = _with_hole(scene, tmp_path, nodata=0)
    (chip,) = cut(imagery, scene[1])
    assert [*map(list, town.ROOFS[1:]), list(town.POND_BOX)] == chip.boxes.tolist()
    assert {"only nodata where it lies": 1} == lost(imagery, scene[1])


def test_an_object_in_nodata_is_none_though_its_box_is_not(scene: Town, tmp_path: Path) -> None:
    image = town.pixels()
    rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
    image[:, rows + columns < 60] = 0
    shapes = [on_map(shapely.Polygon([(5, 5), (50, 5), (5, 50)])), town.outline((60, 60, 80, 80))]
    labels = write_features(tmp_path / "two.gpkg", shapes, class_value=[1, 1])
    (chip,) = cut(rewrite(scene[0], tmp_path / "slanted.tif", image, nodata=0), labels, metadata_format="RCNN_Masks")
    assert [[60, 60, 80, 80]] == chip.boxes.tolist()


def test_a_window_whose_only_object_lies_in_nodata_is_left_out(scene: Town, tmp_path: Path) -> None:
    with open_scenes(_with_hole(scene, tmp_path, nodata=0), scene[1], whole(tile_size=48, stride=48)) as scenes:
        assert ["no feature", None, None, None] == [scenes[0].survey(w).reason for w in scenes[0].windows()]


def test_float_pixels_that_are_no_numbers_are_nodata(scene: Town, tmp_path: Path) -> None:
    image = town.pixels().astype(np.float32)
    image[2, 8:28, 8:28] = np.nan
    (chip,) = cut(rewrite(scene[0], tmp_path / "nan.tif", image, nodata=-9999), scene[1])
    assert (20 * 20, 3) == (int((~chip.valid).sum()), len(chip.boxes))
    assert not chip.image[:, ~chip.valid].any()


@pytest.mark.parametrize("cell_size", [None, 1.0])
def test_an_internal_mask_is_respected(scene: Town, tmp_path: Path, cell_size: float | None) -> None:
    imagery = rewrite(scene[0], tmp_path / "masked.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(imagery, "r+") as file:
        file.write_mask(np.pad(np.full((96, 48), 255, np.uint8), ((0, 0), (0, 48))))
    (chip,) = cut(imagery, scene[1], max_nodata_share=0.6)
    assert [True, False] == chip.valid[50, [47, 48]].tolist()
    with open_scenes(imagery, scene[1], whole(max_nodata_share=0.4)) as scenes:
        assert "nodata" == scenes[0].survey((0, 0, 96, 96)).reason


def test_masks_and_gaps_outlive_another_cell_size(scene: Town, tmp_path: Path) -> None:
    west = rewrite(scene[0], tmp_path / "west.tif", town.pixels()[:, :, :40])
    east = rewrite(scene[0], tmp_path / "z.tif", transform=town.TRANSFORM @ Affine.translation(60, 0))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(east, "r+") as file:
        file.write_mask(np.pad(np.full((48, 96), 255, np.uint8), ((0, 48), (0, 0))))
    cell = 2 * town.TRANSFORM.a
    with open_imagery(mosaic([str(west), str(east)]), cell_size=(cell, cell)) as image:
        valid = image.read(0, 0, image.width, image.height).valid
    assert [True, False, True, False] == [valid[y, x] for y, x in ((5, 5), (5, 25), (5, 35), (30, 35))]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_an_alpha_band_hides_pixels_of_every_type(scene: Town, tmp_path: Path, dtype: str) -> None:
    image = np.full((2, 96, 96), 100, dtype)
    image[1, :, 48:] = 0
    file = rewrite(scene[0], tmp_path / "alpha.tif", image, photometric="MINISBLACK", alpha="unspecified")
    with rasterio.open(file, "r+") as raster:
        raster.colorinterp = ColorInterp.gray, ColorInterp.alpha
    other = rewrite(scene[0], tmp_path / "b.tif", image[:1] + 1)
    for cell in (None, (1.0, 1.0)):
        with open_imagery(file, cell_size=cell) as opened:
            assert 0.5 == opened.read(0, 0, opened.width, opened.height).valid.mean()
            assert 0.5 == opened.valid(0, 0, opened.width, opened.height).mean()
            assert not opened.always_valid
    with open_imagery(mosaic([str(other), str(file)])) as opened:
        assert [100, 101] == opened.read(0, 0, 96, 96).pixels[0, 5, [5, 90]].tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_rotated_raster_is_laid_straight_with_its_mask_and_no_corners(
    scene: Town, tmp_path: Path, dtype: str
) -> None:
    turned = Affine.translation(400_000, 5_000_000) @ Affine.rotation(45) @ Affine.scale(0.5, -0.5)
    file = rewrite(scene[0], tmp_path / "turned.tif", np.full((1, 96, 96), 100, dtype), transform=turned)
    for share in (1, 0.5):
        with open_imagery(file, straighten=True) as image:
            block = image.read(0, 0, image.width, image.height)
        assert share / 2 == pytest.approx(block.valid.mean(), abs=0.01)
        assert 100 == block.pixels[:, block.valid].min()
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as raster:
            raster.write_mask(np.pad(np.full((96, 48), 255, np.uint8), ((0, 0), (0, 48))))


def test_a_nodata_value_that_the_pixels_cannot_hold_hides_none(scene: Town, tmp_path: Path) -> None:
    imagery = rewrite(scene[0], tmp_path / "n.tif", town.pixels().astype(np.int16))
    rasterio.open(imagery, "r+").close()
    text = Path(f"{imagery}.aux.xml")
    bands = "".join(
        f'<PAMRasterBand band="{i}"><NoDataValue>-99999</NoDataValue></PAMRasterBand>' for i in (1, 2, 3, 4)
    )
    text.write_text(f"<PAMDataset>{bands}</PAMDataset>")
    (chip,) = cut(imagery, scene[1])
    assert chip.valid.all()


# Bad input


BAD: dict[str, tuple[Callable[[Town, Path], tuple[Any, Path | None]], type[DlpkError], str]] = {
    "no such raster": (lambda s, f: (f / "none.tif", s[1]), ImageryError, "none.tif: does not exist; check the path"),
    "empty folder": (
        lambda s, f: (f, s[1]),
        ImageryError,
        "folder without",
    ),
    "no labels": (lambda s, f: (s[0], None), LabelError, "needs labels"),
    "class raster for boxes": (lambda s, f: (s[0], s[0]), LabelError, "has no objects"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_exported_is_told(scene: Town, tmp_path: Path, what: str) -> None:
    spoil, kind, told = BAD[what]
    folder = tmp_path / "bad"
    folder.mkdir()
    with pytest.raises(kind, match=told):
        cut(*spoil(scene, folder))


def test_labels_elsewhere_are_refused_only_when_no_raster_has_any(scene: Town, tmp_path: Path) -> None:
    far = rewrite(scene[0], tmp_path / "far.tif", transform=town.TRANSFORM @ Affine.translation(9000, 0))
    assert 1 == len(cut([far, scene[0]], scene[1]))
    with pytest.raises(LabelError, match=r"does not overlap far.tif"):
        cut(far, scene[1])


def test_features_that_no_chip_shows_are_counted_by_reason(scene: Town, tmp_path: Path) -> None:
    shapes = [
        town.outline((10, 10, 26, 26)),
        town.outline((30, 0, 34, 20)),  # half of it is outside the raster
        town.outline((400, 0, 410, 10)),
        shapely.box(town.WEST + 20, town.NORTH - 20, town.WEST + 20.2, town.NORTH - 19.8),
        shapely.LineString([(town.WEST, town.NORTH), (town.WEST + 5, town.NORTH)]).union(town.outline((0, 0, 1, 1))),
    ]
    shapes[1] = shapely.affinity.translate(shapes[1], 0, 5)
    labels = write_features(tmp_path / "five.gpkg", shapes[:4])
    expected = {
        "less of it in the chip than min_polygon_overlap_ratio": 1,
        "outside the imagery or the extent": 1,
    }
    assert expected == lost(scene[0], labels, min_polygon_overlap_ratio=0.9)


@pytest.mark.parametrize("metadata_format", ["PASCAL_VOC_rectangles", "MultiLabeled_Tiles", "Classified_Tiles"])
def test_a_chip_holds_no_class_of_which_it_shows_less_than_a_pixel(
    scene: Town, tmp_path: Path, metadata_format: str
) -> None:
    """As where a feature of just a chip comes from another coordinate system."""
    noise = 1e-6
    shape = shapely.affinity.translate(town.outline((0, 0, 48, 48)), noise, -noise)
    labels = write_features(tmp_path / "one.gpkg", [shape], Classvalue=[1])
    options = {"metadata_format": metadata_format, "tile_size": 48, "stride": 48}
    assert 1 == len(cut(scene[0], labels, **options))
    assert {} == lost(scene[0], labels, **options)


@pytest.mark.parametrize("metadata_format", ["PASCAL_VOC_rectangles", "MultiLabeled_Tiles", "Classified_Tiles"])
def test_a_whole_object_smaller_than_a_pixel_is_held(scene: Town, tmp_path: Path, metadata_format: str) -> None:
    tiny = shapely.box(town.WEST + 10.3, town.NORTH - 5.2, town.WEST + 10.4, town.NORTH - 5.1)
    labels = write_features(tmp_path / "tiny.gpkg", [tiny], Classvalue=[1])
    assert 1 == len(cut(scene[0], labels, metadata_format=metadata_format, tile_size=48, stride=48))


def test_a_sliver_at_the_edge_of_a_chip_keeps_the_pixels_whose_centres_it_covers(scene: Town, tmp_path: Path) -> None:
    shape = shapely.box(town.WEST + 20, town.NORTH - 7, town.WEST + 24.3, town.NORTH - 2)  # columns 40 to 48.6, 10 rows
    labels = write_features(tmp_path / "one.gpkg", [shape], Classvalue=[1])
    first, second = cut(scene[0], labels, **TILES, tile_size=48, stride=48)
    assert first.mask is not None
    assert second.mask is not None
    assert (80, 10) == (first.mask.sum(), second.mask.sum())


def test_of_a_panoptic_export_the_objects_are_counted(scene: Town, tmp_path: Path) -> None:
    ground = write_features(tmp_path / "ground.gpkg", [town.outline((0, 0, 96, 96))])
    away = [town.outline((10, 10, 26, 26)), town.outline((400, 0, 410, 10)), town.outline((30, 30, 40, 40))]
    options = {
        "metadata_format": "Panoptic_Segmentation",
        "in_instance_data": str(write_features(tmp_path / "o.gpkg", away)),
    }
    assert {"outside the imagery or the extent": 1} == lost(scene[0], ground, **options)


@pytest.mark.slow
def test_a_hundred_thousand_features_are_found_by_an_index(tmp_path: Path) -> None:
    import time

    from tasks.labels import features_of
    from tasks.windows import Place

    x, y = np.meshgrid(np.arange(400) * 2.0, np.arange(250) * 2.0)
    shapes = shapely.box(
        town.WEST + x.ravel(), town.NORTH - y.ravel() - 1, town.WEST + x.ravel() + 1, town.NORTH - y.ravel()
    )
    frame = geopandas.GeoDataFrame({"Classvalue": np.arange(100_000) % 7 + 1}, geometry=shapes, crs=town.EPSG)
    imagery, _ = town.write(tmp_path, repeat=17)
    from tasks.imagery import open_imagery

    with open_imagery(imagery) as image:
        placed = features_of(tmp_path, [frame], "", (), radius=0, points=False).on(image)
    area = (0, 0, image.width, image.height)
    places = [Place((i * 6, i * 4, i * 6 + 64, i * 4 + 64), 0, area) for i in range(200)]
    placed.inside(places[0])
    started = time.process_time()
    found = [len(placed.inside(place)[0].rows) for place in places]
    assert min(found) >= 256
    assert time.process_time() - started < 1.0  # 0.03 measured; a scan of all would take 4 s


def test_blocks_are_kept_while_their_neighbours_are_cut() -> None:
    from tasks.imagery import gdal_settings

    with gdal_settings():
        assert rasterio.env.getenv()["GDAL_CACHEMAX"] >= 64 * 2**20  # bytes: rasterio takes a small number as it is


def test_scenes_open_rasters_only_while_they_are_used(scene: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks.exporting.scene

    monkeypatch.setattr(tasks.exporting.scene, "MOST_OPEN", 2)
    with open_scenes([scene[0]] * 5, scene[1], whole()) as scenes:
        assert isinstance(scenes, Scenes)
        assert [4] * 5 == [len(s.cut((0, 0, 96, 96)).boxes) for s in scenes]
        assert 2 == len(scenes._open)
