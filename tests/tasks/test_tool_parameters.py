"""Parameters and environments of ArcGIS's tools, on towns whose answers are known."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from click.testing import CliRunner
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from registry.errors import Conflict, ImageryError, OptionsError, StoreError
from tasks.classify_pixels import classify_pixels
from tasks.cli import classify_pixels as classify_command
from tasks.counts import count_features
from tasks.detect_objects import detect_objects
from tasks.inference_options import ClassifyOptions, DetectOptions
from tasks.results import write_features
from tests.tasks.test_classify_pixels import by_hand, picture

ROOFS = [(5, 5, 20, 20), (60, 10, 80, 30), (100, 100, 118, 116)]
WEST, NORTH, CELL = 500000.0, 4600000.0, 0.5  # of what `make_raster` makes


def on_map(xmin: float, ymin: float, xmax: float, ymax: float) -> shapely.Polygon:
    """A box of pixels, in map coordinates."""
    return shapely.box(WEST + xmin * CELL, NORTH - ymax * CELL, WEST + xmax * CELL, NORTH - ymin * CELL)


def boxes(layer: Path) -> list[tuple[int, ...]]:
    """Bounds of the features in pixels."""
    bounds = geopandas.read_file(layer).geometry.bounds.to_numpy()
    return sorted(
        (round((a - WEST) / CELL), round((NORTH - d) / CELL), round((c - WEST) / CELL), round((NORTH - b) / CELL))
        for a, b, c, d in bounds
    )


def mask_file(folder: Path, *shapes: Any, crs: str = "EPSG:32633") -> str:
    table = geopandas.GeoDataFrame(geometry=list(shapes), crs="EPSG:32633").to_crs(crs)
    table.to_file(folder / "mask.gpkg")
    return str(folder / "mask.gpkg")


@pytest.mark.slow
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_outside_of_extent_and_mask_no_roof_is_told(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, crs: str
) -> None:
    model, image = make_model(), make_raster(roofs(130, 130, ROOFS))
    out, masked = tmp_path / "a.gpkg", mask_file(tmp_path, on_map(58, 0, 90, 50), on_map(2, 2, 12, 12), crs=crs)
    assert ROOFS[:2] == boxes(detect_objects(model, image, out, DetectOptions(mask=masked)))
    half = on_map(0, 0, 70, 130).bounds
    assert ROOFS[:2] == boxes(detect_objects(model, image, out, DetectOptions(extent=half)))
    assert ROOFS[:1] == boxes(detect_objects(model, image, out, DetectOptions(extent=on_map(0, 0, 50, 50).bounds)))


def test_objects_that_reach_into_an_extent_are_found_on_all_of_its_sides(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    town = [(22, 70, 42, 80), (70, 22, 80, 42), (94, 70, 114, 80), (70, 94, 80, 114)]  # 2 pixels lie inside
    image = make_raster(roofs(200, 200, [*town, (70, 70, 80, 80), (150, 150, 160, 160)]))
    options = DetectOptions(extent=on_map(40, 40, 96, 96).bounds, arguments={"padding": "16"})
    assert sorted([*town, (70, 70, 80, 80)]) == boxes(detect_objects(make_model(), image, tmp_path / "a.gpkg", options))


def test_a_class_inside_of_extent_and_mask_is_that_of_the_whole_raster(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    pixels = picture(131, 97)
    extent, masked = on_map(13, 21, 90, 120).bounds, mask_file(tmp_path, on_map(20, 30, 60, 70), on_map(80, 90, 97, 99))
    out = classify_pixels(
        make_model("levels"), make_raster(pixels), tmp_path / "c.tif", ClassifyOptions(extent=extent, mask=masked)
    )
    expected = by_hand(pixels)
    inside = np.zeros(pixels.shape, bool)
    inside[30:70, 20:60] = inside[90:99, 80:90] = True
    with rasterio.open(out) as raster:
        assert (99, 77, WEST + 13 * CELL, NORTH - 21 * CELL) == (*raster.shape, raster.transform.c, raster.transform.f)
        assert np.where(inside, expected, 255)[21:120, 13:90].tolist() == raster.read(1).tolist()


def test_an_extent_and_a_mask_elsewhere_are_refused(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, image, out = make_model("levels"), make_raster(picture(64, 64)), tmp_path / "c.tif"
    with pytest.raises(OptionsError, match=r"extent lies outside of town.tif, which covers 500000, "):
        classify_pixels(model, image, out, ClassifyOptions(extent=(0, 0, 10, 10)))
    masked = mask_file(tmp_path, on_map(500, 500, 600, 600))
    with pytest.raises(OptionsError, match="mask lies elsewhere"):
        classify_pixels(model, image, out, ClassifyOptions(mask=masked))
    assert not out.exists()


def test_results_come_in_the_coordinate_system_that_was_asked_for(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    wanted = {"output_coordinate_system": "EPSG:4326"}
    image = make_raster(roofs(130, 130, ROOFS))
    table = geopandas.read_file(
        detect_objects(make_model(), image, tmp_path / "a.gpkg", DetectOptions.model_validate(wanted))
    )
    back = table.to_crs(32633)
    assert (4326, 3) == (table.crs.to_epsg(), len(table))
    assert sorted(on_map(*box).area for box in ROOFS) == pytest.approx(sorted(back.area), rel=0.01)
    out = classify_pixels(
        make_model("levels", name="levels"), image, tmp_path / "c.tif", ClassifyOptions.model_validate(wanted)
    )
    with rasterio.open(out) as raster:
        values = raster.read(1)
        assert (4326, {0, 1, 2, 255} >= set(np.unique(values).tolist())) == (raster.crs.to_epsg(), True)
        assert values[values != 255].mean() == pytest.approx(float(raster.tags(1)["STATISTICS_MEAN"]))
        assert "COG" == raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]
        rows = ElementTree.parse(f"{out}.aux.xml").iter("Row")
        counted = {int(row[0].text or ""): int(row[5].text or "") for row in rows}
        assert {value: np.count_nonzero(values == value) for value in (1, 2)} == counted
        row, col = raster.index(
            *geopandas.GeoSeries([on_map(70, 20, 71, 21)], crs=32633).to_crs(4326)[0].exterior.coords[0]
        )
        assert 1 == raster.read(1)[row, col]
    with pytest.raises(OptionsError, match="output_coordinate_system: is not known"):
        detect_objects(
            make_model(name="c"), image, tmp_path / "b.gpkg", DetectOptions(output_coordinate_system="nowhere")
        )


def test_what_lies_across_the_date_line_is_not_drawn_around_the_world(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    image = make_raster(roofs(130, 130, ROOFS))
    with rasterio.open(image, "r+") as raster:  # 180 degrees go through the second roof
        raster.crs, raster.transform = CRS.from_epsg(32660), Affine(100, 0, 826_900, 0, -100, 6_500)
    model = make_model()
    for code, half in ((4326, 180.0), (3857, 20_037_508.34)):
        options = DetectOptions(output_coordinate_system=f"EPSG:{code}")
        bounds = geopandas.read_file(detect_objects(model, image, tmp_path / f"{code}.gpkg", options)).bounds
        assert 1 == int(((bounds.minx < half) & (half < bounds.maxx)).sum())
        assert (bounds.maxx - bounds.minx).max() < half / 8000
    with pytest.raises(OptionsError, match=r"town.tif: lies across 180 degrees, .* got 'EPSG:3857'; choose one"):
        classify_pixels(
            make_model("levels", name="c"),
            image,
            tmp_path / "c.tif",
            ClassifyOptions(output_coordinate_system="EPSG:3857"),
        )
    masks = geopandas.GeoSeries([shapely.box(-180, -1, -179.9, 1)], crs=4326)
    masks.to_file(tmp_path / "mask.gpkg")
    east = detect_objects(model, image, tmp_path / "m.gpkg", DetectOptions(mask=str(tmp_path / "mask.gpkg")))
    assert 2 == len(geopandas.read_file(east))


def test_a_mask_is_found_on_a_raster_that_counts_on_beyond_180_degrees(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    image = make_raster(roofs(130, 130, ROOFS))
    with rasterio.open(image, "r+") as raster:
        raster.crs, raster.transform = CRS.from_epsg(4326), Affine(0.001, 0, 179.95, 0, -0.001, 0.05)
    halves = shapely.MultiPolygon([shapely.box(179.94, -1, 180, 1), shapely.box(-180, -1, -179.96, 1)])
    geopandas.GeoSeries([halves], crs=4326).to_file(tmp_path / "mask.gpkg")
    out = detect_objects(make_model(), image, tmp_path / "a.gpkg", DetectOptions(mask=str(tmp_path / "mask.gpkg")))
    assert [179.955, 180.01] == geopandas.read_file(out).bounds.minx.sort_values().round(3).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_appended_roofs_follow_those_that_are_there(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, suffix: str
) -> None:
    model, out = make_model(), tmp_path / f"roofs{suffix}"
    for box in ROOFS[:2]:
        detect_objects(model, make_raster(roofs(130, 130, [box])), out, DetectOptions(append=True))
    table = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    assert ["Roof", "Roof"] == list(table["Class"])


def test_other_layers_of_a_geopackage_stay_when_roofs_are_appended(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    model, out, road = make_model(), tmp_path / "roofs.gpkg", shapely.LineString([(0, 0), (1, 1)])
    detect_objects(model, make_raster(roofs(130, 130, ROOFS[:1])), out, DetectOptions())
    geopandas.GeoDataFrame({"road": ["A1"]}, geometry=[road], crs=32633).to_file(out, layer="roads")
    detect_objects(model, make_raster(roofs(130, 130, ROOFS[1:])), out, DetectOptions(append=True))
    assert {"roofs": 3, "roads": 1} == {name: len(geopandas.read_file(out, layer=name)) for name in ("roofs", "roads")}
    other = DetectOptions(append=True, output_coordinate_system="EPSG:4326")
    detect_objects(model, make_raster(roofs(130, 130, ROOFS[:1])), out, other)
    assert (4, 32633) == (len(table := geopandas.read_file(out, layer="roofs")), table.crs.to_epsg())
    assert {"Roof": 4} == count_features(out)


def test_the_spatial_index_of_a_shapefile_that_is_replaced_hides_no_feature(tmp_path: Path) -> None:
    shapes = [on_map(x, 0, x + 1, 1) for x in range(0, 200, 2)]
    out, told = tmp_path / "roofs.shp", {"Class": np.array(["Roof"] * 100)}
    geopandas.GeoDataFrame(geometry=shapes, crs=32633).to_file(out, engine="pyogrio", SPATIAL_INDEX="YES")
    assert out.with_suffix(".qix").exists()
    far = np.array([shapely.affinity.translate(shape, 1000) for shape in shapes], object)
    write_features(out, far, told, CRS.from_epsg(32633), {})
    assert 1 == len(geopandas.read_file(out, bbox=far[50].bounds))


@pytest.mark.parametrize("append", [False, True])
def test_a_geopackage_that_another_program_has_changed_and_not_closed_is_left_alone(
    tmp_path: Path, append: bool
) -> None:
    out, shapes = tmp_path / "roofs.gpkg", np.array([on_map(0, 0, 9, 9)], object)
    write_features(out, shapes, {"Class": np.array(["Roof"])}, CRS.from_epsg(32633), {})
    other = sqlite3.connect(out)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("UPDATE gpkg_contents SET description = 'seen by Ada'")
    other.commit()
    with pytest.raises(Conflict, match=r"roofs\.gpkg: is open in another program, such as QGIS"):
        write_features(out, shapes, {"Class": np.array(["Roof"])}, CRS.from_epsg(32633), {}, append=append)
    other.close()
    assert "seen by Ada" == sqlite3.connect(out).execute("SELECT description FROM gpkg_contents").fetchone()[0]


def test_imagery_that_is_read_is_never_replaced(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, image = make_model("levels"), make_raster(picture(64, 64))
    before, one_by_one = image.read_bytes(), ClassifyOptions(processing_mode="PROCESS_ITEMS_SEPARATELY")
    beside = tmp_path / "c.tif"
    for out, options in (
        (tmp_path / "models" / ".." / image.name, ClassifyOptions()),
        (image, ClassifyOptions(cell_size=1.0)),
        (beside, ClassifyOptions(probabilities=str(image))),
        (tmp_path, one_by_one),
    ):
        with pytest.raises(OptionsError, match=r"town\.tif: is imagery that is read, and would be replaced"):
            classify_pixels(model, image, out, options)
    assert (before, False) == (image.read_bytes(), beside.exists())


def test_what_cannot_be_made_of_a_result_is_refused_before_the_work(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, out, ticks = make_model("levels"), tmp_path / "c.tif", list[Any]()
    image, nowhere = make_raster(picture(64, 64)), make_raster(picture(64, 64), "nowhere.tif", crs=None)
    for message, imagery, options in (
        (r"a\.kml: expected \.gpkg, .*, got '\.kml'", image, {"polygons": str(tmp_path / "a.kml")}),
        (r"p\.img: expected \.tif or \.tiff, got '\.img'", image, {"probabilities": str(tmp_path / "p.img")}),
        (r"c\.tif: probabilities would take the place of the classes", image, {"probabilities": str(out)}),
        (r"output_coordinate_system: is not known", image, {"output_coordinate_system": "nowhere"}),
        (r"cannot be brought to another; give it one", nowhere, {"output_coordinate_system": "EPSG:4326"}),
    ):
        with pytest.raises((ImageryError, OptionsError), match=message):
            classify_pixels(model, imagery, out, ClassifyOptions.model_validate(options), on_progress=ticks.append)
    assert ([], False) == (ticks, out.exists())


def test_only_objects_of_interest_stay_and_the_best_by_the_named_field(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    pixels = roofs(70, 90, [(5, 5, 20, 20)])
    pixels[40:60, 60:80] = 250
    model, image, out = make_model(), make_raster(pixels), tmp_path / "town.gpkg"
    detect_objects(model, image, out, DetectOptions(in_objects_of_interest=("Pond",)))
    assert [(60, 40, 80, 60)] == boxes(out)
    with pytest.raises(OptionsError, match=r"is no class of the model, got \['pond'\]; its classes are Roof, Pond"):
        detect_objects(model, image, out, DetectOptions(in_objects_of_interest=("Roof", "pond")))
    with pytest.raises(OptionsError, match="confidence_score_field: the function gives no such field"):
        detect_objects(model, image, out, DetectOptions(confidence_score_field="Height"))


def test_arcgis_keywords_are_understood() -> None:
    given = {"run_nms": "NO_NMS", "use_pixelspace": "PIXELSPACE", "processor_type": "GPU", "gpu_id": 1}
    options = DetectOptions.model_validate(given)
    assert (False, True, 1) == (options.run_nms, options.use_pixelspace, options.device)
    assert -1 == DetectOptions.model_validate({"processor_type": "CPU", "device": 3}).device
    assert [1, -1] == [
        DetectOptions.model_validate({**kind, "gpu_id": 1}).device for kind in ({}, {"processor_type": "CPU"})
    ]


def test_items_are_processed_separately(make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path) -> None:
    far = Affine(CELL, 0, WEST + 1000, 0, -CELL, NORTH)
    images = [
        make_raster(roofs(64, 64, [(5, 5, 20, 20)]), "a.tif"),
        make_raster(roofs(64, 64, [(5, 5, 20, 20)]), "b.tif", transform=far),
    ]
    one_by_one = {"processing_mode": "PROCESS_ITEMS_SEPARATELY"}
    out = detect_objects(make_model(), images, tmp_path / "a.gpkg", DetectOptions.model_validate(one_by_one))
    assert [(5, 5, 20, 20), (2005, 5, 2020, 20)] == boxes(out)
    options = ClassifyOptions.model_validate({**one_by_one, "out_featureclass": str(tmp_path / "outlines.gpkg")})
    folder = classify_pixels(make_model("levels", name="levels"), images, tmp_path / "classes", options)
    assert ["a.tif", "b.tif"] == sorted(path.name for path in folder.glob("*.tif"))
    outlines = geopandas.read_file(tmp_path / "outlines.gpkg")
    assert ["a.tif", "b.tif"] == sorted(outlines["Image"])
    assert [1024.0, 1024.0] == outlines.area.tolist()


def test_items_in_pixel_space_have_the_outlines_of_their_pixels(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    grid = Affine.translation(WEST, NORTH) @ Affine.rotation(30) @ Affine.scale(CELL, -CELL)
    points = [GroundControlPoint(row, col, *(grid @ (col, row))) for row in (0, 64) for col in (0, 90)]
    images = [
        make_raster(picture(64, 90), "rotated.tif", transform=grid),
        make_raster(picture(64, 90), "points.tif", transform=None, gcps=points),
    ]
    one_by_one = {"processing_mode": "PROCESS_ITEMS_SEPARATELY", "use_pixelspace": True}
    given = ClassifyOptions.model_validate({**one_by_one, "out_featureclass": str(tmp_path / "outlines.gpkg")})
    classify_pixels(make_model("levels"), images, tmp_path / "classes", given)
    outlines, whole = geopandas.read_file(tmp_path / "outlines.gpkg"), shapely.box(0, 0, 90, 64)
    for outline in outlines.geometry:
        expected = shapely.transform(whole, lambda xy: np.array([grid @ tuple(corner) for corner in xy]))
        assert shapely.equals_exact(outline.normalize(), expected.normalize(), 1e-3)
    assert (2, 32633) == (len(outlines), outlines.crs.to_epsg())


def test_an_item_that_cannot_be_written_is_told_and_the_ones_before_it_are_whole(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    images = [make_raster(roofs(64, 64, [(5, 5, 20, 20)]), f"{name}.tif") for name in "abcd"]
    (tmp_path / "out" / "b.tif" / "something").mkdir(parents=True)
    options, model = ClassifyOptions(processing_mode="PROCESS_ITEMS_SEPARATELY"), make_model("levels")
    with pytest.raises(StoreError, match=r"b\.tif"):
        classify_pixels(model, images, tmp_path / "out", options)
    with rasterio.open(tmp_path / "out" / "a.tif") as raster:
        assert 1 == raster.read(1)[10, 10]
    shutil.rmtree(tmp_path / "out" / "b.tif")
    classify_pixels(model, images, tmp_path / "out", options)
    assert [f"{name}.tif" for name in "abcd"] == sorted(path.name for path in (tmp_path / "out").glob("*.tif"))
    assert [] == [path.name for path in (tmp_path / "out").glob(".*")]


def test_a_rotated_raster_and_one_of_control_points_are_done_in_pixel_space(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    pixels, options = roofs(64, 90, [(5, 5, 20, 20)]), DetectOptions(use_pixelspace=True)
    grid = Affine.translation(WEST, NORTH) @ Affine.rotation(30) @ Affine.scale(CELL, -CELL)
    corners = [(5, 5), (20, 5), (20, 20), (5, 20)]
    where = shapely.Polygon([grid @ corner for corner in corners])
    rotated = make_raster(pixels, "rotated.tif", transform=grid)
    points = [GroundControlPoint(row, col, *(grid @ (col, row))) for row in (0, 64) for col in (0, 90)]
    scattered = make_raster(pixels, "points.tif", transform=None, gcps=points)
    for number, image in enumerate((rotated, scattered)):
        out = detect_objects(make_model(name=f"m{number}"), image, tmp_path / "a.gpkg", options)
        found = geopandas.read_file(out)
        assert (1, 32633) == (len(found), found.crs.to_epsg())
        assert 0.99 < found.geometry[0].intersection(where).area / where.area


def test_classes_that_rpcs_place_come_to_where_these_say(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    one, places = [1.0, *[0.0] * 19], {"lat_off": 49.0, "lat_scale": 0.01, "long_off": 15.0, "long_scale": 0.01}
    pixels = {"line_off": 32, "line_scale": 32, "samp_off": 45, "samp_scale": 45, "height_off": 100, "height_scale": 9}
    down, right = [0.0, 0.0, -1.0, *[0.0] * 17], [0.0, 1.0, *[0.0] * 18]  # north is up, east is right
    rpcs = RPC(**places, **pixels, line_num_coeff=down, line_den_coeff=one, samp_num_coeff=right, samp_den_coeff=one)
    image = make_raster(picture(64, 90), "rpcs.tif", transform=None, crs=None, rpcs=rpcs)
    model, polygons = make_model("levels"), tmp_path / "areas.gpkg"
    plain = classify_pixels(model, image, tmp_path / "plain.tif", ClassifyOptions(use_pixelspace=True))
    options = {"use_pixelspace": True, "output_coordinate_system": "EPSG:4326", "polygons": str(polygons)}
    out = classify_pixels(model, image, tmp_path / "c.tif", ClassifyOptions.model_validate(options))
    with rasterio.open(out) as raster, rasterio.open(plain) as before:
        assert [14.99, 48.99, 15.01, 49.01] == pytest.approx(list(raster.bounds), abs=4e-4)
        shares = [(values == 1).sum() / (values != 255).sum() for values in (raster.read(1), before.read(1))]
        assert shares[0] == pytest.approx(shares[1], abs=0.02)
        assert before.colormap(1) == raster.colormap(1)
    assert shapely.box(*raster.bounds).covers(shapely.box(*geopandas.read_file(polygons).total_bounds))


def test_a_class_raster_keeps_the_control_points_of_its_imagery_also_inside_a_mask(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    grid = Affine.translation(WEST, NORTH) @ Affine.rotation(30) @ Affine.scale(CELL, -CELL)
    points = [GroundControlPoint(row, col, *(grid @ (col, row))) for row in (0, 64) for col in (0, 90)]
    image = make_raster(picture(64, 90), "points.tif", transform=None, gcps=points)
    mask = tmp_path / "mask.gpkg"
    inside = shapely.Polygon([grid @ corner for corner in ((10, 10), (60, 10), (60, 50), (10, 50))])
    geopandas.GeoDataFrame(geometry=[inside], crs="EPSG:32633").to_file(mask)
    for number, options in enumerate(({}, {"mask": str(mask)}, {"extent": inside.bounds})):
        given = ClassifyOptions.model_validate({"use_pixelspace": True, **options})
        out = classify_pixels(make_model("levels", name=f"m{number}"), image, tmp_path / f"{number}.tif", given)
        corner = np.array([~grid @ xy for xy in shapely.get_coordinates(shapely.box(*inside.bounds))]).min(axis=0)
        col, row = np.floor(corner + 1e-6).clip(0).tolist() if "extent" in options else (0, 0)
        with rasterio.open(out) as raster:
            expected = [(p.row - row, p.col - col, p.x, p.y) for p in points]
            assert expected == [(p.row, p.col, p.x, p.y) for p in raster.gcps[0]]
            assert 32633 == raster.gcps[1].to_epsg()
    model = make_model("levels", name="odd")
    for error, message, odd in (
        (ImageryError, "polygons would lie nowhere; choose an output", {"polygons": str(tmp_path / "p.gpkg")}),
        (OptionsError, "use_pixelspace and cell_size", {"cell_size": 1.0}),
    ):
        given = ClassifyOptions.model_validate({"use_pixelspace": True, **odd})
        with pytest.raises(error, match=message):
            classify_pixels(model, image, tmp_path / "odd.tif", given)
        assert not (tmp_path / "odd.tif").exists()
    west, south, east, north = inside.bounds
    away = ClassifyOptions(use_pixelspace=True, extent=(west + 500, south, east + 500, north))
    with pytest.raises(OptionsError, match=r"extent lies outside of points.tif, which covers 500000, "):
        classify_pixels(make_model("levels", name="away"), image, tmp_path / "away.tif", away)


def test_ponds_become_polygons_of_a_least_size(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    pixels = np.zeros((100, 100), np.uint8)
    pixels[10:40, 10:40] = 100
    pixels[10:40, 40:70] = 200
    pixels[80:86, 80:86] = 200
    out = tmp_path / "ponds.gpkg"
    options = ClassifyOptions(polygons=str(out), minimum_area=50, simplify=1.0)
    classify_pixels(make_model("levels"), make_raster(pixels), tmp_path / "c.tif", options)
    table = geopandas.read_file(out).sort_values("Value")
    assert ["Class", "Value", "Area", "Model", "ModelVersion", "ModelSHA256", "geometry"] == list(table.columns)
    large = table[table["Area"] > 50]
    assert ({"Roof", "Pond"}, len(table)) == (set(large["Class"]), len(large))
    assert 202.25 == table[table["Class"] == "Pond"].area.max()  # 15 m by 15 m, whose rim is a mean of both
    assert 1e-6 > table.geometry.iloc[0].intersection(table.geometry.iloc[-1]).area


def test_the_attribute_table_lies_where_arcgis_looks_for_it(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    out = classify_pixels(make_model("levels"), make_raster(picture(64, 64)), tmp_path / "c.tif", ClassifyOptions())
    rows = geopandas.read_file(out.with_name("c.tif.vat.dbf")).drop(columns="geometry", errors="ignore")
    assert ["Value", "Class", "Red", "Green", "Blue"] == list(rows.columns)
    assert [[1, "Roof", 230, 60, 40], [2, "Pond", 0, 90, 200]] == rows.to_numpy().tolist()


def test_an_extent_is_four_numbers_on_the_command_line(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, image = make_model("levels"), make_raster(picture(64, 64))
    extent = [str(value) for value in on_map(8, 8, 40, 24).bounds]
    answer = CliRunner().invoke(
        classify_command, [str(model.path), str(image), str(tmp_path / "c.tif"), "--extent", *extent]
    )
    assert (0, "") == (answer.exit_code, answer.output if answer.exit_code else "")
    with rasterio.open(tmp_path / "c.tif") as raster:
        assert (16, 32) == raster.shape
