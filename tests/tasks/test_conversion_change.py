"""A change detector as ArcGIS trains it, written again: the same two tiles give the same changes."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from tasks.conversion import convert
from tasks.host import RasterFunction
from tasks.inference_options import tool_of
from tests.arcgis_models import SIDE, convolved, definition, enlarged, layer, norm_layer, normed, stored


def adapted(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """Normalised by the statistics of what comes, so that it is not all negative."""
    norm_layer(state, name, x.shape[1])
    state |= {f"{name}.running_mean": x.mean(dim=(0, 2, 3)), f"{name}.running_var": x.var(dim=(0, 2, 3))}
    return normed(state, name, x)


def attention(state: dict[str, torch.Tensor], name: str, pair: torch.Tensor, size: int) -> torch.Tensor:
    """Of both dates (2, 64, rows, rows) over the places of the same square of `size` a side, square by square."""
    layer(state, f"{name}.f_value", 64, 64, 1)
    for part in ("f_key", "f_query"):
        layer(state, f"{name}.{part}.0", 8, 64, 1)
    key, query = (
        adapted(state, f"{name}.{p}.1", convolved(state, f"{name}.{p}.0", pair)) for p in ("f_key", "f_query")
    )
    value, out, side = convolved(state, f"{name}.f_value", pair), torch.zeros_like(pair), pair.shape[-1] // size
    for i, j in product(range(size), range(size)):
        here = (..., slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
        k, q, v = (maps[here].permute(0, 2, 3, 1).flatten(0, 2) for maps in (key, query, value))
        seen = (q @ k.T / 8**0.5).softmax(1) @ v
        out[here] = seen.view(2, side, side, 64).permute(0, 3, 1, 2)
    return out


def distance(state: dict[str, torch.Tensor], dates: torch.Tensor) -> torch.Tensor:
    """What STANet answers for (2, bands, rows, rows), whose layers are made on the way: how far apart the dates are."""
    body = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 2, 2, 3]).eval()
    state |= {f"netF.module.backbone.{name}": t for name, t in body.state_dict().items() if not name.startswith("fc.")}
    x = body.maxpool(body.bn1(body.conv1(dates)).relu())
    stages = [x := stage(x) for stage in (body.layer1, body.layer2, body.layer3)]
    for block, reach in zip(body.layer4, (1, 2, 4), strict=True):
        out = block.bn1(functional.conv2d(x, block.conv1.weight, None, block.stride, reach, reach)).relu()
        x = (block.bn2(block.conv2(out)) + (block.downsample(x) if block.downsample else x)).relu()
    narrow = []
    for name, maps in zip(("dr2", "dr3", "dr4", "dr5"), (*stages, x), strict=True):
        pre = f"netF.module.decoder.{name}"
        state[f"{pre}.conv1.weight"] = torch.randn(96, maps.shape[1], 1, 1) / maps.shape[1] ** 0.5 / maps.std()
        out = adapted(state, f"{pre}.bn1", functional.conv2d(maps, state[f"{pre}.conv1.weight"])).relu()
        narrow.append(enlarged(out, dates.shape[-1] // 4))
    x = torch.cat([narrow[3], *narrow[:3]], 1)
    for number, (out_maps, side) in {0: (256, 3), 4: (64, 1)}.items():
        pre = "netF.module.decoder.last_conv"
        state[f"{pre}.{number}.weight"] = torch.randn(out_maps, x.shape[1], side, side) / (x.shape[1] * side**2) ** 0.5
        x = functional.conv2d(x, state[f"{pre}.{number}.weight"], padding=side // 2)
        x = adapted(state, f"{pre}.{number + 1}", x).relu()
    x = torch.cat([attention(state, f"netA.Self_Att.stages.{i}", x, 2**i) for i in range(4)], 1)
    state["netA.Self_Att.conv_bn.0.weight"] = torch.randn(64, 256, 1, 1)
    one, two = functional.conv2d(x, state["netA.Self_Att.conv_bn.0.weight"])
    apart = (one - two + 1e-6).square().sum(dim=0).sqrt()
    state["netA.Self_Att.conv_bn.0.weight"] /= apart.median()  # so that about half of the pixels changed
    return enlarged(apart[None, None] / apart.median(), dates.shape[-1])[0, 0]


@pytest.mark.slow
def test_a_change_detector_finds_the_changes_that_it_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    told = {
        "ModelName": "ChangeDetector",
        "ModelType": "ImageClassification",
        "ModelConfiguration": "change_detection",
        "ModelParameters": {"backbone": "resnet18", "attention_type": "PAM"},
        "ExtractBands": [*range(6)],
        "Classes": [{"Value": 0, "Name": "Same", "Color": [0, 0, 0]}, {"Value": 7, "Name": "New", "Color": [9, 9, 9]}],
    }
    pixels = np.random.default_rng(0).integers(0, 255, (6, SIDE, SIDE)).astype(np.uint8)
    state = dict[str, torch.Tensor]()
    with torch.inference_mode():
        apart = distance(state, (torch.from_numpy(pixels).float() / 127.5 - 1).view(2, 3, SIDE, SIDE))
    model = convert(stored(tmp_path / "roofs", definition(**told), state), tmp_path / "open")
    assert "detect-change" == tool_of(model.emd)
    function = RasterFunction.load(model, arguments={"padding": 0, "batch_size": 1})
    function.update_raster_info("u1", 6)
    found = function.update_pixels(pixels, np.ones((SIDE, SIDE), bool))
    expected = np.where(apart > 1, 7, 0)
    assert 0.2 < (expected == 7).mean() < 0.8
    assert (expected != found[0]).mean() < 1e-3  # where it is about as far
