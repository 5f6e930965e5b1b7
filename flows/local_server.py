"""A Prefect server for one command: it keeps its database in a folder, so its record can be opened again later.

Prefect's own temporary server would lose most task runs, since it ends before they are written.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import StoreError

HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1
START_SECONDS, STOP_SECONDS = 180, 15
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
}


def settings_of(home: Path, port: int) -> dict[str, str]:
    """The environment of a server that lives in `home`, and of its clients. Set it before prefect is imported."""
    api = f"http://{HOST}:{port}/api"
    return {**QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": api, "PREFECT_SERVER_UI_API_URL": api}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def starting(home: Path, port: int) -> Iterator["Server"]:
    """A server that comes up while other things are done; `ready` waits for it. It is gone when the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  (no thread runs yet)
        )
        try:
            yield Server(process, f"http://{HOST}:{port}", log)
        finally:
            if "prefect" in sys.modules:
                _hand_over()
            _stop(process)


class Server:
    """The process, its address and its log."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def ready(self) -> str:
        """The address, as soon as it answers. Raises StoreError when the server ends or stays silent."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/api/health", timeout=5):  # noqa: S310  (our own address)
                    return self.url
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise StoreError("the Prefect server did not start", where=self.log, do="it said:\n  " + "\n  ".join(said))


def _end_with_parent() -> None:
    """Runs in the server before it starts: even when we are killed, it gets its signal."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _hand_over() -> None:
    """Log lines and events that wait in this process, to the server: it must have them before it ends."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=STOP_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Politely first, so that its database is closed; then its whole process group."""
    for how, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        try:
            os.killpg(process.pid, how)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        else:
            return
