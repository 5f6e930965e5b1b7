"""Roofs of an invented town told from ponds, by the image of each."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import shapely
from affine import Affine

from registry.errors import ImageryError, LabelError, OptionsError
from tasks.classify_objects import _crop, classify_objects
from tasks.counts import count_features
from tasks.imagery import open_imagery
from tasks.inference import load_function
from tasks.inference_options import ClassifyObjectsOptions, ModelSource

FIXED = {"CropSizeFixed": 1, "BlackenAroundFeature": 0, "level": 100.0}  # the upper left corner of a tile decides
BOXED = FIXED | {"CropSizeFixed": 0}


def on_map(column: float, row: float) -> tuple[float, float]:
    return 500000 + column * 0.5, 4600000 - row * 0.5


@pytest.fixture
def make_features(tmp_path: Path) -> Any:
    """make_features([(xmin, ymin, xmax, ymax) in pixels, ...]) -> a GeoPackage with a column of names."""

    def make(boxes: list[tuple[int, int, int, int]], crs: Any = 32633, name: str = "plots.gpkg") -> Path:
        shapes = [shapely.box(*on_map(x0, y1), *on_map(x1, y0)) for x0, y0, x1, y1 in boxes]
        table = geopandas.GeoDataFrame({"name": [f"plot {i}" for i in range(len(boxes))]}, geometry=shapes, crs=32633)
        table = table.set_crs(None, allow_override=True) if crs is None else table.to_crs(crs)
        table.to_parquet(tmp_path / name) if name.endswith("parquet") else pyogrio.write_dataframe(
            table, tmp_path / name
        )
        return tmp_path / name

    return make


def options(features: Path | None, **more: Any) -> ClassifyObjectsOptions:
    return ClassifyObjectsOptions(in_features=str(features) if features else None, **more)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson"])
def test_columns_of_the_features_stay_beside_ours_of_the_same_name(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path, suffix: str
) -> None:
    model, image = make_model("brightest", **FIXED), make_raster(np.full((200, 200), 100, np.uint8))
    file, out = make_features([(90, 90, 99, 99)]), tmp_path / f"told{suffix}"
    there = {"confidence": "high", "Model": "oak", "ModelVer": "2"}
    geopandas.read_file(file).assign(**there).to_file(file)
    classify_objects(model, image, out, options(file))
    told = geopandas.read_file(out).iloc[0]
    assert there == {name: told[name] for name in there}
    assert ("Pond", "town") == (told["ClassLabel"], told["Model_1"])
    geopandas.read_file(file).assign(classLABEL="x").to_file(file)
    with pytest.raises(OptionsError, match="class_label_field: the features have such a column, got 'ClassLabel'"):
        classify_objects(model, image, out, options(file))


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson", ".fgb", ".parquet"])
def test_a_feature_without_a_geometry_stays_without_a_class(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path, suffix: str
) -> None:
    model, image = make_model("brightest", **FIXED), make_raster(np.full((200, 200), 100, np.uint8))
    table = geopandas.read_file(file := make_features([(90, 90, 99, 99), (0, 0, 9, 9)]))
    table.set_geometry([table.geometry[0], None], crs=table.crs).to_file(file)
    classify_objects(model, image, out := tmp_path / f"told{suffix}", options(file))
    told = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    assert [("plot 0", True), ("plot 1", False)] == [*zip(told["name"], told.geometry.notna(), strict=True)]
    assert ["Pond", True] == [told["ClassLabel"][0], pandas.isna(told["ClassLabel"][1])]


@pytest.mark.parametrize("crs", [32633, 4326])
def test_each_feature_keeps_what_it_has_and_gets_class_confidence_and_model(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path, crs: int
) -> None:
    pixels = np.zeros((200, 300), np.uint8)
    pixels[:, 150:] = 100
    features = make_features([(220, 90, 240, 110), (60, 90, 80, 110)], crs)
    out, source, ticks = tmp_path / "told.gpkg", ModelSource("town", "3", "ab" * 32), list[Any]()
    model, image = make_model("brightest", **FIXED), make_raster(pixels)
    classify_objects(model, image, out, options(features), source=source, on_progress=ticks.append)
    table = geopandas.read_file(out)
    likely = pytest.approx(1 / (1 + np.exp(-1)), abs=1e-4)
    assert [("plot 0", "Pond", likely), ("plot 1", "Roof", likely)] == list(
        table[["name", "ClassLabel", "Confidence"]].itertuples(index=False, name=None)
    )
    assert (crs, {"abababababab"}) == (table.crs.to_epsg(), set(table["ModelSHA256"]))
    assert table.geometry.geom_equals_exact(geopandas.read_file(features).geometry, 1e-9).all()
    assert (2, 2) == (ticks[-1].done, ticks[-1].total)
    assert {"Pond": 1, "Roof": 1} == count_features(out, "ClassLabel")


def test_the_bounding_box_is_what_a_model_of_feature_crops_sees(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path
) -> None:
    pixels = np.zeros((200, 200), np.uint8)
    pixels[70:110, 50:90] = 100
    features = make_features([(50, 70, 90, 110), (49, 70, 90, 110), (50, 70, 114, 134)])
    out = classify_objects(
        make_model("brightest", ImageHeight=40, ImageWidth=40, **BOXED),
        make_raster(pixels),
        tmp_path / "told.parquet",
        options(features, class_label_field="kind"),
    )  # the second would be scaled down with its dark edge, the third's corner is bright
    assert ["Pond", "Roof", "Pond"] == list(geopandas.read_parquet(out)["kind"])
    assert {"Pond": 2, "Roof": 1} == count_features(out, "kind")


def test_around_the_feature_a_blackening_model_sees_nothing(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path
) -> None:
    image, features = make_raster(np.full((200, 200), 100, np.uint8)), make_features([(80, 80, 120, 120)])
    found = {}
    for blacken in (0, 1):
        model = make_model("brightest", name=f"town{blacken}", **FIXED | {"BlackenAroundFeature": blacken})
        out = classify_objects(model, image, tmp_path / f"{blacken}.gpkg", options(features))
        found[blacken] = geopandas.read_file(out)["ClassLabel"].item()
    assert {0: "Pond", 1: "Roof"} == found


@pytest.mark.parametrize(
    ("box", "pixels"),
    [((90.4, 90.4, 95.4, 95.4), 25), ((90.6, 90, 90.9, 95), 5)],  # by their centres; the second covers none
)
def test_a_blackened_feature_keeps_the_pixels_that_its_chip_has(
    make_model: Any, make_raster: Any, box: tuple[float, ...], pixels: int
) -> None:
    model = make_model("brightest", **FIXED | {"BlackenAroundFeature": 1})
    function = load_function(model, options(None))
    with open_imagery(make_raster(np.full((200, 200), 100, np.uint8))) as image:
        crop = _crop(function, image, shapely.box(*box))
    assert pixels == np.count_nonzero(crop.pixels)


def test_what_is_not_in_the_imagery_has_no_class(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path
) -> None:
    pixels = np.full((200, 200), 100, np.uint8)
    pixels[:, 100:] = 9
    features = make_features([(30, 30, 40, 40), (900, 900, 920, 920), (160, 30, 170, 40)])
    out = tmp_path / "told.gpkg"
    classify_objects(make_model("brightest", **FIXED), make_raster(pixels, nodata=9), out, options(features))
    table = geopandas.read_file(out)
    assert ["Pond", None, None] == [None if pandas.isna(name) else name for name in table["ClassLabel"]]
    assert [False, True, True] == table["Confidence"].isna().tolist()


def test_points_and_more_features_than_are_cut_at_a_time_come_back_in_order(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    pixels = np.zeros((64, 4000), np.uint8)
    pixels[:, 2000:] = 100
    columns = np.random.default_rng(1).permutation(np.arange(50, 3950, 40))
    table = geopandas.GeoDataFrame(geometry=[shapely.Point(on_map(c, 32)) for c in columns], crs=32633)
    pyogrio.write_dataframe(table, tmp_path / "points.gpkg")
    out = tmp_path / "told.gpkg"
    classify_objects(make_model("brightest", **BOXED), make_raster(pixels), out, options(tmp_path / "points.gpkg"))
    assert ["Pond" if c >= 2032 else "Roof" for c in columns] == list(geopandas.read_file(out)["ClassLabel"])


def test_of_several_labels_names_and_confidences_are_joined(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path
) -> None:
    keys = FIXED | {"MetaDataMode": "MultiLabeled_Tiles", "Threshold": 0.3}
    image, features = make_raster(np.full((100, 100), 50, np.uint8)), make_features([(40, 40, 60, 60)])
    out = classify_objects(make_model("brightest", **keys), image, tmp_path / "told.gpkg", options(features))
    share = f"{1 / (1 + np.exp(0.5)):.4f}"
    told = geopandas.read_file(out).iloc[0]
    assert ("Roof;Pond", f"{share};{share}") == (told["ClassLabel"], told["Confidence"])


def test_without_features_each_raster_is_an_object(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    names = ("a.tif", "b.tif")
    for name, value, side in zip(names, (0, 100), (64, 640), strict=True):  # the second is scaled down to the tile
        make_raster(np.full((side, side), value, np.uint8), name)
    imagery, out = [tmp_path / name for name in names], tmp_path / "told.gpkg"
    classify_objects(make_model("brightest", **FIXED), imagery, out, options(None))
    table = geopandas.read_file(out)
    assert [("a.tif", "Roof"), ("b.tif", "Pond")] == list(
        table[["Image", "ClassLabel"]].itertuples(index=False, name=None)
    )
    assert [32.0 * 32, 320.0 * 320] == table.area.tolist()


@pytest.mark.parametrize("pixels", [False, True])
def test_a_rotated_raster_is_an_object_laid_straight_or_in_pixel_space(
    make_model: Any, make_raster: Any, tmp_path: Path, pixels: bool
) -> None:
    turned = Affine.translation(500000, 4600000) @ Affine.rotation(45) @ Affine.scale(0.5, -0.5)
    image = make_raster(np.full((64, 64), 100, np.uint8), transform=turned)
    model, out = make_model("brightest", **FIXED), tmp_path / "told.gpkg"
    table = geopandas.read_file(classify_objects(model, image, out, options(None, use_pixelspace=pixels)))
    assert [32.0 * 32 if pixels else 2048.0] == pytest.approx(table.area.tolist(), rel=0.03)
    assert 1 == len(table["ClassLabel"].dropna())


def test_what_only_features_have_a_use_for_is_refused_without(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, image = make_model("brightest", **FIXED), make_raster(np.zeros((64, 64), np.uint8))
    with pytest.raises(OptionsError, match=r"each raster is one object, .*, got \['cell_size', 'extent'\]"):
        classify_objects(model, image, tmp_path / "o.gpkg", options(None, cell_size=1.0, extent=(0, 0, 1, 1)))


def test_rasters_without_a_place_give_a_table(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, image = make_model("brightest", **FIXED), make_raster(np.full((64, 64), 100, np.uint8), crs=None)
    out = classify_objects(model, image, tmp_path / "told.gpkg", options(None))
    assert ["Pond"] == list(pyogrio.read_dataframe(out)["ClassLabel"])
    assert pyogrio.read_info(out)["geometry_type"] is None
    with pytest.raises(OptionsError, match="the result is a table; choose"):
        classify_objects(model, image, tmp_path / "told.shp", options(None))


def test_bad_input_is_told_and_leaves_nothing(
    make_model: Any, make_raster: Any, make_features: Any, tmp_path: Path
) -> None:
    model, image, out = make_model("brightest", **FIXED), make_raster(np.zeros((64, 64), np.uint8)), tmp_path / "o.gpkg"
    away, unplaced = (
        make_features([(900, 900, 910, 910)], name="away.gpkg"),
        make_features([(1, 1, 9, 9)], None, "p.parquet"),
    )
    flat = make_raster(np.zeros((64, 64), np.uint8), "flat.tif", crs=None)
    for error, message, raster, features in (
        (LabelError, "no feature inside town.tif", image, away),
        (LabelError, "has no coordinate system", image, unplaced),
        (ImageryError, "has no coordinate system", flat, away),
        (LabelError, "cannot be read as features", image, image),
    ):
        with pytest.raises(error, match=message):
            classify_objects(model, raster, out, options(features))
    with pytest.raises(OptionsError, match="use dlpk detect-objects"):
        classify_objects(make_model(name="other"), image, out, options(away))
    assert not out.exists()
