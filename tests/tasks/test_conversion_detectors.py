"""One-stage detectors as ArcGIS trains them, written again: the same tile gives the same objects."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch.nn import functional

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from tasks.conversion import convert
from tasks.feature_sets import Detection
from tasks.host import RasterFunction
from tests.arcgis_models import DEVIATION, MEAN, convolved, deep, definition, layer, norm_layer, normed, resnet, stored


def values(answer: torch.Tensor, row: int, col: int, anchor: int, count: int) -> torch.Tensor:
    return answer[0, anchor * count : (anchor + 1) * count, row, col]


def subnet(state: dict[str, torch.Tensor], head: str, x: torch.Tensor) -> torch.Tensor:
    for i in range(4):
        x = normed(state, f"{head}.{i}.2", convolved(state, f"{head}.{i}.0", x, 1, 1).relu())
    return convolved(state, f"{head}.4", x, 1, 1)


def same_objects(found: list[Detection], expected: list[tuple[str, float, list[float]]]) -> None:
    """Class, score 0-1 and left, top, right, bottom of each."""
    assert len(found) == len(expected) > 5
    assert len({name for name, *_ in expected}) == 2
    for one in found:
        (left, top), (right, bottom) = one.rings[0][0], one.rings[0][2]
        ours = (one.confidence / 100, left, top, right, bottom)
        same = [other for other in expected if other[0] == one.class_name]
        nearest = min(same, key=lambda other: abs(other[1] - ours[0]))
        assert np.allclose((nearest[1], *nearest[2]), ours, atol=2e-3)


def detected(path: Path, model: ModelFolder, pixels: NDArray[Any]) -> list[Detection]:
    """By default as in ArcGIS, where nms_overlap is 0.1; it is asked of the network."""
    made, arguments = convert(model, path / "open"), {"padding": 0, "batch_size": 1, "threshold": 0.3}
    by_default, every = (
        RasterFunction.load(made, arguments={**arguments, **more}).vectorize(pixels, np.ones(pixels.shape[1:], bool))
        for more in ({}, {"nms_overlap": 1})
    )
    assert len(by_default) < len(every)
    return by_default


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "side", "until", "grids", "forms"),
    [  # last stage of the ResNet; of each grid kernel, stride and padding, or what the map before is scaled to
        (1, 128, 7, [4, 2, 1], [(3, 1, 1), (3, 1, 0), (2, 1, 0)]),
        (2, 256, 6, [16, 6, 1], [(3, 1, 1), 6, (6, 1, 0)]),
    ],
)
def test_a_single_shot_detector_gives_the_objects_that_it_gave(
    tmp_path: Path, version: int, side: int, until: int, grids: list[int], forms: list[int | tuple[int, int, int]]
) -> None:
    zooms, ratios = [0.7, 1.2], [[1.0, 0.5]]
    told: dict[str, Any] = {
        "SSDVersion": version,
        "Grids": grids,
        "Zooms": zooms,
        "Ratios": ratios,
        "ImageHeight": side,
    }
    state = {name: tensor for name, tensor in resnet(3, "0.").items() if int(name[2]) <= until}
    layer(state, "1.sconvs.0.conv", 256, 512 if until == 7 else 256, 3)
    norm_layer(state, "1.sconvs.0.bn", 256)
    for i, form in enumerate(forms):
        layer(state, f"1.sconvs.{i + 1}.conv", 256, 256, 3 if isinstance(form, int) else form[0])
        norm_layer(state, f"1.sconvs.{i + 1}.bn", 256)
        layer(state, f"1.oconvs.{i}.oconv1", 3 * 2, 256, 3)
        layer(state, f"1.oconvs.{i}.oconv2", 4 * 2, 256, 3)
    pixels = np.random.default_rng(0).integers(0, 255, (3, side, side)).astype(np.uint8)
    image, boxes, scores = torch.from_numpy(pixels)[None].float().sub(MEAN).div(DEVIATION), [], []
    with torch.inference_mode():
        x = deep(state, image, "0.", {}, until).relu()
        state["1.sconvs.0.conv.weight"] /= x.std()  # so that no score is all but 1
        x = normed(state, "1.sconvs.0.bn", convolved(state, "1.sconvs.0.conv", x, 1, 1).relu())
        for i, (grid, form) in enumerate(zip(grids, forms, strict=True)):
            x = functional.interpolate(x, (form, form)) if isinstance(form, int) else x
            x = convolved(state, f"1.sconvs.{i + 1}.conv", x, *((1, 1) if isinstance(form, int) else form[1:]))
            x = normed(state, f"1.sconvs.{i + 1}.bn", x.relu())
            score, box = (convolved(state, f"1.oconvs.{i}.{name}", x, 1, 1) for name in ("oconv1", "oconv2"))
            for row, col, (k, zoom) in product(range(grid), range(grid), enumerate(zooms)):
                down, right, taller, wider = (values(box, row, col, k, 4).tanh() / 2).tolist()
                y, x0 = (row + 0.5 + down) * side / grid, (col + 0.5 + right) * side / grid
                height, width = (1 + taller) * zoom * side / grid, (1 + wider) * zoom * side / grid / 2
                boxes.append([x0 - width / 2, y - height / 2, x0 + width / 2, y + height / 2])
                scores.append(values(score, row, col, k, 3).sigmoid().tolist())
    expected = []
    for label, name in ((1, "Roof"), (2, "Pond")):
        likely = sorted((i for i in range(len(boxes)) if scores[i][label] > 0.3), key=lambda i: -scores[i][label])[:50]
        chosen, sure = torch.tensor([boxes[i] for i in likely]), torch.tensor([scores[i][label] for i in likely])
        kept = [likely[i] for i in torchvision.ops.nms(chosen, sure, 0.1)]
        expected += [(name, scores[i][label], boxes[i]) for i in kept if boxes[i][3] > 0]
    told["ImageWidth"] = side
    emd = definition(ModelName="SingleShotDetector", ModelType="ObjectDetection", **told)
    same_objects(detected(tmp_path, stored(tmp_path / "roofs", emd, state), pixels), expected)


@pytest.mark.slow
def test_a_retinanet_gives_the_objects_that_it_gave(tmp_path: Path) -> None:
    side, scales, ratios = 128, [1.0, 0.5], [0.5, 2.0]
    state = resnet(3, "encoder.")
    for name, bands, kernel in (("c5top5", 512, 1), ("c5top6", 512, 3), ("p6top7.1", 256, 3)):
        layer(state, name, 256, bands, kernel)
    for i in (0, 1, 2):
        layer(state, f"smoothers.{i}", 256, 256, 3)
    for i, bands in ((0, 256), (1, 128)):
        layer(state, f"merges.{i}.conv_lat", 256, bands, 1)
    for head, count in (("classifier", 2), ("box_regressor", 4)):
        for i in range(4):
            layer(state, f"{head}.{i}.0", 256, 256, 3)
            norm_layer(state, f"{head}.{i}.2", 256)
        layer(state, f"{head}.4", count * 4, 256, 3)
    state["classifier.4.bias"] -= 1.5
    pixels = np.random.default_rng(0).integers(0, 255, (3, side, side)).astype(np.uint8)
    image, boxes, scores = torch.from_numpy(pixels)[None].float().sub(MEAN).div(DEVIATION), [], []

    with torch.inference_mode():
        three, four, five = (deep(state, image, "encoder.", {}, until=stage) for stage in (5, 6, 7))
        for name, maps in {
            "merges.1.conv_lat": three,
            "merges.0.conv_lat": four,
            "c5top5": five,
            "c5top6": five,
        }.items():
            state[f"{name}.weight"] /= maps.std()  # so that no score is all but 1
        six = convolved(state, "c5top6", five, 2, 1)
        levels = [convolved(state, "c5top5", five), six, convolved(state, "p6top7.1", six.relu(), 2, 1)]
        for i, finer in enumerate((four, three)):
            size = [2 * n for n in levels[0].shape[2:]]
            lateral = functional.interpolate(convolved(state, f"merges.{i}.conv_lat", finer), size)
            levels.insert(0, lateral + functional.interpolate(levels[0], size))
        levels = [convolved(state, f"smoothers.{i}", x, 1, 1) for i, x in enumerate(levels[:3])] + levels[3:]
        for x in levels:
            score, box, grid = subnet(state, "classifier", x), subnet(state, "box_regressor", x), x.shape[-1]
            shapes = enumerate(product(ratios, scales))
            for row, col, (k, (ratio, scale)) in product(range(grid), range(grid), shapes):
                height, width = (4 * scale * ratio**p * side / grid for p in (0.5, -0.5))
                down, right = (0.1 * values(box, row, col, k, 4)[:2]).tolist()
                y, x0 = (row + 0.5) * side / grid + down * height, (col + 0.5) * side / grid + right * width
                height, width = height * np.exp(down), width * np.exp(right)  # by the numbers that move it
                corners = np.clip([x0 - width / 2, y - height / 2, x0 + width / 2, y + height / 2], 0, side)
                boxes.append(corners.tolist())
                scores.append(values(score, row, col, k, 2).sigmoid())
    best, label = torch.stack(scores).max(1)
    sure = best > 0.3
    kept = sure.nonzero()[:, 0][torchvision.ops.nms(torch.tensor(boxes)[sure], best[sure], 0.1)]
    expected = [(("Roof", "Pond")[label[i]], float(best[i]), boxes[i]) for i in kept.tolist()]
    parameters = {"backbone": "resnet18", "backend": "pytorch", "scales": scales, "ratios": ratios}
    told = {"ModelParameters": parameters, "ImageHeight": side, "ImageWidth": side}
    emd = definition(ModelName="RetinaNet", ModelType="ObjectDetection", **told)
    same_objects(detected(tmp_path, stored(tmp_path / "roofs", emd, state), pixels), expected)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "tells its network in part only.*'Grids'.*as ArcGIS saved it"),
        (
            {"Grids": [3, 2], "Zooms": [1.0], "Ratios": [[1]]},
            "tells its network in part only|no network is of this kind",
        ),
        (
            {"Grids": [17], "Zooms": [1.0], "Ratios": [[1, 1]], "SSDVersion": 1},
            "no convolution leads from 2 to 17 cells",
        ),
        ({"Grids": 4, "Zooms": [1.0], "Ratios": [[1, 1]]}, "no network is of this kind"),
    ],
)
def test_a_definition_that_is_not_whole_is_told(tmp_path: Path, told: dict[str, Any], message: str) -> None:
    emd = definition(ModelName="SingleShotDetector", ModelType="ObjectDetection", **told)
    with pytest.raises(OptionsError, match=message):
        convert(stored(tmp_path / "roofs", emd, {}), tmp_path / "open")
    assert not (tmp_path / "open").exists()
