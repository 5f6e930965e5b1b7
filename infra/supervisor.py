"""Keep a topology running: `python -m infra.supervisor FOLDER`, started by `dlpk up`.

It keeps nothing in its head that is not in the folder. Killed, it leaves the services at work; the next one finds
them by their files and goes on watching. What died is started again, after 1, 2, 4 ... 30 seconds; a worker that the
plan no longer names is ended.
"""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra import plan as plans
from infra import processes
from infra.processes import Known, alive, known, remember
from infra.services import Service, services
from registry.locks import locked

NAME = "supervisor"
TICK, PAUSES = 0.2, (0, 1, 2, 4, 8, 15, 30)  # seconds
WELL_SECONDS = 60.0  # what lives so long has recovered: its next end is a first one again
TIERS = (("prefect", "mlflow"), ("s3", "postgres"))  # ended in this order, after everything else
HOW = {"postgres": signal.SIGINT}  # its fast shutdown: SIGTERM would wait for every client to leave
log = logging.getLogger("dlpk.supervisor")


class Supervisor:
    """One look after another at what there should be and what there is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: dict[str, tuple[int, float]] = {}  # how often in a row, and when last
        self.working: dict[str, int] = {}  # name -> the process that was seen to work
        self.stopping = False
        self.read = 0.0
        self.services: list[Service] = []

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)  # children get the default back, also where a shell had us ignore it
        while not self.stopping:
            self.look()
            time.sleep(TICK)
        stop_all(self.folder)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def look(self) -> None:
        self._bury()
        self._follow_plan()
        for service in self.services:
            if service.name in self.own:
                continue  # at work, or to be buried by the next look: it may have ended since this one began
            if self._done(service) or alive(self.folder, service.name):
                continue
            if self._patient(service.name) and all(self.works(name) for name in service.after):
                self._start(service)

    def works(self, name: str) -> bool:
        """Whether a service was ready once since its process started; a job, whether it ended well."""
        service = next((s for s in self.services if s.name == name), None)
        if service is None or service.ready is None:
            return service is None or self._done(service)
        process = alive(self.folder, name)
        if process is None:
            return False
        if self.working.get(name) != process.pid and service.ready():
            self.working[name] = int(process.pid)
        return bool(self.working.get(name) == process.pid)

    def _done(self, service: Service) -> bool:
        """A job of this supervisor's time; an earlier one may have been interrupted."""
        return service.is_job and self.working.get(service.name) == 0

    def _bury(self) -> None:
        """Take note of the children that ended."""
        for name, process in list(self.own.items()):
            if (code := process.poll()) is None:
                continue
            del self.own[name]
            if before := known(self.folder, name):
                remember(self.folder, name, Known(before.pid, before.created, before.starts, code))
            if code == 0 and any(s.name == name and s.is_job for s in self.services):
                self.working[name] = 0
                continue
            lived = time.time() - before.created if before else 0.0
            count = 1 if lived > WELL_SECONDS else self.ended.get(name, (0, 0.0))[0] + 1
            self.ended[name] = count, time.monotonic()
            log.warning("%s ended with %s after %.0f s", name, code, lived)

    def _patient(self, name: str) -> bool:
        count, when = self.ended.get(name, (0, 0.0))
        return time.monotonic() - when >= PAUSES[min(count, len(PAUSES) - 1)]

    def _start(self, service: Service) -> None:
        try:
            if not service.keeps_children:
                processes.kill(processes.orphans(self.folder, service.name))
            if service.prepare:
                service.prepare()
            user = service.user
            self.own[service.name] = processes.start(
                self.folder, service.name, service.command, service.environment, user
            )
        except (OSError, subprocess.SubprocessError, LookupError):
            log.exception("%s cannot be started", service.name)
            before = known(self.folder, service.name)
            remember(self.folder, service.name, Known(0, 0.0, 1 + (before.starts if before else 0), 1))
            self.ended[service.name] = self.ended.get(service.name, (0, 0.0))[0] + 1, time.monotonic()
        else:
            log.info("%s started", service.name)

    def _follow_plan(self) -> None:
        changed = (self.folder / "plan.json").stat().st_mtime
        if changed == self.read:
            return
        self.read = changed
        plan = plans.read(self.folder)
        assert plan is not None
        self.services = services(plan)
        wanted = {service.name for service in self.services} | {NAME}
        for path in (self.folder / "run").glob("*.json"):
            if path.stem not in wanted:
                log.info("%s is no longer wanted", path.stem)
                processes.end(self.folder, path.stem)
                path.unlink(missing_ok=True)


def stop_all(folder: Path) -> list[str]:
    """End everything, workers first and databases last; what had to be found by its mark, by command."""
    there = [path.stem for path in (folder / "run").glob("*.json") if path.stem != NAME]
    later = [name for tier in TIERS for name in tier]
    for tier in ([name for name in there if name not in later], *TIERS):
        processes.end_all(folder, {name: HOW.get(name, signal.SIGTERM) for name in tier})
    left = processes.marked(folder)
    names = [process.name() for process in left if process.is_running()]
    processes.kill(left)
    return names


def main(folder: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    (folder / "run").mkdir(parents=True, exist_ok=True)
    with (folder / "run" / ".supervisor.lock").open("w") as lock:
        if not locked(lock):
            sys.exit(json.dumps({"error": "another supervisor is at work"}))
        Supervisor(folder).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
