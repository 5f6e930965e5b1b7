"""What a person reads of a trained model: two pictures, a page, and the losses as ArcGIS keeps them (ArcGIS formats C).

    <model folder>/
        model_metrics.html                               opens from disk, nothing is loaded from elsewhere
        ModelCharacteristics/training_validation_loss.json    rewritten after every epoch
        ModelCharacteristics/loss_graph.png
        ModelCharacteristics/show_results.png            rows of ground truth and prediction

Every file is written whole, and equal input gives equal bytes: no dates, no versions of libraries in them.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from registry.emd import ClassLabel, Emd
from registry.files import atomic, write_text
from tasks.progress import Epoch

FOLDER = "ModelCharacteristics"
LOSSES, LOSS_GRAPH, SHOW_RESULTS, PAGE = (
    "training_validation_loss.json",
    "loss_graph.png",
    "show_results.png",
    "model_metrics.html",
)
METRICS = ("average_precision", "accuracy", "Dice")  # those of C.2 that our networks have, in its order
TRUE_COLOUR = (("red", "green", "blue"), ("b04", "b03", "b02"))  # by band name; the second is Sentinel-2
STRETCH = (2, 98)  # percentiles that become black and white
GREY = (0.5, 0.5, 0.5)
FACTS = '<script type="application/json" id="facts">'


class Labelled(Protocol):
    """What was drawn or found on a picture, as a `Chip` holds it."""

    @property
    def boxes(self) -> NDArray[np.float32]: ...  # (n, 4) xmin ymin xmax ymax, pixels

    @property
    def labels(self) -> NDArray[np.int64]: ...  # (n,) class index from 1

    @property
    def mask(self) -> NDArray[np.uint8] | None: ...  # (rows, cols) class index, 0 = background or unlabelled


@dataclass(frozen=True)
class ResultSample:
    """One picture with what people drew and what the model found."""

    image: NDArray[np.generic]  # (bands, rows, cols) raw sensor values
    band_names: tuple[str, ...]
    truth: Labelled
    prediction: Labelled


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


def write_loss_graph(folder: Path, epochs: Sequence[Epoch]) -> Path:
    """Training and validation loss over the epochs; the best epoch is marked (ArcGIS formats C.6)."""
    with matplotlib.style.context("default"):  # whatever the reader's own matplotlibrc says
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.subplots()
        numbers = [epoch.number + 1 for epoch in epochs]
        for name, colour in (("training", "tab:blue"), ("validation", "tab:orange")):
            losses = [epoch.metrics.get(f"{name}_loss", math.nan) for epoch in epochs]
            axes.plot(numbers, losses, marker="o", markersize=3, color=colour, label=name.title())
        if any(map(math.isfinite, losses)):
            best = int(np.nanargmin(losses))
            axes.plot(numbers[best], losses[best], "o", markersize=9, fillstyle="none", color="tab:red", label="Best")
        axes.set(xlabel="Epochs processed", ylabel="Loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
        return _save(figure, folder / FOLDER / LOSS_GRAPH)


# -- pictures --------------------------------------------------------------------------------------------------------
def write_show_results(folder: Path, samples: Sequence[ResultSample], classes: Sequence[ClassLabel]) -> Path:
    """Ground truth beside prediction, a row for each sample, in the colours of the definition (ArcGIS formats C.6)."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(8, 4 * max(len(samples), 1) + 0.7), layout="constrained")
        grid = figure.subplots(max(len(samples), 1), 2, squeeze=False)
        for i, title in enumerate(("Ground truth", "Prediction")):
            grid[0, i].set_title(title)
        for sample, row in zip(samples, grid, strict=False):
            background = picture(sample.image, sample.band_names)
            for labelled, axes in zip((sample.truth, sample.prediction), row, strict=True):
                axes.imshow(background, interpolation="nearest")
                _draw(axes, labelled, classes)
        for axes in grid.flat:
            axes.set_axis_off()
        patches = [Patch(color=_rgb(label), label=label.name) for label in classes]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
        return _save(figure, folder / FOLDER / SHOW_RESULTS)


def picture(image: NDArray[np.generic], band_names: Sequence[str]) -> NDArray[np.uint8]:
    """(rows, cols, 3) uint8 for the eye: true colour where the names tell, else the first three bands, else grey."""
    shown = np.stack([image[i] for i in shown_bands(image.shape[0], band_names)]).astype(np.float64)
    if image.dtype != np.uint8:
        shown = np.stack([_stretched(band) for band in shown])
    return np.moveaxis(np.nan_to_num(shown).clip(0, 255).astype(np.uint8), 0, 2)


def shown_bands(bands: int, names: Sequence[str]) -> tuple[int, int, int]:
    """Which bands are shown as red, green and blue."""
    lower = [name.lower() for name in names]
    for trio in TRUE_COLOUR:
        if all(name in lower for name in trio):
            return lower.index(trio[0]), lower.index(trio[1]), lower.index(trio[2])
    return (0, 1, 2) if bands >= 3 else (0, 0, 0)


def _stretched(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretched to 0-255; 0 is nodata more often than not, so it does not count."""
    measured = band[np.isfinite(band) & (band != 0)]
    if not measured.size:
        return np.zeros_like(band)
    low, high = np.percentile(measured, STRETCH)
    return np.asarray((band - low) / max(high - low, 1e-9) * 255)


def _draw(axes: Axes, labelled: Labelled, classes: Sequence[ClassLabel]) -> None:
    if labelled.mask is not None:
        overlay = np.zeros((*labelled.mask.shape, 4))
        for i, label in enumerate(classes, start=1):
            overlay[labelled.mask == i] = (*_rgb(label), 0.55)
        axes.imshow(overlay, interpolation="nearest")
        return
    for (xmin, ymin, xmax, ymax), index in zip(labelled.boxes, labelled.labels, strict=True):
        colour = _rgb(classes[int(index) - 1])
        box = Rectangle((xmin - 0.5, ymin - 0.5), xmax - xmin, ymax - ymin, fill=False, edgecolor=colour, linewidth=1.2)
        axes.add_patch(box)


def _rgb(label: ClassLabel) -> tuple[float, float, float]:
    red, green, blue = label.color
    return (red / 255, green / 255, blue / 255) if min(label.color) >= 0 else GREY


def _save(figure: Figure, path: Path) -> Path:
    with atomic(path) as part:
        figure.savefig(part, format="png", dpi=100, metadata={"Software": None})
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
) -> Path:
    """`model_metrics.html` of a model folder, from the definition, the files that are there and what is given.

    `scores` are numbers by name; a table by class under per_class; a square of counts under confusion_matrix, rows =
    ground truth. What is left out (None) is kept from the page that is there, so a model can be trained first and
    scored later. The order is that of ArcGIS formats C.5.
    """
    path = folder / PAGE
    given = {"hyperparameters": hyperparameters, "provenance": provenance, "scores": scores}
    facts = _facts(path) | {key: dict(value) for key, value in given.items() if value is not None}
    name = name or Path(str(definition.document.get("ModelFile", folder.name))).stem
    page = _template().render(
        name=name,
        definition=definition.document,
        backbone=backbone(definition),
        epochs=_epochs(folder),
        loss_graph=_embedded(folder / FOLDER / LOSS_GRAPH),
        show_results=_embedded(folder / FOLDER / SHOW_RESULTS),
        analysis=_analysis(facts.get("scores") or {}, definition),
        facts=facts,
    )
    return write_text(path, page)


def backbone(definition: Emd) -> str:
    """The network's backbone, "" when the definition does not tell."""
    options = definition.document.get("NetworkOptions") or definition.document.get("ModelParameters") or {}
    return str(options.get("backbone", ""))


def _facts(page: Path) -> dict[str, Any]:
    """What the page that is there was made from."""
    if not page.is_file():
        return {}
    _, _, rest = page.read_text(encoding="utf-8").partition(FACTS)
    facts: dict[str, Any] = json.loads(rest.partition("</script>")[0] or "{}")
    return facts


def _epochs(folder: Path) -> list[dict[str, Any]]:
    path = folder / FOLDER / LOSSES
    if not path.is_file():
        return []
    epochs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["training_validation_loss_per_epoch"]
    return epochs


def _embedded(path: Path) -> str:
    """The picture as a data: address, "" when there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""


def _analysis(scores: Mapping[str, Any], definition: Emd) -> dict[str, Any]:
    """Scores sorted into what the page shows: plain numbers, a table by class, a confusion matrix with its names."""
    classes = [label.name for label in sorted(definition.classes, key=lambda label: label.value)]
    matrix = scores.get("confusion_matrix") or []
    per_class = scores.get("per_class") or {}
    return {
        "numbers": {key: value for key, value in scores.items() if isinstance(value, int | float | str)},
        "per_class": per_class,
        "columns": list(dict.fromkeys(key for row in per_class.values() for key in row)),
        "matrix": matrix,
        "matrix_names": ["background", *classes] if len(matrix) == len(classes) + 1 else classes,
    }


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"default": str}  # in the order given; a path is a text
    environment.filters["words"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    return environment.get_template("model_metrics.html.jinja")
