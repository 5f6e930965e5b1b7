"""A real Prefect server and a process worker for it, each in a process group of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.servers import Server, answers, free_ports

T = TypeVar("T")
START_SECONDS = 180  # 10-40 s on a quiet machine
CHECKOUT = Path(__file__).parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Prefect:
    """A running server, spoken to over plain HTTP."""

    url: str  # of the API
    environment: Mapping[str, str]  # for clients and workers

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        answer = httpx.post(f"{self.url}{path}", json=document, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.url}{path}", timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    def ended(self, run: str, seconds: float = 300) -> Any:
        """The flow run when it is over, whatever the outcome."""
        return until(lambda: (r := self.get(f"/flow_runs/{run}"))["state_type"] in FINAL and r, seconds)

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return found

    def log(self, run: str) -> str:
        lines = self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return "\n".join(line["message"] for line in lines)


@contextmanager
def prefect_server(folder: Path, database: str) -> Iterator[Prefect]:
    """`database`: its address."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = Server(command, folder / "server.log", environment)
    server.start(lambda: answers(f"{url}/health"), START_SECONDS)
    try:
        yield Prefect(url, environment)
    finally:
        server.stop(patience=3)


@contextmanager
def worker(prefect: Prefect, folder: Path, pool: str = "gpu") -> Iterator[None]:
    flags = ["--pool", pool, "--limit", "1", "--install-policy", "never", "--name", "tester"]
    command = [sys.executable, "-m", "prefect", "worker", "start", *flags]
    running = Server(command, folder / "worker.log", {**os.environ, **prefect.environment})
    found = f"/work_pools/{pool}/workers/filter"
    running.start(lambda: bool(prefect.post(found, {})), START_SECONDS)
    try:
        yield
    finally:
        running.stop(patience=5)


def until(ask: Callable[[], T], seconds: float, pause: float = 1.0) -> T:
    """What `ask` gives, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(pause)
    return answer


def dlpk(prefect: Prefect, *arguments: str) -> str:
    """What the command prints, told to that server."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment = {**os.environ, **prefect.environment}
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr + done.stdout
    return done.stdout
