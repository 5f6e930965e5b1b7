"""Features on disk: what a result takes the place of, and what it leaves alone."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import shapely

from registry.errors import OptionsError, StoreError
from tasks.classify_pixels import classify_pixels
from tasks.detect_objects import detect_objects
from tasks.detections import columns
from tasks.feature_files import read_features, with_whole_numbers
from tasks.feature_sets import Detection, Field
from tasks.inference_options import ClassifyOptions, DetectOptions
from tasks.replacing import refuse_foreign, refuse_replacing
from tasks.results import beside, write_table
from tasks.suppression import SuppressionOptions, suppress_non_maxima

LONG = 9007199254740993  # no float is


def squares(n: int = 2, **columns: Any) -> geopandas.GeoDataFrame:
    shapes = [shapely.box(500000 + 9 * i, 4599990, 500005 + 9 * i, 4599995) for i in range(n)]
    return geopandas.GeoDataFrame(columns or {"Confidence": np.linspace(50, 70.75, n)}, geometry=shapes, crs=32633)


def layers(file: Path) -> list[str]:
    return sorted(name for name, _ in pyogrio.list_layers(file))


def town(folder: Path) -> Path:
    """A GeoPackage with two layers, none of which has its name."""
    for layer in ("roofs", "streets"):
        pyogrio.write_dataframe(squares(Confidence=[50, 60], ModelVersion="1"), folder / "town.gpkg", layer=layer)
    return folder / "town.gpkg"


def test_the_other_layers_of_a_geopackage_stay(make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path) -> None:
    file, image = town(tmp_path), make_raster(roofs(100, 100, [(20, 20, 40, 40)]))
    suppress_non_maxima(file / "roofs", file, SuppressionOptions())
    assert ["roofs", "streets", "town"] == layers(file)
    detect_objects(make_model(), image, file, DetectOptions(mask=str(file / "roofs")))
    assert (["roofs", "streets", "town"], 2) == (layers(file), len(pyogrio.read_dataframe(file, layer="streets")))
    options = ClassifyOptions(mask=str(file / "streets"), polygons=str(file))
    classify_pixels(make_model("levels", "pixels"), image, tmp_path / "classes.tif", options)
    assert (["roofs", "streets", "town"], 2) == (layers(file), len(pyogrio.read_dataframe(file, layer="roofs")))


def test_features_that_are_read_are_not_replaced(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    file, image = town(tmp_path), make_raster(np.zeros((100, 100), np.uint8))
    write_table(file, squares(), {})
    before = file.read_bytes()
    told = "town.gpkg: holds features that are read, and would be replaced; choose another file"
    with pytest.raises(OptionsError, match=told):
        suppress_non_maxima(file, file, SuppressionOptions())
    with pytest.raises(OptionsError, match=told):
        detect_objects(make_model(), image, file, DetectOptions(mask=str(file)))
    options = ClassifyOptions(mask=str(file / "town"), polygons=str(file))
    with pytest.raises(OptionsError, match=told):
        classify_pixels(make_model("levels", "pixels"), image, tmp_path / "classes.tif", options)
    assert before == file.read_bytes()
    squares().to_file(tmp_path / "town.shp")
    with pytest.raises(OptionsError, match="town.shp: holds features"):
        refuse_replacing([str(tmp_path / "town.shp")], tmp_path / "town.shp")
    refuse_replacing([str(tmp_path / "town.shp"), None], file)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_rows_are_added_to_fields_of_their_type(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"found{suffix}"
    write_table(out, squares(Value=[1, 2], Class=["roof", "pond"]), {})
    write_table(out, squares(1, Value=[3], Class=["roof"]), {}, append=True)
    before = out.read_bytes()
    with pytest.raises(OptionsError, match=r"has fields of these names and another type, got \['Value'\]"):
        write_table(out, squares(1, Value=["three"], Class=["roof"]), {}, append=True)
    assert before == out.read_bytes()


def test_nothing_is_rounded_or_put_among_other_geometries(tmp_path: Path) -> None:
    out = tmp_path / "found.gpkg"
    write_table(out, squares(Confidence=[50, 70]), {})
    with pytest.raises(OptionsError, match=r"another type, got \['Confidence'\]"):
        write_table(out, squares(), {}, append=True)
    points = squares().set_geometry(squares().centroid)
    write_table(out, points, {})
    with pytest.raises(OptionsError, match="has features of another geometry than Polygon, got 'Point'"):
        write_table(out, squares(), {}, append=True)


def test_rows_join_an_empty_layer_in_its_coordinate_system(tmp_path: Path) -> None:
    out = tmp_path / "found.gpkg"
    write_table(out, squares().to_crs(4326).iloc[:0], {}, geometry_type="Polygon")
    with pytest.raises(OptionsError, match="has other fields than Class, geometry, got"):
        write_table(out, squares(1, Class=["roof"]), {}, append=True)
    write_table(out, squares(), {}, append=True)
    assert (4326, 2) == ((there := pyogrio.read_dataframe(out)).crs.to_epsg(), len(there))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_whole_numbers_stay_whole_where_one_is_missing(tmp_path: Path, suffix: str) -> None:
    numbers, flags = pandas.array([LONG, None], "Int64"), pandas.array([None, True], "boolean")
    plots = squares(number=numbers, flag=flags, height=[2.5, None], Confidence=[1, 2])
    write_table(tmp_path / f"plots{suffix}", plots, {})
    told = with_whole_numbers(tmp_path / f"plots{suffix}", read_features(tmp_path / f"plots{suffix}"))
    assert ([LONG, pandas.NA], 2.5) == (told["number"].tolist(), told["height"][0])
    suppress_non_maxima(tmp_path / f"plots{suffix}", tmp_path / "kept.gpkg", SuppressionOptions())
    kinds = pyogrio.read_info(tmp_path / "kept.gpkg")
    assert {"number": "int64", "flag": "bool"}.items() <= dict(
        zip(kinds["fields"], kinds["dtypes"], strict=True)
    ).items()
    _, there = pyogrio.read_arrow(tmp_path / "kept.gpkg", columns=["number"], read_geometry=False)
    assert [LONG, None] == there["number"].to_pylist()


def test_fields_of_a_function_are_found_in_letters_of_any_case_and_keep_their_names() -> None:
    found = [Detection("roof", 1, 70.0, (), {"height": value}) for value in (7, None)]
    told = columns(found, [Field("Height", float), Field("Model", str)])
    assert [7.0, pandas.NA] == told["Height"].tolist()
    assert ["Model_1", "ModelVersion"] == [*beside(told, {"Model": [], "ModelVersion": []}, "GPKG")]
    assert ["Model_1", "ModelVer"] == [*beside(told, {"Model": [], "ModelVersion": []}, "ESRI Shapefile")]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb", ".parquet"])
def test_labels_of_people_are_never_replaced_by_a_result(
    make_model: Any, make_raster: Any, tmp_path: Path, suffix: str
) -> None:
    model, image, out = make_model(), make_raster(np.zeros((100, 100), np.uint8)), tmp_path / f"roofs{suffix}"
    write_table(out, squares(), {})
    before = out.read_bytes()
    with pytest.raises(OptionsError, match=f"roofs{suffix}: holds features that are no result of a model"):
        detect_objects(model, image, out, DetectOptions())
    assert before == out.read_bytes()
    write_table(out, squares(ModelVersion=["1", "2"]), {})
    detect_objects(model, image, out, DetectOptions())
    refuse_foreign(out)  # it is empty


def killed_before(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], object]) -> None:
    """Nothing goes on from where a file would take this name."""
    known = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        if Path(target).name.endswith(name):
            raise KeyboardInterrupt
        return known(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            do()


@pytest.mark.parametrize("suffix", [".shp", ".dbf", ".shx", ".prj"])
@pytest.mark.parametrize("append", [False, True])
def test_a_kill_never_leaves_a_shapefile_of_two_results_and_what_it_held_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, append: bool
) -> None:
    out = tmp_path / "roofs.shp"
    write_table(out, squares(2), {})
    killed_before(monkeypatch, f"roofs{suffix}", lambda: write_table(out, squares(3), {}, append=append))
    assert not out.exists()
    write_table(out, squares(1), {}, append=True)
    assert (6 if append else 4) == len(geopandas.read_file(out))
    assert [f"roofs{end}" for end in (".cpg", ".dbf", ".prj", ".shp", ".shx")] == sorted(
        file.name for file in tmp_path.iterdir()
    )


def test_what_was_added_to_a_shapefile_before_a_kill_is_not_added_again(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, out = make_model(), make_raster(roofs(64, 64, [(20, 20, 30, 30)])), tmp_path / "roofs.shp"

    def detect() -> object:
        return detect_objects(model, image, out, DetectOptions(append=True))

    detect()
    killed_before(monkeypatch, "roofs.shp", detect)
    detect()
    assert 2 == len(geopandas.read_file(out))


def test_what_people_put_in_place_of_a_result_that_a_kill_kept_from_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "roofs.shp"
    killed_before(monkeypatch, "roofs.cpg", lambda: write_table(out, squares(3), {}))
    pyogrio.write_dataframe(squares(4), out)
    write_table(out, squares(1), {}, append=True)
    assert 5 == len(geopandas.read_file(out))


def test_a_class_raster_takes_its_name_when_all_that_is_made_of_it_is_whole(
    make_model: Any, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is brought to another coordinate system: it is written anew."""
    image, out = make_raster(np.full((60, 70), 130, np.uint8)), tmp_path / "out" / "classes.tif"
    polygons, shares = tmp_path / "out" / "areas.gpkg", tmp_path / "out" / "shares.tif"
    beside = {"polygons": str(polygons), "probabilities": str(shares)}
    options = ClassifyOptions.model_validate({**beside, "output_coordinate_system": "EPSG:4326"})
    model, order = make_model("levels"), list[str]()
    known = Path.replace

    def noting(self: Path, target: Path) -> Path:
        if Path(target) in (out, polygons, shares):
            assert (self.suffix, out.exists()) == (Path(target).suffix, False)
            order.append(Path(target).name)
        return known(self, target)

    monkeypatch.setattr(Path, "replace", noting)
    classify_pixels(model, image, out, options)
    assert ["shares.tif", "areas.gpkg", "classes.tif"] == order
    tables = [f"classes.tif{end}" for end in ("", ".aux.xml", ".vat.cpg", ".vat.dbf")]
    assert ["areas.gpkg", *tables, "shares.tif"] == sorted(file.name for file in out.parent.iterdir())


def test_a_disk_that_is_full_before_the_polygons_leaves_no_raster_that_looks_whole(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, image, out = make_model("levels"), make_raster(np.full((60, 70), 130, np.uint8)), tmp_path / "classes.tif"
    options = ClassifyOptions(polygons=str(tmp_path / "areas.gpkg"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # bytes
    try:
        with pytest.raises(StoreError, match=r"areas.gpkg: cannot be written .* free some space"):
            classify_pixels(model, image, out, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (False, False) == (out.exists(), Path(str(options.polygons)).exists())
    classify_pixels(model, image, out, options)
    assert 1 == len(geopandas.read_file(options.polygons))
