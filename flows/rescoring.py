"""The steps of `evaluate`: fresh labels are cut as those of the training were, and the model is scored on them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import child, drift
from flows.champion import numbers
from flows.drift import Drift
from flows.happenings import tell_of
from flows.listening import listening, publish_report, run_tags, say
from flows.pages import drift_page
from flows.recipe import ClassEntry, LabelledScene, fingerprint, inputs_of
from flows.steps import Cut, Known, changed, every_pixel_once, slug, step
from flows.work import Record
from registry import catalog
from registry.dlpk import inspect
from registry.emd import ClassLabel
from registry.errors import OptionsError
from registry.settings import settings
from registry.tracking import Run
from tasks.chips import CHANGE
from tasks.export import ExportOptions


@dataclass(frozen=True)
class Plan:
    """What is scored on what, and where that is kept."""

    known: Known
    manifest: dict[str, Any]
    cut: Cut
    folder: Path

    @property
    def report(self) -> Path:
        return self.folder / "report"


def plan(known: Known, scene: LabelledScene, export: ExportOptions | None) -> Plan:
    """Raises OptionsError for a model that was not published, or where nobody says how chips are cut."""
    if not known.source.version:
        do = "publish it, and give a reference such as roofs@3"
        raise OptionsError("is compared with its scores at publishing", where=known.path, got="a file", do=do)
    manifest = catalog.manifest_of(catalog.find_version(known.ref))
    told = (manifest.get("recipe") or {}).get("export")
    if export is None and told is None:
        do = "give export, such as {metadata_format: PASCAL_VOC_rectangles, tile_size: 256}"
        raise OptionsError("was not made by a recipe, so how are chips cut?", where=known.ref, do=do)
    options = export or ExportOptions.model_validate(told)
    own = {"in_raster2": scene.in_raster2} if scene.in_raster2 else {}
    options = changed(options, {**every_pixel_once(options), **own})
    classes = _classes(inspect(known.path).emd.classes, manifest)
    folder = settings().home / "evaluations" / known.source.name / _digest(known, scene, options)
    return Plan(known, manifest, Cut(scene.imagery, scene.labels, str(folder / "chips"), options, classes), folder)


def _classes(of_model: Sequence[ClassLabel], manifest: Mapping[str, Any]) -> tuple[ClassEntry, ...]:
    """Those to export. A model that tells any of several changes does not know which: its recipe does."""
    if CHANGE in of_model:
        told = (manifest.get("recipe") or {}).get("classes") or ()
        return tuple(ClassEntry.model_validate(one) for one in told)
    return tuple(ClassEntry(value=c.value, name=c.name, color=c.color) for c in of_model if c.value)


def _digest(known: Known, scene: LabelledScene, options: ExportOptions) -> str:
    inputs = [fingerprint(part) for part in inputs_of(scene)]
    parts = [known.source.sha256, options.model_dump_json(), json.dumps(inputs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _score(made: Plan, chips: Record) -> Record:
    known = made.known
    with listening(f"evaluate {known.ref}") as listen:
        places = (known.path, chips["folder"], "--report", made.report)
        return child.run_on_gpu("evaluate", *places, listen=listen)


def _judge(made: Plan, chips: Record, scores: Record) -> Drift:
    """Into the experiment of its evaluations, and told where it drifted."""
    known = made.known
    verdict = drift.judge(made.manifest.get("evaluation") or {}, scores)
    tags = {"dlpk.version": known.ref, "dlpk.drifted": str(verdict.drifted).lower(), **run_tags()}
    run = Run.start(f"{known.source.name} evaluation", f"{known.ref} {made.folder.name}", tags)
    run.log_dataset(known.source.name, chips["digest"], str(made.folder), "evaluation")
    run.log_scores(numbers(scores))
    run.log_figures(made.report)
    run.finish()
    say(f"{known.ref}: {verdict.why}")
    if verdict.drifted:
        figures = {"metric": verdict.metric, "now": verdict.now, "before": verdict.before}
        tell_of("dlpk.model.drifted", catalog.find_version(known.ref), why=verdict.why, **figures)
    return verdict


def _report(made: Plan, scores: Record, verdict: Drift) -> None:
    markdown, rows = drift_page(made.known.ref, str(made.report), scores, made.manifest, verdict)
    publish_report(f"evaluate-{slug(made.known.source.name)}", markdown, rows)


score = step(_score, hours=6, tags=("gpu",))
judge = step(_judge, hours=1, retries=3)
report = step(_report, hours=1, retries=3)
