"""Non Maximum Suppression and the two tools that compute accuracy, against what is worked out by hand."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from registry.emd import ClassLabel
from registry.errors import LabelError, OptionsError
from tasks import town
from tasks.cli import main
from tasks.object_accuracy import ObjectAccuracyOptions, compute_object_accuracy
from tasks.pixel_accuracy import PixelAccuracyOptions, _table, compute_pixel_accuracy
from tasks.results import attribute_table, table_for_arcgis
from tasks.suppression import SuppressionOptions, suppress_non_maxima

Box = tuple[int, int, int, int]


def features(path: Path, boxes: Sequence[Box], crs: str = f"EPSG:{town.EPSG}", **fields: Any) -> Path:
    geopandas.GeoDataFrame(fields, geometry=[town.outline(box) for box in boxes], crs=crs).to_file(path)
    return path


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """A roof twice, one that is cut in half, a pond on a roof, and a roof where none is."""
    boxes = [(0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 25, 10), (0, 0, 10, 10), (50, 50, 60, 60)]
    kinds = ["roof", "roof", "roof", "pond", "roof"]
    return features(tmp_path / "found.gpkg", boxes, Class=kinds, Confidence=[80.0, 90.0, 70.0, 60.0, 50.0])


@pytest.fixture
def true(tmp_path: Path) -> Path:
    boxes = [(0, 0, 10, 10), (20, 0, 30, 10), (80, 0, 90, 10)]
    return features(tmp_path / "true.gpkg", boxes, kind=["roof", "roof", "pond"])


BY_CLASS = {"detected_class_value_field": "class", "ground_truth_class_value_field": "kind"}


def test_the_surest_of_a_class_stays_with_all_its_fields(found: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.gpkg"
    assert {"kept": 4, "removed": 1} == suppress_non_maxima(found, out, SuppressionOptions(class_value_field="Class"))
    assert [90.0, 70.0, 60.0, 50.0] == geopandas.read_file(out)["Confidence"].tolist()
    assert {"kept": 3, "removed": 2} == suppress_non_maxima(found, out, SuppressionOptions())
    assert {"kept": 5, "removed": 0} == suppress_non_maxima(found, out, SuppressionOptions(max_overlap_ratio=1.0))
    with pytest.raises(OptionsError, match="has no field Score; name one of Class, Confidence"):
        suppress_non_maxima(found, out, SuppressionOptions(confidence_score_field="Score"))


@pytest.mark.parametrize(
    "ids", [[1.0, 2.0, 3.0, 4.0, 5.0], [7, 7, 7, 8, 9], [1, 2, 3, 4, 5]], ids=["floats", "twice", "once"]
)
def test_a_field_that_a_geopackage_would_add_by_itself_is_kept(tmp_path: Path, ids: list[float]) -> None:
    boxes: list[Box] = [(0, row, 10, row + 1) for row in range(0, 50, 10)]
    found = features(tmp_path / "found.geojson", boxes, fid=ids, Geom=["a"] * 5, Confidence=[1.0] * 5)
    suppress_non_maxima(found, out := tmp_path / "kept.gpkg", SuppressionOptions())
    table = geopandas.read_file(out)
    assert (ids, ["a"] * 5) == (table["fid"].tolist(), table["Geom"].tolist())


def test_accuracy_of_objects_is_that_of_the_tool(found: Path, true: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "table.csv", tmp_path / "report.pdf"
    options = ObjectAccuracyOptions.model_validate({**BY_CLASS, "out_accuracy_report": str(report)})
    pond, roof, both = compute_object_accuracy(found, true, out, options)
    assert ("pond", 0, 1, 1, 0.0) == (*list(pond.values())[:1], *list(pond.values())[5:], pond["AP"])
    assert (2, 2, 0) == tuple(roof[key] for key in ("True_Positive", "False_Positive", "False_Negative"))
    assert (0.5, 1.0, pytest.approx(2 / 3)) == (roof["Precision"], roof["Recall"], roof["F1_Score"])
    assert (0.4, pytest.approx(2 / 3)) == (both["Precision"], both["Recall"])
    # the surest roof is true, the next is a copy, the third is half of one: precision 1 up to recall 0.5, then 2 / 3
    assert (51 + 50 * 2 / 3) / 101 == pytest.approx(roof["AP"])
    assert ["pond", "roof", "All"] == pandas.read_csv(out)["Class"].tolist()
    assert report.read_bytes().startswith(b"%PDF")
    stricter = options.model_copy(update={"min_iou": 0.9, "out_accuracy_report": None})
    assert 1 == compute_object_accuracy(found, true, out, stricter)[-1]["True_Positive"]


@pytest.mark.slow
def test_a_report_has_pages_enough_for_its_classes(tmp_path: Path) -> None:
    boxes, kinds = [(0, 20 * i, 10, 20 * i + 10) for i in range(60)], [f"${i}_${'long name ' * 9}" for i in range(60)]
    one = features(tmp_path / "one.gpkg", boxes, kind=kinds, Confidence=np.ones(60))
    report = {**BY_CLASS, "detected_class_value_field": "kind", "out_accuracy_report": str(tmp_path / "report.pdf")}
    compute_object_accuracy(one, one, tmp_path / "t.csv", ObjectAccuracyOptions.model_validate(report))
    assert 3 == len(re.findall(rb"/Type /Page\b", (tmp_path / "report.pdf").read_bytes()))
    none = features(tmp_path / "none.gpkg", [], Confidence=np.zeros(0))
    options = ObjectAccuracyOptions(out_accuracy_report=str(tmp_path / "report.pdf"))
    compute_object_accuracy(none, none, tmp_path / "t.csv", options)  # a warning would end it


def test_rows_without_a_geometry_are_no_objects(found: Path, true: Path, tmp_path: Path) -> None:
    options = ObjectAccuracyOptions.model_validate(BY_CLASS)
    expected = compute_object_accuracy(found, true, tmp_path / "table.csv", options)
    table = geopandas.read_file(true)
    nothing = geopandas.GeoDataFrame({"kind": ["roof", "pond"]}, geometry=[None, shapely.Polygon()], crs=table.crs)
    pandas.concat([nothing, table]).to_file(more := tmp_path / "more.gpkg")
    assert expected == compute_object_accuracy(found, more, tmp_path / "table.csv", options)


def test_of_several_layers_that_with_the_name_of_the_file_counts(found: Path, true: Path, tmp_path: Path) -> None:
    options = ObjectAccuracyOptions.model_validate(BY_CLASS)
    expected = compute_object_accuracy(found, true, tmp_path / "table.csv", options)
    layers = tmp_path / "layers.gpkg"
    geopandas.read_file(true)[:1].to_file(layers, layer="plan")
    geopandas.read_file(true).to_file(layers, layer="layers")
    assert expected == compute_object_accuracy(found, layers, tmp_path / "table.csv", options)
    others = layers.rename(tmp_path / "others.gpkg")
    with pytest.raises(LabelError, match=r"others.gpkg: holds several layers of features, got .*; name one: .*LAYER"):
        compute_object_accuracy(found, others, tmp_path / "table.csv", options)
    assert expected == compute_object_accuracy(found, others / "main.layers", tmp_path / "table.csv", options)


def test_confidences_may_be_texts_of_any_locale(found: Path, true: Path, tmp_path: Path) -> None:
    table = geopandas.read_file(found)
    table["Confidence"] = [f"{value / 100:.2f}".replace(".", ",") for value in table["Confidence"]]
    table.to_file(written := tmp_path / "texts.gpkg")
    options = ObjectAccuracyOptions.model_validate(BY_CLASS)
    tables = [compute_object_accuracy(path, true, tmp_path / "table.csv", options) for path in (found, written)]
    assert tables[0] == tables[1]
    table["Confidence"] = "high"
    table.to_file(written)
    with pytest.raises(OptionsError, match="field Confidence holds no numbers"):
        compute_object_accuracy(written, true, tmp_path / "table.csv", options)


def test_of_two_fields_that_differ_in_case_the_one_named_counts(true: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"class": ["tree"], "Class": ["roof"], "Confidence": [90.0]}
    found = features(tmp_path / "found.geojson", [(0, 0, 10, 10)], **fields)
    for name, right in (("Class", 1), ("class", 0), ("CLASS", 0)):
        options = ObjectAccuracyOptions(**{**BY_CLASS, "detected_class_value_field": name})
        assert right == compute_object_accuracy(found, true, tmp_path / "table.csv", options)[-1]["True_Positive"]


def test_only_what_touches_the_mask_counts_and_other_systems_are_brought_together(
    found: Path, true: Path, tmp_path: Path
) -> None:
    mask = features(tmp_path / "mask.gpkg", [(15, 0, 40, 40)])
    moved = tmp_path / "true.geojson"
    geopandas.read_file(true).to_crs(4326).to_file(moved)
    options = ObjectAccuracyOptions.model_validate({**BY_CLASS, "min_iou": 0.49, "mask_features": str(mask)})
    (roof, _) = compute_object_accuracy(found, moved, tmp_path / "t.json", options)
    assert ("roof", 1, 0, 0) == (roof["Class"], *list(roof.values())[5:])
    assert json.loads((tmp_path / "t.json").read_text())[0]["AP"] == 1.0
    with pytest.raises(OptionsError, match="only one of both has a field"):
        compute_object_accuracy(
            found, true, tmp_path / "t.json", ObjectAccuracyOptions(detected_class_value_field="Class")
        )


def test_features_without_a_class_are_told(found: Path, tmp_path: Path) -> None:
    true = features(tmp_path / "true.gpkg", [(0, 0, 10, 10), (20, 0, 30, 10)], kind=["roof", None])
    with pytest.raises(LabelError, match=r"true.gpkg: 1 features have no kind; fill or delete them"):
        compute_object_accuracy(found, true, tmp_path / "t.csv", ObjectAccuracyOptions.model_validate(BY_CLASS))


def test_a_file_without_anything_detected_finds_nothing(true: Path, tmp_path: Path) -> None:
    empty = features(tmp_path / "none.gpkg", [], Confidence=np.zeros(0))
    row = compute_object_accuracy(empty, true, tmp_path / "t.csv", ObjectAccuracyOptions())[-1]
    assert (0, 0, 3, 0.0) == (*list(row.values())[5:], row["AP"])


def test_points_and_lines_share_no_area(found: Path, tmp_path: Path) -> None:
    table = geopandas.GeoDataFrame(geometry=geopandas.read_file(found).centroid)
    table.to_file(trees := tmp_path / "trees.gpkg")
    with pytest.raises(LabelError, match=r"trees.gpkg: 5 of 5 features are points or lines; give polygons"):
        compute_object_accuracy(found, trees, tmp_path / "t.csv", ObjectAccuracyOptions())


@pytest.fixture
def classes(make_raster: Any) -> tuple[Path, Path]:
    """What was told and what is true, with nodata in both."""
    dice = np.random.default_rng(0)
    true = dice.integers(1, 4, (120, 100)).astype(np.uint8)
    told = np.where(dice.random(true.shape) < 0.7, true, dice.integers(0, 4, true.shape)).astype(np.uint8)
    true[:10], told[:, :10] = 0, 255
    return make_raster(told, "told.tif", nodata=255), make_raster(true, "true.tif", nodata=0)


def pixels(told: Path, true: Path) -> tuple[Any, Any]:
    import rasterio

    with rasterio.open(told) as one, rasterio.open(true) as other:
        counted = (one.read_masks(1) > 0) & (other.read_masks(1) > 0)
        return one.read(1)[counted], other.read(1)[counted]


def test_every_pixel_that_both_know_is_in_the_matrix(classes: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "matrix.csv"
    facts = compute_pixel_accuracy(*classes, out, PixelAccuracyOptions())
    told, true = pixels(*classes)
    table = pandas.read_csv(out, index_col="ClassValue")
    heads = ["C_0", "C_1", "C_2", "C_3"]
    assert confusion_matrix(told, true).tolist() == table.loc[heads, heads].to_numpy().astype(int).tolist()
    assert cohen_kappa_score(told, true) == pytest.approx(table.loc["Kappa", "Kappa"])
    assert len(told) == facts["pixels"]
    assert float(np.mean(told == true)) == pytest.approx(facts["accuracy"])
    inside = [np.sum((told == v) & (true == v)) / np.sum((told == v) | (true == v)) for v in (1, 2, 3)]
    assert np.mean(inside) == pytest.approx(facts["mIoU"])
    assert np.mean(told[true == 2] == 2) == pytest.approx(table.loc["P_Accuracy", "C_2"])
    assert np.mean(true[told == 2] == 2) == pytest.approx(table.loc["C_2", "U_Accuracy"])


@pytest.mark.parametrize("sampling", ["RANDOM", "STRATIFIED_RANDOM", "EQUALIZED_STRATIFIED_RANDOM"])
def test_random_points_tell_about_the_same(classes: tuple[Path, Path], tmp_path: Path, sampling: Any) -> None:
    options = PixelAccuracyOptions(num_random_points=900, sampling=sampling)
    facts = compute_pixel_accuracy(*classes, tmp_path / "m.json", options)
    told, true = pixels(*classes)
    assert (pytest.approx(900, abs=2), pytest.approx(np.mean(told == true), abs=0.05)) == (
        facts["points"],
        facts["accuracy"],
    )
    totals = json.loads((tmp_path / "m.json").read_text())[-3]
    if sampling.startswith("EQUALIZED"):
        assert [300, 300, 300] == [totals[f"C_{value}"] for value in (1, 2, 3)]
    apart = options.model_copy(update={"num_random_points": 20, "min_point_distance": 5.0})
    assert facts != compute_pixel_accuracy(*classes, tmp_path / "m.json", apart)


def test_truth_of_features_and_of_another_grid(make_raster: Any, tmp_path: Path) -> None:
    told = np.zeros((96, 96), np.uint8)
    told[10:26, 10:26] = 1
    roof = features(tmp_path / "roof.gpkg", [(10, 10, 26, 42)], Classvalue=[1]) / "roof"
    raster = make_raster(told, "told.tif", crs=f"EPSG:{town.EPSG}", transform=town.TRANSFORM)
    facts = compute_pixel_accuracy(raster, roof, tmp_path / "m.csv", PixelAccuracyOptions())
    assert (16 * 32, 0.5, 0.5) == (facts["pixels"], facts["accuracy"], facts["mIoU"])
    both = features(tmp_path / "both.gpkg", [(10, 10, 26, 26), (26, 10, 42, 26)], Classvalue=[1, 0])
    assert 1.0 == compute_pixel_accuracy(raster, both, tmp_path / "m.csv", PixelAccuracyOptions())["accuracy"]
    coarse = make_raster(
        told[::2, ::2].copy(), "true.tif", crs=f"EPSG:{town.EPSG}", transform=town.TRANSFORM @ town.TRANSFORM.scale(2)
    )
    assert 1.0 == compute_pixel_accuracy(raster, coarse, tmp_path / "m.gpkg", PixelAccuracyOptions())["accuracy"]
    far = features(tmp_path / "far.gpkg", [(500, 500, 510, 510)], Classvalue=[1])
    with pytest.raises(LabelError, match="says nothing where the raster does"):
        compute_pixel_accuracy(raster, far, tmp_path / "m.csv", PixelAccuracyOptions())


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32"])
def test_where_another_grid_ends_nothing_is_known(make_raster: Any, tmp_path: Path, dtype: str) -> None:
    told = np.ones((40, 40), np.uint8)
    place = {"crs": f"EPSG:{town.EPSG}", "transform": town.TRANSFORM}
    pair = make_raster(told, "told.tif", **place), make_raster(told[:10].astype(dtype), "true.tif", **place)
    facts = compute_pixel_accuracy(*pair, tmp_path / "m.csv", PixelAccuracyOptions())
    assert (400, 1) == (facts["pixels"], facts["accuracy"])


NAMED = [ClassLabel(1, "Gras"), ClassLabel(2, "Gebäude"), ClassLabel(3, "Wasser")]


@pytest.mark.parametrize("table", [".vat.dbf", ".aux.xml"])
def test_truth_in_words_has_the_values_of_the_raster(make_raster: Any, tmp_path: Path, table: str) -> None:
    """The truth knows two of the three classes, so their places in the alphabet are other numbers."""
    told = np.full((96, 96), 2, np.uint8)
    told[10:26, 10:42] = 3
    raster = make_raster(told, "told.tif", crs=f"EPSG:{town.EPSG}", transform=town.TRANSFORM)
    truth = features(tmp_path / "t.gpkg", [(10, 10, 26, 42), (50, 50, 60, 60)], Class=["Gebäude", "Wasser"])
    with pytest.raises(LabelError, match="field Class names classes, .*told.tif has only Values; give the raster"):
        compute_pixel_accuracy(raster, truth, tmp_path / "m.csv", PixelAccuracyOptions())
    if table == ".aux.xml":
        (tmp_path / "told.tif.aux.xml").write_text(attribute_table(NAMED, {}), encoding="utf-8")
    else:
        for end, content in table_for_arcgis(tuple(NAMED)).items():
            (tmp_path / f"told.tif{end}").write_bytes(content)
    facts = compute_pixel_accuracy(raster, truth, tmp_path / "m.csv", PixelAccuracyOptions())
    assert (16 * 16 / 612, 612) == (facts["accuracy"], facts["pixels"])
    assert {"C_2", "C_3"} < set(pandas.read_csv(tmp_path / "m.csv").columns)
    wood = features(tmp_path / "wood.gpkg", [(10, 10, 26, 42)], Class=["Wald"])
    with pytest.raises(LabelError, match="classes that were not given, got .*Wald.*; the classes are Gras, Geb"):
        compute_pixel_accuracy(raster, wood, tmp_path / "m.csv", PixelAccuracyOptions())
    other = features(tmp_path / "other.gpkg", [(10, 10, 26, 42)], Classvalue=[9])  # a Value may be of no class here
    assert 0 == compute_pixel_accuracy(raster, other, tmp_path / "m.csv", PixelAccuracyOptions())["accuracy"]


def test_kappa_of_billions_of_pixels_is_that_of_a_tenth() -> None:
    matrix = Counter({(1, 1): 3_000_000_000, (1, 2): 200_000_000, (2, 1): 100_000_000, (2, 2): 500_000_000})
    tenth = Counter({pair: number // 10 for pair, number in matrix.items()})
    assert _table(tenth)[1] == pytest.approx(_table(matrix)[1])


def test_points_anywhere_are_no_class_of_the_truth(make_raster: Any, tmp_path: Path) -> None:
    true = np.full((40, 40), -1, np.int16)
    true[:20] = 5
    told = np.where(np.arange(40)[:, None] < 30, true, 5).astype(np.int16)
    both = make_raster(told, "told.tif"), make_raster(true, "true.tif")
    facts = compute_pixel_accuracy(*both, tmp_path / "m.csv", PixelAccuracyOptions(num_random_points=400))
    assert pytest.approx(0.75, abs=0.08) == facts["accuracy"]


def test_the_commands_answer_to_the_names_of_the_tools(found: Path, true: Path, tmp_path: Path) -> None:
    run = CliRunner()
    one = run.invoke(main, ["nms", str(found), str(tmp_path / "kept.gpkg"), "--class-value-field", "Class"])
    assert 1 == json.loads(one.stdout)["removed"]
    table = str(tmp_path / "t.dbf")
    two = run.invoke(main, ["compute-accuracy-for-object-detection", str(found), str(true), table])
    assert 3 == json.loads(two.stdout)["classes"]["All"]["False_Positive"]


def test_what_is_not_known_is_null_for_programs(found: Path, tmp_path: Path) -> None:
    none = features(tmp_path / "none.gpkg", [])
    done = CliRunner().invoke(main, ["compute-object-accuracy", str(found), str(none), str(tmp_path / "t.csv")])
    assert "NaN" not in done.stdout
    assert json.loads(done.stdout)["classes"]["All"]["AP"] is None
