"""export_report.html: one page that tells what an export holds, before anybody trains on it.

A map of the chips by part of the split, counts by class and part, band histograms, what was left out and why, warnings,
options, sources. Opens from disk, loads nothing from elsewhere, prints; equal input gives equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.emd import Emd
from registry.files import write_text
from tasks.chip_statistics import amounts
from tasks.chips import ChipFolder
from tasks.exporting.chip_split import PARTS, too_few
from tasks.preview import PREVIEW, class_colour, seen, spread, unfinished
from tasks.provenance import FACTS
from tasks.rasters import read_raster
from tasks.report import embedded, template

PAGE = "export_report.html"
ALL, NO_PART = "all", "no part"  # where there is no split; where a chip overlaps another part
COLOURS = {ALL: "#2f6db3", "train": "#2f6db3", "validation": "#e08214", "test": "#1b8a5a", NO_PART: "#999999"}
MAP = (560, 420)  # largest width and height of the map, in its own units
FEW_ENOUGH = 20_000  # chips drawn one by one; of more, those are drawn that can be told apart at STEP
STEP = 3
SAMPLE, BINS, RANGE = 16, 48, (0.5, 99.5)  # chips measured for the histograms, their bars, the percentiles shown
SPREAD_OUT = 0.02  # chips that cover less of the map than this are drawn as dots of at least DOT
DOT = 4.0


@dataclass(frozen=True)
class ExportFacts:
    """What only the export knows of itself; what is not given is read from the folder or not shown."""

    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)  # "imagery", "labels": as they were given
    options: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> windows
    warnings: Sequence[str] = ()
    bounds: NDArray[np.float64] | None = None  # (chips, 4) xmin ymin xmax ymax in map units, in order of name
    holds: NDArray[np.int64] | None = None  # (chips, classes) objects, or pixels of a mask, in order of name


def write_export_report(
    folder: Path, facts: ExportFacts | None = None, definition: Emd | None = None, digest: str = ""
) -> Path:
    """Write the page of an export; `definition` is given while the folder has none yet, `digest` where it is known."""
    chips, facts = unfinished(folder, definition), facts or ExportFacts()
    digest = digest or chips.digest
    holds = _holds(chips) if facts.holds is None else np.asarray(facts.holds, np.int64)
    parts = _parts(chips)
    classes = _classes(chips, holds, parts)
    warnings = [*facts.warnings, *_too_few(chips, classes, list(parts))]
    page = template(PAGE + ".jinja").render(
        name=folder.name,
        chips=len(chips.names),
        definition=chips.definition.document,
        unit=_unit(chips),
        parts={part: len(rows) for part, rows in parts.items()},
        classes=classes,
        warnings=warnings,
        map=_map(chips, _bounds(chips, facts), parts),
        colours=COLOURS,
        histograms=_histograms(chips),
        preview=embedded(folder / PREVIEW),
        facts=facts,
        digest=digest,
        record=_record(chips, parts, classes, facts, warnings, digest),
    )
    return write_text(folder / PAGE, page)


def summary(folder: Path) -> dict[str, Any]:
    """What the page of an export says, for a program: classes, split, left_out, warnings, digest. {} without a page."""
    if not (folder / PAGE).is_file():
        return {}
    _, _, rest = (folder / PAGE).read_text(encoding="utf-8").partition(FACTS)
    record: dict[str, Any] = json.loads(rest.partition("</script>")[0] or "{}")
    return record


def _record(
    chips: ChipFolder,
    parts: Mapping[str, NDArray[np.int64]],
    classes: Sequence[Mapping[str, Any]],
    facts: ExportFacts,
    warnings: Sequence[str],
    digest: str,
) -> dict[str, Any]:
    unit = _unit(chips)
    held = {
        row["label"].name: {"chips": row["chips"], **({unit: row["amount"]} if unit != "chips" else {})}
        for row in classes
    }
    split = {part: len(rows) for part, rows in parts.items()} if chips.splits else {}
    return {
        "classes": held,
        "split": split,
        "left_out": dict(facts.left_out),
        "warnings": list(warnings),
        "digest": digest,
    }


def _parts(chips: ChipFolder) -> dict[str, NDArray[np.int64]]:
    """Rows of the chips of each part; one part, all, where there is no split."""
    part_of = {name: part for part, names in chips.splits.items() for name in names}
    if not part_of:
        return {ALL: np.arange(len(chips.names))}
    named = np.array([part_of.get(name, NO_PART) for name in chips.names])
    rows = {part: np.flatnonzero(named == part) for part in (*PARTS, NO_PART)}
    return {part: found for part, found in rows.items() if len(found)}


def _too_few(chips: ChipFolder, classes: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[str]:
    real = [part for part in parts if part != NO_PART]
    held = [[row["parts"][i][0] for row in classes] for i in range(len(real))]
    return too_few(chips.classes, held, real) if chips.classes else []


def _holds(chips: ChipFolder) -> NDArray[np.int64]:
    """Counted from the label files: slower, but any folder tells."""
    rows = [amounts(chips.read(name), len(chips.classes)) for name in chips.names]
    return np.array(rows, np.int64).reshape(len(rows), len(chips.classes))


def _bounds(chips: ChipFolder, facts: ExportFacts) -> NDArray[np.float64]:
    if facts.bounds is not None:
        return np.asarray(facts.bounds, np.float64).reshape(-1, 4)
    try:
        return np.array([chips.bounds(name) for name in chips.names]).reshape(-1, 4)
    except (OSError, ValueError):  # pictures without a place, as in PNG exports of other programs
        return np.zeros((0, 4))


def _unit(chips: ChipFolder) -> str:
    return {"boxes": "objects", "instances": "objects", "mask": "pixels", "panoptic": "pixels"}.get(
        chips.format.CARRIES, "chips"
    )


def _classes(
    chips: ChipFolder, holds: NDArray[np.int64], parts: Mapping[str, NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """A row for each class: chips that hold it and how much of it, for each part."""
    return [
        {
            "label": label,
            "colour": "rgb({}, {}, {})".format(*class_colour(label, i)),
            "parts": [(int((holds[rows, i] > 0).sum()), int(holds[rows, i].sum())) for rows in parts.values()],
            "chips": int((holds[:, i] > 0).sum()),
            "amount": int(holds[:, i].sum()),
            "share": holds[:, i].sum() / max(holds.sum(), 1),
        }
        for i, label in enumerate(chips.classes)
    ]


# -- map -------------------------------------------------------------------------------------------------------------
def _map(chips: ChipFolder, bounds: NDArray[np.float64], parts: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    """What the page draws: size, one path for each part, corners and a scale bar. Empty where chips have no place."""
    if not len(bounds):
        return {}
    west, south = bounds[:, :2].min(axis=0).tolist()
    east, north = bounds[:, 2:].max(axis=0).tolist()
    scale = min(MAP[0] / (east - west), MAP[1] / (north - south))
    drawn = np.stack([bounds[:, 0] - west, north - bounds[:, 3], *(bounds[:, 2:] - bounds[:, :2]).T], axis=1) * scale
    if drawn[:, 2:].prod(axis=1).sum() < SPREAD_OUT * (east - west) * (north - south) * scale**2:
        drawn[:, 2:] = np.maximum(drawn[:, 2:], DOT)  # or scenes far apart would be specks nobody sees
    bar = _round_length((east - west) / 4)
    return {
        "width": (east - west) * scale,
        "height": (north - south) * scale,
        "paths": {part: _path(drawn[rows]) for part, rows in parts.items()},
        "corners": [_coordinate(x, east - west) for x in (west, south, east, north)],
        "bar": (bar * scale, f"{bar:,g}"),
        "crs": _crs(chips),
    }


def _path(drawn: NDArray[np.float64]) -> str:
    """Rectangles as one SVG path."""
    step = 0.1 if len(drawn) <= FEW_ENOUGH else STEP
    snapped = np.unique((drawn / step).round().astype(int), axis=0) * step
    return "".join(f"M{x:.4g} {y:.4g}h{w:.4g}v{h:.4g}h-{w:.4g}z" for x, y, w, h in snapped.tolist())


def _round_length(length: float) -> float:
    """1, 2 or 5 times a power of ten, at most `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(n for n in (1, 2, 5) if n * power <= length * (1 + 1e-9)))


def _coordinate(value: float, span: float) -> str:
    """As many digits as tell places on this map apart."""
    return f"{value:.{max(0, int(np.ceil(2 - np.log10(span))))}f}"


def _crs(chips: ChipFolder) -> str:
    reference = (chips.definition.document.get("MinCellSize") or {}).get("spatialReference") or {}
    return f"EPSG:{reference['latestWkid']}" if reference.get("latestWkid") else ""


# -- histograms ------------------------------------------------------------------------------------------------------
def _histograms(chips: ChipFolder) -> list[dict[str, Any]]:
    """Bars of each band, 0-1, measured on some chips; the statistics beside them are those of all."""
    sample = [_values(chips.files[name]) for name in spread(chips.names, SAMPLE)]
    names = [s.name for s in chips.band_statistics] or [f"band {i + 1}" for i in range(len(sample[0]))]
    return [
        {"name": name, **_bars(values), "statistics": next((s for s in chips.band_statistics if s.name == name), None)}
        for name, values in zip(names, np.concatenate(sample, axis=1), strict=True)
    ]


def _values(path: Path) -> NDArray[np.float64]:
    """(bands, n) some of the valid pixels of a chip."""
    raster = read_raster(path)
    return np.asarray(seen(raster.pixels, raster.valid), np.float64)


def _bars(values: NDArray[np.float64]) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    if not values.size:
        return {"bars": [], "low": 0.0, "high": 0.0}
    low, high = np.percentile(values, RANGE)
    whole = not (values % 1).any()
    step = max(1.0, np.ceil((high - low + 1) / BINS)) if whole else max((high - low) / BINS, 1e-9)  # or bars have gaps
    counts, _ = np.histogram(values, np.arange(low, high + 1.001 * step, step))
    return {"bars": (counts / max(counts.max(), 1)).round(3).tolist(), "low": float(low), "high": float(high)}
