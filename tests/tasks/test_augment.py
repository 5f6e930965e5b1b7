"""What is done to chips: boxes and masks stay on their pixels, and a file does the same again."""

import json
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest

from registry.errors import OptionsError
from tasks import augment
from tasks.chips import Chip, ChipFolder
from tasks.loading import Chips, Loading, check_augmentation
from tasks.train_options import TrainOptions
from tests.chips_by_hand import write_chips

SIDE = 64
SQUARES = ((8, 12, 24, 28), (36, 30, 56, 50))  # xmin ymin xmax ymax
ROOF = [{"Value": 1, "Name": "Roof", "Color": [230, 60, 40]}]
EVERY = {"rotate": "30.0;1.0", "brightness": "(0.45,0.55);1.0", "contrast": "(0.9,1.1);1.0", "zoom": "(0.9,1.1);1.0"}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "none": {"augmentation": "NONE"},
    "custom": {"augmentation": "CUSTOM", "augmentation_parameters": EVERY},
    "crop": {"augmentation": "CUSTOM", "augmentation_parameters": {"crop": "48;1.0"}},
    "chip_size": {"chip_size": 48},
}
FORMATS = {"boxes": "PASCAL_VOC_rectangles", "mask": "Classified_Tiles", "instances": "RCNN_Masks"}


def bright(folder: Path, metadata_format: str, bands: int, dtype: str) -> ChipFolder:
    """One chip of two bright squares on dark ground."""
    masks = np.zeros((2, SIDE, SIDE), bool)
    for i, (xmin, ymin, xmax, ymax) in enumerate(SQUARES):
        masks[i, ymin:ymax, xmin:xmax] = True
    image = np.repeat(np.where(masks.any(axis=0), 200, 10)[None], bands, axis=0).astype(dtype)
    mask = np.asarray(masks.any(axis=0), np.uint8)
    boxes, labels = np.array(SQUARES, np.float32), np.ones(2, np.int64)
    one = Chip("", image, np.ones((SIDE, SIDE), bool), boxes, labels, mask=mask, masks=masks)
    return write_chips(folder, [one], ROOF, metadata_format)


def seen(data: ChipFolder, carries: str, times: int = 25, **options: Any) -> list[tuple[Any, Any]]:
    """The chip as so many epochs see it; its statistics leave the pixels as they are."""
    pipeline = augment.pipeline(TrainOptions(**options))
    chips = Chips(data, data.names, Loading(1, carries, augment=pipeline, seed=1))
    return [chips[(epoch, 0, 0)][:2] for epoch in range(times)]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (3, "uint16"), (13, "uint16"), (369, "int16")])
def test_a_box_stays_on_its_pixels(way: str, bands: int, dtype: str, tmp_path: Path) -> None:
    for image, objects in seen(bright(tmp_path, FORMATS["boxes"], bands, dtype), "boxes", **WAYS[way]):
        shines = image[0].numpy() > 100
        assert bands == len(image)
        assert len(objects["labels"]) == len(objects["boxes"])
        for xmin, ymin, xmax, ymax in objects["boxes"].round().int().tolist():
            inside = shines[max(0, ymin) : ymax, max(0, xmin) : xmax]
            assert inside.mean() > (0.45 if way == "custom" else 0.8)  # a turned square fills half of its box
            shines[max(0, ymin - 2) : ymax + 2, max(0, xmin - 2) : xmax + 2] = False
        assert "size" in way or way == "crop" or not shines.any()  # of a crop, what is left of an object does not count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (13, "uint16"), (600, "uint8")])
def test_a_mask_stays_on_its_pixels(way: str, bands: int, dtype: str, tmp_path: Path) -> None:
    for image, mask in seen(bright(tmp_path, FORMATS["mask"], bands, dtype), "mask", **WAYS[way]):
        assert same(image[0].numpy() > 100, mask.numpy() == 1)
        assert {0, 1} <= set(np.unique(mask)) <= {augment.IGNORED, 0, 1}


@pytest.mark.parametrize("way", WAYS)
def test_the_mask_of_an_object_goes_with_its_box(way: str, tmp_path: Path) -> None:
    for image, objects in seen(bright(tmp_path, FORMATS["instances"], 3, "uint8"), "instances", **WAYS[way]):
        assert len(objects["boxes"]) == len(objects["masks"])
        for box, mask in zip(objects["boxes"].tolist(), objects["masks"].numpy(), strict=True):
            rows, cols = mask.nonzero()
            edges = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
            assert edges == pytest.approx(box, abs=8 if way == "custom" else 2)  # a turned box holds its turned corners
            assert (image[0].numpy()[mask] > 50).mean() > 0.9


def same(one: Any, two: Any) -> bool:
    return bool((one & two).sum() / (one | two).sum() > 0.85)


def test_chips_as_they_are() -> None:
    assert augment.pipeline(TrainOptions(augmentation="NONE")) is None


def test_a_chip_that_is_no_square_keeps_its_form() -> None:
    long = {"image": np.zeros((32, 64, 3), np.float32), "bboxes": np.zeros((0, 4)), "labels": [], "objects": []}
    steps: Any = augment.pipeline(TrainOptions(), square=False)
    augment.seed(steps, 1)
    assert {(32, 64, 3)} == {steps(**long)["image"].shape for _ in range(20)}


def test_steps_draw_independently_of_one_another() -> None:
    image = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    whole: Any = augment.pipeline(TrainOptions(), square=False)
    steps = albumentations.Compose(whole.transforms[:2])
    corners = set()
    for number in range(50):
        augment.seed(steps, number)
        corners.add(float(steps(image=image)["image"][0, 0, 0]))
    assert {0, 3, 4, 7} == corners


def crops(folder: Path, p: float) -> list[TrainOptions]:
    custom = TrainOptions(augmentation="CUSTOM", augmentation_parameters={"crop": f"8;{p}"})
    return [custom, transforms(folder, {"Training": {"rand_crop": {"size": 8, "p": p}}})]


@pytest.mark.parametrize(("p", "middle", "corners"), [(0.0, 1, 1), (0.5, 0.5, 20), (1.0, 0.04, 20)])
def test_chips_that_are_not_cropped_anywhere_are_cropped_in_the_middle(
    p: float, middle: float, corners: int, tmp_path: Path
) -> None:
    image = np.arange(144, dtype=np.float32).reshape(12, 12, 1)
    for options in crops(tmp_path, p):
        steps: Any = augment.pipeline(options)
        augment.seed(steps, 1)
        found = [steps(image=image, bboxes=[], labels=[], objects=[])["image"] for _ in range(200)]
        assert {(8, 8, 1)} == {one.shape for one in found}
        assert middle == pytest.approx(np.mean([one[0, 0, 0] == 26 for one in found]), abs=0.1)
        assert corners <= len({float(one[0, 0, 0]) for one in found}) <= 25


def test_turns_of_arcgis_keep_the_form_of_a_chip_that_is_no_square(tmp_path: Path) -> None:
    image = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
    options = transforms(tmp_path, {"Training": {"dihedral": {}}})
    steps: Any = augment.pipeline(options, square=False)
    augment.seed(steps, 1)
    found = [steps(image=image, bboxes=[], labels=[], objects=[])["image"] for _ in range(50)]
    assert {(2, 4, 1)} == {one.shape for one in found}
    assert {0, 3, 4, 7} == {float(one[0, 0, 0]) for one in found}


def written(folder: Path, *steps: Any, form: str = "json") -> TrainOptions:
    file = folder / f"own.{form}"
    albumentations.save(albumentations.Compose(steps), file, data_format=form)
    return TrainOptions(augmentation="FILE", augmentation_file=str(file))


LIGHT = [
    albumentations.RandomBrightnessContrast(brightness_limit=(0.1, 0.1), contrast_limit=0, p=1.0),
    albumentations.OneOf([albumentations.GaussNoise(std_range=(0.01, 0.02)), albumentations.GaussianBlur()], p=1.0),
    albumentations.MedianBlur(p=1.0),
]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("step", LIGHT)
@pytest.mark.parametrize("bands", [1, 3, 13])
def test_light_of_albumentations_cuts_nothing_off_a_normalised_chip(
    step: Any, bands: int, form: str, tmp_path: Path
) -> None:
    ramp = np.linspace(-3, 5, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE, 1).repeat(bands, axis=2)
    steps: Any = augment.pipeline(written(tmp_path, step, albumentations.HorizontalFlip(p=0.0), form=form))
    augment.save(steps, tmp_path)
    again: Any = augment.pipeline(TrainOptions(augmentation="FILE", augmentation_file=str(tmp_path / augment.FILE)))
    found = []
    for one in (steps, again):
        augment.seed(one, 1)
        found.append(one(image=ramp, bboxes=[], labels=[], objects=[])["image"])
    assert np.array_equal(*found)
    assert (np.float32, ramp.shape) == (found[0].dtype, found[0].shape)
    brighter = 0.8 if step is LIGHT[0] else 0  # a tenth of the range
    inside = (slice(8, -16), slice(8, -8))
    assert np.allclose(ramp[inside] + brighter, found[0][inside], atol=0.8)
    assert brighter == pytest.approx(float((found[0] - ramp)[inside].mean()), abs=0.02)


def test_a_step_that_does_not_fit_normalised_chips_is_named(tmp_path: Path) -> None:
    told = r"own.json: a step of the pipeline does not fit normalised chips, got 'Normalize'; leave it out"
    with pytest.raises(OptionsError, match=told):
        augment.pipeline(written(tmp_path, albumentations.Sequential([albumentations.Normalize()])))


MOVING = [
    albumentations.Rotate((45, 45), p=1.0),
    albumentations.Sequential([albumentations.Affine(scale=0.5, p=1.0)], p=1.0),
    albumentations.RandomCrop(2 * SIDE, 2 * SIDE, pad_if_needed=True, p=1.0),
]


@pytest.mark.parametrize("step", MOVING)
def test_what_a_file_moves_in_from_outside_of_a_chip_is_not_background(step: Any, tmp_path: Path) -> None:
    steps: Any = augment.pipeline(written(tmp_path, step))
    image, mask = np.zeros((SIDE, SIDE, 5), np.float32), np.ones((SIDE, SIDE), np.int16)
    moved = steps(image=image, mask=mask, bboxes=[], labels=[], objects=[])["mask"]
    assert {augment.IGNORED, 1} == set(moved.ravel().tolist())


def test_a_step_that_does_not_know_so_many_bands_is_told(tmp_path: Path) -> None:
    data = bright(tmp_path, FORMATS["boxes"], 4, "uint8")
    steps = augment.pipeline(written(tmp_path, albumentations.HueSaturationValue(p=1.0)))
    with pytest.raises(OptionsError, match=r"000000000: a chip cannot be augmented \(Hue.*got '4 bands'; leave that"):
        check_augmentation(data, data.names, Loading(1, "boxes", augment=steps))


def test_a_step_that_makes_chips_of_several_sizes_is_told(tmp_path: Path) -> None:
    data = bright(tmp_path, FORMATS["mask"], 1, "uint8")
    steps = augment.pipeline(written(tmp_path, albumentations.RandomScale(p=1.0)))
    with pytest.raises(OptionsError, match=r"chips of several sizes, got .*; end it with a crop of one size"):
        check_augmentation(data, data.names, Loading(1, "mask", augment=steps))
    cropped = augment.pipeline(
        written(tmp_path, albumentations.RandomScale(p=1.0)).model_copy(update={"chip_size": 32})
    )
    check_augmentation(data, data.names, Loading(1, "mask", augment=cropped))


def test_pictures_that_are_no_map_are_never_upside_down() -> None:
    image = np.repeat(np.arange(8, dtype=np.float32)[:, None, None], 8, axis=1)
    turns: Any = augment.pipeline(TrainOptions(), map_space=False)
    steps = albumentations.Compose(turns.transforms[:1])
    assert all(np.array_equal(image, steps(image=image)["image"]) for _ in range(20))


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [("contrast", "(0.75,1.5);1.0", 75, 150), ("brightness", "(0.5,0.75);1", 100, 101)],
)
def test_light_changes_as_far_as_it_is_told(name: str, value: str, low: float, high: float) -> None:
    options = TrainOptions(augmentation="CUSTOM", augmentation_parameters={name: value})
    steps: Any = augment.pipeline(options)
    augment.seed(steps, 3)
    image = np.full((4, 4, 2), 100, np.float32)
    found = [float(steps(image=image, bboxes=[], labels=[], objects=[])["image"].mean()) for _ in range(200)]
    assert low <= min(found) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(found) <= high


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_what_was_done_to_chips_is_done_again_from_its_file(suffix: str, tmp_path: Path) -> None:
    options = TrainOptions(**WAYS["custom"], chip_size=48)
    steps: Any = augment.pipeline(options)
    augment.save(steps, tmp_path)
    saved = tmp_path / augment.FILE
    if suffix == ".yaml":
        saved = tmp_path / "augmentation.yaml"
        albumentations.save(steps, saved, data_format="yaml")
    again: Any = augment.pipeline(TrainOptions(augmentation="FILE", augmentation_file=str(saved)))
    image = np.random.default_rng(1).normal(size=(SIDE, SIDE, 4)).astype(np.float32)
    answers = []
    for one in (steps, again):
        augment.seed(one, 7)
        answers.append(one(image=image, bboxes=np.array(SQUARES), labels=[1, 1], objects=[0, 1]))
    assert np.array_equal(answers[0]["image"], answers[1]["image"])
    assert np.array_equal(answers[0]["bboxes"], answers[1]["bboxes"])


BAD = [
    ({"augmentation": "CUSTOM", "augmentation_parameters": {"blur": "3"}}, "unknown.*'blur'; choose among rotate"),
    ({"augmentation": "CUSTOM", "augmentation_parameters": {"zoom": "1.2"}}, "zoom cannot be read, got '1.2'"),
    ({"augmentation": "FILE", "augmentation_file": "/nowhere.json"}, "/nowhere.json: augmentation_file cannot be read"),
]


@pytest.mark.parametrize(("options", "told"), BAD)
def test_augmentation_that_cannot_be_read_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionsError, match=told):
        augment.pipeline(TrainOptions(**options))


def transforms(folder: Path, words: dict[str, Any]) -> TrainOptions:
    file = folder / "transforms.json"
    file.write_text(json.dumps(words))
    return TrainOptions(augmentation="FILE", augmentation_file=str(file))


def test_what_arcgis_does_to_chips_is_done_here(tmp_path: Path) -> None:
    words = {
        "Training": {
            "rotate": {"degrees": [-30.0, 30.0], "p": 0.5},
            "brightness": {"change": [0.4, 0.6]},
            "contrast": {"scale": 1.2, "p": 0.75},
            "rand_zoom": {"scale": [1.0, 1.5]},
            "dihedral_affine": {},
            "crop": {"size": 48, "row_pct": [0, 1], "col_pct": [0, 1]},
        },
        "Validation": {"crop": {"size": 48}},
    }
    steps: Any = augment.pipeline(transforms(tmp_path, words))
    assert [0.5, 1.0, 0.75, 1.0, 1.0, 1.0] == [step.p for step in steps]
    assert (48, 48, 4) == steps(image=np.zeros((64, 64, 4), np.float32), bboxes=[], labels=[], objects=[])[
        "image"
    ].shape
    words = {"Training": {"contrast": {"scale": 1.5}}}
    steps = augment.pipeline(transforms(tmp_path, words))
    changed = steps(image=np.full((4, 4, 1), 100, np.float32), bboxes=[], labels=[], objects=[])["image"]
    assert np.allclose(150, changed)  # a number is no span around it


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"rotate": 30}, r"transforms.json: transform rotate cannot be read"),
        ({"rotate": {"degrees": "far"}}, r"transforms.json: transform rotate cannot be read"),
        ({"perspective_warp": {"magnitude": 1}}, r"unknown transform, got 'perspective_warp'; choose among rotate"),
    ],
)
def test_a_transform_that_cannot_be_read_is_told(words: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=told):
        augment.pipeline(transforms(tmp_path, {"Training": words}))


def test_a_file_that_holds_no_pipeline_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"transforms.json: augmentation_file"):
        augment.pipeline(transforms(tmp_path, {"rotate": {"degrees": 30}}))
