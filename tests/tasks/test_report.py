"""The report of a model: ArcGIS reads it to the letter, a person finds what matters, equal input gives equal bytes."""

import base64
import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from registry.emd import ClassLabel, Emd
from tasks import charts, pictures, report
from tasks.pictures import ResultSample
from tasks.progress import Epoch
from tasks.provenance import FACTS, facts_in

RED, BLUE = ClassLabel(1, "roof", (255, 0, 0)), ClassLabel(2, "pond <1 ha>", (0, 0, 255))
EMD = Emd(
    {
        "ModelType": "ImageClassification",
        "ModelConfiguration": "unet",
        "ModelFile": "town.pth",
        "ImageHeight": 64,
        "ImageWidth": 64,
        "ExtractBands": [0, 1, 2],
        "LearningRate": "1.0000e-03",
        "NetworkOptions": {"backbone": "resnet18"},
        "Classes": [RED.document(), BLUE.document()],
    }
)
EPOCHS = [
    Epoch(
        0,
        2,
        {"training_loss": 0.69314718, "validation_loss": 0.5, "learning_rate": 1e-3, "Dice": 0.1, "accuracy": 0.8},
        8.2,
    ),
    Epoch(1, 2, {"training_loss": 0.4, "validation_loss": float("nan"), "accuracy": 0.9, "Dice": 0.3}, 3725),
]
SCORES = {
    "mIoU": 0.512345,
    "per_class": {"roof": {"precision": 0.5, "recall": 0.25}, "pond <1 ha>": {"precision": 1.0, "recall": 0.75}},
    "primary": "mIoU",
    "intervals": {"mIoU": [0.4, 0.6]},
    "per_class_intervals": {"roof": {"recall": [0.2, 0.3]}},
    "confusion_matrix": [[1000, 2, 3], [4, 50, 6], [7, 8, 90]],
    "threshold": 0.4,
    "by_threshold": [[0.1, 0.2, 0.9, 0.3], [0.5, 0.6, 0.5, 0.55]],
    "calibration": {"error": 0.1, "bins": [{"count": 9, "confidence": 0.4, "true": 0.5}]},
    "chips": 7,
}
DATA = {
    "scored": {"chips": 7, "of": {"roof": 31}, "digest": "f" * 64, "outline": [[(0, 0), (9, 0), (9, 9), (0, 0)]]},
    "training": {"chips": 30, "digest": "e" * 64, "outline": [[(9, 0), (30, 0), (30, 9), (9, 0)]]},
}


@dataclass(frozen=True)
class Drawn:
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.uint8] | None = None
    masks: NDArray[np.bool_] | None = None


def boxes(*corners: tuple[int, int, int, int]) -> Drawn:
    return Drawn(np.array(corners, np.float32).reshape(-1, 4), np.ones(len(corners), np.int64))


def mask(values: NDArray[np.uint8]) -> Drawn:
    return Drawn(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), values)


def scene(bands: int, dtype: str) -> NDArray[Any]:
    return np.random.default_rng(1).integers(1, 200, (bands, 64, 64)).astype(dtype)


class Page(HTMLParser):
    """The text and the addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.addresses = "", list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]


def test_losses_are_texts_scores_are_numbers_and_a_missing_loss_is_na(tmp_path: Path) -> None:
    path = report.write_losses(tmp_path, EPOCHS)
    assert tmp_path / "ModelCharacteristics" / "training_validation_loss.json" == path
    assert path.read_text() == json.dumps(
        {
            "training_validation_loss_per_epoch": [
                {
                    "epoch": 0,
                    "training_loss": "0.69314718",
                    "validation_loss": "0.50000000",
                    "accuracy": 0.8,
                    "Dice": 0.1,
                    "time": "00:00:08",
                },
                {
                    "epoch": 1,
                    "training_loss": "0.40000000",
                    "validation_loss": "NA",
                    "accuracy": 0.9,
                    "Dice": 0.3,
                    "time": "01:02:05",
                },
            ]
        },
        indent=4,
    )


def test_before_the_first_epoch_the_list_is_empty(tmp_path: Path) -> None:
    document = json.loads(report.write_losses(tmp_path, []).read_text())
    assert {"training_validation_loss_per_epoch": []} == document


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [[], EPOCHS[:1], EPOCHS, EPOCHS[1:]], ids=["none", "one", "two", "unvalidated"])
def test_the_loss_graph_has_the_same_bytes_each_time(tmp_path: Path, epochs: list[Epoch]) -> None:
    first = report.write_loss_graph(tmp_path / "a", epochs, 0).read_bytes()
    assert first == report.write_loss_graph(tmp_path / "b", epochs, 0).read_bytes()
    assert first.startswith(b"\x89PNG")
    assert b"matplotlib" not in first.lower()


def test_the_loss_graph_marks_the_epoch_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked, plot = [], Axes.plot

    def spy(axes: Axes, *at: Any, **style: Any) -> Any:
        marked.extend([at[:2]] if style.get("label") == "Best" else [])
        return plot(axes, *at, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    losses = [0.5, 0.6, 0.7]  # the lowest is the first, another score is the best in the second
    epochs = [Epoch(i, 3, {"training_loss": 1.0, "validation_loss": loss}, 1.0) for i, loss in enumerate(losses)]
    report.write_loss_graph(tmp_path, epochs, 1)
    assert [(2, 0.6)] == marked


@pytest.mark.slow
@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint8"), (2, "int16"), (3, "uint8"), (13, "uint16"), (4, "float32")])
def test_sample_results_are_drawn_for_any_bands_and_types(tmp_path: Path, bands: int, dtype: str) -> None:
    drawn = mask(np.eye(64, dtype=np.uint8) * 2)
    samples = [
        ResultSample(scene(bands, dtype), (), boxes((1, 1, 9, 9)), boxes()),
        ResultSample(scene(bands, dtype), (), drawn, drawn),
    ]
    first = report.write_show_results(tmp_path, samples, [RED, BLUE]).read_bytes()
    assert first == report.write_show_results(tmp_path, samples, [RED, BLUE]).read_bytes()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Blue", "Green", "Red", "NIR"), (2, 1, 0)),
        (("B02", "B03", "B04", "B08"), (2, 1, 0)),
        (("Band_1", "Band_2", "Band_3"), (0, 1, 2)),
        (("HH", "HV"), (0, 0, 0)),
    ],
)
def test_true_colour_is_found_by_band_names(names: tuple[str, ...], expected: tuple[int, int, int]) -> None:
    assert expected == pictures.shown_bands(len(names), names)


def test_eight_bit_pictures_are_shown_as_they_are_and_others_are_stretched() -> None:
    assert scene(3, "uint8")[:, 5, 7].tolist() == pictures.picture(scene(3, "uint8"), ())[5, 7].tolist()
    stretched = pictures.picture(scene(3, "uint16") * np.uint16(9), ())
    assert (0, 255) == (stretched.min(), stretched.max())


def test_nodata_takes_nothing_of_the_stretch() -> None:
    image = scene(1, "int16")
    valid = np.ones((64, 64), bool)
    valid[:20], image[0, :20] = False, -9999
    shown = pictures.picture(image, (), valid)[20:]
    assert (0, 255) == (shown.min(), shown.max())
    assert 128 == pytest.approx(shown.mean(), abs=5)


def test_a_picture_of_nodata_only_is_black() -> None:
    assert 0 == pictures.picture(np.full((2, 8, 8), np.nan, np.float32), ()).max()


def test_the_page_tells_scores_classes_and_provenance_and_loads_nothing(tmp_path: Path) -> None:
    report.write_losses(tmp_path, EPOCHS)
    report.write_loss_graph(tmp_path, EPOCHS, 0)
    path = report.write_metrics_page(
        tmp_path, EMD, hyperparameters={"batch_size": 8}, provenance={"data_digest": "abc"}, scores=SCORES
    )
    page = Page(path)
    for expected in (
        "town",
        "resnet18",
        "1.0000e-03",
        "0.69314718",
        "0.512",
        "pond <1 ha>",
        "1,000",
        "batch size",
        "abc",
    ):
        assert expected in page.text
    assert {"data"} == {address.partition(":")[0] for address in page.addresses}
    order = ["Training and Validation loss", "Analysis of the model", "Sample Results", "Provenance"]
    assert order == sorted(order, key=page.text.index)


def whole(folder: Path) -> Path:
    """A page with everything on it."""
    drawn = mask(np.eye(64, dtype=np.uint8))
    report.write_losses(folder, EPOCHS)
    report.write_loss_graph(folder, EPOCHS, 0)
    samples = [ResultSample(scene(3, "uint8"), (), drawn, mask(np.eye(64, dtype=np.uint8)[::-1].copy()), name="7")]
    report.write_show_results(folder, samples, [RED, BLUE])
    report.write_worst(folder, samples, [RED, BLUE])
    return report.write_metrics_page(
        folder,
        EMD,
        hyperparameters={"batch_size": 8, "learning_rate": 0.001},
        scores=SCORES,
        epochs=EPOCHS,
        data=DATA,
        machine={"processor": "abacus"},
    )


@pytest.mark.slow
def test_the_whole_page_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    assert whole(tmp_path / "a").read_bytes() == whole(tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_the_whole_page_tells_intervals_data_time_and_hardware(tmp_path: Path) -> None:
    page = Page(whole(tmp_path))
    for expected in ("0.400 to 0.600", "0.200 to 0.300", "31 roof", "01:02:13 for 2 epochs", "abacus", "0.001"):
        assert expected in page.text
    assert page.text.index("training") < page.text.index("scored")
    assert 8 == len(page.addresses)  # losses, rate, scores, thresholds, reliability, samples, mistakes, map


def test_the_page_has_rows_of_what_is_known_and_settings_in_words(tmp_path: Path) -> None:
    settings = {"network_options": {"detail": 16, "decoder": [64, 32]}, "ignore_classes": [0], "extract_bands": []}
    parts = {"training": {"chips": 30, "bands": [f"B{i}" for i in range(369)]}, "scored": {"chips": 7}}
    page = Page(report.write_metrics_page(tmp_path, EMD, hyperparameters=settings, data=parts)).text.split("\n")
    assert {"chips307", "bandsB0, B1, B2, ... B368 (369)"} == {
        line for line in page if line.startswith(("chips", "labels", "bands", "cell size"))
    }
    for expected in ("network optionsdetail 16, decoder 64, 32", "ignore classes0", "extract bandsnone"):
        assert expected in page


def test_what_no_chip_can_tell_of_a_class_is_no_nought(tmp_path: Path) -> None:
    per_class = {"roof": {"precision": 0.0, "recall": 0.0, "objects": 3}, "pond": {"precision": 0.0, "objects": 0}}
    ends = {"recall": [0.0, 0.0]}
    scores = {"per_class": per_class, "per_class_intervals": {"roof": ends}}
    rows = Page(report.write_metrics_page(tmp_path, EMD, scores=scores)).text.split("\n")
    assert {"roof0.0000.0000.000 to 0.0003", "pond0.0000"} <= set(rows)
    ends["precision"] = [0.0, 0.0]
    rows = Page(report.write_metrics_page(tmp_path, EMD, scores=scores)).text.split("\n")
    assert "pond–0" in rows


def test_a_matrix_of_many_classes_has_shares_and_leaves_out_what_is_nought(tmp_path: Path) -> None:
    per_class = {f"kind {i}": {"objects": i} for i in range(1, 14)}
    scores = {"confusion_matrix": np.diag(range(20, 33)).tolist(), "per_class": per_class}
    page = Page(report.write_metrics_page(tmp_path, EMD, scores=scores)).text
    assert {"kind 1100", "kind 13100"} <= set(page.split("\n"))
    assert "Objects in per cent of the row." in page


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("background", "road", "roof"), ["background", "road", "roof"]),
        (("road", "roof"), ["background", "road", "roof"]),
        (("Background", "roof"), ["unlabelled", "Background", "roof"]),
    ],
)
def test_the_matrix_has_the_names_in_the_order_of_the_count(
    tmp_path: Path, names: tuple[str, ...], shown: list[str]
) -> None:
    """Not those of the definition, which may know more classes and number them in another way."""
    matrix = [[7, 0, 0], [8, 0, 0], [9, 0, 0]]
    scores = {"confusion_matrix": matrix, "per_class": {name: {"IoU": 1.0} for name in names}}
    lines = Page(report.write_metrics_page(tmp_path, EMD, scores=scores)).text.split("\n")
    rows = [f"{name}{n}100.0 %00.0 %00.0 %" for name, n in zip(shown, (7, 8, 9), strict=True)]
    assert {"".join(shown), *rows} <= set(lines)


@pytest.mark.parametrize("name", ["{} Broad-leaved forest with a closed canopy " * 3, "class {}", "$x_{}_$"])
def test_the_names_of_the_classes_fit_below_the_pictures(name: str) -> None:
    classes = [ClassLabel(i, name.replace("{}", str(i)), (255, 0, 0)) for i in range(1, 41)]
    sample = ResultSample(scene(1, "uint8"), (), boxes(), boxes())
    figure = report._rows([sample], {"Prediction": lambda *_: None}, report._patches(classes))
    figure.draw_without_rendering()
    picture, legend = figure.axes[0].get_window_extent(), figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 <= legend.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= legend.y0 <= legend.y1 <= picture.y0


def test_truth_of_a_whole_picture_is_told_in_words_beside_an_answer_in_words() -> None:
    from matplotlib.figure import Figure

    def words(truth: Drawn, found: Drawn) -> list[str]:
        axes = Figure().subplots()
        pictures.draw_truth(axes, ResultSample(scene(3, "uint8"), (), truth, found), [RED, BLUE])
        return [text.get_text() for text in axes.texts]

    roof, pond = boxes((1, 1, 9, 9)), replace(boxes(), labels=np.array([2]))
    assert [RED.name] == words(roof, pond)
    assert [BLUE.name] == words(pond, pond)
    assert [] == words(roof, boxes())


def test_long_names_stay_on_the_picture() -> None:
    classes = [ClassLabel(i, f"{i} Broad-leaved forest with a closed canopy " * 3) for i in (1, 2)]
    told = Drawn(np.zeros((0, 4), np.float32), np.array([1, 2]))
    panels: dict[str, report.Panel] = {
        part: lambda axes, _: pictures.draw(axes, told, classes) for part in ("one", "two", "three")
    }
    figure = report._rows([ResultSample(scene(1, "uint8"), (), told, told)], panels, [])
    figure.draw_without_rendering()
    for axes in figure.axes:
        picture, words = axes.get_window_extent(), axes.texts[0].get_window_extent()
        assert picture.x0 < words.x0 < words.x1 < picture.x1


def test_what_is_wrong_is_drawn_in_the_colours_of_mistakes() -> None:
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    truth, found = boxes((0, 0, 10, 10), (40, 40, 60, 60)), boxes((0, 0, 10, 10), (20, 20, 30, 30))
    pictures.draw_mistakes(axes, ResultSample(scene(3, "uint8"), (), truth, found))
    drawn = {(int(box.get_x() + 0.5), to_hex(box.get_edgecolor())) for box in axes.patches}  # type: ignore[attr-defined]
    assert {(0, "#ffffff"), (20, pictures.INVENTED), (40, pictures.MISSED)} == drawn


def test_a_gap_in_the_ground_is_not_painted() -> None:
    outer, gap = [(0, 0), (9, 0), (9, 9), (0, 9), (0, 0)], [(3, 3), (3, 6), (6, 6), (6, 3), (3, 3)]
    drawn = charts.ground({"training": {"outline": [outer, gap]}}).partition(",")[2]
    painted = re.findall('<path d="([^"]*)"[^>]*fill: #0072b2', base64.b64decode(drawn).decode())
    assert 2 == painted[0].count("z")  # one figure of both rings


@pytest.mark.parametrize(("width", "turned"), [(9, True), (99, False)])
def test_numbers_below_a_narrow_map_are_turned(width: int, turned: bool) -> None:
    outline = [(9520000, 0), (9520000 + width, 0), (9520000 + width, 50), (9520000, 50), (9520000, 0)]
    drawn = base64.b64decode(charts.ground({"training": {"outline": [outline]}}).partition(",")[2]).decode()
    assert turned == ("rotate(-90)" in drawn)


def test_a_report_elsewhere_keeps_what_the_model_folder_tells(tmp_path: Path) -> None:
    report.write_metrics_page(tmp_path / "model", EMD, hyperparameters={"batch_size": 8})
    page = report.write_metrics_page(tmp_path / "elsewhere", EMD, scores=SCORES, page=tmp_path / "model")
    assert "batch size" in Page(page).text


def test_a_report_elsewhere_keeps_nothing_of_another_model(tmp_path: Path) -> None:
    for model, size in (("a", 111), ("b", 222)):
        report.write_losses(tmp_path / model, EPOCHS[: size // 111])
        report.write_metrics_page(tmp_path / model, EMD, hyperparameters={"batch_size": size})
        page = report.write_metrics_page(tmp_path / "elsewhere", EMD, scores=SCORES, page=tmp_path / model)
    assert {"batch_size": 222} == facts_in(page)["hyperparameters"]
    assert "2 epochs in numbers" in Page(page).text


def test_a_page_written_before_the_scores_says_so(tmp_path: Path) -> None:
    assert "not scored" in Page(report.write_metrics_page(tmp_path, EMD)).text


@pytest.mark.slow
def test_scoring_later_keeps_what_training_told(tmp_path: Path) -> None:
    report.write_metrics_page(
        tmp_path, EMD, hyperparameters={"epochs": 7, "note": "</script><b>"}, provenance={"chips": 30}
    )
    later = report.write_metrics_page(tmp_path, EMD, scores=SCORES).read_bytes()
    at_once = report.write_metrics_page(
        tmp_path, EMD, hyperparameters={"epochs": 7, "note": "</script><b>"}, provenance={"chips": 30}, scores=SCORES
    )
    assert later == at_once.read_bytes()


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    emd = EMD.replace(Classes=[ClassLabel(1, "<img src=x>", (1, 2, 3)).document()])
    page = Page(report.write_metrics_page(tmp_path, emd, provenance={"x": "<script src=y>"}))
    assert [] == page.addresses


@pytest.mark.parametrize(
    "text", [b"<p>Pr\xe9cision</p>", FACTS.encode() + b"{oops</script>", FACTS.encode() + b"[1]</script>"]
)
def test_a_page_of_another_program_has_no_facts(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "page.html").write_bytes(text)
    assert {} == facts_in(tmp_path / "page.html")
