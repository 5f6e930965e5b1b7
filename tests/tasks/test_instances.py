"""Outlines out of masks, from the network that draws them to the features on the map."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.dlpk import ModelFolder
from registry.emd import Emd
from tasks import town
from tasks.detect_objects import detect_objects
from tasks.host import RasterFunction
from tasks.inference_options import DetectOptions
from tasks.networks import mask_rcnn
from tasks.raster_functions._outlines import outline
from tasks.travelling import travelling


def polygon(mask: NDArray[Any]) -> shapely.Polygon:
    rings = outline(mask)
    return shapely.Polygon(rings[0], rings[1:]) if rings else shapely.Polygon()


def disc(side: int, x: float, y: float, radius: float) -> NDArray[np.float32]:
    """A probability that is 0.5 at the rim and changes by 0.1 a pixel."""
    rows, cols = np.mgrid[:side, :side] + 0.5
    soft: NDArray[np.float32] = np.clip(0.5 + (radius - np.hypot(cols - x, rows - y)) / 10, 0, 1).astype(np.float32)
    return soft


def test_a_square_is_outlined_by_its_sides_and_its_corners_are_cut_by_half_a_pixel() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:10, 2:14] = True
    assert (2, 4, 14, 10) == polygon(mask).bounds
    assert 8 == len(outline(mask)[0])
    assert 6 * 12 - 4 / 8 == polygon(mask).area


def test_a_soft_rim_is_followed_between_the_pixels() -> None:
    points = outline(disc(64, 30.3, 25.8, 14.6))[0]
    assert 14.6 == pytest.approx(np.hypot(*(points - [30.3, 25.8]).T), abs=0.02)


def test_an_object_that_the_tile_cuts_ends_at_its_edge() -> None:
    assert (0, 0, 6, 9) == pytest.approx(polygon(np.pad(np.ones((9, 6)), ((0, 3), (0, 2)))).bounds)
    assert (0, 0, 5, 5) == polygon(np.ones((5, 5), bool)).bounds


def test_a_hole_is_a_ring_of_its_own_and_one_elsewhere_is_not() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:20, 2:20], mask[8:12, 8:12] = True, False
    mask[25:35, 25:35], mask[28:32, 28:32] = True, False  # the smaller patch
    first = polygon(mask)
    assert [(8, 8, 12, 12)] == [shapely.Polygon(hole).bounds for hole in first.interiors]
    assert (2, 2, 20, 20) == first.bounds


def test_patches_that_touch_at_a_corner_are_two() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = mask[10:13, 10:13] = True
    assert (2, 2, 10, 10) == polygon(mask).bounds


def test_nothing_has_no_outline() -> None:
    assert [] == outline(np.full((8, 8), 0.49))


@pytest.mark.slow
@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=7, max_size=7), min_size=7, max_size=7))
def test_whatever_the_mask_the_outline_is_a_valid_polygon_of_nearly_its_area(rows: list[list[float]]) -> None:
    mask = np.array(rows)
    found = polygon(mask)
    assert found.is_valid
    assert found.is_empty == (mask < 0.5).all()
    assert 49 >= found.area


def drawn(make_model: Any, **arguments: Any) -> RasterFunction:
    return RasterFunction.load(make_model("drawn", ModelType="InstanceDetection"), arguments=arguments)


def bright(mask: NDArray[np.float32]) -> tuple[Any, Any]:
    """A picture, padded by a quarter of the tile, that the network `drawn` turns into this mask."""
    pixels = np.pad(mask * 200, 16)[None].astype(np.float32)
    return pixels, np.ones(pixels.shape[1:], bool)


@pytest.mark.parametrize("augmented", ["False", "True"])
def test_an_object_is_outlined_in_pixels_of_the_block(make_model: Any, augmented: str) -> None:
    function = drawn(make_model, batch_size=1, test_time_augmentation=augmented)
    [found] = function.vectorize(*bright(disc(32, 17.3, 12.8, 9)))
    assert 9 == pytest.approx(np.hypot(*(np.array(found.rings[0]) - [17.3, 12.8]).T), abs=0.03)
    assert 1 == found.value
    assert 90 == pytest.approx(found.confidence)


def test_boxes_are_given_where_they_are_asked_for(make_model: Any) -> None:
    [found] = drawn(make_model, batch_size=1, return_bboxes="True").vectorize(*bright(disc(32, 16, 16, 8.5)))
    assert (((8, 8), (24, 8), (24, 24), (8, 24)),) == found.rings


def test_only_a_model_of_instances_is_asked_for_boxes(make_model: Any) -> None:
    boxes = RasterFunction.load(make_model("squares", "boxes"))
    assert "return_bboxes" not in {p.name for p in boxes.parameters}
    assert "return_bboxes" == drawn(make_model).parameters[-1].name


@pytest.mark.parametrize(("policy", "confidences"), [("mean", [11.25] * 8), ("max", [90.0] * 8), ("min", [0.0] * 8)])
def test_what_only_one_of_eight_views_sees_counts_by_the_merge_policy(
    make_model: Any, policy: str, confidences: list[float]
) -> None:
    model = make_model("constant", NetworkOptions={"box": [17, 20, 25, 30], "score": 0.9})
    arguments = {"batch_size": 1, "test_time_augmentation": "True", "merge_policy": policy, "threshold": 0}
    pixels, valid = np.full((1, 64, 64), 10, np.uint8), np.ones((64, 64), bool)
    found = RasterFunction.load(model, arguments=arguments).vectorize(pixels, valid)
    assert pytest.approx(confidences, abs=1e-3) == [d.confidence for d in found]
    boxes = {tuple(np.ravel([min(d.rings[0]), max(d.rings[0])]).tolist()) for d in found}
    assert {(1, 4, 9, 14), (23, 4, 31, 14), (1, 18, 9, 28), (4, 1, 14, 9)} < boxes


def test_views_that_agree_make_one_object(make_model: Any) -> None:
    pixels = np.full((1, 96, 96), 10, np.uint8)
    pixels[0, 40:52, 30:50] = 150
    function = RasterFunction.load(make_model(), arguments={"test_time_augmentation": "True"})
    [found] = function.vectorize(pixels, np.ones((96, 96), bool))
    assert [((14, 24), (34, 24), (34, 36), (14, 36))] == list(found.rings)
    assert 75 == found.confidence


@pytest.mark.slow
def test_roofs_of_the_town_are_drawn_on_the_map(tmp_path: Path) -> None:
    image, _ = town.write(tmp_path / "town", noise=5)
    model = trained(tmp_path / "town_roofs", town.pixels(noise=5))
    options = DetectOptions(arguments={"padding": "16", "threshold": "0.8"})
    out = detect_objects(model, image, tmp_path / "roofs.gpkg", options)
    found = geopandas.read_file(out)
    roofs = [town.outline(box) for box in town.ROOFS]
    assert len(roofs) <= len(found)  # a few steps of training leave some doubtful outlines beside the roofs
    overlaps = [max(r.intersection(f).area / r.union(f).area for f in found.geometry) for r in roofs]
    assert min(overlaps) > 0.7
    assert all(found.geometry.is_valid)
    assert any(len(geometry.exterior.coords) > 5 for geometry in found.geometry)  # outlines, not boxes


def trained(folder: Path, pixels: NDArray[np.uint8]) -> ModelFolder:
    """A Mask R-CNN that has seen the roofs of the town in a few steps, in a folder as training leaves it."""
    torch.manual_seed(0)
    mean, std = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
    whole = torch.from_numpy((pixels - mean[:, None, None]) / std[:, None, None]).float()
    options: dict[str, Any] = {"backbone": "resnet18", "finest": 4, "anchor": 12.0}
    options |= {"depth": 64, "box_batch_size_per_image": 48}
    network: Any = mask_rcnn.build(4, 1, **options).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    corners = [(row, col) for row in (0, 16, 32) for col in (0, 16, 32)]
    for step in range(45):
        chosen = [corners[(3 * step + i) % 9] for i in range(3)]
        images = torch.stack([whole[:, r : r + 64, c : c + 64] for r, c in chosen])
        loss = network.loss(images, [roofs_within(r, c, 64) for r, c in chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.mkdir()
    torch.save(network.state_dict(), folder / "roofs.pth")
    for source in travelling("DetectObjects", "mask_rcnn"):
        (folder / source.name).write_text(source.read_text())
    bands = zip(town.BANDS, mean.tolist(), std.tolist(), strict=True)
    statistics = [{"BandName": name, "Mean": m, "StdDev": s} for name, m, s in bands]
    definition: dict[str, Any] = {
        "Framework": "PyTorch",
        "ModelConfiguration": "mask_rcnn",
        "ModelType": "InstanceDetection",
    }
    definition |= {"InferenceFunction": "DetectObjects.py", "ModelFile": "roofs.pth", "NetworkOptions": options}
    definition |= {"ImageHeight": 64, "ImageWidth": 64, "ExtractBands": [0, 1, 2, 3], "AllTilesStats": statistics}
    definition |= {"Classes": [{"Value": 1, "Name": "roof", "Color": [230, 60, 40]}]}
    Emd(definition).write(folder / f"{folder.name}.emd")
    return ModelFolder(folder)


def roofs_within(row: int, col: int, side: int) -> dict[str, torch.Tensor]:
    """The roofs of a window, cut at its edges; slivers are left out."""
    shift = np.array([col, row, col, row])
    boxes = [np.clip(np.array(roof) - shift, 0, side) for roof in town.ROOFS]
    boxes = [box for box in boxes if (box[2:] - box[:2]).min() > 5]
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (xmin, ymin, xmax, ymax) in zip(masks, boxes, strict=True):
        mask[ymin:ymax, xmin:xmax] = True
    corners = torch.tensor(np.array(boxes).reshape(-1, 4)).float()
    return {"boxes": corners, "labels": torch.ones(len(boxes), dtype=torch.int64), "masks": masks}
