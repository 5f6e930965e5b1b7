"""The plan of an export: which windows become chips, under which numbers, in which units of work.

    plan     all windows of all scenes in a fixed order, row by row
    survey   what is worth a chip; the rest is counted by reason
    units    chips that lie close together, so that the blocks of a raster are decoded once and by one process

Nothing here depends on who does the work: the same input gives the same units on any number of workers.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from registry.emd import ClassLabel
from tasks import receipt
from tasks.exporting.options import ExportOptions
from tasks.windows import Window

UNIT_SIDE = 8  # windows along the side of a unit: 64 chips are seconds of work and megabytes of decoded blocks


@dataclass(frozen=True)
class Job:
    """What goes in and where it goes: all that a worker on any machine needs to know."""

    imagery: tuple[str, ...]  # names that GDAL opens
    labels: Path | None
    out: Path
    options: ExportOptions
    classes: tuple[ClassLabel, ...] = ()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What tells this export from another one."""
        from tasks.sources import find_rasters

        options = self.options
        second = find_rasters(options.in_raster2) if options.in_raster2 else ()
        others = [path for path in (*second, options.in_mask_polygons, options.in_instance_data) if path]
        return {
            "imagery": [receipt.stamp(Path(name)) for name in self.imagery],
            "labels": receipt.stamp(self.labels) if self.labels else None,
            "options": options.model_dump(mode="json"),
            "classes": [label.document() for label in self.classes],
            **({"others": [receipt.stamp(Path(path)) for path in others]} if others else {}),
        }


@dataclass(frozen=True)
class Unit:
    """Some windows of one scene, and their running numbers: in the plan, or of the chips that they become."""

    number: int
    scene: int
    windows: tuple[Window, ...]
    indexes: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What the survey says of one window."""

    index: int
    reason: str = ""  # why it is left out; "" = worth a chip
    classes: tuple[int, ...] = ()  # indexes from 1 of what is in it


@dataclass(frozen=True)
class Plan:
    """What will be written, and what will not."""

    units: tuple[Unit, ...]
    left_out: Counter[str] = field(default_factory=Counter)  # windows by reason
    classes: Counter[int] = field(default_factory=Counter)  # chips that hold each class index
    lost: Counter[str] = field(default_factory=Counter)  # features that no chip shows, by reason
    parts: tuple[str, ...] = ()  # of the split: train, validation, test or "" for each chip; () = no split

    @property
    def chips(self) -> int:
        return sum(len(unit.windows) for unit in self.units)

    def text(self) -> str:
        return json.dumps({**vars(self), "units": [vars(unit) for unit in self.units]})

    @classmethod
    def parse(cls, text: str) -> "Plan":
        document = json.loads(text)
        units = tuple(
            Unit(u["number"], u["scene"], tuple(map(tuple, u["windows"])), tuple(u["indexes"]))
            for u in document["units"]
        )
        classes = Counter({int(index): count for index, count in document["classes"].items()})
        return cls(units, Counter(document["left_out"]), classes, Counter(document["lost"]), tuple(document["parts"]))


def units_of(windows: Sequence[Window], scene: int, first: int, block: tuple[int, int], side: int) -> Iterator[Unit]:
    """Windows by the field of the scene that they begin in; fields are numbered later.

    block: rows, cols of the raster's own blocks. Where these are whole rows of `side` pixels, so are the fields.
    """
    columns = sorted({w[0] for w in windows})
    rows = sorted({w[1] for w in windows})
    across = max(1, len(columns)) if block[1] >= side else UNIT_SIDE
    down = max(1, UNIT_SIDE * UNIT_SIDE // across)
    column_of = {x: i // across for i, x in enumerate(columns)}
    row_of = {y: i // down for i, y in enumerate(rows)}
    fields: dict[tuple[int, int], list[int]] = {}
    for i, window in enumerate(windows):
        fields.setdefault((row_of[window[1]], column_of[window[0]]), []).append(i)
    for members in (fields[key] for key in sorted(fields)):
        yield Unit(0, scene, tuple(windows[i] for i in members), tuple(first + i for i in members))


def numbered(units: Sequence[Unit]) -> tuple[Unit, ...]:
    return tuple(replace(unit, number=number) for number, unit in enumerate(units))


def chosen(
    units: Sequence[Unit], found: Sequence[Found], start_index: int, parts: Mapping[int, str] | None = None
) -> Plan:
    """The windows worth a chip, numbered in the order of the plan from `start_index` on; `parts` as of the split."""
    kept = sorted(f.index for f in found if not f.reason)
    number_of = {index: number for number, index in enumerate(kept, start_index)}
    left = [_only(unit, number_of) for unit in units]
    left_out = Counter(f.reason for f in found if f.reason)
    classes = Counter(index for f in found if not f.reason for index in f.classes)
    of_split = tuple(parts[index] for index in kept) if parts else ()
    return Plan(numbered([unit for unit in left if unit.windows]), left_out, classes, parts=of_split)


def _only(unit: Unit, number_of: dict[int, int]) -> Unit:
    kept = [(w, number_of[i]) for w, i in zip(unit.windows, unit.indexes, strict=True) if i in number_of]
    return replace(unit, windows=tuple(w for w, _ in kept), indexes=tuple(i for _, i in kept))
