"""Processes of a topology: started in a session of their own, known by a file, found again whoever started them.

    <folder>/run/<name>.json    {"pid", "created", "starts", "code"}: enough to find it again and no other
    <folder>/logs/<name>.log    what it says

Every process, and all that it starts, carries DLPK_LOCAL=<folder> in its environment: what was left behind by a parent
that was killed is found by it.
"""

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from registry.files import write_text

MARK = "DLPK_LOCAL"
LOG_BYTES = 20 * 2**20  # a longer log is put aside at the next start
POLITE_SECONDS = 12.0


@dataclass(frozen=True)
class Known:
    """What the file of a process says."""

    pid: int
    created: float  # the system's clock, seconds: another process of the same number has another
    starts: int = 1
    code: int | None = None  # how it ended, where that was seen

    def process(self) -> psutil.Process | None:
        """The process, None when it is gone or waits to be buried."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) < 0.5 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def known(folder: Path, name: str) -> Known | None:
    try:
        return Known(**json.loads((folder / "run" / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(folder: Path, name: str, what: Known) -> None:
    write_text(folder / "run" / f"{name}.json", json.dumps(vars(what)))


def alive(folder: Path, name: str) -> psutil.Process | None:
    found = known(folder, name)
    return found.process() if found else None


def start(
    folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str], user: int | None = None
) -> "subprocess.Popen[bytes]":
    """A process in a session of its own; its number of starts is one more than the file said."""
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    before = known(folder, name)
    with log.open("ab") as lines:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, MARK: str(folder)},
            cwd="/" if user is not None else folder,  # another user may not be able to enter ours
            start_new_session=True,
            **as_user(user),
        )
    created = time.time()
    with suppress(psutil.NoSuchProcess):
        created = psutil.Process(process.pid).create_time()
    remember(folder, name, Known(process.pid, created, 1 + (before.starts if before else 0)))
    return process


def as_user(user: int | None) -> dict[str, Any]:
    """What `subprocess` must be told to run something as another user, with nothing left of our groups."""
    return {} if user is None else {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}


def end(folder: Path, name: str, how: signal.Signals = signal.SIGTERM) -> None:
    """End a process politely, then whatever of its family is left."""
    end_all(folder, {name: how})


def end_all(folder: Path, how: Mapping[str, signal.Signals], patience: float = POLITE_SECONDS) -> None:
    """The same for several at a time."""
    polite, family = [], []
    for name, number in how.items():
        with suppress(psutil.NoSuchProcess):
            if process := alive(folder, name):
                polite.append(process)
                family += [process, *process.children(recursive=True)]
                process.send_signal(number)
    psutil.wait_procs(polite, timeout=patience)
    kill(family)


def kill(processes: Iterable[psutil.Process]) -> None:
    """At once; returns when they are gone."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=POLITE_SECONDS)


def marked(folder: Path) -> list[psutil.Process]:
    """Every living process of a topology, by the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.pid != os.getpid() and process.environ().get(MARK) == str(folder)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def orphans(folder: Path, name: str) -> list[psutil.Process]:
    """What the last process of a name left behind: the living of its session."""
    before = known(folder, name)
    return [process for process in marked(folder) if before and _session(process) == before.pid]


def _session(process: psutil.Process) -> int:
    with suppress(OSError):
        return os.getsid(process.pid)
    return 0


def last_lines(folder: Path, name: str, count: int = 5) -> list[str]:
    """The end of a log."""
    try:
        text = (folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.strip().splitlines()[-count:]
