import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe import Recipe, rasters
from registry.errors import NotFound, OptionsError
from tests.tiny_model import scene


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A recipe beside its data."""
    for name in ("town.tif", "roofs.shp", "roofs.dbf"):
        (tmp_path / name).write_text("data")
    return change(tmp_path / "recipe.yaml", name="roofs", imagery="town.tif", labels="roofs.shp")


def change(file: Path, **entries: Any) -> Path:
    document = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**document, **entries}))
    return file


def test_relative_paths_start_at_the_recipe(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    recipe = Recipe.read(written)
    assert (str(written.parent / "town.tif"),) == rasters(recipe.imagery)
    assert str(written.parent / "roofs.shp") == recipe.labels


def test_the_paths_of_the_evaluation_scene_do_so_too(written: Path) -> None:
    recipe = Recipe.read(change(written, evaluation={"imagery": ["a.tif", "b.tif"], "labels": "c.gpkg"}))
    assert recipe.evaluation
    assert tuple(str(written.parent / name) for name in ("a.tif", "b.tif")) == recipe.evaluation.imagery


@pytest.mark.parametrize("address", ["s3://bucket/town.tif", f"https://host/town.tif?signature={'a' * 300}"])
def test_remote_imagery_keeps_its_address(written: Path, address: str) -> None:
    assert address == Recipe.read(change(written, imagery=address)).imagery


def test_the_same_recipe_and_files_have_the_same_digest(written: Path) -> None:
    assert Recipe.read(written).digest() == Recipe.read(written).digest()


@pytest.mark.parametrize("name", ["town.tif", "roofs.shp", "roofs.dbf"])
def test_a_changed_file_has_another_digest(written: Path, name: str) -> None:
    before = Recipe.read(written).digest()
    (written.parent / name).write_text("other data")
    assert before != Recipe.read(written).digest()


def test_files_of_the_training_start_at_the_recipe_and_change_its_digest(written: Path) -> None:
    files = {"augmentation_file": "turns.yaml", "pretrained_model": "old.dlpk", "pretrained_weights": "w.pth"}
    for name in files.values():
        (written.parent / name).write_text("data")
    recipe = Recipe.read(change(written, train={"augmentation": "FILE", **files}))
    assert {key: str(written.parent / name) for key, name in files.items()} == {
        key: getattr(recipe.train, key) for key in files
    }
    seen = {recipe.digest()}
    for name in files.values():
        (written.parent / name).write_text("other data")
        seen.add(recipe.digest())
    assert 4 == len(seen)
    assert "none" == Recipe.read(change(written, train={"pretrained_weights": "none"})).train.pretrained_weights


def test_a_model_of_the_registry_is_no_file(written: Path) -> None:
    recipe = Recipe.read(change(written, train={"pretrained_model": "roofs@champion"}))
    assert "roofs@champion" == recipe.train.pretrained_model == recipe.goes_on_from
    assert recipe.digest() != Recipe.read(change(written, train={"pretrained_model": "roofs@1"})).digest()
    (written.parent / "old").mkdir()
    recipe = Recipe.read(change(written, train={"pretrained_model": "old"}))
    assert str(written.parent / "old") == recipe.train.pretrained_model
    assert "" == recipe.goes_on_from


def test_what_another_program_has_written_into_an_open_geopackage_changes_the_digest(written: Path) -> None:
    change(written, labels="roofs.gpkg")
    (written.parent / "roofs.gpkg").write_text("data")
    log = written.parent / "roofs.gpkg-wal"
    log.touch()
    before = Recipe.read(written).digest()
    log.write_text("one more roof")
    assert before != Recipe.read(written).digest()


def test_a_geodatabase_and_a_layer_of_a_file_are_labels(written: Path) -> None:
    table = written.parent / "plan.gdb" / "a00000001.gdbtable"
    table.parent.mkdir()
    table.write_text("data")
    (written.parent / "plan.gpkg").write_text("data")
    digests = list[str]()
    for labels in ("plan.gdb", "plan.gdb/roofs", "plan.gdb/ponds", "plan.gpkg/roofs", "plan.gpkg/ponds"):
        digests.append(Recipe.read(change(written, labels=labels)).digest())
        (table.parent / "_gdb.HOST.1.2.sr.lock").touch()
        assert digests[-1] == Recipe.read(written).digest()
    assert 5 == len(set(digests))
    table.write_text("other data")
    (written.parent / "plan.gpkg").write_text("other data")
    assert digests[-1] != Recipe.read(written).digest()
    assert digests[1] != Recipe.read(change(written, labels="plan.gdb/roofs")).digest()


def test_one_of_several_rasters_in_a_file_starts_at_the_recipe(written: Path) -> None:
    (written.parent / "town.nc").write_text("data")
    recipe = Recipe.read(change(written, imagery='NETCDF:"town.nc":Band1'))
    assert f'NETCDF:"{written.parent}/town.nc":Band1' == recipe.imagery
    (written.parent / "net").write_text("data")
    assert f"netcdf:{written.parent}/net:x" == Recipe.read(change(written, labels="netcdf:net:x")).labels
    before = recipe.digest()
    (written.parent / "town.nc").write_text("other data")
    assert before != recipe.digest()


def test_a_vrt_is_what_it_is_made_of(written: Path) -> None:
    change(written, imagery="town.vrt")
    scene(written.parent / "part.tif")
    source = "<SimpleSource><SourceFilename relativeToVRT='1'>part.tif</SourceFilename><SourceBand>1</SourceBand>"
    source += "</SimpleSource>"
    band = f"<VRTRasterBand dataType='Byte' band='1'>{source}</VRTRasterBand>"
    (written.parent / "town.vrt").write_text(f"<VRTDataset rasterXSize='8' rasterYSize='8'>{band}</VRTDataset>")
    before = Recipe.read(written).digest()
    scene(written.parent / "part.tif", roof=20)
    assert before != Recipe.read(written).digest()


@pytest.mark.parametrize("folder", [".", "vsi_2026"])
@pytest.mark.parametrize("imagery", ["town.txt", "town.json", "town.json#red", "town.json#red,nir"])
def test_a_list_and_a_stac_item_are_the_rasters_that_they_name(written: Path, imagery: str, folder: str) -> None:
    here = written.parent / folder
    assets = {key: {"href": f"./{key}.tif", "type": "image/tiff", "roles": [key]} for key in ("red", "nir")}
    assets["red"]["roles"] = ["data"]
    for key in assets:
        scene(here / f"{key}.tif")
    facts: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "geometry": None,
        "links": [],
        "assets": assets,
    }
    document = {**facts, "id": "town", "properties": {"datetime": "2026-05-01T10:00:00Z"}}
    (here / "town.json").write_text(json.dumps(document))
    (here / "town.txt").write_text("red.tif")
    before = Recipe.read(change(written, imagery=f"{folder}/{imagery}")).digest()
    assert before == Recipe.read(written).digest()
    scene(here / f"{'nir' if 'nir' in imagery else 'red'}.tif", roof=20)
    assert before != Recipe.read(written).digest()


def test_only_names_that_begin_with_vsi_are_left_to_gdal(written: Path) -> None:
    scene(written.parent / "vsi" / "town.tif")
    recipe = Recipe.read(change(written, imagery="vsi/town.tif"))
    assert str(written.parent / "vsi" / "town.tif") == recipe.imagery
    before = recipe.digest()
    scene(written.parent / "vsi" / "town.tif", roof=20)
    assert before != recipe.digest()
    far = "/vsicurl/https://host/town.tif"
    assert far == Recipe.read(change(written, imagery=far)).imagery
    assert Recipe.read(written).digest()


@pytest.mark.parametrize("beside", ["town.hdr", "town.tif.aux.xml", "town.tif.msk", "roofs.map", "model/roofs.pth"])
def test_what_a_file_is_read_with_changes_the_digest(written: Path, beside: str) -> None:
    for name in ("roofs.tab", "model/roofs.emd", beside):
        (written.parent / name).parent.mkdir(exist_ok=True)
        (written.parent / name).write_text('{"ModelFile": "roofs.pth"}')
    before = Recipe.read(change(written, labels="roofs.tab", train={"pretrained_model": "model/roofs.emd"})).digest()
    (written.parent / beside).write_text("other data")
    assert before != Recipe.read(written).digest()


def test_statistics_that_a_viewer_leaves_beside_a_raster_change_nothing(written: Path) -> None:
    told = written.parent / "town.tif.aux.xml"
    statistics = '<Metadata>\n      <MDI key="STATISTICS_MEAN">9</MDI>\n    </Metadata>'
    histograms = "<Histograms>\n      <HistItem><BucketCount>2</BucketCount></HistItem>\n    </Histograms>"
    copied = '<Metadata domain="IMAGE_STRUCTURE">\n      <MDI key="COMPRESSION">JPEG2000</MDI>\n    </Metadata>'
    band = f'<PAMRasterBand band="1">\n    {histograms}\n    {statistics}\n    {copied}\n  </PAMRasterBand>'
    before = Recipe.read(written).digest()
    told.write_text(f"<PAMDataset>\n  {band}\n</PAMDataset>\n")
    assert before == Recipe.read(written).digest()
    told.write_text(f"<PAMDataset>\n  <SRS>EPSG:32634</SRS>\n  {band}\n</PAMDataset>\n")
    with_place = Recipe.read(written).digest()
    assert before != with_place
    told.write_text("<PAMDataset>\n  <SRS>EPSG:32634</SRS>\n</PAMDataset>\n")
    assert with_place == Recipe.read(written).digest()


def test_a_changed_option_has_another_digest(written: Path) -> None:
    before = Recipe.read(written).digest()
    assert before != Recipe.read(change(written, train={"max_epochs": 3})).digest()


def test_a_missing_file_is_told_before_anything_runs(written: Path) -> None:
    with pytest.raises(NotFound, match="nowhere.tif: there is no such file; correct the path in the recipe"):
        Recipe.read(change(written, imagery="nowhere.tif")).digest()
    with pytest.raises(OptionsError, match="expected a file, got 'a folder'; name the files in it"):
        Recipe.read(change(written, imagery=".")).digest()


def test_a_wrong_entry_is_told_with_its_place(written: Path) -> None:
    with pytest.raises(OptionsError) as told:
        Recipe.read(change(written, train={"max_epochs": 0, "max_epoch": 3}, expotr={}))
    assert "train.max_epochs: Input should be greater than or equal to 1, got 0" in str(told.value)
    assert "expotr: there is no such key; did you mean export" in str(told.value)
    assert "train.max_epoch: there is no such key; did you mean max_epochs" in str(told.value)
    with pytest.raises(OptionsError, match="expected a recipe, got 'a folder'; name the file in it"):
        Recipe.read(written.parent)


def test_several_rasters_cannot_be_divided(written: Path) -> None:
    with pytest.raises(OptionsError, match="several rasters need an evaluation scene"):
        Recipe.read(change(written, imagery=["a.tif", "b.tif"]))


@pytest.mark.parametrize("text", ["- a list", "a: [", "just words"])
def test_what_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(OptionsError, match="recipe.yaml"):
        Recipe.read(file)


def test_no_recipe_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no such recipe"):
        Recipe.read(tmp_path / "recipe.yaml")
