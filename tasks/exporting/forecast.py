"""What an export will be, before it is: plan and survey as they are, bytes and minutes from a few chips."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.exporting.plan import Job, Plan, Unit
from tasks.exporting.run import Hire, pixels_of, planned, surveyed
from tasks.exporting.units import desk, write_unit
from tasks.progress import OnProgress

SAMPLE = 16  # chips that are written to be timed, evenly over the plan


@dataclass(frozen=True)
class Forecast:
    """What `dlpk export --dry-run` tells."""

    chips: int
    bytes: int
    minutes: float  # with the workers asked for, on this machine, as busy as it is now
    left_out: Mapping[str, int]  # windows by reason
    classes: Mapping[str, int]  # chips that hold each class
    lost: Mapping[str, int]  # features that no chip shows, by reason

    def document(self) -> dict[str, Any]:
        return asdict(self)


def forecast(hire: Hire, job: Job, tell: OnProgress) -> Forecast:
    """`hire` as for the export itself. Raises what that would raise before its first chip."""
    try:
        units = planned(job)
        with hire(pixels_of(units)) as run:
            plan = surveyed(job, units, run, tell)
            seconds, size, chips = _sampled(job, plan)
        scale = plan.chips / chips
        minutes = seconds * scale / run.size / 60
        names = [label.name for label in desk.classes(job)]
        counts = {name: plan.classes[i] for i, name in enumerate(names, start=1)}
        return Forecast(plan.chips, round(size * scale), minutes, dict(plan.left_out), counts, dict(plan.lost))
    finally:
        desk.close()


def _sampled(job: Job, plan: Plan) -> tuple[float, int, int]:
    """Seconds and bytes of some chips, and how many these are."""
    every = [(unit.scene, w, i) for unit in plan.units for w, i in zip(unit.windows, unit.indexes, strict=True)]
    some = every[:: -(-len(every) // SAMPLE)]
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(job, out=Path(folder))
        desk.open(job)
        started = time.perf_counter()
        for scene, window, index in some:
            write_unit(trial, Unit(index, scene, (window,), (index,)))
        seconds = time.perf_counter() - started
        files = [p for p in Path(folder).rglob("*.*") if p.is_file() and ".parts" not in p.parts]
        return seconds, sum(p.stat().st_size for p in files), len(some)
