"""The whole topology on this machine, without containers: `make up`, `dlpk up`, and what end-to-end tests stand on.

with topology(tmp_path, cpu=2) as place:
    httpx.post(f"{place.plan.api}/...", auth=place.plan.auth)
    place.kill("prefect")        # it comes back
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from infra import plan as plans
from infra import processes
from infra.plan import Plan
from infra.services import Service, services
from infra.supervisor import NAME, stop_all
from registry.errors import NotFound, StoreError

UP_SECONDS, TRIES = 240.0, 4
Say = Callable[[str], None]
_left_alone: list["subprocess.Popen[bytes]"] = []  # supervisors are not waited for: they outlive who starts them


@dataclass(frozen=True)
class State:
    """How one service does."""

    name: str
    state: str  # working, done, starting, silent, stopped
    pid: int | None = None
    starts: int = 0
    address: str = ""

    @property
    def fine(self) -> bool:
        return self.state in ("working", "done")


def up(folder: Path, cpu: int | None = None, gpu: int | None = None, say: Say = lambda _: None) -> Plan:
    """Start what does not run yet, with these numbers of workers; returns when everything works.

    Raises StoreError, with the end of its log, when a service dies again and again or stays silent.
    """
    folder = folder.absolute()
    with plans.held(folder):
        plan = plans.made(folder, cpu, gpu)
        if not processes.alive(folder, NAME):
            _left_alone.append(
                processes.start(folder, NAME, (sys.executable, "-m", "infra.supervisor", str(folder)), {})
            )
        _wait(plan, say)
    return plan


def _wait(plan: Plan, say: Say) -> None:
    began, told = time.monotonic(), set[str]()
    before = {state.name: state.starts for state in status(plan.folder)}
    while True:
        states = status(plan.folder)
        for state in states:
            if state.fine and state.name not in told:
                told.add(state.name)
                say(f"{time.monotonic() - began:5.1f} s  {state.name} {state.state}  {state.address}".rstrip())
        waiting = [state for state in states if not state.fine]
        if not waiting:
            return
        late = time.monotonic() - began > UP_SECONDS
        if bad := [s for s in waiting if late or s.starts - before.get(s.name, 0) > TRIES]:
            lines = "\n  ".join(processes.last_lines(plan.folder, bad[0].name))
            log = plan.folder / "logs" / f"{bad[0].name}.log"
            raise StoreError(f"{bad[0].name} does not come up", where=log, do=f"it said:\n  {lines}")
        time.sleep(0.3)


def down(folder: Path) -> list[str]:
    """End every process of the topology, also when its supervisor was killed; the data stay.

    Returns the names of processes that nobody had an eye on any more.
    """
    folder = folder.absolute()
    if not (folder / "plan.json").exists():
        raise NotFound("no topology was ever started here", where=folder, do="dlpk up")
    if watcher := processes.alive(folder, NAME):
        processes.kill([watcher])  # at once: it must not start again what we end
    left = stop_all(folder)
    for path in (folder / "run").glob("*.json"):
        path.unlink(missing_ok=True)
    return left


def restart(folder: Path, names: Iterable[str]) -> None:
    """End these services; returns when the supervisor has all of them at work again."""
    if plan := plans.read(folder):
        processes.end_all(folder, dict.fromkeys(names, signal.SIGTERM))
        _wait(plan, lambda _: None)


def status(folder: Path) -> list[State]:
    """The supervisor and every service, as they are now. Raises NotFound."""
    plan = plans.read(folder)
    if plan is None:
        raise NotFound("no topology was ever started here", where=folder, do="dlpk up")
    watcher = processes.alive(plan.folder, NAME)
    first = State(NAME, "working" if watcher else "stopped", watcher.pid if watcher else None)
    with ThreadPoolExecutor(8) as threads:
        return [first, *threads.map(lambda service: _state(plan, service), services(plan))]


def _state(plan: Plan, service: Service) -> State:
    found = processes.known(plan.folder, service.name)
    process = found.process() if found else None
    address = _addresses(plan).get(service.name, "")
    if service.ready is None:
        word = "starting" if process else "done" if found and found.code == 0 else "stopped"
    else:
        word = "stopped" if process is None else "working" if service.ready() else "silent"
    return State(service.name, word, process.pid if process else None, found.starts if found else 0, address)


def _addresses(plan: Plan) -> dict[str, str]:
    pages = {name: f"http://{plans.HOST}:{plan.ports[name]}" for name in ("browse", "metrics")}
    postgres = f"{plans.HOST}:{plan.ports['postgres']}"
    return {"prefect": plan.api, "mlflow": plan.mlflow, "s3": plan.s3, "postgres": postgres, **pages}


def record(plan: Plan) -> dict[str, Any]:
    """What `dlpk up` and `dlpk status` print."""
    states = status(plan.folder)
    shell = f". {plan.folder / 'environment'}"
    return {"folder": str(plan.folder), "services": [asdict(state) for state in states], "for your shell": shell}


# -- for tests and drills ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Place:
    """A running topology that may be hurt."""

    plan: Plan

    @property
    def environment(self) -> Mapping[str, str]:
        return self.plan.environment

    def process(self, name: str) -> psutil.Process | None:
        return processes.alive(self.plan.folder, name)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """The process itself; what it started is left to find its own end."""
        with suppress(psutil.NoSuchProcess):
            if process := self.process(name):
                process.send_signal(how)

    def scale(self, cpu: int | None = None, gpu: int | None = None) -> None:
        """Other numbers of workers, while everything runs; the supervisor follows."""
        plans.made(self.plan.folder, cpu, gpu)

    def states(self) -> dict[str, str]:
        return {state.name: state.state for state in status(self.plan.folder)}

    def works(self) -> bool:
        return all(state.fine for state in status(self.plan.folder))


@contextmanager
def topology(folder: Path, cpu: int = 1, gpu: int = 1) -> Iterator[Place]:
    """Up for the block, gone after it."""
    try:
        yield Place(up(folder, cpu, gpu))
    finally:
        down(folder)
