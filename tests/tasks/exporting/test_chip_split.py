"""Parts of a split share no pixel, hold what they should, and are the same in every run."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import OptionsError
from tasks.exporting.chip_split import FEW_CHIPS, MOST_OF_ONE, PARTS, Window, assign, by_part, extra_windows, too_few
from tasks.exporting.options import ExportOptions

CELL, WEST, SOUTH = 0.5, 500_000.0, 4_600_000.0
ROOF, POND = ClassLabel(1, "roof"), ClassLabel(2, "pond")


def chips(columns: int, rows: int, size: int, stride: int) -> NDArray[np.float64]:
    """Bounds on the map of a grid of chips."""
    corners = np.array([(x * stride, y * stride) for y in range(rows) for x in range(columns)]) * CELL
    corners = corners + np.array([WEST, SOUTH])
    return np.hstack([corners, corners + size * CELL])


def options(size: int = 64, stride: int = 64, **keys: Any) -> ExportOptions:
    return ExportOptions.model_validate({"tile_size": size, "stride": stride, "split": (0.8, 0.1, 0.1), **keys})


def leaks(bounds: NDArray[np.float64], parts: tuple[str, ...]) -> int:
    """Pairs of chips of different parts that share ground."""
    named, boxes = np.array(parts), shapely.box(*bounds.T)
    pairs = shapely.STRtree(boxes).query(boxes)
    shared = shapely.area(shapely.intersection(boxes[pairs[0]], boxes[pairs[1]])) > 1e-6
    first, second = named[pairs[0]], named[pairs[1]]
    return int((shared & (first != second) & (first != "") & (second != "")).sum())


@pytest.mark.slow
@pytest.mark.parametrize("stride", [64, 48, 32, 16])
def test_chips_of_different_parts_share_no_ground(stride: int) -> None:
    bounds = chips(30, 20, 64, stride)
    parts = assign(bounds, options(stride=stride))
    assert 0 == leaks(bounds, parts)
    assert set(PARTS) <= set(parts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 99), st.sampled_from([None, 96, 200]))
def test_chips_anywhere_of_any_scene_share_no_ground(chance: int, seed: int, side: int | None) -> None:
    rng = np.random.default_rng(chance)
    corners = rng.uniform(0, 2000, (80, 2))
    bounds = np.hstack([corners, corners + rng.uniform(32, 64, (80, 2))])
    try:
        parts = assign(bounds, options(split_block_size=side), scenes=rng.integers(0, 3, 80).tolist(), seed=seed)
    except OptionsError:  # too much overlap to divide
        reject()
    assert 0 == leaks(bounds, parts)


def test_without_overlap_no_chip_is_left_out_and_the_shares_are_met() -> None:
    bounds = chips(20, 20, 64, 64)
    assert {"train": 320, "validation": 40, "test": 40} == pytest.approx(Counter(assign(bounds, options())), abs=10)


def test_with_overlap_the_chips_that_stay_have_the_shares() -> None:
    count = Counter(assign(chips(40, 40, 64, 32), options(stride=32)))
    assert count[""] < 0.12 * 1600
    assert [0.8, 0.1, 0.1] == pytest.approx([count[part] / (1600 - count[""]) for part in PARTS], abs=0.02)


def test_a_class_in_three_blocks_is_in_all_three_parts() -> None:
    bounds = chips(20, 20, 64, 64)
    holds = np.zeros((400, 2))
    holds[:, 0] = 1
    holds[[0, 210, 399], 1] = 1  # two corners and the middle
    parts = assign(bounds, options(), holds=holds)
    assert sorted(PARTS) == sorted(parts[i] for i in (0, 210, 399))


def test_each_part_has_its_share_of_each_class() -> None:
    bounds = chips(40, 40, 64, 64)
    holds = np.random.default_rng(3).poisson([2, 0.3], (1600, 2))
    parts = np.array(assign(bounds, options(split=(0.6, 0.2, 0.2)), holds=holds))
    for part, share in zip(PARTS, (0.6, 0.2, 0.2), strict=True):
        assert [share, share] == pytest.approx(holds[parts == part].sum(axis=0) / holds.sum(axis=0), abs=0.05)


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    bounds = chips(20, 20, 64, 64)
    assert assign(bounds, options(), seed=1) == assign(bounds, options(), seed=1)
    assert assign(bounds, options(), seed=1) != assign(bounds, options(), seed=2)


def test_a_part_without_share_gets_nothing() -> None:
    assert {"train", "validation"} == set(assign(chips(20, 20, 64, 64), options(split=(0.8, 0.2, 0.0))))


def test_a_scene_is_never_divided() -> None:
    bounds = np.vstack([chips(5, 5, 64, 32) + 10_000 * i for i in range(10)])
    scenes = np.repeat(np.arange(10), 25)
    parts = np.array(assign(bounds, options(stride=32, split_by="scenes"), scenes=scenes.tolist()))
    assert [1] * 10 == [len(set(parts[scenes == i])) for i in range(10)]
    assert {"train": 200, "validation": 25, "test": 25} == Counter(parts.tolist())


def test_two_dates_of_the_same_ground_stay_together() -> None:
    bounds = np.vstack([chips(5, 5, 64, 32) + 10_000 * (i // 2) for i in range(8)])
    scenes = np.repeat(np.arange(8), 25)
    parts = np.array(assign(bounds, options(split_by="scenes"), scenes=scenes.tolist()))
    assert 0 == leaks(bounds, tuple(parts))
    assert all(parts[scenes == 2 * i][0] == parts[scenes == 2 * i + 1][0] for i in range(4))


@pytest.mark.parametrize(
    ("how", "do"), [({"split_by": "scenes"}, "imagery of more places"), ({"split_block_size": 4096}, "a smaller")]
)
def test_too_few_blocks_for_the_parts_are_refused(how: dict[str, Any], do: str) -> None:
    with pytest.raises(OptionsError, match=rf"split: the chips lie in too few .* for 3 parts .*got 1; give {do}"):
        assign(chips(10, 10, 64, 64), options(**how))


def test_the_split_is_kept_by_name() -> None:
    found = by_part(["a", "b", "c", "d"], ["train", "", "test", "train"])
    assert {"train": ["a", "d"], "validation": [], "test": ["c"]} == found


# -- rare classes ----------------------------------------------------------------------------------------------------
AREA = (0, 0, 640, 640)
FEATURES = np.array([[100, 100, 120, 120], [300, 300, 310, 330], [630, 5, 640, 15]])


def on_the_map(scene: int, window: Window) -> tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = window
    return xmin + 10_000 * scene, -ymax, xmax + 10_000 * scene, -ymin


def extra(counts: tuple[int, int], **keys: Any) -> list[tuple[int, Window]]:
    how: dict[str, Any] = {"size": (64, 64), "areas": [AREA], "place": on_the_map, **keys}
    return extra_windows(FEATURES, [2, 2, 2], [0, 0, 0], counts, **how)


def test_a_rare_class_is_brought_up_to_the_median() -> None:
    assert 8 == len(extra((20, 4)))  # the median of 20 and 4 is 12


def test_classes_in_balance_need_no_more() -> None:
    assert [] == extra((12, 12))


def test_one_feature_is_never_seen_more_than_a_few_times() -> None:
    assert MOST_OF_ONE * 3 >= len(extra((1000, 3)))


def test_extra_windows_are_whole_pixels_inside_the_area_around_a_feature_and_none_twice() -> None:
    windows = [window for _, window in extra((100, 3))]
    assert len(windows) == len(set(windows))
    for xmin, ymin, xmax, ymax in windows:
        assert {int} == {type(xmin), type(ymin)}
        assert (64, 64) == (xmax - xmin, ymax - ymin)
        assert 0 <= xmin <= 640 - 64
        assert 0 <= ymin <= 640 - 64
        centres = (FEATURES[:, :2] + FEATURES[:, 2:]) / 2
        assert ((centres >= [xmin, ymin]) & (centres < [xmax, ymax])).all(axis=1).any()


def test_extra_windows_are_the_same_in_every_run() -> None:
    assert extra((100, 3)) == extra((100, 3))
    assert extra((100, 3)) != extra((100, 3), seed=1)


def test_no_extra_window_sees_ground_of_another_part() -> None:
    windows = extra((100, 3), others=[[280, -350, 344, -286]])
    seen = shapely.box(*np.array([on_the_map(*w) for w in windows]).T)
    assert 0 < len(windows) < len(extra((100, 3)))
    assert 0 == shapely.area(shapely.intersection(seen, shapely.box(280, -350, 344, -286))).sum()


# -- warnings --------------------------------------------------------------------------------------------------------
def test_a_class_in_few_chips_is_warned_of() -> None:
    (line,) = too_few([ROOF, POND], [FEW_CHIPS, FEW_CHIPS - 1])
    assert f"class 'pond' is in {FEW_CHIPS - 1} chips to train on" in line


def test_a_part_that_lacks_a_class_is_warned_of() -> None:
    counts = [[99, 99], [9, 0], [9, 9]]
    assert ["no validation chip holds pond: nothing can be said of how well it is found"] == too_few(
        [ROOF, POND], counts, PARTS
    )
