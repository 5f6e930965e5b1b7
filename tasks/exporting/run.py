"""An export from plan to definition, in one folder; units that an earlier try has written are not written again."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import tasks.formats
from registry import plugins
from registry.errors import ImageryError, LabelError, NotFound, OptionsError
from registry.files import write_text
from tasks import receipt
from tasks.chips import ACCUMULATED, CONTENT, GATHERED, SPLITS
from tasks.exporting.chip_split import by_part
from tasks.exporting.chip_writer import Part, finished_part
from tasks.exporting.crew import Run
from tasks.exporting.plan import Found, Job, Plan, Unit, chosen, numbered, units_of
from tasks.exporting.scene import OUTSIDE_MASK, Survey
from tasks.exporting.units import Surveyed, desk, far, survey_unit, write_unit
from tasks.imagery import ImageryFacts
from tasks.layers import address
from tasks.progress import OnProgress, Progress

VERB = "export"
ADDING = ".adding"  # the folder of chips that will join those above it
PLAN = "plan.json"
Hire = Callable[[int], AbstractContextManager[Run]]  # pixels of chips -> a crew that is worth its start
REPORT = ("preview.png", "export_report.html")


def run_export(hire: Hire, job: Job, tell: OnProgress) -> None:
    """Fill `job.out`, the definition last. Bad input leaves nothing; a kill, a lost connection to imagery elsewhere or
    any other failure leaves what a rerun goes on with.
    """
    receipt.check(job.out, VERB, job.facts)
    try:
        units = planned(job)
        with hire(pixels_of(units)) as run:
            plan = _known_plan(job) or surveyed(job, units, run, tell)
            with _claimed(job, plan):
                _finish(job, plan, written(job, plan, run, tell), run)
    finally:
        desk.close()


def planned(job: Job) -> tuple[Unit, ...]:
    """All windows of all scenes, in units. Raises LabelError or OptionsError for what the chips cannot hold."""
    units: list[Unit] = []
    first = 0
    scenes = desk.open(job)
    if check := getattr(plugins.load(tasks.formats, job.options.metadata_format), "check", None):
        check(scenes.classes)
    for i in range(len(scenes)):
        scene = scenes[i]
        for raster in filter(None, (scene.imagery, scene.second)):
            _check_chip_format(job.options.image_chip_format, raster.facts)
        windows = scene.windows()
        units += units_of(windows, i, first, scene.imagery.block_shape, scene.imagery.width)
        first += len(windows)
    return numbered(units)


def pixels_of(units: Iterable[Unit]) -> int:
    return sum((w[2] - w[0]) * (w[3] - w[1]) for unit in units for w in unit.windows)


def surveyed(job: Job, units: Sequence[Unit], run: Run, tell: OnProgress) -> Plan:
    """Raises LabelError with the reasons when no chip is left, OptionsError when there are too few to split."""
    from tasks.exporting.parts import parts_of, rare_units

    found, surveys = _looked_at(job, units, run, tell)
    parts = parts_of(job, units, found)
    if job.options.oversample:
        more = numbered([*units, *rare_units(job, units, found, parts)])[len(units) :]
        others, further = _looked_at(job, more, run, tell)
        units, found, surveys = [*units, *more], [*found, *others], [*surveys, *further]
        parts = parts and {**parts, **dict.fromkeys((f.index for f in others), "train")}
    plan = chosen(units, found, job.options.start_index, parts)
    if not plan.chips:
        raise no_chip_left(job.out, plan.left_out)
    return replace(plan, lost=desk.open(job).lost(surveys))


def _looked_at(job: Job, units: Sequence[Unit], run: Run, tell: OnProgress) -> tuple[list[Found], list[Survey]]:
    """In the order of the units, whoever was first."""
    answers, done, total = list[Surveyed](), 0, sum(len(unit.windows) for unit in units)
    for answer in run(partial(survey_unit, job), units):
        answers.append(answer)
        done += len(answer.found)
        tell(Progress("survey", done, total, "windows"))
    answers.sort(key=lambda answer: answer.unit)
    return [f for answer in answers for f in answer.found], [s for answer in answers for s in answer.surveys]


def written(job: Job, plan: Plan, run: Run, tell: OnProgress) -> Part:
    """Write the units that are missing; what is known of all of them, merged in the order of the plan."""
    classes = desk.classes(job)
    missing = [unit for unit in plan.units if not finished_part(job.out, unit.number, classes)]
    done = plan.chips - sum(len(unit.windows) for unit in missing)
    tell(Progress(VERB, done, plan.chips, "chips"))
    for number in run(partial(write_unit, job), missing):
        done += number
        tell(Progress(VERB, done, plan.chips, "chips"))
    return _merged(job, plan)


def _check_chip_format(kind: str, facts: ImageryFacts) -> None:
    if kind in ("PNG", "JPEG") and (facts.dtype != "uint8" or len(facts.band_names) not in (1, 3)):
        got = f"{len(facts.band_names)} bands of {facts.dtype}"
        what = f"image_chip_format {kind} holds 1 or 3 bands of uint8"
        raise OptionsError(what, where=facts.path, got=got, do="choose TIFF")


def no_chip_left(out: Path, left_out: Counter[str]) -> LabelError:
    reasons = ", ".join(f"{number} left out for {why}" for why, number in sorted(left_out.items()))
    do = "check that labels and imagery overlap, or change stride, extent or max_nodata_share"
    if OUTSIDE_MASK in left_out:
        do = "chips must lie completely inside the mask polygons: choose a smaller tile size or stride"
    return LabelError(f"no chip is left: {reasons or 'no feature lies there to cut one around'}", where=out, do=do)


def clear(out: Path) -> None:
    """Take away what an export has written, and the folder with it when nothing else is there."""
    if not (out / receipt.NAME).is_file():
        return
    for name in (*CONTENT, ".parts"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("map.txt", "stats.txt", ACCUMULATED, SPLITS, *GATHERED, *REPORT, receipt.NAME):
        (out / name).unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def _known_plan(job: Job) -> Plan | None:
    """That of an earlier try."""
    path = job.out / ".parts" / PLAN
    return Plan.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


@contextmanager
def _claimed(job: Job, plan: Plan) -> Iterator[None]:
    """Only now is there anything in the folder. Raises Conflict when another export is at it."""
    receipt.claim(job.out, VERB, job.facts)
    with receipt.hold(job.out):
        write_text(job.out / ".parts" / PLAN, plan.text())
        try:
            yield
        except (ImageryError, LabelError, OptionsError, NotFound) as error:
            if not (isinstance(error, ImageryError) and far(job)):  # a later try may read it, without any repair
                clear(job.out)
            raise


def _merged(job: Job, plan: Plan) -> Part:
    classes = desk.classes(job)
    first, *others = (finished_part(job.out, unit.number, classes) for unit in plan.units)
    assert first
    for other in others:
        assert other
        first.merge(other)
    if not first.notes:
        raise no_chip_left(job.out, plan.left_out + first.left_out)
    return first


def _finish(job: Job, plan: Plan, part: Part, run: Run) -> None:
    from tasks.exporting.finish import Export, finish
    from tasks.exporting.report import ExportFacts

    scenes, labels = desk.open(job), job.labels or ""
    facts = ExportFacts(
        sources={"imagery": job.imagery, "labels": [address(labels) or str(labels)]},
        options=job.options.model_dump(mode="json"),
        left_out=plan.left_out + part.left_out,
        warnings=[f"features in no chip: {number:,}, {why}" for why, number in sorted(plan.lost.items())],
        bounds=part.bounds,
        holds=np.array([part.notes[name].holds for name in part.names], np.int64),
    )
    imagery = tuple(dict.fromkeys(scenes[i].imagery.facts for i in range(len(scenes))))
    second = scenes[0].second.facts if scenes[0].second else None
    finish(
        job.out,
        Export(job.options, scenes.classes, imagery, second, part, facts, _splits(plan, part)),
        run,
        staged=job.out.name == ADDING,
    )
    shutil.rmtree(job.out / ".parts")


def _splits(plan: Plan, part: Part) -> dict[str, list[str]]:
    """Names by part; {} = no split."""
    if not plan.parts:
        return {}
    number_of = sorted(index for unit in plan.units for index in unit.indexes)
    named = [(f"{index:09d}", where) for index, where in zip(number_of, plan.parts, strict=True)]
    written = [(name, where) for name, where in named if name in part.notes]
    return by_part([name for name, _ in written], [where for _, where in written])
