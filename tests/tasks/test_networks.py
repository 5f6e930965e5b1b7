"""Every network gets these tests by being there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from registry import plugins
from tasks import networks
from tasks.weights import load_backbone

NAMES = plugins.names(networks)
BACKBONE = {"backbone": "resnet18"}


def build(name: str, bands: int = 3, classes: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    return plugins.load(networks, name).build(bands, classes, **(BACKBONE | options))


def targets(name: str, images: torch.Tensor) -> Any:
    """One bright square of class 2 in each image, as the network wants to be told."""
    images[:, :, 16:40, 8:32] = 2.0
    if "detect_objects" in plugins.load(networks, name).SERVES:
        return [{"boxes": torch.tensor([[8.0, 16, 32, 40]]), "labels": torch.tensor([2])} for _ in images]
    mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64)
    mask[:, 16:40, 8:32] = 2
    return mask


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bands", [1, 3, 4, 13])
def test_it_takes_any_number_of_bands(name: str, bands: int) -> None:
    images = torch.zeros(1, bands, 64, 64)
    assert torch.isfinite(build(name, bands).train().loss(images, targets(name, images)))


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_the_raster_function_expects(name: str) -> None:
    network = build(name).eval()
    with torch.inference_mode():
        answer = network(torch.randn(2, 3, 100, 70))  # odd sizes too
    if "detect_objects" in plugins.load(networks, name).SERVES:
        assert [{"boxes", "labels", "scores"}] * 2 == [set(found) for found in answer]
        assert all(found["boxes"].shape == (len(found["scores"]), 4) for found in answer)
    else:
        assert (2, 3, 100, 70) == tuple(answer.shape)


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_survive_the_disk(name: str, tmp_path: Path) -> None:
    one, two = build(name).eval(), build(name).eval()
    torch.save(one.state_dict(), tmp_path / "weights.pth")
    two.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        answers = [network(image) for network in (one, two)]
    if isinstance(answers[0], torch.Tensor):
        assert torch.equal(*answers)
    else:
        assert torch.equal(answers[0][0]["boxes"], answers[1][0]["boxes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_two_chips_by_heart(name: str) -> None:
    network = build(name).train()
    images = torch.randn(2, 3, 64, 64) * 0.3
    truth = targets(name, images)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    first = float(network.loss(images, truth).detach())
    for _ in range(30):
        loss = network.loss(images, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first / 3


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_without_objects_is_a_number(name: str) -> None:
    images = torch.randn(1, 3, 64, 64)
    truth: Any = torch.full((1, 64, 64), -1)
    if "detect_objects" in plugins.load(networks, name).SERVES:
        truth = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    assert torch.isfinite(build(name).train().loss(images, truth))


def test_a_detector_sees_images_as_they_come() -> None:
    images, _ = build("faster_rcnn").eval().network.transform([torch.ones(3, 64, 64)])
    assert torch.equal(torch.ones(1, 3, 64, 64), images.tensors)


@pytest.mark.parametrize(
    ("side", "finest", "anchor"), [(5.0, 4, 8.0), (15.0, 4, 12.0), (40.0, 8, 32.0), (500.0, 8, 48.0)]
)
def test_the_pyramid_begins_at_the_smaller_objects(side: float, finest: int, anchor: float) -> None:
    suggested = plugins.load(networks, "faster_rcnn").suggest([side] * 3 + [1000.0] * 7)
    assert {"finest": finest, "anchor": anchor} == suggested


@pytest.mark.parametrize(("name", "bands"), [("timm:tf_efficientnet_lite0", 3), ("timm:tf_efficientnet_lite0", 13)])
def test_an_installed_wheel_gives_pretrained_weights(name: str, bands: int) -> None:
    network = build("unet", bands, backbone=name)
    before = network.backbone.body.conv_stem.weight.detach().clone()
    assert "installed package" in load_backbone(network.backbone, name, "auto")
    after = network.backbone.body.conv_stem.weight
    assert before.shape == after.shape
    assert not torch.equal(before, after)


def test_weights_of_a_file_fit_any_backbone_of_torchvision(tmp_path: Path) -> None:
    import torchvision

    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    network = build("unet")
    load_backbone(network.backbone, "resnet18", str(tmp_path / "resnet18.pth"))
    stem = network.backbone.body.stages[0][0].weight
    assert torch.equal(whole.conv1.weight, stem)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "efficientnet_b0", "timm:tf_efficientnet_lite0"])
def test_a_backbone_halves_five_times(backbone: str) -> None:
    from tasks.networks._backbone import Backbone

    network = Backbone(backbone, 3).eval()
    assert [32, 16, 8, 4, 2] == [m.shape[-1] for m in network(torch.zeros(1, 3, 64, 64))]
    network.freeze()
    assert not all(p.requires_grad for p in network.parameters())
