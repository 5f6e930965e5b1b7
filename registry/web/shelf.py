"""Models as the pages show them: a card each, with its trend; and a version with all that its manifest tells."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from registry import catalog, newest
from registry.catalog import CHAMPION, Overview, Version
from registry.errors import DlpkError
from registry.searching import Wanted
from registry.web.charts import Trend, hex_color, trend

PRIMARY = ("AP50", "mIoU", "F1", "accuracy", "average_precision_score")  # where no evaluation says what decides
MOST_POINTS = 24  # of a trend on a card
SIZES = (24, 48, 96)  # cards on a page
MOST_MANIFESTS = 4096  # that are kept in memory
SILENCE = 20.0  # seconds for which a store that does not answer is not asked again
RESULTS = "ModelCharacteristics/show_results.png"
LOSS, REPORT = "ModelCharacteristics/loss_graph.png", "model_metrics.html"


@dataclass(frozen=True)
class Card:
    """A model by its champion, or by its newest version while there is none."""

    shown: Version
    metric: str
    score: float | None
    trend: Trend | None
    versions: int
    classes: Sequence[Mapping[str, Any]]
    picture: str  # member of the package, "" none

    @property
    def mosaic(self) -> list[tuple[int, int, str]]:
        """Squares (x, y, colour) of a pattern in its classes' colours, for a package without pictures."""
        colors = [color for label in self.classes if (color := hex_color(label["color"]))] or ["#7f97a8", "#a9bac6"]
        digits = bytes.fromhex(self.shown.sha256)[:32]
        return [(i % 8, i // 8, colors[digit % len(colors)]) for i, digit in enumerate(digits) if digit & 64]


@dataclass(frozen=True)
class Page:
    """Some of many."""

    rows: Sequence[Any]
    total: int
    number: int = 1  # from 1
    size: int = SIZES[0]

    @property
    def last(self) -> int:
        return max(1, -(-self.total // self.size))

    @property
    def near(self) -> list[int]:
        """The page numbers worth a link; 0 stands for a gap."""
        wanted = sorted({1, self.last, *(n for n in range(self.number - 1, self.number + 2) if 0 < n <= self.last)})
        linked: list[int] = []
        for number in wanted:
            linked += [0, number] if linked and number > linked[-1] + 1 else [number]
        return linked


def cards(wanted: Wanted, *, sort: str = "name", page: int = 1, size: int = SIZES[0]) -> Page:
    """The models whose newest version meets all conditions. Raises OptionsError for one that cannot be read."""
    names, total = newest.names(wanted, sort=sort, first=(page - 1) * size, count=size)
    return Page(cards_of(catalog.overviews(names)), total, page, size)


def cards_of(models: Sequence[Overview]) -> list[Card]:
    """The card of each model; manifests that were not read yet are read side by side, for they may be far away."""
    missing = [model.shown for model in models if model.shown.uri not in _MANIFESTS]
    if missing:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(manifest, missing))
    return [card(model) for model in models]


def card(model: Overview) -> Card:
    document = manifest(model.shown)
    metric = primary(model.shown, document)
    members = document.get("members", {})
    return Card(
        model.shown,
        metric,
        model.shown.scores.get(metric),
        score_trend(model, metric, MOST_POINTS),
        len(model.scores),
        classes_of(model.shown, document),
        RESULTS if RESULTS in members else next(iter(pictures(members)), ""),
    )


def score_trend(model: Overview, metric: str, most: int, **shape: float) -> Trend | None:
    """Of the last `most` versions; None when fewer than two have the score."""
    champion = model.shown.number if CHAMPION in model.shown.aliases else None
    last = reversed(list(islice(model.scores.items(), most)))
    values = [
        (f"{model.shown.name}@{number}", float(scores[metric]), number == champion)
        for number, scores in last
        if metric in scores
    ]
    return trend(values, **shape) if len(values) > 1 else None


def primary(version: Version, document: Mapping[str, Any]) -> str:
    """The score that decides between versions of this model, "" when there is none."""
    told = (document.get("evaluation") or {}).get("primary", "")
    known = [name for name in (told, *PRIMARY, *version.scores) if name in version.scores]
    return known[0] if known else ""


def manifest(version: Version) -> Mapping[str, Any]:
    """What was written down when it was published, read once; {} while its store cannot be reached."""
    known = _MANIFESTS.get(version.uri)
    if known is None and time.monotonic() >= _SILENT.get(_place(version), 0):
        try:
            known = _MANIFESTS[version.uri] = catalog.manifest_of(version)
        except DlpkError:
            _SILENT[_place(version)] = time.monotonic() + SILENCE
        while len(_MANIFESTS) > MOST_MANIFESTS:
            _MANIFESTS.pop(next(iter(_MANIFESTS)), None)
    return known or {}


_MANIFESTS: dict[str, Mapping[str, Any]] = {}  # by the package's address, where nothing ever changes
_SILENT: dict[str, float] = {}  # store -> when it is asked again


def _place(version: Version) -> str:
    """The store a package lies in: its address without `name/digest/name.dlpk`."""
    return version.uri.rsplit("/", 3)[0]


def classes_of(version: Version, document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """[{value, name, color}]; without colours where no manifest tells them."""
    told = document.get("properties", {}).get("classes")
    return told or [{"value": None, "name": name, "color": []} for name in version.classes]


def pictures(members: Iterable[str]) -> list[str]:
    """The pictures in a package, those that people look for first."""
    from registry.web.pieces import PICTURES

    found = [name for name in members if name[name.rfind(".") :].lower() in PICTURES]
    return sorted(found, key=lambda name: (name != RESULTS, name != LOSS, name))


@dataclass(frozen=True)
class Figure:
    """A score with its interval, if it was counted."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    decides: bool = False


@dataclass(frozen=True)
class Told:
    """All of a version, sorted for its page."""

    version: Version
    document: Mapping[str, Any]
    metric: str
    figures: Sequence[Figure] = ()
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def properties(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document.get("properties", {})
        return found

    @property
    def members(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.document.get("members", {})
        return found

    @property
    def recipe(self) -> dict[str, Any]:
        """Every setting by its dotted name."""
        return dict(flat(self.document.get("recipe") or {}))


def told(version: Version) -> Told:
    document = manifest(version)
    evaluation = document.get("evaluation") or {}
    metric = primary(version, document)
    return Told(version, document, metric, figures(version, evaluation, metric), evaluation.get("per_class", {}))


def figures(version: Version, evaluation: Mapping[str, Any], metric: str) -> list[Figure]:
    """The scores, that which decides first; counts and settings among them are left out."""
    ends = evaluation.get("intervals", {})
    names = sorted(version.scores, key=lambda name: (name != metric, name not in ends, name))
    return [
        Figure(name, float(version.scores[name]), _pair(ends.get(name)), name == metric)
        for name in names
        if name not in ("chips", "threshold")
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool | None) else json.dumps(value)


def _pair(ends: Any) -> tuple[float, float] | None:
    return (float(ends[0]), float(ends[1])) if isinstance(ends, list | tuple) and len(ends) == 2 else None
