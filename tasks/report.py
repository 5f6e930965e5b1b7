"""What a person reads of a trained model, and the losses as ArcGIS keeps them (ArcGIS formats C).

    <model folder>/
        model_metrics.html                               opens from disk, prints, nothing is loaded from elsewhere
        ModelCharacteristics/training_validation_loss.json    rewritten after every epoch
        ModelCharacteristics/loss_graph.png
        ModelCharacteristics/show_results.png            rows of ground truth and prediction
        ModelCharacteristics/worst_mistakes.png          the chips with the lowest score, and what is wrong there

Every file is written whole, and equal input gives equal bytes: no dates, no versions of libraries in them.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from registry.emd import ClassLabel, Emd, background_name
from registry.files import atomic, write_text
from registry.records import few
from tasks import charts
from tasks.pictures import INVENTED, MISSED, ResultSample, draw, draw_mistakes, draw_truth, rgb, show
from tasks.progress import Epoch
from tasks.provenance import PAGE, facts_in

FOLDER = "ModelCharacteristics"
LOSSES, LOSS_GRAPH, SHOW_RESULTS, WORST = (
    "training_validation_loss.json",
    "loss_graph.png",
    "show_results.png",
    "worst_mistakes.png",
)
METRICS = (  # those of C.2 that our networks have, in its order within each model type
    "average_precision", "accuracy", "multi_label_fbeta", "precision", "recall", "f1_score", "Dice",
)  # fmt: skip
MEANINGS = {
    "AP50": "average precision, a detection counting from half overlap",
    "AP50_95": "the same, mean over overlaps of 0.50 to 0.95",
    "precision": "share of the detections that are right",
    "recall": "share of the objects that are found",
    "f1": "of precision and recall",
    "f1_score": "of precision and recall",
    "F1": "mean over the classes",
    "mIoU": "overlap of prediction and truth, mean over the classes",
    "IoU": "overlap of prediction and truth",
    "accuracy": "share of the answers that are right",
    "calibration_error": "mean distance between confidence and truth; less is better",
}
Panel = Callable[[Axes, ResultSample], None]
LETTERS, LONGEST = 100, 80  # that a line of a legend has room for, and of a class in it
PLAIN = ("default", {"text.parse_math": False})  # whatever the reader's own matplotlibrc says; a $ is a letter


# -- losses ----------------------------------------------------------------------------------------------------------
def write_losses(folder: Path, epochs: Sequence[Epoch]) -> Path:
    """The losses of the epochs so far, as Train Deep Learning Model keeps them (ArcGIS formats C.2)."""
    document = {"training_validation_loss_per_epoch": [_loss_entry(epoch) for epoch in epochs]}
    return write_text(folder / FOLDER / LOSSES, json.dumps(document, indent=4))


def _loss_entry(epoch: Epoch) -> dict[str, Any]:
    scores = {
        name: round(epoch.metrics[name], 6) for name in METRICS if math.isfinite(epoch.metrics.get(name, math.nan))
    }
    losses = {name: _loss_text(epoch.metrics.get(name, math.nan)) for name in ("training_loss", "validation_loss")}
    return {"epoch": epoch.number, **losses, **scores, "time": clock(epoch.seconds)}


def _loss_text(loss: float) -> str:
    return f"{loss:.8f}" if math.isfinite(loss) else "NA"


def clock(seconds: float) -> str:
    """HH:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def write_loss_graph(folder: Path, epochs: Sequence[Epoch], best: int) -> Path:
    """Training and validation loss over the epochs; number `best`, which is kept, is marked (ArcGIS formats C.6)."""
    with matplotlib.style.context(PLAIN):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        numbers = [epoch.number + 1 for epoch in epochs]
        for name, colour in (("training", "tab:blue"), ("validation", "tab:orange")):
            losses = [epoch.metrics.get(f"{name}_loss", math.nan) for epoch in epochs]
            axes.plot(numbers, losses, marker="o", markersize=3, color=colour, label=name.title())
        for number, loss in zip(numbers, losses, strict=True):
            if number == best + 1 and math.isfinite(loss):
                axes.plot(number, loss, "o", markersize=9, fillstyle="none", color="tab:red", label="Best")
        axes.set(xlabel="Epochs processed", ylabel="Loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        return _save(figure, folder / FOLDER / LOSS_GRAPH)


# -- pictures --------------------------------------------------------------------------------------------------------
def write_show_results(folder: Path, samples: Sequence[ResultSample], classes: Sequence[ClassLabel]) -> Path:
    """Ground truth beside prediction, a row for each sample, in the colours of the definition (ArcGIS formats C.6)."""
    panels: dict[str, Panel] = {
        "Ground truth": lambda axes, sample: draw_truth(axes, sample, classes),
        "Prediction": lambda axes, sample: draw(axes, sample.prediction, classes),
    }
    return _save(_rows(samples, panels, _patches(classes)), folder / FOLDER / SHOW_RESULTS)


def write_worst(folder: Path, samples: Sequence[ResultSample], classes: Sequence[ClassLabel]) -> Path:
    """The worst samples: ground truth, prediction, and what was invented or missed."""
    panels: dict[str, Panel] = {
        "Ground truth": lambda axes, sample: draw_truth(axes, sample, classes),
        "Prediction": lambda axes, sample: draw(axes, sample.prediction, classes),
        "Mistakes": draw_mistakes,
    }
    patches = _patches(classes)
    patches += [Patch(color=INVENTED, label="found, but wrong"), Patch(color=MISSED, label="missed")]
    return _save(_rows(samples, panels, patches), folder / FOLDER / WORST)


def _patches(classes: Sequence[ClassLabel]) -> list[Patch]:
    names = [c.name if len(c.name) <= LONGEST else f"{c.name[: LONGEST - 1]}…" for c in classes]
    return [Patch(color=rgb(label), label=name) for label, name in zip(classes, names, strict=True)]


def _rows(samples: Sequence[ResultSample], panels: Mapping[str, Panel], patches: Sequence[Patch]) -> Figure:
    """A row for each sample, a column for each panel; two dates stand before the panels, one lies under them."""
    pairs = [s for s in samples if s.image2 is not None]
    dates = ("Before", "After") if pairs else ()
    titles = [*dates, *panels]
    columns = max(1, min(4, LETTERS // (max((len(str(p.get_label())) for p in patches), default=0) + 9)))
    tall = max((min(1.0, s.image.shape[1] / s.image.shape[2]) for s in samples), default=1.0)
    with matplotlib.style.context(PLAIN):
        height = 8 / len(titles) * tall * max(len(samples), 1) + 0.5 + 0.2 * math.ceil(len(patches) / columns)
        figure = Figure(figsize=(8, height), layout="constrained")
        grid = figure.subplots(max(len(samples), 1), len(titles), squeeze=False)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=10)
        for sample, row in zip(samples, grid, strict=False):
            images = (sample.image, sample.image if sample.image2 is None else sample.image2)
            for image, axes in zip((*images[: len(dates)], *[images[-1]] * len(panels)), row, strict=True):
                show(axes, image, sample)
            for panel, axes in zip(panels.values(), row[len(dates) :], strict=True):
                panel(axes, sample)
            row[0].text(0, 1.01, sample.name, transform=row[0].transAxes, fontsize=7, color="#666666")
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#bbbbbb")
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
    return path


# -- page ------------------------------------------------------------------------------------------------------------
def write_metrics_page(
    folder: Path,
    definition: Emd,
    *,
    name: str = "",
    hyperparameters: Mapping[str, object] | None = None,
    provenance: Mapping[str, object] | None = None,
    scores: Mapping[str, object] | None = None,
    epochs: Sequence[Epoch] | None = None,
    data: Mapping[str, object] | None = None,
    machine: Mapping[str, object] | None = None,
    page: Path | None = None,
) -> Path:
    """`model_metrics.html` of a model folder, from the definition, the files that are there and what is given.

    `scores`: a `Scores.document()`. `data`: facts of the chips by part, training, validation, scored
    (`provenance.described`); new parts are added to those known. `machine`: what was trained on. What is left out
    (None) is kept from the page that is there, so a model can be trained first and scored later; or from that of the
    folder `page`, the model's, whatever the page here tells of another one. The order begins with that of ArcGIS
    formats C.5.
    """
    path = folder / PAGE
    facts = facts_in((page or folder) / PAGE)
    given = {"hyperparameters": hyperparameters, "provenance": provenance, "scores": scores, "machine": machine}
    facts |= {key: dict(value) for key, value in given.items() if value is not None}
    known = {**facts.get("data", {}), **(data or {})}
    facts |= {"data": {part: known[part] for part in sorted(known, key=_part)}} if known else {}
    facts |= {"epochs": [_epoch(epoch) for epoch in epochs]} if epochs is not None else {}
    name = name or Path(str(definition.document.get("ModelFile", folder.name))).stem
    pictures = {key: embedded(folder / FOLDER / file) for key, file in (("samples", SHOW_RESULTS), ("worst", WORST))}
    text = template("model_metrics.html.jinja").render(
        name=name,
        definition=definition.document,
        backbone=backbone(definition),
        losses=_losses(page or folder),
        charts=_charts(facts),
        pictures=pictures,
        loss_graph=embedded((page or folder) / FOLDER / LOSS_GRAPH),
        analysis=_analysis(facts.get("scores") or {}),
        facts=facts,
    )
    return write_text(path, text)


def backbone(definition: Emd) -> str:
    """The network's backbone, "" when the definition does not tell."""
    options = definition.document.get("NetworkOptions") or definition.document.get("ModelParameters") or {}
    return str(options.get("backbone", ""))


def _epoch(epoch: Epoch) -> dict[str, float]:
    """JSON knows no NaN."""
    return {name: value for name, value in epoch.metrics.items() if math.isfinite(value)} | {"seconds": epoch.seconds}


def _part(name: str) -> tuple[int, str]:
    """In the order in which a model meets them."""
    order = list(charts.PARTS)
    return (order.index(name) if name in order else len(order)), name


def _losses(folder: Path) -> list[dict[str, Any]]:
    path = folder / FOLDER / LOSSES
    if not path.is_file():
        return []
    epochs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["training_validation_loss_per_epoch"]
    return epochs


def _charts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each as a data: address, "" where there is nothing to draw."""
    epochs, scores = facts.get("epochs") or [], facts.get("scores") or {}
    return {
        "losses": charts.losses(epochs),
        "rate": charts.learning_rate(epochs),
        "metrics": charts.metrics(epochs),
        "thresholds": charts.thresholds(scores.get("by_threshold") or [], scores.get("threshold")),
        "reliability": charts.reliability((scores.get("calibration") or {}).get("bins") or []),
        "ground": charts.ground(facts.get("data") or {}),
    }


def embedded(path: Path) -> str:
    """The picture as a data: address, "" when there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""


def _analysis(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores sorted into what the page shows: figures with intervals, a table by class, a confusion matrix."""
    matrix, per_class = scores.get("confusion_matrix") or [], scores.get("per_class") or {}
    ends, class_ends = scores.get("intervals") or {}, scores.get("per_class_intervals") or {}
    numbers = {k: v for k, v in scores.items() if isinstance(v, int | float) and k not in ("chips", "threshold")}
    primary = scores.get("primary", "")
    order = sorted(numbers, key=lambda key: key != primary)
    return {
        "figures": [(key, numbers[key], ends.get(key), MEANINGS.get(key, "")) for key in order],
        "primary": primary,
        "per_class": per_class,
        "class_intervals": class_ends,
        "in_doubt": {key for row in class_ends.values() for key in row},  # of a class without, nobody can tell it
        "columns": list(dict.fromkeys(key for row in per_class.values() for key in row)),
        "matrix": matrix,
        "matrix_names": [background_name(per_class), *per_class] if len(matrix) > len(per_class) else [*per_class],
        "counts_objects": "threshold" in scores,
        "counts_pixels": any("Pixels" in row for row in per_class.values()),
    }


def template(name: str) -> jinja2.Template:
    """A page of `tasks/templates`: values are escaped, and one that is missing is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"default": str}  # in the order given; a path is a text
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = _number
    environment.filters["setting"] = _setting
    environment.filters["clock"] = clock
    environment.filters["few"] = few
    return environment.get_template(name)


def _number(value: object) -> str:
    """As a person reads it: shares with three digits, counts with commas."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 1e-3 <= abs(value) < 10 or value == 0:
        return f"{value:.3f}"
    return f"{value:.4g}" if abs(value) > 1 else f"{value:.1g}"


def _setting(value: object) -> str:
    """As it was given."""
    if value in ((), [], {}, "", None):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return few([_setting(one) for one in value])
    return str(value)
