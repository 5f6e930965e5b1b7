"""Evaluation and comparison of models whose answers can be computed by hand, on chips written by hand."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from registry.dlpk import ModelFolder, pack
from registry.errors import ImageryError, OptionsError
from tasks.chips import Chip, ChipFolder
from tasks.cli import main
from tasks.compare import compare_models
from tasks.evaluate import evaluate_model
from tasks.provenance import learnt, outline
from tasks.report import write_metrics_page
from tests.chips_by_hand import chip, write_chips
from tests.tasks.conftest import CLASSES, MakeModel

Picture = Callable[[int, int, list[tuple[int, int, int, int]]], Any]
ROOFS = [(4, 4, 14, 14), (30, 8, 44, 20), (10, 40, 26, 56)]


@pytest.fixture
def chips(tmp_path: Path, roofs: Picture) -> ChipFolder:
    """Eight chips of three roofs; in every second chip one is only half as bright as the ground of a roof."""
    pictures = [roofs(64, 64, ROOFS) for _ in range(8)]
    for picture in pictures[::2]:
        picture[40:56, 10:26] = 80
    return write_chips(tmp_path / "held-out", [chip(picture, ROOFS) for picture in pictures], CLASSES)


@pytest.mark.slow
def test_a_model_is_scored_through_its_raster_function(make_model: MakeModel, chips: ChipFolder) -> None:
    scores = evaluate_model(make_model(level=100), chips)  # sees 20 of 24 roofs: those of 80 are too dark for it
    assert (1, 20 / 24) == (scores.values["precision"], scores.values["recall"])
    low, high = scores.intervals["", "recall"]
    assert 2 / 3 <= low < 20 / 24 < high <= 1
    assert chips.digest == scores.facts["data_digest"]


@pytest.mark.slow
def test_the_best_threshold_becomes_the_default_of_the_model(make_model: MakeModel, chips: ChipFolder) -> None:
    model = make_model(level=100, Threshold=0.9)  # it is sure by 0.75 of everything, so 0.9 would find nothing
    scores = evaluate_model(model, chips)
    assert 0.75 == scores.threshold == ModelFolder(model.path).emd.document["Threshold"]
    assert scores.values["f1"] > 0.9


@pytest.mark.slow
def test_where_nothing_is_to_be_found_the_model_keeps_its_threshold(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("constant", NetworkOptions={"box": [5, 5, 20, 20], "score": 0.8}, Threshold=0.9)
    scores = evaluate_model(model, write_chips(tmp_path / "held-out", [chip(even(10))] * 2, CLASSES))
    assert 0.9 == scores.threshold == ModelFolder(model.path).emd.document["Threshold"]
    assert 0 == scores.per_class["Roof"]["False_Positive"]  # its 0.8 is not sure enough
    page = (model.path / "model_metrics.html").read_text()
    assert "Objects count from a confidence of 0.900, the default of the model." in page


@pytest.mark.slow
def test_an_evaluation_adds_figures_table_and_page(make_model: MakeModel, chips: ChipFolder) -> None:
    model = make_model(level=100)
    evaluate_model(model, chips)
    figures = {"accuracy.csv", "show_results.png", "worst_mistakes.png"}
    assert figures == {p.name for p in (model.path / "ModelCharacteristics").iterdir()}
    with (model.path / "ModelCharacteristics" / "accuracy.csv").open() as file:
        table = {row["Class"]: row for row in csv.DictReader(file)}
    fields = ["Class", "Precision", "Recall", "F1_Score", "AP", "AP50_95"]
    assert [*fields, "True_Positive", "False_Positive", "False_Negative"] == list(table["All"])
    assert ("20", "0", "4") == tuple(
        table["All"][f"{k}"] for k in ("True_Positive", "False_Positive", "False_Negative")
    )
    assert "Worst mistakes" in (model.path / "model_metrics.html").read_text()


@pytest.mark.slow
def test_a_package_is_scored_and_stays_as_it_is(
    make_model: MakeModel, chips: ChipFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    dlpk = pack(make_model(level=100, Threshold=0.2), tmp_path / "town.dlpk")
    for _ in range(2):
        done = CliRunner().invoke(main, ["evaluate", str(dlpk), str(chips.path)])
        assert done.exit_code == 0, done.output
        record = json.loads(done.stdout)
        assert "town_evaluation/model_metrics.html" == record["report"]
        assert (tmp_path / record["report"]).is_file()
    from registry.dlpk import open_model

    assert 0.2 == open_model(dlpk).emd.document["Threshold"]


def test_chips_of_another_size_are_refused(make_model: MakeModel, tmp_path: Path, roofs: Picture) -> None:
    small = write_chips(tmp_path / "small", [chip(roofs(32, 32, ROOFS[:1]), ROOFS[:1])], CLASSES)
    with pytest.raises(OptionsError, match="expected chips of 64 pixels, the model's tile size"):
        evaluate_model(make_model(), small)


@pytest.mark.parametrize(("rows", "cols"), [(64, 160), (64, 40)])
def test_no_object_of_a_chip_that_is_no_square_is_cut(
    rows: int, cols: int, make_model: MakeModel, tmp_path: Path, roofs: Picture
) -> None:
    boxes = [box for box in [(54, 20, 74, 40), (4, 0, 14, 10), (30, 54, 40, 64)] if box[2] <= cols]
    held_out = write_chips(tmp_path / "held-out", [chip(roofs(rows, cols, boxes), boxes)] * 2, CLASSES)
    scores = evaluate_model(make_model(), held_out)
    assert (1, 1) == (scores.values["precision"], scores.values["recall"])


@pytest.mark.slow
def test_the_better_of_two_models_is_told_with_its_doubt(make_model: MakeModel, chips: ChipFolder) -> None:
    seeing, half_blind = make_model(name="a", level=75), make_model(name="b", level=100)
    found = compare_models(seeing, half_blind, chips)
    assert ("AP50", "a", 1) == (found.primary, found.better, found.a)
    assert 0 < found.interval[0] <= found.difference <= found.interval[1]
    assert "b" == compare_models(half_blind, seeing, chips).better


def test_one_chip_tells_no_doubt(make_model: MakeModel, tmp_path: Path) -> None:
    alone = write_chips(tmp_path / "alone", [chip(even(10))], CLASSES)
    with pytest.raises(OptionsError, match="is one chip, which tells no doubt; compare them on more chips"):
        compare_models(make_model(name="a"), make_model(name="b"), alone)
    scores = evaluate_model(make_model(), alone)
    assert {} == scores.intervals


@pytest.mark.slow
def test_a_model_is_not_better_than_itself(make_model: MakeModel, chips: ChipFolder) -> None:
    model = make_model(level=100)
    before = {p: p.read_bytes() for p in model.path.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    found = compare_models(model, model, chips)
    assert ("", 0, (0, 0), 0) == (found.better, found.difference, found.interval, found.surely)
    assert all(content == path.read_bytes() for path, content in before.items())


@pytest.mark.slow
def test_models_that_count_other_pixels_are_not_compared(make_model: MakeModel, tmp_path: Path) -> None:
    """The same weights; on labelled pixels alone the one that paints everything would be better, as it never misses."""
    truth = np.zeros((64, 64), np.uint8)
    truth[:16] = 1
    held_out = write_chips(tmp_path / "held-out", [chip(even(50), mask=truth)] * 2, CLASSES, "Classified_Tiles")
    painting, model = make_model("levels", "a", PredictBackground=False), make_model("levels", "b")
    for a, b in ((painting, model), (model, painting)):
        with pytest.raises(OptionsError, match="one of the models counts background as a class"):
            compare_models(a, b, held_out)
    choosy = make_model("levels", "c", ignore_mapped_class=[1])
    with pytest.raises(OptionsError, match=r"not to learn the same classes .*got \[\[\], \['Roof'\]\]"):
        compare_models(model, choosy, held_out)


def test_masks_are_not_compared_with_boxes(make_model: MakeModel, tmp_path: Path) -> None:
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 8:40, 8:40] = True
    held_out = write_chips(
        tmp_path / "held-out", [chip(even(10), [(8, 8, 40, 40)], masks=masks)], CLASSES[:1], "RCNN_Masks"
    )
    outlining = make_model("drawn", "a", ModelType="InstanceDetection")
    with pytest.raises(OptionsError, match=r"do different things, got \['InstanceDetection', 'ObjectDetection'\]"):
        compare_models(outlining, make_model(name="b"), held_out)


@pytest.mark.slow
def test_the_command_compares_two_models(make_model: MakeModel, chips: ChipFolder) -> None:
    from click.testing import CliRunner

    a, b = make_model(name="a", level=75), make_model(name="b", level=100)
    done = CliRunner().invoke(main, ["compare", str(a.path), str(b.path), str(chips.path)])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    figures = {"primary", "a", "b", "interval", "surely", "chips", "difference", "better"}
    assert figures | {"models", "chips_digest"} == set(record)


def test_worst_chips_come_first(make_model: MakeModel, chips: ChipFolder) -> None:
    from tasks.evaluate import _from_worst
    from tasks.exam import examine
    from tasks.progress import ignore

    exam = examine(make_model(level=100), chips).sit("evaluate", ignore)
    assert list(chips.names[::2]) == _from_worst(exam, 0.5)
    assert np.allclose(exam.tally.chip_scores(0.5)[1::2], 1)


# -- the other tasks -------------------------------------------------------------------------------------------------
def even(level: int) -> Any:
    return np.full((64, 64), level, np.uint8)


@pytest.mark.slow
def test_pixels_are_scored_by_class(make_model: MakeModel, tmp_path: Path) -> None:
    """The model says Roof everywhere but in the corners of a chip, 3 pixels each; half of the first chip is Pond."""
    mixed, plain = np.ones((64, 64), np.uint8), np.ones((64, 64), np.uint8)
    mixed[:, 32:] = 2
    pictures = [chip(even(100), mask=mixed), chip(even(100), mask=plain)]
    held_out = write_chips(tmp_path / "held-out", pictures, CLASSES, "Classified_Tiles")
    model = make_model("levels", level=100)
    scores = evaluate_model(model, held_out)
    matrix = np.array(scores.confusion_matrix)
    assert [0, 6144, 2048] == matrix.sum(axis=1).tolist()
    assert [0, 0] == matrix[:2, 2].tolist()
    corners = int(matrix[:, 0].sum())
    assert 0 < corners < 40
    assert (6144 - matrix[1, 0]) / 8192 == pytest.approx(scores.per_class["Roof"]["IoU"], abs=2e-3)
    assert (0.5, 1) == pytest.approx(scores.intervals["", "accuracy"], abs=0.01)
    assert "Threshold" not in model.emd.document


@pytest.mark.slow
def test_classes_that_a_model_had_not_to_learn_do_not_count(make_model: MakeModel, tmp_path: Path) -> None:
    mixed = np.ones((64, 64), np.uint8)
    mixed[:, 32:] = 2
    pixels = write_chips(tmp_path / "pixels", [chip(even(100), mask=mixed)] * 2, CLASSES, "Classified_Tiles")
    scores = evaluate_model(make_model("levels", level=100, ignore_mapped_class=[2]), pixels)
    assert 0 == scores.per_class["Pond"]["Pixels"]
    assert scores.values["accuracy"] > 0.99
    picture = even(10)
    picture[8:20, 8:20] = picture[30:40, 30:40] = 150
    boxes, labels = [(8, 8, 20, 20), (30, 30, 40, 40), (4, 50, 14, 60)], np.array([1, 2, 2])
    objects = write_chips(tmp_path / "objects", [chip(picture, boxes, labels=labels)] * 2, CLASSES)
    scores = evaluate_model(make_model(name="boxes", level=100, ignore_mapped_class=[0, 2]), objects)
    assert (2, 0) == (scores.per_class["Roof"]["True_Positive"], scores.per_class["Pond"]["False_Negative"])
    assert scores.values["recall"] == 1


@pytest.mark.slow
def test_pixels_are_scored_by_the_names_of_their_classes(make_model: MakeModel, tmp_path: Path) -> None:
    """The chips number the classes in another way than the model, which says Roof here: its Value 1, their Value 2."""
    roof, pond = ({"Value": v, "Name": n, "Color": [9, v, 0]} for v, n in ((2, "Roof"), (1, "Pond")))
    truth = np.full((64, 64), 2, np.uint8)  # the class with the second least Value
    held_out = write_chips(tmp_path / "held-out", [chip(even(149), mask=truth)], [pond, roof], "Classified_Tiles")
    theirs = [{**roof, "Value": 1}, {**pond, "Value": 2}]
    scores = evaluate_model(make_model("levels", level=100, Classes=theirs), held_out)
    assert scores.per_class["Roof"]["Recall"] > 0.85
    assert 0 == scores.confusion_matrix[2][1]


@pytest.mark.slow
def test_pixels_are_as_often_right_as_the_model_is_sure_of_its_answer(make_model: MakeModel, tmp_path: Path) -> None:
    """Of 149 the model says class 1, which is Value 7, by odds of e^(51 - 49); a quarter of it is Value 3."""
    classes = [{"Value": v, "Name": n, "Color": [9, v, 0]} for v, n in ((7, "Roof"), (3, "Pond"))]
    truth = np.ones((64, 64), np.uint8)
    truth[:, :16] = 2
    held_out = write_chips(tmp_path / "held-out", [chip(even(149), mask=truth)], classes, "Classified_Tiles")
    model = make_model("levels", level=100, Classes=classes)
    scores = evaluate_model(model, held_out)
    assert scores.calibration is not None
    most = max(scores.calibration.bins, key=lambda part: part.count)
    assert 60 * 60 == most.count  # less the edges, where the network sees zeros
    assert (0.8808, 46 / 60) == pytest.approx((most.confidence, most.true), abs=1e-4)
    assert scores.values["calibration_error"] > 0.1
    assert "Reliability of the confidence" in (model.path / "model_metrics.html").read_text()


TWO = {"ExtractBands": [1], "AllTilesStats": [{"BandName": n, "Mean": 0, "StdDev": 1} for n in ("Dark", "Grey")]}


@pytest.mark.slow
def test_a_model_is_shown_the_bands_that_it_extracts(make_model: MakeModel, tmp_path: Path, roofs: Picture) -> None:
    def behind_darkness(bare: Chip) -> Chip:
        return replace(bare, image=np.concatenate([np.zeros_like(bare.image), bare.image]))

    found = [behind_darkness(chip(roofs(64, 64, ROOFS), ROOFS))]
    scores = evaluate_model(make_model(level=100, **TWO), write_chips(tmp_path / "boxes", found, CLASSES))
    assert (1, 1) == (scores.values["precision"], scores.values["recall"])
    roof = [behind_darkness(chip(even(100), mask=np.ones((64, 64), np.uint8)))]
    held_out = write_chips(tmp_path / "pixels", roof, CLASSES, "Classified_Tiles")
    assert evaluate_model(make_model("levels", "pixels", level=100, **TWO), held_out).values["accuracy"] > 0.99
    pond = [behind_darkness(chip(even(100), [(0, 0, 64, 64)], labels=np.array([2])))]
    held_out = write_chips(tmp_path / "objects", pond, CLASSES, "Labeled_Tiles")
    assert 1 == evaluate_model(make_model("brightest", "objects", level=100, **TWO), held_out).values["accuracy"]


def test_chips_without_a_band_of_the_model_are_refused(make_model: MakeModel, chips: ChipFolder) -> None:
    with pytest.raises(ImageryError, match=r"held-out: lacks bands of the model, which reads 1: no 1, counted from 0"):
        evaluate_model(make_model(level=100, **TWO), chips)


@pytest.mark.slow
def test_change_is_scored_over_both_dates(make_model: MakeModel, tmp_path: Path) -> None:
    built = even(10)
    built[:32] = 210
    truth = np.zeros((64, 64), np.uint8)
    truth[:16] = 1
    change = [{"Value": 1, "Name": "Change", "Color": [255, 0, 0]}]
    pair = chip(even(10), mask=truth, image2=built[None])
    held_out = write_chips(tmp_path / "held-out", [pair, pair], change, "Classified_Tiles")
    grey = [{"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1}]
    keys = {"Classes": change, "ExtractBands": [0, 1], "AllTilesStats": grey * 2}
    scores = evaluate_model(make_model("brighter", level=100, **keys), held_out)
    assert ("f1_score", 0.5, 1) == (scores.primary, scores.values["precision"], scores.values["recall"])
    assert scores.calibration is not None
    assert 2 * 64 * 64 == sum(part.count for part in scores.calibration.bins)


@pytest.mark.slow
def test_objects_are_scored_by_their_label(make_model: MakeModel, tmp_path: Path) -> None:
    whole = [(0, 0, 64, 64)]
    pictures = [chip(even(level), whole, labels=np.array([label])) for level, label in ((0, 1), (100, 2), (100, 1))]
    held_out = write_chips(tmp_path / "held-out", pictures, CLASSES, "Labeled_Tiles")
    scores = evaluate_model(make_model("brightest", level=100), held_out)
    assert "accuracy" == scores.primary
    assert 2 / 3 == pytest.approx(scores.values["accuracy"])
    assert [[1, 1], [0, 1]] == scores.confusion_matrix
    assert scores.calibration is not None


@pytest.mark.slow
def test_instances_are_scored_by_their_outlines(make_model: MakeModel, tmp_path: Path) -> None:
    """The model outlines what is bright: in the first chip the object, in the second only a corner of it."""
    masks = np.zeros((1, 64, 64), bool)
    masks[0, 8:40, 8:40] = True
    right, wrong = (np.where(masks[0], 250, 10).astype(np.uint8) for _ in range(2))
    wrong[24:] = 10
    wrong[:, 24:] = 10
    pictures = [chip(picture, [(8, 8, 40, 40)], masks=masks) for picture in (right, wrong)]
    held_out = write_chips(tmp_path / "held-out", pictures, CLASSES[:1], "RCNN_Masks")
    scores = evaluate_model(make_model("drawn", level=100, ModelType="InstanceDetection"), held_out)
    row = scores.per_class["Roof"]
    assert (1, 1, 1) == (row["True_Positive"], row["False_Positive"], row["False_Negative"])


@pytest.mark.slow
def test_scores_on_chips_that_a_model_was_trained_on_say_so(make_model: MakeModel, chips: ChipFolder) -> None:
    from click.testing import CliRunner

    model, words = make_model(name="a"), "a was trained on these chips"
    page = model.path / "model_metrics.html"
    known = {"digest": "of all", "digests": ["of others", chips.digest]}
    write_metrics_page(model.path, model.emd, data={"training": known})
    done = CliRunner().invoke(main, ["evaluate", str(model.path), str(chips.path)])
    assert words in done.stderr
    assert "warnings" not in json.loads(done.stdout)
    assert words in page.read_text()
    found = compare_models(model, make_model(name="b"), chips)
    assert ([words], ("a",)) == ([w[: len(words)] for w in found.warnings], found.learnt)

    write_metrics_page(model.path, model.emd, data={"training": {"digest": "of others"}})
    assert "warnings" not in evaluate_model(model, chips).document()
    assert "8 chips that the model was never trained on." in page.read_text()
    assert () == compare_models(model, model, chips).warnings

    page.unlink()  # a stranger's model: nobody knows
    evaluate_model(model, chips)
    assert "8 chips." in page.read_text()


def test_the_outline_of_chips_in_degrees_is_no_point(tmp_path: Path) -> None:
    held_out = write_chips(tmp_path / "held-out", [chip(even(10))], CLASSES)
    (ring,) = outline(held_out, held_out.names)
    assert {(500000, 4600000), (500032, 4600000), (500000, 4599968), (500032, 4599968)} == set(ring)
    world = next((held_out.path / "images").glob("*.tfw"))
    world.write_text("0.000005\n0\n0\n-0.000005\n13.1000025\n52.4999975\n")
    (ring,) = outline(held_out, held_out.names)
    assert {(13.1, 52.5), (13.10032, 52.5), (13.1, 52.49968), (13.10032, 52.49968)} == set(ring)


def test_a_block_of_another_part_is_a_gap_in_the_outline(tmp_path: Path) -> None:
    around = write_chips(tmp_path / "around", [chip(even(10))] * 8, CLASSES)
    places = [(x, y) for x in (0, 64, 128) for y in (0, 64, 128) if (x, y) != (64, 64)]
    for name, (x, y) in zip(around.names, places, strict=True):
        (around.path / "images" / f"{name}.tfw").write_text(f"1\n0\n0\n-1\n{x + 0.5}\n{y - 0.5}\n")
    outer, gap = map(shapely.LinearRing, outline(around, around.names))
    assert (192**2, True) == (shapely.Polygon(outer).area, outer.is_ccw)
    assert (64**2, False) == (shapely.Polygon(gap).area, gap.is_ccw)


def test_a_test_split_was_not_learnt(make_model: MakeModel, chips: ChipFolder) -> None:
    (chips.path / "splits.json").write_text(json.dumps({"train": chips.names[:6], "test": chips.names[6:]}))
    split, model = ChipFolder.open(chips.path), make_model()
    write_metrics_page(model.path, model.emd, data={"training": {"digest": split.digest}})
    assert not learnt(model.path, split)


@pytest.mark.slow
def test_a_test_split_is_what_is_scored(make_model: MakeModel, chips: ChipFolder) -> None:
    parts = {"train": chips.names[:6], "test": chips.names[6:]}
    (chips.path / "splits.json").write_text(json.dumps(parts))
    assert 2 == evaluate_model(make_model(), ChipFolder.open(chips.path)).chips
