"""Every network gets these tests by being there, with targets by what it serves."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from registry import plugins
from tasks import networks, raster_functions
from tasks.augment import IGNORED
from tasks.networks._mixup import mixup_loss
from tasks.networks._points import Points
from tasks.networks._resized import Resized
from tasks.networks._segmentation import PixelLoss
from tasks.networks.faster_rcnn import roi_pool
from tasks.travelling import travelling, with_siblings
from tasks.weights import load_backbone

NAMES = plugins.names(networks)
SIDE = 64  # pixels of a test image
BOXES = torch.tensor([[8.0, 16, 32, 40], [40, 44, 60, 60]])  # of a bright square of class 2, a dark one of class 1
LABELS = torch.tensor([2, 1])


def serves(name: str) -> str:
    task: str = plugins.load(networks, name).SERVES[0]
    return task


ADDING = [  # options that add parts to a network
    ("change_detector", {"attention_type": "PAM"}),
    ("change_detector", {"attention_type": "BAM"}),
    ("deeplab", {"pointrend": True}),
    ("mask_rcnn", {"pointrend": True, "finest": 8}),
    ("pspnet", {"pointrend": True}),
    ("pspnet", {"unet_aux_loss": True}),
    ("unet", {"detail": 16}),
]
VARIANTS = [*ADDING, ("ssd", {"drop": 0.3, "bias": -4.0, "focal": 2.0, "location_loss_factor": 0.3})]


def serving(task: str) -> list[str]:
    return [name for name in NAMES if serves(name) == task]


def build(name: str, bands: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    classes = 1 if serves(name) == "detect_change" else 2
    return plugins.load(networks, name).build(bands, classes, **({"backbone": "resnet18"} | options))


def dates(name: str) -> int:
    return 2 if serves(name) == "detect_change" else 1


def example(name: str, bands: int = 3) -> tuple[torch.Tensor, Any]:
    """Two images of noise: the first shows the bright square, the second both; and what the network is told of them."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, dates(name) * bands, SIDE, SIDE, generator=generator) * 0.3
    images[:, -bands:, 16:40, 8:32] += 2.0
    images[1, -bands:, 44:60, 40:60] -= 2.0
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 16:40, 8:32] = masks[1, 44:60, 40:60] = True
    objects = [{"boxes": BOXES[:n], "labels": LABELS[:n], "masks": masks[:n]} for n in (1, 2)]
    pixels = torch.stack([masks[0] * 2, masks[0] * 2 + masks[1]]).long()
    return images, {
        "detect_objects": objects,
        "classify_pixels": pixels,
        "detect_change": (pixels > 0).long(),
        "classify_objects": torch.tensor([1, 0]),
    }[serves(name)]


def without_objects(name: str) -> Any:
    """Targets of two images in which there is nothing to learn from."""
    if serves(name) != "detect_objects":
        return torch.full((2, SIDE, SIDE), IGNORED)
    no_masks = torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
    return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": no_masks}] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bands", [1, 3, 4, 13])
def test_it_takes_any_number_of_bands(name: str, bands: int) -> None:
    assert torch.isfinite(build(name, bands).train().loss(*example(name, bands)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), *VARIANTS])
def test_it_answers_as_the_raster_function_expects(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options).eval()
    with torch.inference_mode():
        answer = network(torch.randn(2, 3 * dates(name), 100, 70))  # odd sizes too
    if serves(name) != "detect_objects":
        shapes = {"classify_pixels": (2, 3, 100, 70), "detect_change": (2, 2, 100, 70), "classify_objects": (2, 2)}
        assert shapes[serves(name)] == tuple(answer.shape)
        return
    parts = {"boxes", "labels", "scores"} | ({"masks"} if draws(name) else set())
    assert [parts] * 2 == [set(found) for found in answer]
    for found in answer:
        assert (4,) == found["boxes"].shape[1:]
        assert 1 == len({len(part) for part in found.values()})
        assert torch.int64 == found["labels"].dtype
        assert (found["scores"] >= 0.05).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([70, 100, 70, 100])).all()
        assert not draws(name) or (100, 70) == found["masks"].shape[1:]


def draws(name: str) -> bool:
    return getattr(plugins.load(networks, name), "INSTANCES", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_weights_survive_the_disk(name: str, tmp_path: Path) -> None:
    one, two = build(name).eval(), build(name).eval()
    for parameter in one.parameters():
        parameter.data.mul_(0.9)
    torch.save(one.state_dict(), tmp_path / "weights.pth")
    two.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    with torch.inference_mode():
        answers = [[*flat(network(example(name)[0])), seeded_loss(network, name)] for network in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def seeded_loss(network: Any, name: str) -> torch.Tensor:
    torch.manual_seed(0)  # two-stage detectors draw samples
    loss: torch.Tensor = network.loss(*example(name))
    return loss


def flat(answer: Any) -> list[torch.Tensor]:
    return [answer] if isinstance(answer, torch.Tensor) else [part for found in answer for part in found.values()]


SMALLER = {"mask_rcnn": {"depth": 64, "box_batch_size_per_image": 64}}  # learns the same in a third of the time
# DLPK_EVERY_NETWORK=1 asks all variants, which takes minutes
OFTEN = (
    VARIANTS if os.environ.get("DLPK_EVERY_NETWORK") else [("pspnet", {"pointrend": True}), ("unet", {"detail": 16})]
)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [*((name, SMALLER.get(name, {})) for name in NAMES), *OFTEN])
def test_it_learns_two_chips_by_heart(name: str, options: dict[str, Any]) -> None:
    network = build(name, **options)
    images, truth = example(name)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    losses: list[float] = []
    while len(losses) < 60:
        for _ in range(10):
            loss = network.train().loss(images, truth)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        with suppress(AssertionError) if len(losses) < 60 else nullcontext(), torch.inference_mode():
            assert min(losses[-5:]) < losses[0] / 2
            knows_by_heart(name, network.eval()(images), truth)
            return


def knows_by_heart(name: str, answer: Any, truth: Any) -> None:
    if serves(name) == "classify_objects":
        assert torch.equal(truth, answer.argmax(dim=1))
    elif serves(name) != "detect_objects":
        assert (truth == answer.argmax(dim=1)).float().mean() > 0.97
    else:
        for found, real in zip(answer, truth, strict=True):
            best = found["scores"].argsort(descending=True)[: len(real["labels"])]
            assert len(best) == len(real["labels"])
            overlaps = box_iou(found["boxes"][best], real["boxes"])
            same = found["labels"][best][:, None] == real["labels"]
            assert (torch.where(same, overlaps, 0.0).amax(dim=0) > 0.7).all()
            assert (found["scores"][best] > 0.5).all()
            if draws(name):
                drawn = (found["masks"][best] > 0.5).sum(dim=(1, 2)).sort()[0]
                assert (drawn / real["masks"].sum(dim=(1, 2)).sort()[0] - 1).abs().max() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if serves(name) != "classify_objects"])
def test_a_loss_without_objects_is_a_number(name: str) -> None:
    assert torch.isfinite(build(name).train().loss(example(name)[0], without_objects(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_in_validation_leaves_the_network_as_it_was(name: str) -> None:
    network = build(name).eval()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.inference_mode():
        assert torch.isfinite(network.loss(*example(name)))
    assert not network.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in NAMES), ("segformer", {"backbone": "mit_b0"})])
@pytest.mark.parametrize("adapted", [False, True])
def test_its_backbone_can_be_frozen(name: str, options: dict[str, Any], adapted: bool) -> None:
    network = build(name, **options)
    network.backbone.freeze(adapted=adapted)
    frozen = [p for p in network.parameters() if not p.requires_grad]
    assert 0 < len(frozen) < len(list(network.backbone.parameters()))
    first = next(module for module in network.backbone.modules() if isinstance(module, torch.nn.Conv2d))
    assert adapted == first.weight.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_options_go_through_json(name: str) -> None:
    signature = inspect.signature(plugins.load(networks, name).build)
    options = {n: p.default for n, p in signature.parameters.items() if n not in {"bands", "classes", "backbone"}}
    given = {n: d for n, d in options.items() if d is not inspect.Parameter.empty}
    assert isinstance(build(name, **json.loads(json.dumps(given))), torch.nn.Module)


def test_points_name_again_what_is_in_doubt_and_nothing_else() -> None:
    torch.manual_seed(0)
    points = Points(2, 3)
    sure, doubtful = torch.tensor([9.0, 0, 0]), torch.tensor([1.0, 1, 0])
    logits = torch.stack([sure, doubtful], 1)[None, :, None].repeat(
        2, 1, 4, 2
    )  # columns sure, doubtful, sure, doubtful
    maps = {"logits": logits, "fine": torch.randn(2, 2, 8, 8)}
    before = torch.nn.functional.interpolate(logits, size=(8, 8), mode="bilinear")
    after = points.refined(maps, torch.zeros(2, 3, 8, 8))
    likely = before.softmax(dim=1).sort(dim=1)[0]
    changed = (before != after).any(dim=1)
    assert torch.equal(likely[:, 2] - likely[:, 1] < 0.5, changed)
    assert 0 < changed.float().mean() < 1
    there = after[1, :, 3, 7]  # a pixel in doubt, by hand: its own coarse logits and the fine map's middle
    assert torch.allclose(points(maps["fine"][1, :, 3, 7][None], before[1, :, 3, 7][None])[0], there, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), ADDING)
def test_an_option_adds_parts_and_all_of_the_network_is_taught(name: str, options: dict[str, Any]) -> None:
    plain, network = build(name), build(name, **options).train()
    assert set(dict(network.named_parameters())) - set(dict(plain.named_parameters()))
    network.loss(*example(name)).backward()
    assert [] == [key for key, parameter in network.named_parameters() if parameter.grad is None]


def test_points_learn_where_pixels_have_a_class() -> None:
    torch.manual_seed(0)
    points, truth = Points(2, 3), torch.full((2, 32, 32), IGNORED)
    maps = {"logits": torch.randn(2, 3, 8, 8), "fine": torch.randn(2, 2, 16, 16)}
    assert 0 == float(points.loss(maps, truth, PixelLoss(dice=0)).detach())
    truth[:, 8:24] = 1
    assert 0 < float(points.loss(maps, truth, PixelLoss(dice=0)).detach())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if serves(name) != "detect_objects"])
def test_mixup_learns_from_both_truths(name: str) -> None:
    images, truth = example(name)
    plain, network = build(name).eval(), build(name, mixup=True).eval()  # of the same weights
    assert torch.equal(plain.loss(images, truth), network.loss(images, truth))
    assert torch.isfinite(network.train().loss(images, truth))


def test_the_share_of_each_truth_is_that_of_its_image() -> None:
    images, truth = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    apart = []
    for seed in range(20):
        torch.manual_seed(seed)
        apart.append(
            float(mixup_loss(torch.nn.Identity(), lambda answers, wanted: (answers - wanted).mean(), images, truth))
        )
    assert max(map(abs, apart)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in serving("detect_objects") if name not in ("fcos", "rt_detr")])
def test_anchors_are_of_the_shapes_and_sizes_asked_for(name: str) -> None:
    network = build(name, ratios=[1.0], scales=[1.0, 2.0, 3.0])
    generators = [module for module in network.modules() if isinstance(module, AnchorGenerator)]
    assert [[3] * 4] == [generator.num_anchors_per_location() for generator in generators]
    assert torch.isfinite(network.train().loss(*example(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_two_stages_take_the_numbers_of_torchvision(name: str) -> None:
    network = build(name, rpn_nms_thresh=0.6, box_positive_fraction=0.4, box_score_thresh=0.3).network
    assert (0.6, 0.3) == (network.rpn.nms_thresh, network.roi_heads.score_thresh)
    assert 0.4 == network.roi_heads.fg_bg_sampler.positive_fraction
    with pytest.raises(TypeError, match=r"unknown arguments rpn_head; of the two stages there are rpn_pre_nms"):
        build(name, rpn_head=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", serving("detect_objects"))
@pytest.mark.parametrize("side", [3.0, 12.0, 40.0, 900.0])
def test_a_detector_fits_itself_to_the_size_of_its_objects(name: str, side: float) -> None:
    options = plugins.load(networks, name).suggest([side] * 3 + [1000.0] * 7)
    assert (4 if side < 20 else 8) == options["finest"]
    assert torch.isfinite(build(name, **options).train().loss(*example(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in serving("detect_objects") if name != "rt_detr"])
def test_a_detector_can_be_told_how_far_its_boxes_may_overlap(name: str) -> None:
    network = build(name)
    Resized(network, 32).suppress(0.8)
    thresholds = [part.nms_thresh for part in network.modules() if hasattr(part, "detections_per_img")]
    assert [0.8] == thresholds
    assert not hasattr(network.network, "rpn") or 0.7 == network.network.rpn.nms_thresh


class Parrot(torch.nn.Module):
    """Answers what it was last taught."""

    def loss(self, images: torch.Tensor, targets: Any) -> torch.Tensor:
        self.told = targets if isinstance(targets, list) else [*torch.nn.functional.one_hot(targets, 2)]
        self.shape = tuple(images.shape[2:])
        return images.sum()

    def forward(self, images: torch.Tensor) -> Any:
        if isinstance(self.told[0], dict):
            return self.told
        return 20 * torch.stack(self.told).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("side", "size"), [(64, 32), (64, 16), (96, 32), (64, 56), (32, 64)])
def test_a_class_stays_where_it_is_in_another_size(side: int, size: int) -> None:
    moved = []
    for offset in range(16):
        truth, network = torch.zeros(1, side, side, dtype=torch.long), Resized(Parrot(), size)
        truth[0, 4 + offset : 12 + offset, 4 + offset : 12 + offset] = 1
        network.loss(torch.zeros(1, 1, side, side), truth)
        found = network(torch.zeros(1, 1, side, side)).argmax(1)
        moved.append(found.nonzero().float().mean(0) - truth.nonzero().float().mean(0))
    assert torch.stack(moved).mean(0).abs().max() < 0.1


def test_tiles_that_are_not_square_keep_their_shape_in_another_size() -> None:
    network, images = Resized(Parrot(), 32), torch.zeros(1, 1, 64, 100)
    masks = torch.zeros(1, 64, 100, dtype=torch.bool)
    masks[0, 20:40, 60:80] = True
    truth = {"boxes": torch.tensor([[60.0, 20, 80, 40]]), "labels": torch.ones(1).long(), "masks": masks}
    network.loss(images, [truth])
    told = network.network.told[0]
    assert ((32, 50), (1, 32, 50)) == (network.network.shape, tuple(told["masks"].shape))
    assert ([[30, 10, 40, 20]], 100) == (told["boxes"].tolist(), told["masks"].sum())
    found = network(images)[0]
    assert ([[60, 20, 80, 40]], (1, 64, 100)) == (found["boxes"].tolist(), tuple(found["masks"].shape))
    assert torch.equal(masks, found["masks"])
    network.loss(torch.zeros(1, 1, 64, 101), masks[:, :, :1].expand(1, 64, 101).long())
    assert (1, 2, 64, 101) == tuple(network(torch.zeros(1, 1, 64, 101)).shape)


def test_a_crop_is_scaled_by_as_much_as_the_tile() -> None:
    network = Resized(Parrot(), 96, 64)
    for rows, cols, scaled in ((64, 64, (96, 96)), (32, 32, (48, 48)), (32, 50, (48, 75))):
        network.loss(torch.zeros(1, 1, rows, cols), torch.zeros(1, rows, cols).long())
        assert scaled == network.network.shape


def test_a_detector_sees_images_as_they_come() -> None:
    images, _ = build("faster_rcnn").eval().network.transform([torch.ones(3, 64, 64)])
    assert torch.equal(torch.ones(1, 3, 64, 64), images.tensors)


@pytest.mark.parametrize("side", [33, 45, 66, 100])
def test_boxes_are_read_where_they_lie_however_much_of_a_map_is_padding(side: int) -> None:
    pool, padded = roi_pool(4, 1), -(-side // 32) * 32
    places = [torch.arange(padded // stride) * float(stride) for stride in (4, 8, 16, 32)]  # where each cell lies
    maps = {str(level): place.expand(1, 1, len(place), -1) for level, place in enumerate(places)}
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    assert 16 == pytest.approx(float(pool(maps, [box], [(side, side)])))


@pytest.mark.parametrize(
    ("side", "finest", "anchor"), [(5.0, 4, 8.0), (15.0, 4, 12.0), (40.0, 8, 32.0), (500.0, 8, 48.0)]
)
def test_the_pyramid_begins_at_the_smaller_objects(side: float, finest: int, anchor: float) -> None:
    suggested = plugins.load(networks, "faster_rcnn").suggest([side] * 3 + [1000.0] * 7)
    assert {"finest": finest, "anchor": anchor} == suggested


ALONE = """
import importlib, json, sys, types
from pathlib import Path

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tasks", "registry", "flows", "scipy", "timm", "rasterio", "pytorch_lightning"}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Refused())
import torch

def run(folder):
    package = types.ModuleType("alone_" + folder.name)
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    module = importlib.import_module(package.__name__ + "." + folder.name)
    case = torch.load(folder / "case.pt", weights_only=True)
    network = module.build(**case["options"])
    network.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    loss = float(network.eval().loss(case["images"], case["targets"]).detach())
    with torch.inference_mode():
        answer = network(case["images"])
    parts = [answer] if hasattr(answer, "shape") else [part for found in answer for part in found.values()]
    return [loss, sum(float(part.sum()) for part in parts)]

print(json.dumps({folder.name: run(folder) for folder in sorted(Path(sys.argv[1]).iterdir())}))
"""


@pytest.mark.slow
def test_what_travels_runs_where_nothing_of_ours_is_installed(tmp_path: Path) -> None:
    expected = {}
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        for source in with_siblings(Path(networks.__path__[0]) / f"{name}.py"):
            shutil.copy(source, folder)
        network, (images, targets) = build(name).eval(), example(name)
        torch.save(network.state_dict(), folder / "weights.pth")
        options = {"bands": 3, "classes": 1 if dates(name) == 2 else 2, "backbone": "resnet18"}
        torch.save({"options": options, "images": images, "targets": targets}, folder / "case.pt")
        with torch.inference_mode():
            total = sum(float(part.sum()) for part in flat(network(images)))
        expected[name] = pytest.approx(total, rel=1e-3)
    python = os.environ.get("DLPK_OLD_PYTHON", sys.executable)
    command = [python, "-W", "ignore", "-I", "-c", ALONE, str(tmp_path)]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (0, "") == (answer.returncode, answer.stderr)
    found = json.loads(answer.stdout)
    assert expected == {name: total for name, (_, total) in found.items()}
    assert all(loss > 0 for loss, _ in found.values())


def test_a_package_carries_what_its_files_import_of_their_folders() -> None:
    names = [path.name for path in travelling("DetectObjects", "mask_rcnn")]
    expected = ["DetectObjects.py", "_outlines.py", "_tiles.py"]
    expected += ["_backbone.py", "_detection.py", "_mask_points.py", "_points.py", "faster_rcnn.py", "mask_rcnn.py"]
    assert expected == names


# What of torch and torchvision the travelling files may use. Before a name is added here, look it up in torch 2.0.1 or
# torchvision 0.15.2, the oldest that ArcGIS runs these files with.
OLD_TORCH = {
    "torch": """Tensor arange as_tensor cat cdist cuda device distributions div exp float32 from_numpy full_like
        inference_mode int64 load logit maximum meshgrid mul nan_to_num nn no_grad ones_like pow rand rand_like randperm
        sigmoid softmax split stack tensor where zeros zeros_like""",
    "torch.distributions": "Beta",
    "torch.nn": """AdaptiveAvgPool2d AvgPool2d BatchNorm2d Conv2d Dropout Dropout2d Flatten GroupNorm LayerNorm Linear
        MaxPool2d Module ModuleDict BatchNorm1d ModuleList MultiheadAttention ReLU GELU Identity Sequential
        TransformerEncoderLayer Parameter functional init""",
    "torch.nn.functional": """binary_cross_entropy_with_logits cross_entropy gelu grid_sample interpolate logsigmoid
        one_hot pad pixel_shuffle relu scaled_dot_product_attention softmax""",
    "torch.nn.init": "constant_ normal_ trunc_normal_ xavier_uniform_ zeros_",
    "torch.cuda": "device_count is_available mem_get_info set_device",
    "torchvision": "models ops",
    "torchvision.models.detection": "FCOS FasterRCNN MaskRCNN RetinaNet",
    "torchvision.models.detection.anchor_utils": "AnchorGenerator",
    "torchvision.models.detection.backbone_utils": "resnet_fpn_backbone",
    "torchvision.models.detection.fcos": "FCOSHead",
    "torchvision.models.detection.mask_rcnn": "MaskRCNNHeads MaskRCNNPredictor",
    "torchvision.models.detection.retinanet": "RetinaNetHead",
    "torchvision.models.detection.ssd": "SSD SSDHead",
    "torchvision.models.detection.transform": "GeneralizedRCNNTransform",
    "torchvision.models.resnet": "ResNet",
    "torchvision.models.segmentation.deeplabv3": "ASPP DeepLabHead",
    "torchvision.ops": """FeaturePyramidNetwork MLP MultiScaleRoIAlign box_convert box_iou generalized_box_iou
        generalized_box_iou_loss nms""",
}
KNOWN = {f"{module}.{name}" for module, names in OLD_TORCH.items() for name in names.split()}
MODULES = {"torch": "torch", "nn": "torch.nn", "torchvision": "torchvision"}  # as the travelling files call them
TRAVELLERS = [path for package in (networks, raster_functions) for path in Path(package.__path__[0]).glob("*.py")]


def used(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module takes out of torch and torchvision: by import, and as torch.x or nn.x.y."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in MODULES and re.fullmatch(r"[\w.]+", rest):
                yield f"{MODULES[root]}.{rest}"


@pytest.mark.parametrize("path", TRAVELLERS, ids=lambda path: path.stem)
def test_it_asks_torch_for_nothing_newer_than_the_oldest_arcgis_has(path: Path) -> None:
    names = {name for name in used(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("torch")}
    assert set() == names - KNOWN


def test_the_old_names_are_still_those_of_torch() -> None:
    gone = [n for n in KNOWN if not hasattr(importlib.import_module(n.rpartition(".")[0]), n.rpartition(".")[2])]
    assert [] == gone


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bands"), [("timm:tf_efficientnet_lite0", 3), ("timm:tf_efficientnet_lite0", 13)])
def test_an_installed_wheel_gives_pretrained_weights(name: str, bands: int) -> None:
    network = build("unet", bands, backbone=name)
    before = network.backbone.body.conv_stem.weight.detach().clone()
    assert "installed package" in load_backbone(network.backbone, name, "auto")
    after = network.backbone.body.conv_stem.weight
    assert before.shape == after.shape
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_weights_of_a_file_fit_any_backbone_of_torchvision(tmp_path: Path) -> None:
    import torchvision

    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    network = build("unet")
    load_backbone(network.backbone, "resnet18", str(tmp_path / "resnet18.pth"))
    stem = network.backbone.body.stages[0][0].weight
    assert torch.equal(whole.conv1.weight, stem)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "efficientnet_b0", "timm:tf_efficientnet_lite0"])
def test_a_backbone_halves_five_times(backbone: str) -> None:
    from tasks.networks._backbone import Backbone

    network = Backbone(backbone, 3).eval()
    assert [32, 16, 8, 4, 2] == [m.shape[-1] for m in network(torch.zeros(1, 3, 64, 64))]
    network.freeze()
    assert not all(p.requires_grad for p in network.parameters())
