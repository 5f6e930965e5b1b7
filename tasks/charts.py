"""The charts of the report, as SVG: sharp on paper, small, the same bytes for the same numbers."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, PURPLE, SKY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)  # told apart by colour-blind people too
STYLE: Any = {
    "font.size": 11,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "model_metrics",  # or the names inside would be drawn by lot
}
NOT_METRICS = {"training_loss", "validation_loss", "learning_rate", "seconds"}
PARTS = {"training": BLUE, "validation": ORANGE, "scored": GREEN}


def losses(epochs: Sequence[Mapping[str, float]]) -> str:
    """Training and validation loss by epoch, the best validation marked; "" without epochs."""

    def plot(axes: Axes) -> None:
        _lines(axes, epochs, {"training_loss": "Training", "validation_loss": "Validation"})
        seen = [(e["validation_loss"], n) for n, e in _finite(epochs, "validation_loss")]
        if seen:
            best, at = min(seen)
            axes.plot(at, best, "o", markersize=9, fillstyle="none", color=INK, label=f"Lowest, epoch {at}")
        axes.set(xlabel="Epoch", ylabel="Loss")
        axes.legend()

    return _svg(plot, "Training and validation loss by epoch") if epochs else ""


def learning_rate(epochs: Sequence[Mapping[str, float]]) -> str:
    """The rate at the end of each epoch; "" when it was not told."""

    def plot(axes: Axes) -> None:
        _lines(axes, epochs, {"learning_rate": "Learning rate"})
        axes.set(xlabel="Epoch", ylabel="Learning rate")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    return _svg(plot, "Learning rate by epoch") if _finite(epochs, "learning_rate") else ""


def metrics(epochs: Sequence[Mapping[str, float]]) -> str:
    """Every score of the validation chips by epoch; "" when there is none."""
    found = dict.fromkeys(name for epoch in epochs for name in epoch if name not in NOT_METRICS)
    kept = [name for name in found if not name.endswith("_loss")]

    def plot(axes: Axes) -> None:
        _lines(axes, epochs, {name: name.replace("_", " ") for name in kept})
        axes.set(xlabel="Epoch", ylabel="Score of the validation chips", ylim=(0, 1))
        axes.legend(ncols=2)

    return _svg(plot, "Scores of the validation chips by epoch") if kept else ""


def thresholds(rows: Sequence[Sequence[float]], chosen: float | None) -> str:
    """Precision, recall and F1 over the confidence that is asked for; rows of threshold, precision, recall, F1."""

    def plot(axes: Axes) -> None:
        told = [[t, p if p or r else math.nan, r, f] for t, p, r, f in rows]  # of no detections no share is right
        columns = list(zip(*told, strict=True))
        for name, column, colour in zip(("Precision", "Recall", "F1"), columns[1:], COLOURS[:3], strict=True):
            axes.plot(columns[0], column, color=colour, label=name)
        if chosen is not None:
            axes.axvline(chosen, color=INK, linestyle=":", label=f"Chosen: {chosen:.2f}")
        axes.set(xlabel="Least confidence of a detection", ylim=(0, 1), xlim=(0, 1))
        axes.legend()

    return _svg(plot, "Precision, recall and F1 by confidence threshold") if rows else ""


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """How often answers of a confidence are right, beside how often they should be."""

    def plot(axes: Axes) -> None:
        most = max(part["count"] for part in bins)
        axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", label="As it should be")
        sizes = [20 + 180 * part["count"] / most for part in bins]
        confidence, true = [part["confidence"] for part in bins], [part["true"] for part in bins]
        axes.plot(confidence, true, color=BLUE)
        axes.scatter(confidence, true, sizes, color=BLUE, label="Measured; large = many", zorder=3, clip_on=False)
        axes.set(xlabel="Confidence", ylabel="Share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")

    return _svg(plot, "Reliability of the confidence") if bins else ""


def ground(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The map of the chips: which ground was trained on, and which was only scored on."""
    known = {name: part for name, part in parts.items() if part.get("outline")}

    def plot(axes: Axes) -> None:
        for name, part in known.items():
            colour, label = PARTS.get(name, PURPLE), f"{name}: {part.get('chips', '?')} chips"
            covered = Path.make_compound_path(*(Path(ring, closed=True) for ring in part["outline"]))
            axes.add_patch(PathPatch(covered, facecolor=colour, edgecolor=colour, alpha=0.35, label=label))
        axes.autoscale_view()
        axes.set_aspect("equal")
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if axes.dataLim.width < axes.dataLim.height:  # numbers of seven digits would touch one another
            axes.tick_params(axis="x", labelrotation=90)
        axes.set(xlabel=next((p["coordinate_system"] for p in known.values() if "coordinate_system" in p), "Map units"))
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))

    return _svg(plot, "Where the chips lie", wide=True) if known else ""


def _lines(axes: Axes, epochs: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> None:
    for (name, label), colour in zip(names.items(), COLOURS * 3, strict=False):
        points = _finite(epochs, name)
        axes.plot([n for n, _ in points], [e[name] for _, e in points], color=colour, label=label, marker=".")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _finite(epochs: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, Mapping[str, float]]]:
    return [(n, e) for n, e in enumerate(epochs, start=1) if math.isfinite(e.get(name, math.nan))]


def _svg(plot: Callable[[Axes], None], words: str, *, wide: bool = False) -> str:
    """A data: address of the drawing; `words` say what it shows to those who cannot see it."""
    with ExitStack() as stack:
        stack.enter_context(matplotlib.style.context("default"))  # whatever the reader's own matplotlibrc says
        stack.enter_context(matplotlib.rc_context(STYLE))
        figure = Figure(figsize=(7.2, 3.4) if wide else (4.6, 3.1), layout="constrained")
        plot(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": words})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()
