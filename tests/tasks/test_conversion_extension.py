"""Packages that bring a class for arcgis.learn, written again: it is run as in ArcGIS, and only by who trusts it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from registry.dlpk import ModelFolder, open_model
from registry.emd import Emd
from registry.errors import OptionsError
from tasks.conversion import convert
from tasks.host import RasterFunction
from tasks.package import package_model
from tasks.trust import is_trusted
from tests.arcgis_models import DEVIATION, MEAN, definition
from tests.tasks.test_extension import as_we_have_it, trained

SIDE = 64
BY_HAND = """
from types import SimpleNamespace
HELPER = SimpleNamespace(gain=0)


class Brightest:
    def get_model(self, data, backbone=None, **kwargs):
        import torch

        HELPER.gain, HELPER.overlap = kwargs["gain"], kwargs.get("overlap")
        assert not kwargs["pretrained_backbone"] and kwargs["ArcGISLearnVersion"] == "2.4.1"
        assert (data.c, data.classes[1:], data.chip_size) == (3, ["Roof", "Pond"], 64)
        return torch.nn.Conv2d(3, 1, 1, bias=False)

    def transform_input(self, xb, thresh=0.5, nms_overlap=0.1):
        self.least, self.overlap = thresh, nms_overlap
        return xb

    def post_process(self, pred, *args, **kwargs):
        import torch

        if not args:
            return (pred > 0).long() + 1 if EDGES_OFF(kwargs) else (pred > kwargs["thres"]).long()
        nms_overlap, thres, chip_size, device = args
        assert (self.least, thres, chip_size) == (0.05, 0.05, 64)
        assert nms_overlap == self.overlap == HELPER.overlap
        found = []
        for image in pred:
            spot = image[0].flatten().max(0)[1].item()
            row, col = (2 * n / chip_size - 1 for n in divmod(spot, chip_size))
            box = [row, col, row + 16 / chip_size, col + 8 / chip_size]
            score = torch.sigmoid(HELPER.gain * image.max()).reshape(1)
            found.append((torch.tensor([box], device=device), torch.tensor([2], device=device), score))
        return found


def EDGES_OFF(kwargs):
    return not kwargs
"""


def stored(folder: Path, source: str | None = BY_HAND, **more: Any) -> ModelFolder:
    """With a class that takes the mean of three bands."""
    emd = definition(
        ModelName="ModelExtension",
        ModelType="ObjectDetection",
        ModelParameters={"backbone": None, "backend": "pytorch"},
        ModelConfiguration="_model_extension_inferencing",
        ModelConfigurationFile="ModelConfiguration.py",
        ModelFileConfigurationClass="Brightest",
        Kwargs={"gain": 0.5},
        IsEdgeDetection=False,
    )
    folder.mkdir()
    torch.save({"weight": torch.full((1, 3, 1, 1), 1 / 3)}, folder / "roofs.pth")
    if source:
        (folder / "ModelConfiguration.py").write_text(source)
    Emd({**emd.document, **more}).write(folder / "roofs.emd")
    return ModelFolder(folder)


def scene() -> NDArray[np.uint8]:
    pixels = np.full((3, SIDE, SIDE), 100, np.uint8)
    pixels[:, 24:32, 40:44] = 150
    pixels[:, 24, 40] = 250
    return pixels


def seen(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """What the network gives for each pixel."""
    return (torch.from_numpy(pixels).float() - MEAN).div(DEVIATION).mean(dim=0)


@pytest.mark.parametrize(("asked", "overlap"), [({}, 0.1), ({"nms_overlap": 0.3}, 0.3)])
def test_its_class_finds_objects_as_it_does_in_arcgis(tmp_path: Path, asked: dict[str, float], overlap: float) -> None:
    model = stored(tmp_path / "roofs", Kwargs={"gain": 0.5, "overlap": overlap})
    function = RasterFunction.load(
        convert(model, tmp_path / "open"), arguments={"padding": 0, "batch_size": 1, **asked}
    )
    (found,) = function.vectorize(scene(), np.ones((SIDE, SIDE), bool))
    assert ("Pond", 9) == (found.class_name, found.value)
    assert ((40, 24), (44, 32)) == (found.rings[0][0], found.rings[0][2])
    assert found.confidence == pytest.approx(100 * torch.sigmoid(0.5 * seen(scene()).max()).item())


@pytest.mark.parametrize("edges", [False, True])
def test_its_class_tells_classes_as_it_does_in_arcgis(tmp_path: Path, edges: bool) -> None:
    model = stored(tmp_path / "roofs", ModelType="ImageClassification", IsEdgeDetection=edges)
    model = convert(model, tmp_path / "open")
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    function.update_raster_info("u1", 3)
    found = function.update_pixels(scene(), np.ones((SIDE, SIDE), bool))
    expected = np.where(seen(scene()) > 0.5, 7, 0) if edges else np.where(seen(scene()) > 0, 9, 7)
    assert np.array_equal(expected, found[0])
    assert len(np.unique(found)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mode", "kind", "function"),
    [
        ("unet", "Classified_Tiles", "ImageClassification", "ClassifyPixels"),
        ("fcos", "PASCAL_VOC_rectangles", "ObjectDetection", "DetectObjects"),
    ],
)
def test_an_extension_of_ours_comes_back(network: str, mode: str, kind: str, function: str, tmp_path: Path) -> None:
    model, net = trained(tmp_path / "town", network, mode, kind, function)
    package = package_model(model, tmp_path / "town.dlpk", flavour="extension")
    back = convert(open_model(package, tmp_path / "unpacked"), tmp_path / "back")
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE)).astype(np.uint8)
    with torch.inference_mode():
        (expected,) = net(as_we_have_it(torch.from_numpy(pixels)[None].float()))
    if function == "ClassifyPixels":
        runs = RasterFunction.load(back, arguments={"padding": 0, "batch_size": 1})
        runs.update_raster_info("u1", 3)
        found = runs.update_pixels(pixels, np.ones((SIDE, SIDE), bool))[0]
        assert (np.array([0, 1, 2])[expected.max(0)[1].numpy()] != found).mean() < 1e-3
    else:
        arguments = {"padding": 0, "batch_size": 1, "threshold": 0.1, "nms_overlap": 1}
        objects = RasterFunction.load(back, arguments=arguments).vectorize(pixels, np.ones((SIDE, SIDE), bool))
        scores = expected["scores"][expected["scores"] >= 0.1].tolist()
        assert np.allclose(sorted(scores), sorted(one.confidence / 100 for one in objects), atol=1e-4)
        assert len(scores) > 3


def test_nothing_of_it_is_run_before_it_is_trusted(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    model = stored(tmp_path / "roofs", f"open({json.dumps(str(trap))}, 'w')\nclass Brightest: pass\n")
    made = convert(model, tmp_path / "open")
    assert not trap.exists()
    assert not is_trusted(made)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (None, {}),
        (BY_HAND, {"ModelConfigurationFile": "../roofs/ModelConfiguration.py"}),
        (BY_HAND, {"ModelConfigurationFile": "roofs.emd"}),
        (BY_HAND, {"ModelFileConfigurationClass": None}),
    ],
)
def test_a_class_that_is_not_there_is_missed(tmp_path: Path, source: str | None, more: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="the class that makes the network is not in the package"):
        convert(stored(tmp_path / "roofs", source, **more), tmp_path / "open")
    assert not (tmp_path / "open").exists()
