"""Statistics of an export: those of parts, merged, are those of the whole."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chip_statistics import ChipStatistics, amounts
from tasks.chips import Chip, Grid

CLASSES = (ClassLabel(1, "roof"), ClassLabel(20, "pond"))
HALF_METRE = Grid("", (0.5, 0, 100, 0, -0.5, 200))
CARRIES = ("boxes", "mask", "instances", "panoptic", "label", "labels", "nothing")
SHAPE, FORMAT = (8, 16), "Any_Format"


@st.composite
def chips(draw: st.DrawFn, dtype: str = "") -> Chip:
    dtype = dtype or draw(st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"]))
    numbers = st.integers(0, 200) if dtype != "float64" else st.floats(-1e9, 1e9, width=32)
    image = draw(arrays(dtype, (2, *SHAPE), elements=numbers.map(np.dtype(dtype).type), fill=st.just(7)))
    valid = draw(arrays(bool, SHAPE))
    count = draw(st.integers(0, 4))
    corners = draw(arrays(np.float32, (count, 2), elements=st.floats(0, 7, width=32)))
    labels = draw(arrays(np.int64, count, elements=st.integers(1, 2)))
    mask = draw(arrays(np.uint8, SHAPE, elements=st.integers(0, 2)))
    masks = draw(arrays(bool, (count, *SHAPE)))
    second = draw(st.sampled_from([image, None]))
    boxes = np.hstack([corners, corners + np.float32(1.3)])
    return Chip("0", image, valid, boxes, labels, mask, masks, second, HALF_METRE)


def seen(chips: list[Chip], carries: str) -> ChipStatistics:
    statistics = ChipStatistics(CLASSES, carries)
    for chip in chips:
        statistics.add(chip)
    return statistics


def parts(every: list[Chip], cuts: list[int]) -> list[list[Chip]]:
    edges = [0, *sorted(min(c, len(every)) for c in cuts), len(every)]
    return [every[a:b] for a, b in pairwise(edges)]


@pytest.mark.slow
@pytest.mark.parametrize("carries", CARRIES)
@given(every=st.lists(chips(), min_size=1, max_size=6), cuts=st.lists(st.integers(0, 6), max_size=3), data=st.data())
@settings(max_examples=10, deadline=None)
def test_merged_parts_are_the_whole_to_the_last_bit(
    carries: str, every: list[Chip], cuts: list[int], data: st.DataObject
) -> None:
    whole = seen(every, carries)
    order = data.draw(st.permutations(parts(every, cuts)))
    merged = ChipStatistics(CLASSES, carries)
    for part in order:
        kept = json.loads(json.dumps(seen(part, carries).state()))  # as a unit of work leaves it on the disk
        merged.merge(ChipStatistics.from_state(kept, CLASSES))
    assert whole.document(SHAPE, FORMAT) == merged.document(SHAPE, FORMAT)
    assert whole.text(SHAPE) == merged.text(SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_bands_have_the_statistics_of_all_valid_pixels(dtype: str, data: st.DataObject) -> None:
    every = data.draw(st.lists(chips(dtype), min_size=1, max_size=4))
    values = np.concatenate([c.image[1, c.valid] for c in every]).astype(np.float64)
    found = seen(every, "nothing").bands(["Red", "Green"])[1]
    if values.size:
        expected = [values.min(), values.max(), values.mean(), values.std()]
        assert expected == pytest.approx([found.min, found.max, found.mean, found.std], rel=1e-9, abs=1e-6)
    else:
        assert (0, 0, 0, 0) == (found.min, found.max, found.mean, found.std)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    values = 1e7 + np.random.default_rng(7).normal(0, 0.01, (1, 600, 600))
    chip = Chip("0", values, np.ones((600, 600), bool))
    assert 0.01 == pytest.approx(seen([chip, chip], "nothing").bands(["Height"])[0].std, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("carries", CARRIES)
@given(old=st.lists(chips(), min_size=1, max_size=3), new=st.lists(chips(), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_an_export_that_is_there_is_added_to(carries: str, old: list[Chip], new: list[Chip]) -> None:
    document = json.loads(json.dumps(seen(old, carries).document(SHAPE, FORMAT)))
    more = (CLASSES[0], ClassLabel(7, "new"), CLASSES[1])  # a class between those that were there
    there = ChipStatistics.from_document(document, more, carries)
    assert len(old) == there.chips
    added, whole = ChipStatistics(more, carries), ChipStatistics(more, carries)
    for chip in map(moved, new):
        added.add(chip)
    for chip in map(moved, [*old, *new]):
        whole.add(chip)
    joined = there.merge(added)
    assert whole.counts == joined.counts
    assert numbers(whole.document(SHAPE, FORMAT)) == pytest.approx(numbers(joined.document(SHAPE, FORMAT)), rel=1e-6)


def moved(chip: Chip) -> Chip:
    """The same chip where the second class has become the third."""
    place = np.array([0, 1, 3])
    assert chip.mask is not None
    return replace(chip, labels=place[chip.labels], mask=place[chip.mask].astype(np.uint8))


def numbers(document: object) -> list[float]:
    """All numbers of a document, in order."""
    if isinstance(document, dict):
        return [n for value in document.values() for n in numbers(value)]
    if isinstance(document, list):
        return [n for value in document for n in numbers(value)]
    return [float(document)] if isinstance(document, int | float) else []


def boxed() -> Chip:
    """Two roofs of 8 and 16 pixels, one pond of 32; a quarter of a square metre each pixel."""
    boxes = np.array([[0, 0, 4, 2], [0, 0, 4, 4], [0, 0, 8, 4]], np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:2] = 1
    image = np.full((3, *SHAPE), 9, np.uint8)
    return Chip("0", image, np.ones(SHAPE, bool), boxes, np.array([1, 1, 2]), mask, grid=HALF_METRE)


def test_stats_of_objects_are_laid_out_as_arcgis_prints_them() -> None:
    expected = (
        "images = 1 *3*8*16\n"
        "features = 3\n"
        "features per image = [min = 3, mean = 3.00, max = 3]\n"
        "classes = 2\n"
        "cls name              cls value     images   features    min size   mean size    max size\n"
        "roof                          1          1          2        2.00        3.00        4.00\n"
        "pond                         20          1          1        8.00        8.00        8.00\n"
    )
    assert expected == seen([boxed()], "boxes").text(SHAPE)


def test_stats_of_pixels_are_laid_out_as_arcgis_prints_them() -> None:
    expected = (
        "images = 1 *3*8*16\n"
        "classes = 2\n"
        "classes per image = [min = 1, mean = 1.00, max = 1]\n"
        "cls name              cls value     images   pixels      min size   mean size    max size\n"
        "roof                          1          1         32       32.00       32.00       32.00\n"
        "pond                         20          0          0        0.00        0.00        0.00\n"
    )
    assert expected == seen([boxed()], "mask").text(SHAPE)


def test_of_a_chip_with_pixels_and_objects_the_pixels_of_both_count() -> None:
    pond = np.zeros((3, *SHAPE), bool)
    pond[2, :4, :8] = True
    assert [32, 32] == amounts(replace(boxed(), masks=pond), 2).tolist()
    assert [2, 1] == amounts(replace(boxed(), mask=None), 2).tolist()


def test_accumulated_statistics_have_the_keys_of_arcgis() -> None:
    document = seen([boxed()], "panoptic").document(SHAPE, "Panoptic_Segmentation")
    assert (3, 16, 8, 1, True) == tuple(
        document[key] for key in ("NumBands", "TileSizeX", "TileSizeY", "NumTiles", "OutputFeatures")
    )
    assert [{"ClassValue": 1, "ClassName": "roof"}, {"ClassValue": 20, "ClassName": "pond"}] == document["Classes"]
    assert ([2, 1], [32, 0]) == (
        document["FeatureStats"]["NumFeaturesPerClass"],
        document["ClassPixelStats"]["NumPixelsPerClass"],
    )
    assert {"Min": 9, "Max": 9, "M1": 9, "M2": 0, "Num": 128} == document["BandStatsState"][0]


def test_a_turned_chip_has_cells_of_the_same_area() -> None:
    turned = Grid("", (0.3, 0.4, 100, 0.4, -0.3, 200))  # cells of half a metre, turned
    chip = replace(boxed(), grid=turned)
    assert 2.0 == pytest.approx(seen([chip], "boxes").objects.sizes[0].min)


@pytest.mark.parametrize(
    "damage", [{"NumBands": None}, {"BandStatsState": []}, {"BandStatsState": [{"Min": 1}]}, {"FeatureStats": {"x": 1}}]
)
def test_damaged_statistics_are_an_error_that_names_the_file(damage: dict[str, object]) -> None:
    document = seen([boxed()], "boxes").document(SHAPE, FORMAT) | damage
    with pytest.raises(LabelError, match=r"chips/stats\.json"):
        ChipStatistics.from_document(document, CLASSES, "boxes", "chips/stats.json")


def test_classes_that_only_the_old_export_has_are_an_error() -> None:
    document = seen([boxed()], "boxes").document(SHAPE, FORMAT)
    with pytest.raises(LabelError, match="20"):
        ChipStatistics.from_document(document, CLASSES[:1], "boxes")


def test_chips_of_other_bands_are_not_merged() -> None:
    other = Chip("0", np.zeros((4, *SHAPE), np.uint8), np.ones(SHAPE, bool))
    with pytest.raises(LabelError, match="3 bands, got 4"):
        seen([boxed()], "nothing").merge(seen([other], "nothing"))
    with pytest.raises(LabelError, match="3 bands, got 4"):
        seen([boxed(), other], "nothing")
