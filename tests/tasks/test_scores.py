"""Scores that can be computed by hand; where they cannot, torchmetrics is the judge."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.functional.classification import binary_calibration_error, multiclass_confusion_matrix

from registry.emd import ClassLabel
from tasks.bootstrap import draws, intervals
from tasks.calibration import calibrate
from tasks.matching import iou, mask_iou, match
from tasks.scores import ChangeScores, DetectionScores, Figures, ObjectScores, PixelScores

ROOF, POND = ClassLabel(1, "roof"), ClassLabel(2, "pond")
A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70]
ONE, TWO = np.array([1]), np.array([2])


def boxes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def sure(*scores: float) -> np.ndarray:
    return np.array(scores, np.float32)


def town(chips: int, seed: int = 1, *, spread: float = 1.5) -> list[tuple[np.ndarray, ...]]:
    """Chips of some twenty objects of two classes, and detections near most of them."""
    chance = np.random.default_rng(seed)
    made: list[tuple[np.ndarray, ...]] = []
    for _ in range(chips):
        corners = chance.uniform(0, 200, (20, 2)).astype(np.float32)
        truth = np.hstack([corners, corners + chance.uniform(10, 40, (20, 2)).astype(np.float32)])
        labels = chance.integers(1, 3, 20)
        moved = (truth + chance.normal(0, spread, truth.shape))[:15].astype(np.float32)
        odd = boxes(*[[x, x, x + 20, x + 20] for x in chance.uniform(0, 200, 8)])
        made.append((np.vstack([moved, odd]), np.append(labels[:15], chance.integers(1, 3, 8)),
                     chance.uniform(0.05, 1, 23).astype(np.float32), truth, labels))  # fmt: skip
    return made


def tallied(chips: list[tuple[np.ndarray, ...]]) -> DetectionScores:
    scores = DetectionScores([ROOF, POND])
    for chip in chips:
        scores.add(*chip)
    return scores


def test_half_a_box_overlaps_by_a_third() -> None:
    assert pytest.approx(1 / 3) == iou(boxes(A), boxes([5, 0, 15, 10]))[0, 0]


def test_masks_overlap_by_their_pixels() -> None:
    one, two = np.array([[[1, 1, 0]]], bool), np.array([[[0, 1, 1]]], bool)
    assert pytest.approx(1 / 3) == mask_iou(one, two)[0, 0]


def test_a_truth_is_found_once_and_by_the_surest_box() -> None:
    found = match(iou(boxes(A, A, FAR), boxes(A)), sure(0.6, 0.9, 0.8))
    assert [-1, 0, -1] == found[:, 0].tolist()


def test_perfect_detections_score_one() -> None:
    scores = DetectionScores([ROOF])
    ones = np.array([1, 1])
    scores.add(boxes(A, B), ones, sure(0.9, 0.8), boxes(A, B), ones)
    values = dict(scores.compute(0.5).values)
    assert pytest.approx(0.15) == values.pop("calibration_error")  # sure of 0.85, and always right
    assert {"AP50": 1, "AP50_95": 1, "precision": 1, "recall": 1, "f1": 1} == pytest.approx(values)


def test_the_table_has_the_fields_of_compute_accuracy_for_object_detection() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(A, FAR), np.array([1, 1]), sure(0.9, 0.8), boxes(A, B), np.array([1, 1]))
    row = scores.compute(0.5).per_class["roof"]
    assert (1, 1, 1) == (row["True_Positive"], row["False_Positive"], row["False_Negative"])
    assert (0.5, 0.5, 0.5) == (row["Precision"], row["Recall"], row["F1_Score"])
    assert pytest.approx(51 / 101) == row["AP"]  # recall 0 to 0.50 at precision 1, 101 points


def test_average_precision_is_that_of_torchmetrics() -> None:
    chips = town(12)
    exact = np.linspace(0, 1, 101).tolist()  # COCO's own; torchmetrics would round them to 32 bits
    judge = MeanAveragePrecision(
        backend="faster_coco_eval", max_detection_thresholds=[1, 100, 500], rec_thresholds=exact
    )
    for found, labels, confidence, truth, kinds in chips:
        answer = {"boxes": torch.tensor(found), "scores": torch.tensor(confidence), "labels": torch.tensor(labels)}
        judge.update([answer], [{"boxes": torch.tensor(truth), "labels": torch.tensor(kinds)}])
    expected, values = judge.compute(), tallied(chips).compute().values
    assert 0.2 < float(expected["map"]) < 0.8
    assert float(expected["map_50"]) == pytest.approx(values["AP50"], abs=1e-6)
    assert float(expected["map"]) == pytest.approx(values["AP50_95"], abs=1e-6)


def test_a_chip_drawn_twice_counts_as_two() -> None:
    chips = town(3)
    weights = np.array([[2.0, 0.0, 1.0]])
    resampled = tallied(chips).resampled(weights, 0.5)
    twice = tallied([chips[0], chips[0], chips[2]]).resampled(np.ones((1, 3)), 0.5)
    assert {key: values[0] for key, values in twice.items()} == pytest.approx({k: v[0] for k, v in resampled.items()})


def test_a_chip_full_of_objects_can_be_wholly_right() -> None:
    crowd = boxes(*[[x, y, x + 5, y + 5] for x in range(0, 180, 6) for y in range(0, 120, 6)])
    scores = DetectionScores([ROOF])
    scores.add(crowd, np.ones(600, int), np.full(600, 0.9, np.float32), crowd, np.ones(600, int))
    assert (1, 1) == (scores.compute().values["AP50"], scores.compute().values["f1"])


def test_instances_are_matched_by_their_masks_not_their_boxes() -> None:
    """Two triangles of one square: the same box, no pixel in common."""
    upper = np.triu(np.ones((10, 10), bool), 1)[None]
    scores = DetectionScores([ROOF])
    scores.add(boxes(A), ONE, sure(0.9), boxes(A), ONE, masks=upper, true_masks=~upper)
    assert 0 == scores.compute().values["AP50"]
    scores.add(boxes(A), ONE, sure(0.9), boxes(A), ONE, masks=upper, true_masks=upper)
    assert scores.compute().values["recall"] == 0.5


def test_the_best_threshold_leaves_the_invented_out() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(A, B, FAR), np.ones(3, int), sure(0.9, 0.7, 0.3), boxes(A, B), np.ones(2, int))
    best = scores.best_threshold()
    assert best is not None
    assert 0.7 == pytest.approx(best, abs=2e-3)
    assert 1 == scores.compute(best).values["f1"]


def test_the_best_threshold_counts_all_that_are_as_sure() -> None:
    """One true and eight invented at 0.5: they come together, so one alone at 0.9 is better."""
    scores = DetectionScores([ROOF])
    scores.add(boxes(A, B, *[FAR] * 8), np.ones(10, int), sure(0.9, *[0.5] * 9), boxes(A, B), np.ones(2, int))
    assert 0.9 == pytest.approx(scores.best_threshold(), abs=2e-3)


@pytest.mark.parametrize(("told", "whole"), [((90.0, 20.0), 100.0), ((0.9, 0.2), 1.0)])
def test_confidence_is_per_cent_or_a_share(told: tuple[float, float], whole: float) -> None:
    scores = DetectionScores([ROOF])
    shares = sure(*(value / scores.whole for value in told))
    scores.add(boxes(A, B), np.ones(2, int), shares, boxes(A, B), np.ones(2, int))
    scores.settle()
    assert whole == scores.whole
    assert 0.2 == pytest.approx(scores.best_threshold(), abs=2e-3)


def test_a_class_is_not_taken_for_another() -> None:
    scores = DetectionScores([ROOF, POND])
    scores.add(boxes(A, FAR), TWO.repeat(2), sure(0.9, 0.8), boxes(A, B), ONE.repeat(2))
    assert 0 == scores.compute(0.5).values["AP50"]
    assert [[0, 0, 1], [1, 0, 1], [0, 0, 0]] == scores.compute(0.5).confusion_matrix  # invented, missed and mistaken


def test_a_scene_without_objects_or_detections_is_no_error() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(), np.zeros(0, int), sure(), boxes(), np.zeros(0, int))
    assert (0, None) == (scores.compute(0.5).values["AP50"], scores.best_threshold())
    assert np.isnan(scores.chip_scores()).all()
    json.dumps(scores.compute().document(), allow_nan=False)


def test_a_chip_is_worse_the_more_of_it_is_missed() -> None:
    scores = DetectionScores([ROOF])
    for found in (boxes(A, B), boxes(A), boxes()):
        scores.add(found, np.ones(len(found), int), np.full(len(found), 0.9, np.float32), boxes(A, B), ONE.repeat(2))
    assert [1, pytest.approx(2 / 3), 0] == scores.chip_scores(0.5).tolist()


def test_pixels_are_counted_by_class() -> None:
    scores = PixelScores([ROOF], background=True)
    scores.add(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
    result = scores.compute()
    assert {"background": 2 / 3, "roof": 1 / 2} == pytest.approx({k: v["IoU"] for k, v in result.per_class.items()})
    assert 7 / 12 == pytest.approx(result.values["mIoU"])
    assert result.values["accuracy"] == 0.75
    assert [[2, 1], [0, 1]] == result.confusion_matrix
    assert [0.75] == scores.chip_scores().tolist()


def test_a_class_called_background_is_not_the_background() -> None:
    """As land-cover tables have it. A class of that name is counted beside the pixels of no class."""
    scores = PixelScores([ClassLabel(1, "Background"), ROOF], background=True)
    scores.add(np.array([[0, 1, 2, 2]]), np.array([[0, 1, 2, 1]]))
    result = scores.compute()
    ious = {"unlabelled": 1, "Background": 1 / 2, "roof": 1 / 2}
    assert ious == pytest.approx({name: row["IoU"] for name, row in result.per_class.items()})
    assert 2 / 3 == pytest.approx(result.values["mIoU"])
    assert 1 == result.values["IoU_unlabelled"]


def test_unlabelled_pixels_do_not_count() -> None:
    scores = PixelScores([ROOF, POND], background=False)
    scores.add(np.array([[1, 2, 2, 1]]), np.array([[1, 2, -1, -1]]))
    result = scores.compute()
    assert ({"roof", "pond"}, 1.0) == (set(result.per_class), result.values["mIoU"])
    assert [[1, 0], [0, 1]] == result.confusion_matrix


def test_a_class_that_is_not_there_does_not_lower_the_mean() -> None:
    scores = PixelScores([ROOF, POND], background=True)
    scores.add(np.array([[1, 0]]), np.array([[1, 0]]))
    assert 1 == scores.compute().values["mIoU"]


def test_a_class_that_is_neither_there_nor_found_has_no_figure() -> None:
    scores = PixelScores([ROOF, POND], background=True)
    scores.add(np.array([[1, 0]]), np.array([[1, 0]]))
    names = {name for name in scores.compute().values if name.startswith("IoU_")}
    assert {"IoU_background", "IoU_roof"} == names
    scores.add(np.array([[2, 0]]), np.array([[1, 0]]))
    assert 0 == scores.compute().values["IoU_pond"]


def test_change_is_scored_by_the_changed_pixels() -> None:
    scores = ChangeScores([ClassLabel(1, "change")], background=True)
    scores.add(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 1]]))
    result = scores.compute()
    expected = {"precision": 0.5, "recall": 0.5, "f1_score": 0.5, "IoU": 1 / 3, "accuracy": 0.5}
    assert expected == pytest.approx(dict(result.values))
    assert result.primary == "f1_score"


def test_objects_are_counted_by_class() -> None:
    scores = ObjectScores([ROOF, POND])
    for found, truth in ((1, 1), (1, 2), (2, 2), (2, 2)):
        scores.add(np.array([found]), np.array([truth]), sure(0.75))
    result = scores.compute()
    assert (0.75, [[1, 0], [1, 2]]) == (result.values["accuracy"], result.confusion_matrix)
    assert pytest.approx((2 / 3 + 4 / 5) / 2) == result.values["f1_score"]
    assert 0 == pytest.approx(result.values["calibration_error"])
    assert [1, 0, 1, 1] == scores.chip_scores().tolist()


def test_an_object_of_several_labels_is_right_only_with_all_of_them() -> None:
    scores = ObjectScores([ROOF, POND], multilabel=True)
    scores.add(np.array([1, 2]), np.array([1, 2]), sure(0.9, 0.9))
    scores.add(np.array([1]), np.array([1, 2]), sure(0.9))
    scores.add(np.zeros(0, int), np.zeros(0, int), sure())
    result = scores.compute()
    assert 2 / 3 == pytest.approx(result.values["accuracy"])
    assert [1.0, 0.5] == [row["Recall"] for row in result.per_class.values()]
    assert "f1_score" == result.primary


def test_the_confusion_matrix_is_that_of_torchmetrics() -> None:
    chance = np.random.default_rng(6)
    mask, truth = chance.integers(0, 3, (40, 50)).astype(np.uint8), chance.integers(-1, 3, (40, 50))
    found, real = torch.tensor(mask).long(), torch.tensor(truth)
    expected = multiclass_confusion_matrix(found, real, 3, ignore_index=-1)
    scores = PixelScores([ROOF, POND], background=True)
    scores.add(mask, truth)
    assert expected.tolist() == scores.matrices[0].tolist()


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    chance = np.random.default_rng(5)
    confidence = chance.uniform(0, 1, 500)
    true = chance.uniform(0, 1, 500) < confidence**2
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(true).int(), n_bins=10)
    found = calibrate(confidence, true)
    assert found is not None
    assert float(expected) == pytest.approx(found.error, abs=1e-4)
    assert 500 == sum(part.count for part in found.bins)


def test_pixels_that_do_not_count_do_not_count_for_the_calibration() -> None:
    scores = PixelScores([ROOF, POND], background=True)
    mask, truth = np.array([[1, 1, 2, 2]]), np.array([[1, 2, 2, -1]])
    scores.add(mask, truth, np.array([[0.75, 0.75, 0.95, 0.15]], np.float32))
    scores.add(mask, truth)
    result = scores.compute()
    assert result.calibration is not None
    assert [(2, 0.5), (1, 1)] == [(part.count, part.true) for part in result.calibration.bins]
    assert (0.25 * 2 + 0.05) / 3 == pytest.approx(result.values["calibration_error"], abs=1e-6)


# -- intervals -------------------------------------------------------------------------------------------------------
def test_draws_are_whole_and_the_same_in_every_run() -> None:
    one = draws(7, count=50)
    assert (one == draws(7, count=50)).all()
    assert {7.0} == set(one.sum(axis=1).tolist())
    assert (one != draws(7, count=50, seed=1)).any()


def test_many_detections_are_counted_in_fewer_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tally, drawn, sizes = tallied(town(4)), draws(4, count=30), list[int]()
    whole, count = tally.resampled(drawn), tally._resampled

    def watched(part: np.ndarray, threshold: float) -> Figures:
        sizes.append(len(part))
        return count(part, threshold)

    monkeypatch.setattr("tasks.scores.ROOM", 4 * 23 * 10)
    monkeypatch.setattr(tally, "_resampled", watched)
    assert all((figure == whole[key]).all() for key, figure in tally.resampled(drawn).items())
    assert [10, 10, 10] == sizes


@pytest.mark.slow
def test_an_interval_holds_the_score_and_shrinks_with_more_chips() -> None:
    widths = []
    for chips in (8, 32, 128):
        tally = tallied(town(chips))
        low, high = intervals(tally.resampled(draws(chips)))["", "AP50"]
        assert low < tally.compute().values["AP50"] < high
        widths.append(high - low)
    assert all(wide > narrow for wide, narrow in pairwise(widths))


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Sixty towns of the same make, 20 chips each; the truth is the score of 400 chips."""
    truth = tallied(town(400, seed=0)).compute().values["f1"]
    held = 0
    for seed in range(1, 61):
        low, high = intervals(tallied(town(20, seed)).resampled(draws(20, count=200)))["", "f1"]
        held += low <= truth <= high
    assert 0.85 <= held / 60


def test_a_document_is_plain_json_with_intervals_by_class() -> None:
    tally = tallied(town(3))
    scores = replace(tally.compute(0.5), intervals=intervals(tally.resampled(draws(3, count=20))))
    document = json.loads(json.dumps(scores.document(), allow_nan=False))
    assert {"AP50", "AP50_95", "precision", "recall", "f1"} == set(document["intervals"])
    assert {"roof", "pond"} == set(document["per_class_intervals"])
    assert 19 == len(document["by_threshold"])
    assert 2 == len(document["per_class_intervals"]["roof"]["AP"])
