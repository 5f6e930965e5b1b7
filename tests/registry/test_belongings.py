"""What belongs to a definition, of folders as people have them."""

from pathlib import Path
from typing import Any

import pytest

from registry import plugins
from registry.belongings import belonging
from tasks import networks, raster_functions
from tasks.travelling import travelling

DOCUMENT: dict[str, Any] = {"ModelFile": "roofs.pth", "InferenceFunction": ".\\Roofs.py", "ModelConfiguration": "unet"}
OWN = ["Roofs.py", "roofs.emd", "roofs.pth"]


def kept(tmp_path: Path, files: dict[str, str], **keys: Any) -> list[str]:
    """Besides the definition, its function and its weights."""
    for name, text in {**dict.fromkeys(OWN, ""), **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    members = {path.relative_to(tmp_path).as_posix(): path for path in paths}
    found = belonging(members, ("roofs.emd",), {**DOCUMENT, **keys})
    assert {"Roofs.py", "roofs.emd"} <= found.keys()
    return [name for name in found if name not in OWN]


def test_code_that_nothing_imports_stays(tmp_path: Path) -> None:
    stay = {"upload.py": "PASSWORD = 'x'", "venv/lib/torch/nn.py": "", "notes/salary.py": "", "torch.txt": ""}
    assert [] == kept(tmp_path, {"Roofs.py": "import torch, json", **stay})


@pytest.mark.parametrize(
    ("code", "module"),
    [
        ("import tiles", "tiles.py"),
        ("import lib.tiles as t", "lib/tiles.py"),
        ("from lib import tiles", "lib/tiles.py"),
        ("from . import tiles", "tiles.py"),
        ("from .lib.tiles import cut", "lib/tiles.py"),
        ("sys.path.append(os.path.join(here, 'lib'))", "lib/tiles.py"),
        ("importlib.import_module('lib.tiles')", "lib/tiles.py"),
        ("importlib.import_module('.' + name)", "unet.py"),
        ("open(os.path.join(here, 'Labels.txt'))", "labels.txt"),
    ],
)
def test_what_the_function_imports_or_names_comes_along(code: str, module: str, tmp_path: Path) -> None:
    assert [module] == kept(tmp_path, {"Roofs.py": code, module: ""})


def test_what_the_imported_imports_comes_along(tmp_path: Path) -> None:
    files = {"Roofs.py": "import lib.first", "lib/first.py": "from . import second", "lib/scales.json": "{}"}
    files |= {"lib/second.py": "import third", "third.py": "import Roofs"}
    assert ["lib/first.py", "lib/scales.json", "lib/second.py", "third.py"] == kept(tmp_path, files)


def test_a_text_in_code_brings_no_folder_of_data(tmp_path: Path) -> None:
    assert [] == kept(tmp_path, {"Roofs.py": "blocks['images']", "images/1.tif": ""})


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ({"Labels": "labels.txt"}, ["labels.txt"]),
        ({"Kwargs": {"tokens": ".\\tokens", "anchors": ["anchors.json"]}}, ["anchors.json", "tokens/vocab.json"]),
        ({"ModelFile": "x.onnx"}, ["x.onnx", "x.onnx.data", "x.onnx_data"]),
        ({"ModelFile": ".", "ModelFiles": ["w/a.pth"]}, ["w/a.pth"]),
        ({"ModelFile": "saved"}, ["saved/checkpoint/a", "saved/pipeline.config"]),
        ({}, ["ModelCharacteristics/loss_graph.png", "model_metrics.html", "show_results.png"]),
    ],
)
def test_what_the_definition_names_comes_along(keys: dict[str, Any], files: list[str], tmp_path: Path) -> None:
    stay = {"salary.xlsx": "", "trip/photo.jpg": "", "x.txt": "", "roofs.tif": ""}
    named = {**keys, "Classes": [{"Name": "trip"}]}
    assert files == kept(tmp_path, {**dict.fromkeys(files, ""), **stay}, **named)


def test_a_model_that_is_its_whole_folder_comes_whole(tmp_path: Path) -> None:
    assert ["a/b.bin"] == kept(tmp_path, {"a/b.bin": ""}, ModelFile=".")


def test_a_function_that_is_not_named_but_meant_comes_along(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ImageClassifier.py", "TensorFlow/DeepLab.py", "other.py", "x.emd")}
    for path in files.values():
        path.parent.mkdir(exist_ok=True)
        path.touch()
    document = {"Framework": "TensorFlow", "ModelConfiguration": "DeepLab"}
    assert ["other.py"] == [*files.keys() - belonging(files, ("x.emd", "ImageClassifier.py"), document)]


@pytest.mark.parametrize("function", plugins.names(raster_functions))
def test_of_what_ships_nothing_stays(function: str) -> None:
    for network in plugins.names(networks):
        files = {path.name: path for path in travelling(function, network, resized=True)}
        document = {"InferenceFunction": f"{function}.py", "ModelConfiguration": network}
        assert files == belonging(files, (), document), network
