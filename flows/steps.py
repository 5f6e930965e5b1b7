"""The policy table: each verb wrapped once as a Prefect task, with its patience, and tied to the experiment run.

Inside a flow run a step is a task; anywhere else it is the plain function, since a task without a flow would start a
server of its own. What needs torch or a GPU runs in an interpreter of its own (`flows.child`).
"""

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE

from flows import announcing, child
from flows.champion import Scores, judge, numbers
from flows.gpus import held
from flows.happenings import tell_of
from flows.listening import in_flow_run, listening, publish_report, say
from flows.new_scenes import Summary
from flows.pages import chips_page, inference_page, retrain_page, scenes_page
from flows.patience import may_heal
from flows.recipe import ClassEntry, Imagery, LabelledScene, Recipe, rasters
from flows.scene_batch import on, run_batch
from flows.work import Record, Work
from registry import catalog, history, promotion, publishing, watchers
from registry.catalog import Version
from registry.dlpk import inspect
from registry.errors import NotFound, OptionsError
from registry.files import write_text
from registry.promotion import Decision
from tasks.chips import DEFINITION, ChipFolder
from tasks.cli import NO_LABELS, exported, fetched
from tasks.console import Listener
from tasks.export import ExportOptions, split_extent
from tasks.options import Options
from tasks.provenance import PAGE, facts_in

if TYPE_CHECKING:
    from tasks.inference_options import InferenceOptions, ModelSource

P = ParamSpec("P")
R = TypeVar("R")
PAUSES: list[float] = [5, 30, 120]  # seconds before the second, third and fourth try
watchers.champions.add(announcing.announce)


def step(verb: Callable[P, R], *, hours: float, retries: int = 0, tags: tuple[str, ...] = ()) -> Callable[P, R]:
    """The verb with its policy: a task inside a flow run, itself elsewhere."""
    policy = task(
        name=verb.__name__.strip("_").replace("_", " "),
        tags=list(tags),
        retries=retries,
        retry_delay_seconds=PAUSES[:retries],
        retry_condition_fn=_may_heal,
        timeout_seconds=hours * 3600,
        cache_policy=NO_CACHE,  # the working folder remembers what is finished, also without a server
    )
    patient = policy(verb)

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return patient(*args, **kwargs) if in_flow_run() else verb(*args, **kwargs)

    return call


def _may_heal(_task: Any, _run: Any, state: Any) -> bool:
    """Only what waiting may heal is tried again: a failed fit or a wrong label never is."""
    error = state.result(raise_on_failure=False)
    return may_heal(error) or isinstance(error, httpx.TransportError)  # the last of Prefect's server


@dataclass(frozen=True)
class Part:
    """Imagery and labels to cut, and how."""

    name: str  # of the chip folder
    scene: LabelledScene
    options: ExportOptions


def _unchanged(recipe: Recipe) -> str:
    """The newest version that was trained, when this recipe of these files made it and it was judged; else ""."""
    try:
        known = catalog.versions(recipe.name)
    except NotFound:
        return ""
    newest = next((version for version in known if version.run_id), None)
    if newest is None or catalog.manifest_of(newest).get("fingerprint") != recipe.digest():
        return ""
    if not any(event.version == newest.number for event in history.history(recipe.name)):
        return ""  # killed between publishing and judging
    say(f"{newest.ref} was made by this recipe of these files: nothing to do")
    tell_of("dlpk.inputs.unchanged", newest)
    return newest.ref


MOST_CHIPS = 1_000_000  # of a scene; those of the next are numbered from there, so a rerun adds none twice


def divide(recipe: Recipe) -> tuple[list[Part], list[Part]]:
    """What is trained on, and what is only scored on: there every pixel counts once, empty ground and the edge too."""
    whole = every_pixel_once(recipe.export)
    if recipe.evaluation:
        training = [_part("chips", i, scene, recipe.export, {}) for i, scene in enumerate(recipe.scenes)]
        return training, [_part("held-out", 0, recipe.evaluation, recipe.export, whole)]
    training, held_out = [], []
    for i, scene in enumerate(recipe.scenes):
        train, rest = split_extent(Path(rasters(scene.imagery)[0]), recipe.hold_out.side, recipe.hold_out.share)
        training.append(_part("chips", i, scene, recipe.export, {"extent": train}))
        held_out.append(_part("held-out", i, scene, recipe.export, {**whole, "extent": rest}))
    return training, held_out


def every_pixel_once(options: ExportOptions) -> dict[str, Any]:
    """What of them an export to score on has otherwise."""
    once = {"stride_x": options.tile_size_x, "stride_y": options.tile_size_y, "rotation_angle": 0.0}
    return {**once, "output_nofeature_tiles": True, "max_nodata_share": 0.9, "split": None, "oversample": False}


def _part(name: str, number: int, scene: LabelledScene, options: ExportOptions, changes: Mapping[str, Any]) -> Part:
    own = {"start_index": number * MOST_CHIPS} | ({"in_raster2": scene.in_raster2} if scene.in_raster2 else {})
    return Part(name, scene, changed(options, {**own, **changes}))


def changed(options: ExportOptions, changes: Mapping[str, Any]) -> ExportOptions:
    return ExportOptions.model_validate({**options.model_dump(), **changes})


def _export(work: Work, parts: Sequence[Part]) -> ChipFolder:
    """One folder of the chips of all parts."""
    recipe, out = work.recipe, work.folder / parts[0].name
    classes = ("--classes", _file(work, "classes", [c.model_dump() for c in recipe.classes])) if recipe.classes else ()
    for number, part in enumerate(parts):
        name = f"{part.name}-{number}" if number else part.name
        places = (*rasters(part.scene.imagery), part.scene.labels, out)
        options = ("--options", _file(work, name, part.options))
        with listening(f"export {name}") as listen:
            cut = partial(child.run, "export", *places, *classes, *options, listen=listen)
            work.once(name, out / DEFINITION, cut)
    return ChipFolder.open(out)


def _begin(work: Work) -> str:
    """The version to go on from, `roofs@3`, in every try the same; "" where the recipe names none of the registry."""
    model = work.recipe.goes_on_from
    if not model:
        return ""
    record = work.once("begin", work.folder, lambda: {"model": catalog.find_version(model).ref})
    work.run.set_tags({"dlpk.pretrained_model": record["model"]})
    return str(record["model"])


def _train(work: Work, chips: ChipFolder, start: str) -> Path:
    """`start`: the version to go on from, or ""."""
    train = work.recipe.train
    if start:
        say(f"goes on from {start}")
        train = train.model_copy(update={"pretrained_model": str(catalog.fetch(start))})
    work.run.log_parameters(work.recipe.model_dump(mode="json"))
    work.run.log_dataset(work.recipe.name, chips.digest, ", ".join(rasters(work.recipe.imagery)))
    options = ("--options", _file(work, "train", train))
    product = work.model / f"{work.recipe.name}.emd"
    with listening("train", work.run) as listen, work.run.machine_watched():
        work.once("train", product, lambda: child.run_on_gpu("train", chips.path, work.model, *options, listen=listen))
    work.run.log_missing(facts_in(work.model / PAGE).get("epochs") or [])
    return work.model


def _evaluate(work: Work, model: Path, held_out: ChipFolder) -> Scores:
    work.run.log_dataset(f"{work.recipe.name} held out", held_out.digest, str(held_out.path), "evaluation")
    with listening("evaluate") as listen:
        return work.once("scores", model, lambda: child.run_on_gpu("evaluate", model, held_out.path, listen=listen))


def _package(work: Work, model: Path) -> Path:
    recipe = work.recipe
    words = ["--summary", recipe.summary, "--description", recipe.description]
    words += [word for tag in recipe.tags for word in ("--tag", tag)]
    with listening("package") as listen:
        work.once("package", work.package, lambda: child.run("package", model, work.package, *words, listen=listen))
    return work.package


def _publish(work: Work, package: Path, chips: ChipFolder, scores: Scores, start: str) -> Version:
    """`start`: the version that it went on from, or ""."""
    work.run.log_scores({f"held_out/{name}": value for name, value in numbers(scores).items()})
    work.run.log_figures(work.model)
    work.run.log_images(work.model)
    from tasks.ground import ground_of

    made = {"recipe": work.recipe.model_dump(mode="json"), "evaluation": scores, "fingerprint": work.fingerprint}
    if start:
        made["pretrained_model"] = start
    if place := ground_of(chips):
        made["extent"] = place
    version = publishing.publish(
        package, scores=numbers(scores), data_digest=chips.digest, git_commit=commit(), run_id=work.run.id, made=made
    )
    tell_of("dlpk.model.published", version)
    return version


def _promote(work: Work, version: Version, scores: Scores, held_out: ChipFolder) -> Decision:
    def compare(champion: Version) -> Record:
        name = f"against-{champion.number}"
        rival = catalog.fetch(champion.ref)
        with listening(f"compare with {champion.ref}") as listen:
            places = (work.model, rival, held_out.path)
            return work.once(name, work.model, lambda: child.run_on_gpu("compare", *places, "--trust", listen=listen))

    verdict = _judged(version, lambda rival: judge(version, scores, rival, compare))
    if verdict.promote:
        figures = numbers(scores)
        promotion.promote(version.name, version.number, reason=verdict.why, scores=figures, gate=verdict.gate)
    elif verdict.gate:
        promotion.keep(version.name, version.number, reason=verdict.why, gate=verdict.gate)
    work.run.set_tags({"dlpk.version": version.ref, "dlpk.verdict": verdict.why})
    say(verdict.why)
    return verdict


MOST_RIVALS = 3  # that one version is compared with while others become champion


def _judged(version: Version, against: Callable[[Version | None], Decision]) -> Decision:
    """The verdict against the champion of the moment, who may be another one after the hours of a comparison."""
    rival = catalog.champion(version.name)
    for _ in range(MOST_RIVALS):
        verdict, known = against(rival), rival
        rival = catalog.champion(version.name)
        if (rival and rival.number) == (known and known.number):
            return verdict
    why = f"another version became champion during each of {MOST_RIVALS} comparisons, the last {rival and rival.ref}"
    return Decision(False, f"{version.ref} stays challenger: {why}; the next run compares it again")


def _report(work: Work, version: Version, scores: Scores, verdict: Decision) -> None:
    markdown, rows = retrain_page(work, version, scores, verdict)
    publish_report(f"retrain-{slug(version.name)}", markdown, rows)


@dataclass(frozen=True)
class Known:
    """A model that lies here, checked, and what it is."""

    path: Path
    source: "ModelSource"
    tool: str  # the verb that runs it, e.g. detect-objects

    @property
    def ref(self) -> str:
        return f"{self.source.name}@{self.source.version}".rstrip("@")


def _fetch(model: str) -> Known:
    from tasks.inference_options import tool_of

    path, source = fetched(model)
    emd = inspect(path).emd
    tool = tool_of(emd)
    if tool is None:
        got = emd.document.get("ModelType")
        raise OptionsError("no verb runs a model of this type", where=model, got=got, do="run it in ArcGIS")
    return Known(path, source, tool)


def _infer(known: Known, scene: Sequence[Path], out: Path, options: "InferenceOptions") -> Record:
    """`scene`: a raster, or the two dates of one."""
    imagery = scene[0]
    with tempfile.TemporaryDirectory() as folder, listening(f"{known.tool} {imagery.name}") as listen, held() as gpu:
        file = write_text(Path(folder) / "options.json", on(gpu, options).model_dump_json())
        places = ("--source", json.dumps(asdict(known.source)), "--options", file, known.path, *scene, out)
        return {"imagery": str(imagery), **child.run(known.tool, *places, listen=listen, gpu=gpu)}


def _report_results(known: Known, results: Sequence[Record]) -> None:
    markdown, rows = inference_page(known.ref, known.source.sha256, results)
    publish_report(f"infer-{slug(known.source.name)}", markdown, rows)


def _report_scenes(known: Known, place: str, summary: Summary) -> None:
    markdown, rows = scenes_page(known.ref, place, summary)
    publish_report(f"infer-{slug(known.source.name)}", markdown, rows)


@dataclass(frozen=True)
class Cut:
    """An export on its own."""

    imagery: Imagery
    labels: str | None
    out: str
    options: ExportOptions
    classes: tuple[ClassEntry, ...] = ()
    workers: int | None = None
    dask_scheduler: str | None = None


def _cut(cut: Cut) -> Record:
    with tempfile.TemporaryDirectory() as folder, listening("export") as listen:
        if cut.dask_scheduler:
            return _cut_on_dask(cut, listen)
        flags: list[object] = ["--options", write_text(Path(folder) / "options.json", cut.options.model_dump_json())]
        if cut.classes:
            entries = json.dumps([entry.model_dump() for entry in cut.classes])
            flags += ["--classes", write_text(Path(folder) / "classes.json", entries)]
        flags += ["--workers", cut.workers] if cut.workers else []
        places = (*rasters(cut.imagery), cut.labels or NO_LABELS, cut.out)
        return child.run("export", *flags, "--", *places, listen=listen)


def _cut_on_dask(cut: Cut, listen: Listener) -> Record:
    from flows.export_dask import export_on_dask

    chips = export_on_dask(
        rasters(cut.imagery),
        Path(cut.labels) if cut.labels else None,
        Path(cut.out),
        cut.options,
        classes=[entry.label() for entry in cut.classes],
        scheduler=cut.dask_scheduler,
        on_progress=listen,
    )
    return exported(chips)


def _report_chips(record: Record) -> None:
    markdown, rows = chips_page(record)
    publish_report(f"export-{slug(Path(record['folder']).name)}", markdown, rows)


def slug(name: str) -> str:
    """A name as artifact keys want it: small letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The commit that this program runs from; "" outside of a checkout."""
    here = Path(__file__).parent
    ask = ["git", "rev-parse", "--quiet", "--verify", "HEAD"]
    return subprocess.run(ask, cwd=here, capture_output=True, text=True, check=False).stdout.strip()


def _file(work: Work, name: str, content: Options | list[Any]) -> Path:
    """Options or classes as the child interpreter reads them."""
    text = content.model_dump_json(indent=2) if isinstance(content, Options) else json.dumps(content, indent=2)
    return write_text(work.folder / "options" / f"{name}.json", text)


# the policy table:  step(verb, patience)
cut = step(_cut, hours=24, retries=2)
report_chips = step(_report_chips, hours=1, retries=3)
unchanged = step(_unchanged, hours=1, retries=3)
begin = step(_begin, hours=1, retries=3)
export = step(_export, hours=6, retries=2)
train = step(_train, hours=48, retries=3, tags=("gpu",))
evaluate = step(_evaluate, hours=6, retries=3, tags=("gpu",))
package = step(_package, hours=1)
publish = step(_publish, hours=2, retries=3)
promote = step(_promote, hours=6, retries=3, tags=("gpu",))
report = step(_report, hours=1, retries=3)
fetch = step(_fetch, hours=2, retries=3)
infer = step(_infer, hours=24, retries=3, tags=("gpu",))
run_scenes = step(run_batch, hours=24, tags=("gpu",))
report_results = step(_report_results, hours=1, retries=3)
report_scenes = step(_report_scenes, hours=1, retries=3)
