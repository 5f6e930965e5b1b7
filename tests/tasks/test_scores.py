"""Scores that can be computed by hand."""

import numpy as np
import pytest

from registry.emd import ClassLabel
from tasks.scores import DetectionScores, PixelScores, iou, match

ROOF, POND = ClassLabel(1, "roof"), ClassLabel(2, "pond")
A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70]


def boxes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_half_a_box_overlaps_by_a_third() -> None:
    assert pytest.approx(1 / 3) == iou(boxes(A), boxes([5, 0, 15, 10]))[0, 0]


def test_a_truth_is_found_once_and_by_the_surest_box() -> None:
    found = match(boxes(A, A, FAR), np.array([0.6, 0.9, 0.8], np.float32), boxes(A))
    assert [False, True, False] == found.tolist()


def test_perfect_detections_score_one() -> None:
    scores = DetectionScores([ROOF])
    ones = np.array([1, 1])
    scores.add(boxes(A, B), ones, np.array([0.9, 0.8], np.float32), boxes(A, B), ones)
    result = scores.compute(0.5)
    assert {"AP50": 1, "AP50_95": 1, "precision": 1, "recall": 1, "f1": 1} == pytest.approx(dict(result.values))


def test_one_of_two_found_and_one_invented() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(A, FAR), np.array([1, 1]), np.array([0.9, 0.8], np.float32), boxes(A, B), np.array([1, 1]))
    row = scores.compute(0.5).per_class["roof"]
    assert (1, 1, 1, 0.5) == (row["True_Positive"], row["False_Positive"], row["False_Negative"], row["F1_Score"])
    assert pytest.approx(51 / 101) == scores.compute(0.5).values["AP50"]  # recall 0 to 0.50 at precision 1, 101 points


def test_the_best_threshold_leaves_the_invented_out() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(A, B, FAR), np.ones(3, int), np.array([0.9, 0.7, 0.3], np.float32), boxes(A, B), np.ones(2, int))
    assert 0.7 == pytest.approx(scores.best_threshold(), abs=1e-3)


def test_a_class_is_not_taken_for_another() -> None:
    scores = DetectionScores([ROOF, POND])
    scores.add(boxes(A), np.array([2]), np.array([0.9], np.float32), boxes(A), np.array([1]))
    assert 0 == scores.compute(0.5).values["AP50"]


def test_a_scene_without_objects_or_detections_is_no_error() -> None:
    scores = DetectionScores([ROOF])
    scores.add(boxes(), np.zeros(0, int), np.zeros(0, np.float32), boxes(), np.zeros(0, int))
    assert (0, 0.5) == (scores.compute(0.5).values["AP50"], scores.best_threshold())


def test_pixels_are_counted_by_class() -> None:
    scores = PixelScores([ROOF], background=True)
    scores.add(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
    result = scores.compute()
    assert {"background": 2 / 3, "roof": 1 / 2} == pytest.approx({k: v["IoU"] for k, v in result.per_class.items()})
    assert 7 / 12 == pytest.approx(result.values["mIoU"])
    assert result.values["accuracy"] == 0.75
    assert [[2, 1], [0, 1]] == result.confusion_matrix


def test_unlabelled_pixels_do_not_count() -> None:
    scores = PixelScores([ROOF, POND], background=False)
    scores.add(np.array([[1, 2, 2, 1]]), np.array([[1, 2, -1, -1]]))
    result = scores.compute()
    assert ({"roof", "pond"}, 1.0) == (set(result.per_class), result.values["mIoU"])
