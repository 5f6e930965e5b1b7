"""A batch of claimed scenes: fetched, done by one child interpreter, and each published as soon as it is there."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import child
from flows.gpus import Gpu, held
from flows.listening import about, listening, run_tags, say
from flows.patience import patiently
from registry import results, scenes
from registry.errors import Denied, DlpkError, NotFound, StoreError
from registry.files import write_text
from registry.ledger import Claim, Entry, Ledger
from tasks.console import Listener
from tasks.inference_options import InferenceOptions
from tasks.progress import Epoch, Progress

if TYPE_CHECKING:
    from flows.steps import Known

RECORD = "record.json"
FACTS = ("counts", "pixels", "km2", "seconds")


@dataclass
class Batch:
    """Where each scene of it lies, and what has come of it."""

    known: "Known"
    ledger: Ledger
    folder: Path
    open: dict[str, Claim] = field(default_factory=dict)  # entry -> claim, while nothing has come of it
    rasters: dict[str, list[Path]] = field(default_factory=dict)  # entry -> its file, or that of each band
    done: list[dict[str, Any]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # scene -> why its server does not hand it out
    trouble: str = ""

    def place(self, entry: Entry) -> Path:
        """The folder of its result."""
        return self.folder / entry.key / entry.scene.name


def run_batch(known: "Known", ledger: Ledger, claims: Sequence[Claim], options: InferenceOptions) -> dict[str, Any]:
    """{results: one record each, gone: entries that are no more, refused: scenes, trouble: with a store, if any}.

    What has not come to an end is for whoever claims it next; a scene that cannot be had keeps no other one waiting.
    """
    with tempfile.TemporaryDirectory(prefix="dlpk-scenes-") as place:
        batch = Batch(known, ledger, Path(place))
        batch.open = {claim.entry.key: claim for claim in claims}
        try:
            for claim in claims:
                _fetch(batch, claim)
            if batch.open:
                with listening(f"{len(batch.open)} scenes") as listen:
                    _run(batch, options, listen)
        except StoreError as error:
            batch.trouble = str(error)
    return {"results": batch.done, "gone": batch.gone, "refused": batch.refused, "trouble": batch.trouble}


def _fetch(batch: Batch, claim: Claim) -> None:
    entry = claim.entry
    try:
        batch.rasters[entry.key] = scenes.fetch_all(entry.scene, batch.folder / entry.key / "scene")
    except NotFound as error:
        _lose(batch, claim, str(error))
    except Denied as error:
        _refuse(batch, claim, str(error))
    except StoreError as error:
        batch.trouble = str(error)
        batch.ledger.give_back(claim)
        del batch.open[entry.key]


def _run(batch: Batch, options: InferenceOptions, listen: Listener) -> None:
    def tell(event: Progress | Epoch) -> None:
        listen(event)
        _publish_finished(batch)

    with held() as gpu:
        job = _job(batch, options, gpu)
        try:
            child.run("run-scenes", job, listen=tell, gpu=gpu)
        except StoreError:
            raise
        except DlpkError as error:
            _publish_finished(batch)
            if batch.open:  # the first without a record is the one that it died of
                _fail(batch, next(iter(batch.open.values())), str(error))
    _publish_finished(batch)
    for claim in batch.open.values():
        batch.ledger.give_back(claim)


def _job(batch: Batch, options: InferenceOptions, gpu: Gpu | None) -> Path:
    document = {
        "tool": batch.known.tool,
        "model": str(batch.known.path),
        "source": asdict(batch.known.source),
        "options": on(gpu, options).model_dump(mode="json"),
        "scenes": [_files(batch, claim.entry) for claim in batch.open.values()],
    }
    return write_text(batch.folder / "job.json", json.dumps(document))


def _files(batch: Batch, entry: Entry) -> dict[str, Any]:
    """As `tasks.scene_run.Files` has it."""
    bands = [band.id for band in entry.scene.bands]
    return {"rasters": [*map(str, batch.rasters[entry.key])], "bands": bands, "out": str(batch.place(entry))}


def on(gpu: Gpu | None, options: InferenceOptions) -> InferenceOptions:
    """Options that compute on the GPU that was taken; a device that somebody has chosen stays."""
    return options.model_copy(update={"device": -2}) if gpu and options.device == -1 else options


def _publish_finished(batch: Batch) -> None:
    """Every scene whose record has come since the last look."""
    for claim in list(batch.open.values()):
        record = batch.place(claim.entry) / RECORD
        if record.is_file():
            patiently(lambda record=record, claim=claim: _publish(batch, claim, json.loads(record.read_text())))  # type: ignore[misc]


def _publish(batch: Batch, claim: Claim, record: dict[str, Any]) -> None:
    entry = claim.entry
    if "error" in record:
        _fail(batch, claim, record["error"])
        return
    try:
        changed = _changed(claim)
    except Denied as error:  # of the scene's server; that of the results ends the batch
        _refuse(batch, claim, str(error))
        return
    if changed:
        _lose(batch, claim, "it changed while it was read")
        return
    properties = {"dlpk:tool": batch.known.tool, "dlpk:counts": record["counts"], "dlpk:colors": record["colors"]}
    if run := run_tags().get("prefect.flow_run_id"):
        properties["dlpk:flow_run_id"] = run
    facts = {"geometry": record["geometry"], "bbox": record["bbox"], "properties": properties}
    uri = results.publish(batch.ledger.store, claim, [Path(file) for file in record["files"]], facts)
    batch.ledger.finish(entry)
    del batch.open[entry.key]
    _say(claim, f" is done: {uri or 'by another run'}")
    if uri:  # else another run was quicker, and counts it
        own = {name: record[name] for name in FACTS}
        batch.done.append({"scene": entry.scene.id, "imagery": entry.scene.place, "result": uri, **own})


def _changed(claim: Claim) -> bool:
    try:
        return scenes.content(claim.entry.scene) != claim.entry.scene.content
    except NotFound:
        return True


def _say(claim: Claim, what: str) -> None:
    scene = claim.entry.scene.id
    with about(scene=scene):
        say(f"{scene}{what}")


def _fail(batch: Batch, claim: Claim, why: str) -> None:
    _say(claim, f": {why}")
    batch.ledger.fail(claim, why)
    del batch.open[claim.entry.key]


def _lose(batch: Batch, claim: Claim, why: str) -> None:
    """What is there now, if anything, is another scene, for the next survey."""
    _say(claim, f" is left: {why}")
    batch.ledger.give_back(claim)
    batch.gone.append(claim.entry.key)
    del batch.open[claim.entry.key]


def _refuse(batch: Batch, claim: Claim, why: str) -> None:
    """Its server hands out nothing of it."""
    _lose(batch, claim, why)
    batch.refused[claim.entry.scene.id] = why
