"""The extension flavour: what arcgis.learn finds in the package, in a process that has nothing of ours."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from registry import plugins
from registry.dlpk import ModelFolder, open_model
from registry.emd import Emd
from registry.errors import OptionsError
from tasks import networks
from tasks.extension import extension_of
from tasks.package import package_model
from tests.tasks.conftest import MakeModel

OPENED = """
import importlib.util, inspect, json, sys
from types import SimpleNamespace
import torch

def opened(path):
    spec = importlib.util.spec_from_file_location("DlpkNetwork", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.DlpkNetwork

folder, detects, images = sys.argv[1], json.loads(sys.argv[2]), torch.load(sys.argv[3])
with open(f"{folder}/again.py", "w") as file:  # a save over there keeps no more than this
    file.write(inspect.getsource(opened(f"{folder}/ModelConfiguration.py")))
conf = opened(f"{folder}/again.py")()
model = conf.get_model(SimpleNamespace(c=3, _is_multispectral=False), "resnet34", pretrained_backbone=False)
model.load_state_dict(torch.load(f"{folder}/town.pth"), strict=True)
with torch.no_grad():
    answer = model.eval()(conf.transform_input(images))
    if detects:
        found = conf.post_process(answer, 0.1, 0.2, 64, "cpu")
    else:
        found = [answer, conf.post_process(answer), conf.post_process(answer, prob_raster=True)]
torch.save(found, f"{folder}/found.pt")
pixels = torch.zeros(2, 1, 64, 64).long()
boxes = torch.tensor([[[-1, -1, 0.0, 0.0], [0, 0, 0, 0]]] * 2)  # padded
target = (boxes, torch.tensor([[2, 0]] * 2)) if detects else pixels
inputs, target = conf.on_batch_begin(None, images, target, train=True)
out = model.train()(*(inputs if detects else [inputs]))
loss = conf.loss(out, *(target if detects else [target]))
loss.backward()
assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
assert not {"registry", "tasks", "flows"} & set(sys.modules)
"""


def trained(folder: Path, network: str, mode: str, kind: str, function: str) -> tuple[ModelFolder, Any]:
    """A model of chance weights, and its network."""
    torch.manual_seed(1)
    options: dict[str, Any] = {"backbone": "resnet18"}
    if network == "fcos":
        options["detections"] = 10_000  # all: which is the 300th may hang on the last digit
    net = plugins.load(networks, network).build(3, 2, **options).eval()
    if network == "fcos":
        last = net.network.head.classification_head.cls_logits
        last.weight.data *= 30  # scores of an untrained network lie close together
        last.bias.data += 4  # so that it is sure of some
    folder.mkdir()
    torch.save(net.state_dict(), folder / "town.pth")
    (folder / f"{function}.py").write_text("class Nothing: pass\n")
    stats = [
        {"BandName": b, "Min": 0.0, "Max": 255.0, "Mean": 90.0 + i, "StdDev": 30.0 + i} for i, b in enumerate("RGB")
    ]
    document = {
        "Framework": "PyTorch", "ModelConfiguration": network, "ModelType": kind, "ModelFile": "town.pth",
        "InferenceFunction": f"{function}.py", "ImageHeight": 64, "ImageWidth": 64, "ExtractBands": [0, 1, 2],
        "ModelName": "town", "NetworkOptions": options, "MetaDataMode": mode, "AllTilesStats": stats,
        "IsMultispectral": False, "ImageSpaceUsed": "MAP_SPACE",
        "Classes": [{"Value": v, "Name": n, "Color": [v, 0, 0]} for v, n in ((1, "roof"), (2, "pond"))],
    }  # fmt: skip
    Emd(document).write(folder / "town.emd")
    return ModelFolder(folder), net


def as_arcgis_has_it(raw: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (raw / 255 - mean) / std


def as_we_have_it(raw: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([90.0, 91, 92]).reshape(3, 1, 1), torch.tensor([30.0, 31, 32]).reshape(3, 1, 1)
    return (raw - mean) / std


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mode", "kind", "function"),
    [
        ("unet", "Classified_Tiles", "ImageClassification", "ClassifyPixels"),
        ("fcos", "PASCAL_VOC_rectangles", "ObjectDetection", "DetectObjects"),
    ],
)
def test_an_extension_answers_as_the_model_does_and_learns(
    network: str, mode: str, kind: str, function: str, tmp_path: Path
) -> None:
    model, net = trained(tmp_path / "town", network, mode, kind, function)
    package = package_model(model, tmp_path / "town.dlpk", flavour="extension")
    unpacked = open_model(package, tmp_path / "unpacked")
    assert [] == unpacked.emd.problems(unpacked.path)
    assert {"town.emd", "town.pth", "ModelConfiguration.py"} == set(unpacked.files())
    keys = ("ModelName", "DatasetType", "resize_to")  # arcgis.learn looks for the last one, too
    assert ("ModelExtension", mode, None) == tuple(unpacked.emd.document[key] for key in keys)

    raw = torch.rand(2, 3, 64, 64) * 255
    torch.save(as_arcgis_has_it(raw), tmp_path / "images.pt")
    detects = kind == "ObjectDetection"
    command = [sys.executable, "-I", "-c", OPENED, str(unpacked.path), json.dumps(detects), str(tmp_path / "images.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    found = torch.load(unpacked.path / "found.pt")
    with torch.no_grad():
        expected = net(as_we_have_it(raw))
    if not detects:
        assert torch.allclose(expected, found[0], atol=1e-4)
        assert torch.equal(expected.argmax(1, keepdim=True), found[1])
        assert torch.allclose(expected.softmax(1), found[2], atol=1e-4)
        return
    assert len(found[0][2]) > 3
    for one, (boxes, labels, scores) in zip(expected, found, strict=True):
        sure = one["scores"] >= 0.2
        ours = torch.cat([one["boxes"][sure][:, [1, 0, 3, 2]] / 32 - 1, one["scores"][sure, None]], dim=1)
        theirs = torch.cat([boxes, scores[:, None]], dim=1)
        assert ours.shape == theirs.shape
        apart = torch.cdist(ours, theirs, p=torch.inf)  # scores may tie, so the order is nobody's
        apart[one["labels"][sure][:, None] != labels] = torch.inf
        assert apart.amin(dim=0).max() < 1e-3
        assert apart.amin(dim=1).max() < 1e-3


def brought(folder: Path) -> Any:
    """The class that arcgis.learn is given."""
    names: dict[str, Any] = {}
    exec((folder / "ModelConfiguration.py").read_text(), names)  # as it is opened there
    return names["DlpkNetwork"]()


@pytest.mark.slow
def test_objects_keep_their_class_where_chips_have_theirs_in_the_order_of_the_names(tmp_path: Path) -> None:
    model, _ = trained(tmp_path / "town", "fcos", "PASCAL_VOC_rectangles", "ObjectDetection", "DetectObjects")
    opened = brought(extension_of(model, tmp_path / "extension").path)
    opened._modules = lambda: {"fcos": SimpleNamespace(build=lambda *_, **__: torch.nn.Identity())}  # builds in no time
    box, found = torch.tensor([[-1.0, -1, 1, 1]] * 2), torch.tensor([[0.0, 0, 64, 64]] * 2)
    for names, labels in ((["pond", "roof"], [2, 1]), (["roof", "pond"], [1, 2]), (["roof", "barn"], [1, 2])):
        data = SimpleNamespace(c=3, _is_multispectral=False, classes=["background", *names])
        opened.get_model(data)
        (_, targets), _ = opened.on_batch_begin(None, torch.zeros(1, 3, 64, 64), [box[None], torch.tensor([[1, 2]])])
        assert labels == targets[0]["labels"].tolist()
        answer = {"boxes": found, "labels": torch.tensor(labels), "scores": torch.ones(2)}
        assert [1, 2] == opened.post_process([answer], 0.1, 0.5, 64, "cpu")[0][1].tolist()


@pytest.mark.slow
def test_chips_that_arcgis_learn_takes_as_multispectral_are_seen_as_they_come(tmp_path: Path) -> None:
    model, net = trained(tmp_path / "town", "unet", "Classified_Tiles", "ImageClassification", "ClassifyPixels")
    extension = extension_of(model, tmp_path / "extension")
    data = SimpleNamespace(c=3, _is_multispectral=True, _extract_bands=[0, 1, 2])
    opened = brought(extension.path).get_model(data)
    opened.load_state_dict(torch.load(extension.weights), strict=True)
    images = as_we_have_it(torch.rand(1, 3, 64, 64) * 255)
    with torch.no_grad():
        assert torch.equal(net(images), opened.eval()(images))


def test_a_model_that_was_converted_is_no_extension(make_model: MakeModel, tmp_path: Path) -> None:
    scale = {"Mean": [0.0], "StdDev": [1.0]}
    with pytest.raises(OptionsError, match="only a model that was trained here becomes an extension"):
        extension_of(make_model("brightest", NetworkOptions={}, Normalization=scale), tmp_path / "extension")


def test_what_arcgis_learn_cannot_extend_is_told(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="extends detectors of boxes and pixel classifiers only"):
        package_model(make_model("brightest", NetworkOptions={}), tmp_path / "model.dlpk", flavour="extension")
