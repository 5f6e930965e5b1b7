"""Train and evaluate on the town: small networks, few chips, everything else as in real life."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.dlpk import ModelFolder, open_model
from registry.errors import Conflict, LabelError, NotFound, OptionsError
from tasks import town
from tasks.chips import ChipFolder
from tasks.evaluate import evaluate_model
from tasks.export import ExportOptions, export_training_data
from tasks.loading import split
from tasks.package import package_model
from tasks.progress import Epoch
from tasks.train import TrainOptions, train_model

TINY: dict[str, Any] = {"backbone_model": "resnet18", "pretrained_weights": "none", "max_epochs": 2, "batch_size": 4}
FORMATS = ["PASCAL_VOC_rectangles", "Classified_Tiles"]


def chips(folder: Path, metadata_format: str = FORMATS[0], **options: Any) -> ChipFolder:
    scene = town.write(folder / "town", repeat=3, noise=5)
    given = {"metadata_format": metadata_format, "tile_size": 64, "stride": 64, **options}
    return export_training_data(*scene, folder / "chips", ExportOptions(**given))


@pytest.mark.slow
@pytest.mark.parametrize("metadata_format", FORMATS)
def test_a_model_folder_is_complete_and_stands_alone(metadata_format: str, tmp_path: Path) -> None:
    data = chips(tmp_path, metadata_format)
    epochs: list[Epoch] = []
    model = train_model(data, tmp_path / "models/town", TrainOptions(**TINY), on_epoch=epochs.append)
    scores = evaluate_model(model, data)
    package = package_model(model, tmp_path / "town.dlpk", summary="The town", tags=["town"])

    assert [0, 1] == [epoch.number for epoch in epochs]
    assert [] == model.emd.problems(model.path)
    assert (4, 64, "town.pth") == (len(model.emd.extract_bands), model.emd.tile_size, model.emd.model_file)
    losses = json.loads((model.path / "ModelCharacteristics/training_validation_loss.json").read_text())
    assert ["0", "1"] == [str(e["epoch"]) for e in losses["training_validation_loss_per_epoch"]]
    assert 0 <= scores.values[scores.primary] <= 1
    members = {"town.emd", "town.pth", "_backbone.py", "_tiles.py", "model_metrics.html"}
    pictures = {f"ModelCharacteristics/{name}" for name in ("loss_graph.png", "show_results.png")}
    assert members | pictures <= set(zipfile.ZipFile(package).namelist())
    assert all(t.dtype != torch.float64 for t in torch.load(model.weights, weights_only=True).values())
    _runs_alone(open_model(package, tmp_path / "unpacked"))


def _runs_alone(model: ModelFolder) -> None:
    """The raster function answers in a process where nothing of ours can be imported (ArcGIS formats E.2)."""
    code = """
import importlib.util, json, sys, numpy as np
folder, name, function = sys.argv[1:]
spec = importlib.util.spec_from_file_location(function, f"{folder}/{function}.py")
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
f = getattr(module, function)()
f.initialize(model=f"{folder}/{name}.emd", device=-1)
scalars = {p["name"]: str(p["value"]) for p in f.getParameterInfo() if p["name"] not in ("raster", "model", "device")}
c = f.getConfiguration(**scalars)
side = [c[k] + 2 * c["padding"] for k in ("ty", "tx")]
block = {"raster_pixels": np.full((4, *side), 80, np.uint8), "raster_mask": np.ones((4, *side), np.uint8)}
if hasattr(f, "vectorize"):
    assert "features" in json.loads(f.vectorize(**block)["output_vectors"])
else:
    info = f.updateRasterInfo(raster_info={}, output_info={}, **scalars)["output_info"]
    props = {"pixelType": info["pixelType"], "width": c["tx"], "height": c["ty"]}
    out = f.updatePixels((0, 0), (1, c["ty"], c["tx"]), props, **block)
    assert out["output_pixels"].shape == (1, c["ty"], c["tx"])
assert not {"registry", "tasks", "flows"} & set(sys.modules)
try:
    import tasks
except ImportError:
    print("alone")
"""
    function = model.emd.inference_function.removesuffix(".py")
    command = [sys.executable, "-W", "error", "-I", "-c", code, str(model.path), model.name, function]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]}, check=False
    )
    assert done.returncode == 0, done.stderr
    # an editable install of ours may still be found by name; what counts is that the function never asked for it
    assert "Error" not in done.stderr


class Stopped(BaseException):
    """Someone pulled the plug."""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_also_after_an_interruption(tmp_path: Path) -> None:
    data = chips(tmp_path)
    options = TrainOptions(**{**TINY, "max_epochs": 3})
    whole = train_model(data, tmp_path / "whole/town", options)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train_model(data, tmp_path / "stopped/town", options, on_epoch=stop)
    epochs: list[Epoch] = []
    resumed = train_model(data, tmp_path / "stopped/town", options, on_epoch=epochs.append)
    assert [1, 2] == [epoch.number for epoch in epochs]
    one, two = (torch.load(m.weights, weights_only=True) for m in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(tmp_path: Path) -> None:
    data = chips(tmp_path)
    options = {**TINY, "max_epochs": 4, "stop_training": False}
    out = tmp_path / "model/town"
    code = (
        "import sys, json; from pathlib import Path; from tasks.chips import ChipFolder; from tasks.train import *;"
        "train_model(ChipFolder.open(Path(sys.argv[1])), Path(sys.argv[2]), TrainOptions(**json.loads(sys.argv[3])))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(data.path), str(out), json.dumps(options)])
    while not (out / ".checkpoints/last.ckpt").exists():
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "town.emd").exists()
    epochs: list[Epoch] = []
    resumed = train_model(data, out, TrainOptions(**options), on_epoch=epochs.append)
    assert epochs[0].number > 0
    assert [] == resumed.emd.problems(resumed.path)
    losses = json.loads((out / "ModelCharacteristics/training_validation_loss.json").read_text())
    assert [0, 1, 2, 3] == [epoch["epoch"] for epoch in losses["training_validation_loss_per_epoch"]]


@pytest.mark.slow
def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    data = chips(tmp_path, FORMATS[1])
    options = TrainOptions(**{**TINY, "max_epochs": 1})
    first = train_model(data, tmp_path / "model/town", options)
    before = first.weights.stat().st_mtime_ns
    assert before == train_model(data, tmp_path / "model/town", options).weights.stat().st_mtime_ns
    with pytest.raises(Conflict, match="another train"):
        train_model(data, tmp_path / "model/town", TrainOptions(**TINY))
    with pytest.raises(OptionsError, match="cannot be scored on PASCAL_VOC"):
        evaluate_model(first, chips(tmp_path / "boxes"))


def test_validation_chips_overlap_no_training_chip(tmp_path: Path) -> None:
    data = chips(tmp_path, stride=32)
    training, validation = split(data, 0.2)
    boxes = {name: data.bounds(name) for name in data.names}
    for one in training:
        for two in validation:
            a, b = boxes[one], boxes[two]
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
    assert len(validation) >= 0.2 * len(data.names)


BAD = [
    ({"network": "unet"}, OptionsError, "cannot learn from PASCAL_VOC.*choose one of faster_rcnn"),
    ({"network": "unnet"}, NotFound, "no 'unnet' in tasks.networks; it has .*faster_rcnn, .*unet"),
    ({"ignore_classes": (9,)}, OptionsError, r"values of no class, got \[9\]"),
    ({"monitor": "MIOU"}, OptionsError, "monitor does not fit detect_objects, got 'MIOU'"),
    ({"pretrained_weights": "/nowhere.pth"}, NotFound, "/nowhere.pth: is no file of weights"),
]


@pytest.mark.parametrize(("options", "kind", "told"), BAD)
def test_options_that_do_not_fit_are_told(
    options: dict[str, Any], kind: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        train_model(chips(tmp_path), tmp_path / "model/town", TrainOptions(**(TINY | options)))
    assert not (tmp_path / "model/town/town.emd").exists()


def test_too_few_chips_are_told(tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town")
    data = export_training_data(*scene, tmp_path / "chips", ExportOptions(tile_size=96, stride=96))
    with pytest.raises(LabelError, match="1 chips are too few"):
        train_model(data, tmp_path / "model", TrainOptions(**TINY))
