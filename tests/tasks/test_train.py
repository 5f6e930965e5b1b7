"""Train and evaluate on the town: small networks, few chips, everything else as in real life."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import torch
from click.testing import CliRunner

from registry import plugins
from registry.dlpk import ModelFolder, open_model, pack
from registry.emd import Emd
from registry.errors import Conflict, ImageryError, LabelError, NotFound, OptionsError, TrainingError
from registry.files import part_of
from registry.publishing import publish
from tasks import fitting, networks, receipt, town, train
from tasks.chips import DEFINITION, Chip, ChipFolder
from tasks.cli import main
from tasks.definition import Training
from tasks.definition import definition as written
from tasks.evaluate import evaluate_model
from tasks.export import ExportOptions, export_training_data
from tasks.fitting import Fitting
from tasks.goals import GOALS
from tasks.host import RasterFunction
from tasks.loading import Loading, Shuffled, divide, loader, split
from tasks.networks._segmentation import Segmenter
from tasks.package import package_model
from tasks.progress import Epoch
from tasks.provenance import PAGE, facts_in
from tasks.rate_test import HIGHEST, LOWEST, find_rate
from tasks.scores import Scores
from tasks.train import TrainOptions, train_model
from tests.chips_by_hand import chip, write_chips
from tests.tasks.conftest import MakeModel, definition

TINY: dict[str, Any] = {
    "backbone_model": "mobilenet_v3_small",
    "pretrained_weights": "none",
    "max_epochs": 2,
    "batch_size": 4,
}
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
    shown = facts_in(model.path / PAGE)["data"]
    assert [["roof", "pond"]] * 3 == [[*shown[part]["of"]][-2:] for part in ("training", "validation", "scored")]
    told = {type(n) for part in shown.values() for n in part["of"].values()}
    assert {int if metadata_format == FORMATS[0] else str} == told
    members = {"town.emd", "town.pth", "_backbone.py", "_tiles.py", "model_metrics.html"}
    pictures = {f"ModelCharacteristics/{name}" for name in ("loss_graph.png", "show_results.png")}
    assert members | pictures <= set(zipfile.ZipFile(package).namelist())
    assert all(t.dtype != torch.float64 for t in torch.load(model.weights, weights_only=True).values())
    _runs_alone(open_model(package, tmp_path / "unpacked"))


def test_what_chips_show_is_told_by_class_that_counts(tmp_path: Path) -> None:
    data = write_chips(tmp_path, [chip(np.zeros((8, 8), np.uint8))], ROOFS)
    counted = np.array([[10, 5], [20, 25]])
    assert {"background": "50.0\u00a0%", "Roof": "50.0\u00a0%"} == train._shown(data, counted, (), pixels=True)
    assert {"Roof": "100.0\u00a0%"} == train._shown(data, counted, (0,), pixels=True)
    assert {"Roof": 30} == train._shown(data, counted, (0,), pixels=False)
    named = [{"Value": 5, "Name": "background", "Color": [230, 60, 40]}]
    data = write_chips(tmp_path / "named", [chip(np.zeros((8, 8), np.uint8))], named)
    told = {"unlabelled": "50.0\u00a0%", "background": "50.0\u00a0%"}
    assert told == train._shown(data, counted, (), pixels=True)


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


@pytest.mark.slow
def test_a_model_learns_from_the_bands_that_are_named_and_says_so(tmp_path: Path) -> None:
    data = chips(tmp_path, "Classified_Tiles")
    options = {**TINY, "max_epochs": 1, "extract_bands": ("blue", "0", 3)}
    model = train_model(data, tmp_path / "models/town", TrainOptions(**options))
    known = model.emd.document
    assert [2, 0, 3] == known["ExtractBands"]
    assert known["IsMultispectral"]
    assert (
        4 == len(known["Bands"]) == len(known["AllTilesStats"]) == len(known["NormalizationStats"]["band_min_values"])
    )
    first = next(tensor for tensor in torch.load(model.weights, weights_only=True).values() if tensor.ndim == 4)
    assert 3 == first.shape[1]

    publish(pack(model, tmp_path / "town.dlpk"), scores={}, data_digest="", git_commit="")
    again = ("--max-epochs", "1", "--batch-size", "4", "--pretrained-model", "town@challenger")
    done = CliRunner().invoke(main, ["train", str(data.path), str(tmp_path / "again/town"), *again])
    assert 0 == done.exit_code, done.output
    assert [2, 0, 3] == ModelFolder(tmp_path / "again/town").emd.document["ExtractBands"]

    batches = loader(data, data.names[:1], Loading(1, "mask", bands=(2, 0, 3)), train=False)
    (images, _, _), chip = next(iter(batches)), data.read(data.names[0])
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    found, _ = function.update_block(chip.image[[2, 0, 3]], chip.valid)
    network = plugins.load(networks, "unet").build(3, 2, **known["NetworkOptions"]).eval()
    network.load_state_dict(torch.load(model.weights, weights_only=True))
    assert torch.equal(torch.from_numpy(found[0]), network(images).max(1)[1][0])


WHOLE = {  # what is shown or has changed: options of the export, and the network's
    "Labeled_Tiles": {},
    "MultiLabeled_Tiles": {},
    "Classified_Tiles": {"in_raster2": "town/later.tif"},
}


@pytest.mark.slow
@pytest.mark.parametrize("metadata_format", WHOLE)
def test_objects_and_changes_go_from_chips_to_a_package(metadata_format: str, tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town", repeat=2, noise=5)
    shutil.copy(scene[0], tmp_path / "town/later.tif")
    more = {key: str(tmp_path / value) for key, value in WHOLE[metadata_format].items()}
    given = {"metadata_format": metadata_format, "tile_size": 48, "stride": 48, **more}
    data = export_training_data(*scene, tmp_path / "chips", ExportOptions(**given))
    model = train_model(data, tmp_path / "model/town", TrainOptions(**{**TINY, "max_epochs": 1}))
    scores = evaluate_model(model, data)
    package = package_model(model, tmp_path / "town.dlpk")

    unpacked = open_model(package, tmp_path / "unpacked")
    assert [] == unpacked.emd.problems(unpacked.path)
    assert 0 <= scores.values[scores.primary] <= 1
    (epoch,) = json.loads((model.path / LOSSES).read_text())["training_validation_loss_per_epoch"]
    assert ARCGIS[metadata_format] == [key for key in epoch if key not in EVERY_EPOCH]


LOSSES = "ModelCharacteristics/training_validation_loss.json"
EVERY_EPOCH = {"epoch", "training_loss", "validation_loss", "time"}
ARCGIS = {  # scores in the file of losses (ArcGIS formats C.2)
    "Labeled_Tiles": ["accuracy"],
    "MultiLabeled_Tiles": ["accuracy", "multi_label_fbeta"],
    "Classified_Tiles": ["precision", "recall", "f1_score"],
}
SIDE = 64
ROOFS = [{"Value": 5, "Name": "Roof", "Color": [230, 60, 40]}]
QUICK: dict[str, Any] = {**TINY, "batch_size": 2, "stop_training": False}


def bright_roofs(folder: Path, number: int = 8, classes: Any = ROOFS, dtype: str = "uint8") -> ChipFolder:
    """Chips with a bright square of each class, on noise."""
    random = np.random.default_rng(1)
    made = []
    for _ in range(number):
        image, mask = random.integers(20, 60, (1, SIDE, SIDE)).astype(dtype), np.zeros((SIDE, SIDE), np.uint8)
        for index in range(1, len(classes) + 1):
            row, col = random.integers(0, SIDE - 20, 2)
            mask[row : row + 20, col : col + 20] = index
            image[0, row : row + 20, col : col + 20] = 100 + 50 * index
        made.append(Chip("", image, np.ones((SIDE, SIDE), bool), mask=mask))
    return write_chips(folder, made, classes, "Classified_Tiles")


def weights(model: ModelFolder) -> dict[str, torch.Tensor]:
    return dict(torch.load(model.weights, weights_only=True))


def equal(one: ModelFolder, two: ModelFolder) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Stopped(BaseException):
    """Someone pulled the plug."""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rate_test.STEPS", 20)
    data = bright_roofs(tmp_path / "chips")
    more = {"average_weights": 0.9, "accumulate_batches": 2, "oversample": True, "learning_rate": None}
    options = TrainOptions(**{**QUICK, **more, "max_epochs": 3})
    whole = train_model(data, tmp_path / "whole/town", options)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stopped

    with pytest.raises(Stopped):
        train_model(data, tmp_path / "stopped/town", options, on_epoch=stop)
    epochs: list[Epoch] = []
    resumed = train_model(data, tmp_path / "stopped/town", options, on_epoch=epochs.append)
    assert [2] == [epoch.number for epoch in epochs]  # none that was told is told again
    assert equal(whole, resumed)
    assert whole.emd.document["LearningRate"] == resumed.emd.document["LearningRate"]


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_weights_of_an_undisturbed_training(tmp_path: Path) -> None:
    data, out = bright_roofs(tmp_path / "chips"), tmp_path / "model/town"
    options = {**QUICK, "max_epochs": 8}
    whole = train_model(data, tmp_path / "whole/town", TrainOptions(**options))
    code = (
        "import sys, json; from pathlib import Path; from tasks.chips import ChipFolder; from tasks.train import *;"
        "train_model(ChipFolder.open(Path(sys.argv[1])), Path(sys.argv[2]), TrainOptions(**json.loads(sys.argv[3])))"
    )
    for _ in range(2):
        before = checkpoint(out)
        child = subprocess.Popen([sys.executable, "-c", code, str(data.path), str(out), json.dumps(options)])
        while checkpoint(out) == before:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.4))
        child.kill()
        child.wait()
    assert not (out / "town.emd").exists()
    epochs: list[Epoch] = []
    resumed = train_model(data, out, TrainOptions(**options), on_epoch=epochs.append)
    assert epochs[0].number > 1
    assert equal(whole, resumed)
    assert [] == resumed.emd.problems(resumed.path)
    losses = json.loads((out / LOSSES).read_text())["training_validation_loss_per_epoch"]
    assert list(range(8)) == [epoch["epoch"] for epoch in losses]


def test_two_trainings_into_one_folder_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = write_chips(tmp_path / "chips", [chip(np.zeros((8, 8), np.uint8))], ROOFS), tmp_path / "town"
    monkeypatch.setattr(train, "_plan", lambda *_: SimpleNamespace(loading=SimpleNamespace(augment=None)))
    monkeypatch.setattr(train, "_start", lambda *_: None)
    out.mkdir()
    for devices in (1, 2):
        with receipt.hold(out), pytest.raises(Conflict, match="town: is being written by another process"):
            train_model(data, out, TrainOptions(devices=devices))
        (out / receipt.NAME).unlink()


def test_the_first_of_several_processes_holds_the_folder_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not train._holds(TrainOptions(devices=2))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert train._holds(TrainOptions(devices=2))
    assert not train._holds(TrainOptions(num_nodes=2))


@pytest.mark.slow
def test_a_training_that_had_stopped_early_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_roofs(tmp_path / "chips")
    epochs: list[Epoch] = []
    again: list[Epoch] = []
    options = TrainOptions(**{**QUICK, "stop_training": True, "patience": 1, "max_epochs": 30})

    def stop(*_: Any) -> None:
        raise Stopped

    with monkeypatch.context() as killed:
        killed.setattr("tasks.report.write_loss_graph", stop)
        with pytest.raises(Stopped):
            train_model(data, tmp_path / "stopped/town", options, on_epoch=epochs.append)
    assert len(epochs) < 30
    resumed = train_model(data, tmp_path / "stopped/town", options, on_epoch=again.append)
    assert [] == again
    assert equal(train_model(data, tmp_path / "whole/town", options), resumed)


@pytest.mark.slow
def test_every_epoch_is_kept_whether_it_was_better_or_not(tmp_path: Path) -> None:
    out, kept, losses = tmp_path / "model/town", [], []

    def look(epoch: Epoch) -> None:
        losses.append(epoch.metrics["validation_loss"])
        kept.append(torch.load(out / ".checkpoints/last.ckpt", weights_only=True)["epoch"])

    train_model(bright_roofs(tmp_path / "chips"), out, TrainOptions(**{**QUICK, "max_epochs": 5}), on_epoch=look)
    assert [0, 1, 2, 3, 4] == kept  # before it is told
    assert any(later >= min(losses[:i]) for i, later in enumerate(losses[:-1]) if i)  # one that was not better


def scoring(monkeypatch: pytest.MonkeyPatch, given: list[float]) -> None:
    """Whatever is learnt, the validation chips have these mIoU, an epoch each."""
    result = Fitting.result

    def told(fit: Fitting) -> Scores:
        scores = result(fit)
        return replace(scores, values={**scores.values, "mIoU": given[min(fit.current_epoch, len(given) - 1)]})

    monkeypatch.setattr(Fitting, "result", told)


@pytest.mark.slow
def test_a_folder_moved_in_between_keeps_its_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = bright_roofs(tmp_path / "chips"), tmp_path / "there/town"
    options, kept = TrainOptions(**{**QUICK, "monitor": "MIOU", "max_epochs": 4}), list[int]()
    scoring(monkeypatch, [0.9, 0.8, 0.7, 0.6])

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Stopped

    def look(epoch: Epoch) -> None:
        kept.append(torch.load(out / ".checkpoints/best.ckpt", weights_only=True)["epoch"])

    with pytest.raises(Stopped):
        train_model(data, tmp_path / "here/town", options, on_epoch=stop)
    (tmp_path / "here").rename(tmp_path / "there")
    train_model(data, out, options, on_epoch=look)
    assert [0, 0] == kept  # of epochs 2 and 3


@pytest.mark.slow
def test_patience_begins_when_something_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(monkeypatch, [0, 0, 0, 0.5, 0.4, 0, 0.6])
    data, out, epochs, best = bright_roofs(tmp_path / "chips"), tmp_path / "model/town", list[int](), list[int]()

    def look(epoch: Epoch) -> None:
        epochs.append(epoch.number)
        if epoch.number:
            best.append(torch.load(out / ".checkpoints/best.ckpt", weights_only=True)["epoch"])

    options = {**QUICK, "monitor": "MIOU", "stop_training": True, "patience": 2, "max_epochs": 7}
    train_model(data, out, TrainOptions(**options), on_epoch=look)
    assert [0, 1, 2, 3, 4, 5] == epochs  # two epochs without an improvement, after the first that was right
    assert [1, 2, 3, 3, 3] == best  # of equal ones the last; an epoch is told once it is kept


@pytest.mark.slow
def test_without_anything_to_find_in_validation_the_last_epoch_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (1, SIDE, SIDE), np.uint8)
    masks = [np.full((SIDE, SIDE), filled, np.uint8) for filled in (0, 1, 1, 0)]  # nothing in the corners
    made = [Chip("", image, np.ones((SIDE, SIDE), bool), mask=mask) for mask in masks]
    data = write_chips(tmp_path / "chips", made, ROOFS, "Classified_Tiles")
    options = {**QUICK, "monitor": "VALID_LOSS", "stop_training": True, "patience": 1, "max_epochs": 4}
    epochs: list[Epoch] = []
    train_model(data, tmp_path / "model/town", TrainOptions(**options), on_epoch=epochs.append)
    assert 4 == len(epochs)
    assert "no chip to validate with holds a class" in caplog.text


@pytest.mark.slow
def test_ctrl_c_ends_a_training_that_can_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, out = bright_roofs(tmp_path / "chips"), tmp_path / "model/town"
    options, epochs = TrainOptions(**{**QUICK, "max_epochs": 3}), list[int]()

    def press(epoch: Epoch) -> None:
        if epoch.number == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train_model(data, out, options, on_epoch=press)
        assert signal.default_int_handler == signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted in epoch 2; the same again goes on there" in caplog.text
    train_model(data, out, options, on_epoch=lambda epoch: epochs.append(epoch.number))
    assert [2] == epochs


def checkpoint(out: Path) -> int:
    last = out / ".checkpoints/last.ckpt"
    return last.stat().st_mtime_ns if last.exists() else 0


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_of_them_speaks(tmp_path: Path) -> None:
    data, out = bright_roofs(tmp_path / "chips"), tmp_path / "model/town"
    options = ["--backbone-model", TINY["backbone_model"], "--pretrained-weights", "none", "--devices", "2"]
    command = [sys.executable, "-m", "tasks.cli", "--json-progress", "train", str(data.path), str(out), *options]
    run = [*command, "--max-epochs", "2", "--batch-size", "2"]
    ended = {**os.environ, "DLPK_PARENT": str(os.getpid())}  # as a flow starts it: it ends with us
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=ended)
    assert 0 == done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [line["progress"]["done"] for line in lines if "progress" in line]
    assert [1, 2, 3, 4] == steps  # 7 chips: 4 for each of the two, a pair in a step
    assert [0, 1] == [line["epoch"]["number"] for line in lines if "epoch" in line]
    assert [{"model": "town", "folder": str(out)}] == [line["result"] for line in lines if "result" in line]
    assert [] == ModelFolder(out).emd.problems(out)
    assert '"progress"' not in done.stderr


@pytest.mark.slow
def test_one_of_two_processes_that_is_killed_is_told_of(tmp_path: Path) -> None:
    data, out = bright_roofs(tmp_path / "chips"), tmp_path / "model/town"
    options = ["--backbone-model", TINY["backbone_model"], "--pretrained-weights", "none", "--devices", "2"]
    command = [sys.executable, "-m", "flows.cli", "train", str(data.path), str(out), *options]
    both = subprocess.Popen(
        [*command, "--max-epochs", "500"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        while not checkpoint(out):
            assert both.poll() is None
            time.sleep(0.02)
        (child,) = psutil.Process(both.pid).children()
        child.kill()
        _, said = both.communicate(timeout=60)
    finally:
        both.kill()
    assert 1 == both.returncode
    assert "TrainingError: one of the processes that train together has ended; look" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_model_goes_on_with_other_classes(tmp_path: Path) -> None:
    first = train_model(bright_roofs(tmp_path / "one"), tmp_path / "one/roofs", TrainOptions(**QUICK))
    classes = [*ROOFS, {"Value": 9, "Name": "Pond", "Color": [0, 90, 200]}]
    more = {"pretrained_model": str(first.path / "roofs.emd"), "class_balancing": True, "resize_to": 96}
    options = {**QUICK, **more, "max_epochs": 1, "network": "deeplab", "backbone_model": "vgg11"}  # the model decides
    both = train_model(bright_roofs(tmp_path / "two", 8, classes), tmp_path / "two/both", TrainOptions(**options))
    assert "unet" == both.emd.document["ModelConfiguration"]
    assert ["Roof", "Pond"] == [label.name for label in both.emd.classes]
    assert 3 == len(both.emd.document["NetworkOptions"]["weights"])
    assert (64, 96) == (both.emd.tile_size, both.emd.document["resize_to"])
    kept = "backbone.body.stages.0.0.weight"  # frozen, for the bands are the same
    assert torch.allclose(weights(first)[kept], weights(both)["network." + kept], atol=1e-2)
    third = {**options, "pretrained_model": str(both.path / "both.emd"), "resize_to": None}
    again = train_model(bright_roofs(tmp_path / "three"), tmp_path / "three/roofs", TrainOptions(**third))
    assert kept in weights(again)
    assert 2 == len(again.emd.document["NetworkOptions"]["weights"])


def planned(chips: ChipFolder, folder: Path, network: str, known: Any, **options: Any) -> Any:
    """How a model of these network options is gone on with."""
    folder.mkdir()
    labels = [label.document() for label in chips.classes]
    emd = definition(network, "Some", "ImageClassification", NetworkOptions=known, Classes=labels)
    emd.write(folder / "town.emd")
    (folder / "town.pth").touch()
    return train._plan(chips, TrainOptions(pretrained_model=str(folder / "town.emd"), **options))


def test_a_model_goes_on_as_it_is_told_this_time(tmp_path: Path) -> None:
    before = {"backbone": "vgg11", "detail": 16, "dice": 0.0, "focal": 2.0, "mixup": True, "weights": [1.0, 2.0]}
    told = {"label_smoothing": 0.1, "dice": 1, "detail": 16.0, "decoder": [128, 64, 48, 32]}
    plan = planned(bright_roofs(tmp_path / "chips"), tmp_path / "model", "unet", before, network_options=told)
    assert {"backbone": "vgg11", "weights": [], **told} == plan.arguments


def test_a_model_that_goes_on_stays_what_it_is(tmp_path: Path) -> None:
    told, what = {"depth": 9, "detail": 8, "dice": 1}, r"keeps its depth, detail, got {'depth': 9, 'detail': 8}; leave"
    with pytest.raises(OptionsError, match=what):
        planned(bright_roofs(tmp_path / "chips"), tmp_path / "model", "unet", {"detail": 16}, network_options=told)


@pytest.mark.parametrize(
    ("now", "learnt"), [("NIR Red Green", (0, 2)), ("B1 B2 B3 B4", (3, 1)), ("NIR B2 B3 B4", (3, 1))]
)
def test_bands_that_a_model_read_are_found_by_name_else_by_place(
    now: str, learnt: tuple[int, ...], tmp_path: Path
) -> None:
    def statistics(names: str) -> list[dict[str, Any]]:
        return [{"BandName": name, "Min": 0, "Max": 1, "Mean": 0, "StdDev": 1} for name in names.split()]

    bands = {"ExtractBands": [3, 1], "AllTilesStats": statistics("Blue Green Red NIR")}
    definition("unet", "Some", "ImageClassification", **bands).write(tmp_path / "town.emd")
    data = bright_roofs(tmp_path / "chips", 1)
    Emd({**data.definition.document, "AllTilesStats": statistics(now)}).write(data.path / DEFINITION)
    found = train._extracted(ChipFolder(data.path), TrainOptions(), ModelFolder(tmp_path))
    assert learnt == found


@pytest.mark.parametrize("network", ["_model_extension_inferencing", "_dynamic_unet"])
def test_a_model_of_another_flavour_is_not_gone_on_with(network: str, tmp_path: Path) -> None:
    what = f"model: pretrained_model is of none of the networks here, got '{network}'; go on from a model that was"
    with pytest.raises(OptionsError, match=what):
        planned(bright_roofs(tmp_path / "chips"), tmp_path / "model", network, {})


@pytest.mark.parametrize(("metadata_format", "several"), [("Labeled_Tiles", False), ("MultiLabeled_Tiles", True)])
def test_a_model_goes_on_with_one_label_or_several(metadata_format: str, several: bool, tmp_path: Path) -> None:
    one = chip(np.zeros((SIDE, SIDE), np.uint8), [(0, 0, SIDE, SIDE)])
    data = write_chips(tmp_path / "chips", [one] * 4, ROOFS, metadata_format)
    plan = planned(data, tmp_path / "model", "feature_classifier", {"multilabel": not several})
    assert {"multilabel": several} == plan.arguments


def test_a_definition_tells_the_classes_that_were_not_learnt(tmp_path: Path) -> None:
    data = bright_roofs(tmp_path, 1, [*ROOFS, {"Value": 9, "Name": "Pond", "Color": [0, 90, 200]}])
    tally = GOALS["mask"].tally(data.classes, False)
    tally.add(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8))  # type: ignore[attr-defined]
    settled: Any = ("town", GOALS["mask"], "mask", "unet", {}, TrainOptions(ignore_classes=(0, 9)), 1e-3, (0,))
    emd = written(data, Training(*settled), tally.compute())
    assert (False, [0, 2]) == (emd.document["PredictBackground"], emd.document["ignore_mapped_class"])
    assert [] == emd.problems()


def test_bands_are_not_counted_from_the_end(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"no such bands, or one twice, got \[-2\]; name each once, of 0 Grey"):
        train._extracted(bright_roofs(tmp_path, 1), TrainOptions(extract_bands=(-2,)), None)


def test_weights_of_classes_without_the_background_are_told(tmp_path: Path) -> None:
    data, known = bright_roofs(tmp_path / "chips"), {"backbone": "mobilenet_v3_small"}
    plan = planned(data, tmp_path / "model", "unet", known, network_options={"weights": [5.0]})
    with pytest.raises(OptionsError, match=r"too many weights, got \[5.0\]; give 2 numbers, that of the background"):
        train._start(data, plan)


def test_labels_of_whole_chips_cannot_be_ignored(tmp_path: Path) -> None:
    one = chip(np.zeros((SIDE, SIDE), np.uint8), [(0, 0, SIDE, SIDE)])
    data = write_chips(tmp_path / "chips", [one] * 4, ROOFS, "Labeled_Tiles")
    with pytest.raises(OptionsError, match="ignore_classes does nothing for feature_classifier; leave it out"):
        train_model(data, tmp_path / "model/town", TrainOptions(ignore_classes=(5,)))


@pytest.mark.slow
@pytest.mark.parametrize("fits", [2, 0])
def test_memory_that_runs_out_halves_the_batch(fits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, sizes = Segmenter.loss, []

    def hungry(network: Any, images: Any, targets: Any) -> Any:
        sizes.append(len(images))
        if len(images) > fits:
            raise torch.OutOfMemoryError
        return loss(network, images, targets)

    monkeypatch.setattr(Segmenter, "loss", hungry)
    options = TrainOptions(**{**QUICK, "batch_size": 8, "max_epochs": 1, "validation_percentage": 10})
    data, out = bright_roofs(tmp_path / "chips", 10), tmp_path / "model/town"
    if not fits:
        with pytest.raises(TrainingError, match="memory runs out with a single chip in a batch; use a smaller"):
            train_model(data, out, options)
        assert [8, 4, 2, 1] == sizes
        return
    train_model(data, out, options)
    assert [8, 4, 2, 2, 2, 2] == sizes[:6]


@pytest.mark.slow
def test_one_small_chip_in_a_batch_is_too_little(tmp_path: Path) -> None:
    options = TrainOptions(**{**QUICK, "batch_size": 1, "chip_size": 32})
    with pytest.raises(TrainingError, match="too little to normalise; use a batch_size of 2 or more, or larger chips"):
        train_model(bright_roofs(tmp_path / "chips"), tmp_path / "model/town", options)


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_the_chips_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    data, out = bright_roofs(tmp_path / "chips", 6, dtype="float32"), tmp_path / "model/town"
    training, _ = divide(data, 0.1)
    *_, (_, left_out, _) = Shuffled(len(training), seed=1)  # the odd chip of the first epoch
    assert 5 == len(training)
    picture = data.files[training[left_out]]
    with rasterio.open(picture, "r+") as raster:
        raster.write(np.full((1, SIDE, SIDE), 3e38, np.float32))
    options = TrainOptions(**{**QUICK, "max_epochs": 9, "seed": 1})
    told: list[Epoch] = []
    with pytest.raises(TrainingError, match=rf"the loss is nan in epoch \d, chips .*{picture.stem}"):
        train_model(ChipFolder.open(data.path), out, options, on_epoch=told.append)
    assert told
    assert (out / ".checkpoints/last.ckpt").is_file()
    assert len(told) == len(json.loads((out / LOSSES).read_text())["training_validation_loss_per_epoch"])


def test_a_range_test_finds_a_rate_and_leaves_the_network_alone() -> None:
    torch.manual_seed(1)
    network, images = Line(), torch.linspace(-1, 1, 8)[:, None]
    before = network.weight.detach().clone()
    rate = find_rate(network, [(images, 3 * images, [])])
    assert LOWEST < rate <= HIGHEST
    assert torch.equal(before, network.weight)
    with pytest.raises(TrainingError, match="the loss is no number at any learning rate; look for broken values"):
        find_rate(network, [(images * torch.nan, images, [])])


def test_a_range_test_holds_no_more_than_the_batch_it_looks_at() -> None:
    seen, most = weakref.WeakSet[torch.Tensor](), list[int]()

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            for _ in range(9):
                images = torch.rand(8, 1)
                seen.add(images)
                most.append(len(seen))
                yield images, 3 * images, []

    find_rate(Line(), Batches())
    assert 2 == max(most)  # the next one is made while the one before is still at hand


class Line(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = (self(images) - targets).square().mean()
        return loss


def test_a_file_of_another_content_makes_another_training(tmp_path: Path) -> None:
    data, file = bright_roofs(tmp_path / "chips", 1), tmp_path / "turns.json"
    options = TrainOptions(augmentation="FILE", augmentation_file=str(file))
    facts = []
    for content in ("turns", "flips", "turns"):
        file.write_text(content)
        facts.append(train._facts(data, options))
    assert facts[0] == facts[2] != facts[1]
    assert {"chips", "options"} == train._facts(data, TrainOptions()).keys()


@pytest.mark.parametrize("named", ["", "town.emd"])
def test_going_on_from_other_weights_is_another_training(make_model: MakeModel, tmp_path: Path, named: str) -> None:
    data, model = bright_roofs(tmp_path / "chips", 1), make_model()
    options = TrainOptions(pretrained_model=str(model.path / named))
    before = train._facts(data, options)
    assert before == train._facts(data, options)
    model.weights.write_bytes(b"trained again")
    assert before != train._facts(data, options)


@pytest.mark.parametrize(("there", "out"), [(".", "."), ("chips", "..")])
def test_a_model_in_the_folder_where_we_are_has_its_name(
    there: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bright_roofs(tmp_path / "town/chips", 1)
    receipt.write(tmp_path / "town", "train", [train._facts(data, TrainOptions())])
    (tmp_path / "town/town.emd").touch()  # finished
    monkeypatch.chdir(tmp_path / "town" / there)
    assert "town" == train_model(data, Path(out), TrainOptions()).name


def test_what_a_kill_left_beside_a_finished_model_goes(tmp_path: Path) -> None:
    data, out = bright_roofs(tmp_path / "chips", 1), tmp_path / "town"
    receipt.write(out, "train", [train._facts(data, TrainOptions())])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [part_of(out / name) for name in ("town.pth", "ModelCharacteristics/loss_graph.png")]
    left = [part.with_name(part.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-")) for part in left]
    living = part_of(out / "town.dlpk")
    for path in (*left, living, out / ".checkpoints/last.ckpt", out / "town.emd"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    train_model(data, out, TrainOptions())
    assert {living.name, "town.emd", receipt.NAME} == {path.name for path in out.rglob("*") if path.is_file()}
    assert not (out / ".checkpoints").exists()


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
    (
        {"extract_bands": (0, "Infrared")},
        OptionsError,
        r"no such bands, or one twice, got \[0, 'Infrared'\]; name each",
    ),
    ({"extract_bands": (0, "red")}, OptionsError, r"one twice.*once, of 0 Red, 1 Green, 2 Blue, 3 "),
    ({"monitor": "MIOU"}, OptionsError, "monitor does not fit detect_objects, got 'MIOU'"),
    ({"mixup": True, "focal_loss": True}, OptionsError, "focal_loss, mixup does nothing for fcos; leave it out"),
    ({"network_options": {"rpn_head": 1}, "network": "FASTERRCNN"}, OptionsError, "unknown arguments rpn_head"),
    ({"backbone_model": "vit_b_16"}, OptionsError, "cannot be built .*'vit_b_16' cannot be used; use timm:.*resnet18"),
    ({"network_options": {"dept": 9}}, OptionsError, "cannot be built .*'dept'.*; choose another backbone_model, or"),
    ({"pretrained_weights": "/nowhere.pth"}, NotFound, "/nowhere.pth: is no file of weights"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "kind", "told"), BAD)
def test_options_that_do_not_fit_are_told(
    options: dict[str, Any], kind: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=told):
        train_model(chips(tmp_path), tmp_path / "model/town", TrainOptions(**(TINY | options)))
    assert not (tmp_path / "model/town").exists()  # the same folder may be used with better ones


def test_a_chip_that_cannot_be_read_is_named_before_the_first_epoch(tmp_path: Path) -> None:
    data = chips(tmp_path)
    data.files[data.names[0]].write_bytes(b"II*")
    with pytest.raises(ImageryError, match=rf"{data.names[0]}.tif: cannot be read"):
        train_model(data, tmp_path / "model/town", TrainOptions(**TINY))


def test_too_few_chips_are_told(tmp_path: Path) -> None:
    scene = town.write(tmp_path / "town")
    data = export_training_data(*scene, tmp_path / "chips", ExportOptions(tile_size=96, stride=96))
    with pytest.raises(LabelError, match="1 chips are too few"):
        train_model(data, tmp_path / "model", TrainOptions(**TINY))


def test_the_training_loss_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    fit = Fitting(Line(), [], GOALS["mask"], TrainOptions(), rate=0.01, pretrained=False)
    monkeypatch.setattr(fit, "log", lambda name, _, **how: told.update({name: how["sync_dist"]}))
    fit.training_step((torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), ["0"]), 0)
    assert {"training_loss": True} == told


def test_a_validation_loss_that_draws_is_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawing(Line):
        def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.rand(1)

    fit, told = Fitting(Drawing(), [], GOALS["mask"], TrainOptions(), rate=0.01, pretrained=False), list[float]()
    monkeypatch.setattr(fit, "log", lambda _, value, **__: told.append(float(value)))
    monkeypatch.setattr(fitting, "judge", lambda *_: None)
    fit.on_validation_epoch_start()
    for _ in range(2):
        fit.validation_step((torch.zeros(1, 1), torch.zeros(1, 1), ["0"]), 0)
    assert told[0] == told[1]


@pytest.mark.parametrize("steps", [1, 2, 5, 6, 30])
def test_the_shortest_training_has_a_schedule(steps: int) -> None:
    fit = Fitting(
        plugins.load(networks, "unet").build(1, 1, backbone="mobilenet_v3_small"),
        [],
        GOALS["mask"],
        TrainOptions(),
        rate=0.01,
        pretrained=False,
    )
    fit._trainer = SimpleNamespace(estimated_stepping_batches=steps)  # type: ignore[assignment]
    made = fit.configure_optimizers()
    rates = []
    for _ in range(steps):
        rates.append(made["optimizer"].param_groups[1]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step() if len(rates) < steps else None
    assert 0 < min(rates) <= max(rates) <= 0.01
    assert steps < 30 or rates[-1] < rates[0] < max(rates)
