"""Each new scene once: found, claimed, done in batches, published. Any number of runs may do this to the same place.

A run takes what nobody has, and waits for what others have: whoever is left does what the dead did not. What it found
is counted from the ledger (registry/ledger.py), so a run that is started again goes on where all of them stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flows.happenings import tell
from flows.listening import run_tags, say
from flows.patience import LONGEST, patiently
from flows.scene_options import NewScenes
from registry import results, scenes
from registry.errors import OptionsError, StoreError
from registry.ledger import Claim, Entry, Ledger, Owner
from registry.stores import Store
from registry.tracking import Run

if TYPE_CHECKING:
    from flows.steps import Known

RunBatch = Callable[[Ledger, Sequence[Claim]], dict[str, Any]]  # the step of flows/scene_batch.py
POLL = 2.0  # seconds between two looks at what others have


@dataclass
class Summary:
    """What one run did."""

    found: int = 0  # scenes at the place
    new: int = 0  # of them to be done when it began, by whomever
    results: list[dict[str, Any]] = field(
        default_factory=list
    )  # of this run: {scene, item, counts, pixels, km2, seconds}
    failed: dict[str, str] = field(default_factory=dict)  # scene -> why, of those that are left alone
    gone: set[str] = field(default_factory=set)  # entries whose scene changed or went while it was read
    total: int = 0  # results at the place


def survey(known: "Known", place: str, dials: NewScenes, ledger: Ledger) -> tuple[int, list[Entry]]:
    """How many scenes there are, and those that this version has to do."""
    source, found = known.source, list(scenes.find(place, dials.search))
    if not source.sha256:
        do = "publish it, or give its .dlpk"
        raise OptionsError("new scenes are counted by the package's sha256", where=source.name, do=do)
    done = ledger.done()
    before = {key.partition("-")[0] for key in done}
    entries = [Entry(scene, source.name, source.version, source.sha256) for scene in found]
    return len(found), [e for e in entries if e.key not in done and (e.scene.key not in before or dials.again(e.scene))]


def take(ledger: Ledger, todo: Sequence[Entry], most: int) -> list[Claim]:
    """Claim some of those that nobody living has."""
    claims, living = ledger.claims(), ledger.owner.living() - {ledger.owner.name}  # what we had is done or was dropped
    taken: list[Claim] = []
    start = hash(ledger.owner.name) % len(todo)  # runs begin at different places
    for entry in (*todo[start:], *todo[:start]):
        if claim := ledger.claim(entry, claims.get(entry.key), living):
            taken.append(claim)
        if len(taken) == most:
            break
    return taken


def left(ledger: Ledger, entries: Sequence[Entry], dials: NewScenes, summary: Summary) -> list[Entry]:
    """What is neither done nor given up, by anybody."""
    done, failures = ledger.done(), ledger.failures()
    for entry in entries:
        if entry.key not in done and failures[entry.key] >= dials.most_failures:
            if entry.scene.id not in summary.failed:
                summary.failed[entry.scene.id] = (ledger.reasons(entry) or ["unknown"])[-1]
            summary.gone.add(entry.key)
    return [entry for entry in entries if entry.key not in done | summary.gone]


def work_off(known: "Known", store: Store, place: str, dials: NewScenes, run_batch: RunBatch) -> Summary:
    """Until every scene has its result or is given up."""
    summary = Summary()
    with Owner(store, dials.lease).alive() as owner:
        ledger = Ledger(owner, known.source.name)
        summary.found, entries = patiently(lambda: survey(known, place, dials, ledger))
        summary.new = len(entries)
        say(f"{summary.found} scenes at {place}, {summary.new} of them new to {known.ref}")
        if entries:
            _ask_for_company(dials, len(entries))
        with _watched(known, summary):
            moved = time.monotonic()  # when something was last done
            while todo := patiently(lambda: left(ledger, entries, dials, summary)):
                if claims := patiently(lambda todo=todo: take(ledger, todo, dials.batch)):  # type: ignore[misc]
                    outcome = run_batch(ledger, claims)
                    summary.results += outcome["results"]
                    summary.gone |= set(outcome["gone"])
                    summary.failed |= outcome["refused"]
                    moved = time.monotonic() if outcome["results"] or not outcome["trouble"] else moved
                    if outcome["trouble"]:
                        if time.monotonic() - moved > LONGEST:
                            raise StoreError(f"nothing was done for {LONGEST:.0f} s: {outcome['trouble']}", where=place)
                        say(f"goes on in {POLL:.0f} s: {outcome['trouble']}")
                        time.sleep(POLL)
                else:
                    time.sleep(POLL)
        summary.total = patiently(lambda: results.refresh(store))
    _tell(known, store, summary)
    return summary


def _ask_for_company(dials: NewScenes, new: int) -> None:
    """Start the other runs of this deployment; each is an equal, and asks for none."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    others = min(dials.runs, -(-new // dials.batch)) - 1
    if run is None or run.deployment_id is None or others < 1:
        return
    parameters = {**run.parameters, "scenes": {**(run.parameters.get("scenes") or {}), "runs": 1}}
    with get_client(sync_client=True) as client:
        for number in range(others):
            client.create_flow_run_from_deployment(
                run.deployment_id, parameters=parameters, idempotency_key=f"{run.id}-{number}", tags=run.tags
            )
    say(f"{others} more runs share the scenes")


@contextmanager
def _watched(known: "Known", summary: Summary) -> Iterator[None]:
    """An experiment run with the use of GPU, processor and memory, and how much was done; without a server, without."""
    if not summary.new:
        yield
        return
    try:
        name = known.source.name
        run = Run.start(f"{name} inference", f"{known.ref} over new scenes", {"dlpk.version": known.ref, **run_tags()})
    except StoreError as error:
        say(f"no experiment run: {error}")
        yield
        return
    started = time.monotonic()
    with run.failing(), run.machine_watched():
        yield
    seconds = time.monotonic() - started
    pixels, area = (sum(r.get(key) or 0 for r in summary.results) for key in ("pixels", "km2"))
    with suppress(StoreError):
        figures = {"scenes": len(summary.results), "failed": len(summary.failed), "seconds": seconds}
        run.log_scores({**figures, "px_per_second": pixels / seconds, "km2_per_hour": 3600 * area / seconds})
        run.finish()


def _tell(known: "Known", store: Store, summary: Summary) -> None:
    facts = {"model": known.ref, "results": len(summary.results), "failed": len(summary.failed), "place": store.uri}
    if summary.results:
        tell("dlpk.scenes.done", known.source.name, facts)
    if summary.failed:
        say(f"{len(summary.failed)} scenes gave nothing: {', '.join(sorted(summary.failed)[:10])}")
        tell("dlpk.scenes.failed", known.source.name, {**facts, "scenes": summary.failed})
