import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.catalog import fetch, find_version, manifest_of
from registry.cli import registry_commands
from registry.dlpk import ModelFolder, inspect, verify
from registry.emd import Emd
from registry.errors import EmdError, NotFound, OptionsError, PackageError
from registry.importing import import_model, look_at
from tests.registry.conftest import DOCUMENT, make_model
from tests.registry.test_hostile import Evil

Zipped = Callable[..., Path]
ARCGIS = {  # as the training tool of ArcGIS Pro writes it
    "Framework": "arcgis.learn.models._inferencing",
    "ModelConfiguration": "_unet",
    "ArcGISLearnVersion": "2.4.1",
    "InferenceFunction": "[Functions]System\\DeepLearning\\ArcGISLearn\\ArcGISImageClassifier.py",
    "accuracy": "9.5355e-01",
    "ModelName": "UnetClassifier",
    "MinCellSize": None,
}


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[..., Path]:
    """A model folder with another definition and another function."""

    def make(function: str = "", **keys: object) -> Path:
        model = make_model(tmp_path / "foreign")
        if function:
            (model.path / "ClassifyPixels.py").write_text(function + (model.path / "ClassifyPixels.py").read_text())
        Emd({**model.emd.document, **keys}).write(model.emd_path)
        return model.path

    return make


@pytest.mark.usefixtures("mlflow_home")
def test_a_model_of_arcgis_is_registered_with_what_it_needs(foreign: Callable[..., Path]) -> None:
    version, needs = import_model(foreign(**ARCGIS), "town-roofs", note="from the portal")
    assert ("town-roofs@1", {"told_accuracy": 0.95355}) == (version.ref, version.scores)
    assert version.imported
    assert ("trained by ArcGIS", True, "") == (needs.kind, needs.only_in_arcgis, needs.runs_with)
    assert needs.why_not.startswith("its raster function is part of ArcGIS and not in the package; dlpk convert")
    origin = manifest_of(version)["origin"]
    assert ("foreign", "roofs", "from the portal") == (origin["file"], origin["name"], origin["note"])
    assert {"ArcGISLearnVersion": "2.4.1"} == origin["versions"]


@pytest.mark.usefixtures("mlflow_home")
def test_an_imported_package_opens_under_its_new_name(dlpk: Path) -> None:
    version, needs = import_model(dlpk, "houses")
    assert "houses" == verify(fetch(version.ref)).name
    assert ("custom raster function", "classify-pixels") == (needs.kind, needs.runs_with)


@pytest.mark.usefixtures("mlflow_home")
def test_an_import_under_its_own_name_keeps_the_bytes(dlpk: Path) -> None:
    assert dlpk.read_bytes() == fetch(import_model(dlpk)[0].ref).read_bytes()


@pytest.mark.parametrize(
    ("function", "keys", "why"),
    [
        ("import arcgis\n", {}, "its raster function imports arcgis"),
        ("import arcpy\n", {}, ""),
        ("from nowhere_at_all import x\n", {}, "these Python modules are not installed here: nowhere_at_all"),
        ("import json, numpy\n", {}, ""),
        ("try:\n    import nowhere_at_all\nexcept ImportError:\n    nowhere_at_all = None\n", {}, ""),
        ("", {"ModelFile": ""}, ""),
        ("", {"ModelType": "SuperResolution"}, "no verb here runs the model type 'SuperResolution'"),
    ],
)
def test_it_is_told_why_a_model_does_not_run_here(
    foreign: Callable[..., Path], function: str, keys: dict[str, str], why: str
) -> None:
    assert why == look_at(ModelFolder(foreign(function, **keys))).why_not


@pytest.mark.usefixtures("mlflow_home")
def test_weights_with_code_are_imported_only_by_who_trusts_them(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", weights=pickle.dumps(Evil()))
    with pytest.raises(PackageError, match=r"would run code when they are loaded, got '\w+\.eval in roofs\.pth'"):
        import_model(model.path)
    with pytest.raises(NotFound):
        find_version("roofs")
    assert ("builtins.eval in roofs.pth",) == import_model(model.path, trust=True)[1].code_in_weights


@pytest.mark.usefixtures("mlflow_home")
def test_weights_among_the_checkpoints_come_along_and_are_looked_at(foreign: Callable[..., Path]) -> None:
    folder = foreign(ModelFile="checkpoints\\Best.ckpt")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"last")
    (folder / "checkpoints" / "best.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(PackageError, match="would run code when they are loaded"):
        import_model(folder)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"best")
    version, needs = import_model(folder)
    members = inspect(fetch(version.ref)).members
    assert (["checkpoints/best.ckpt"], ()) == ([name for name in members if name.endswith(".ckpt")], needs.problems)


@pytest.mark.usefixtures("mlflow_home")
def test_an_emd_among_other_things_brings_its_own_alone(
    foreign: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = foreign("import helpers.tiles\n")
    for name in ("salary.xlsx", "trip/photo.jpg", "helpers/tiles.py", "ModelCharacteristics/loss_graph.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    members = inspect(fetch(import_model(folder / "roofs.emd")[0].ref)).members
    assert {"roofs.emd", "roofs.pth", "ClassifyPixels.py", "helpers/tiles.py"} <= members.keys()
    assert "ModelCharacteristics/loss_graph.png" in members
    assert not {"salary.xlsx", "trip/photo.jpg"} & members.keys()
    assert "left behind, as neither it nor its code names them: salary.xlsx, trip/photo.jpg" in caplog.text
    assert {"salary.xlsx", "trip/photo.jpg"} < inspect(fetch(import_model(folder, "whole")[0].ref)).members.keys()


@pytest.mark.usefixtures("mlflow_home")
def test_a_broken_model_is_imported_with_its_problems(zipped: Zipped) -> None:
    version, needs = import_model(zipped(), "theirs")
    assert {"ModelFile", "InferenceFunction"} == {problem.split(":")[0] for problem in needs.problems}
    assert needs.problems == tuple(manifest_of(version)["origin"]["problems"])


@pytest.mark.usefixtures("mlflow_home")
def test_what_cannot_be_imported_is_told(zipped: Zipped, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"")
    sizeless = json.dumps({**DOCUMENT, "ImageHeight": "x"}).encode()
    for file, name, error in (
        (tmp_path / "gone.dlpk", "", NotFound),
        (tmp_path / "x.zip", "", PackageError),
        (zipped(), "a/b", OptionsError),
        (zipped(("n.emd", sizeless), emd="", name="n.dlpk"), "", EmdError),
    ):
        with pytest.raises(error):
            import_model(file, name)


@pytest.mark.usefixtures("mlflow_home")
def test_the_command_prints_version_and_needs(dlpk: Path) -> None:
    command = next(command for command in registry_commands if command.name == "import")
    told = json.loads(CliRunner().invoke(command, [str(dlpk), "--name", "houses", "--note", "x"]).output)
    assert ("houses@1", "custom raster function") == (told["version"], told["kind"])
