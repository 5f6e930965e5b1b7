"""Figures for Prometheus: `dlpk metrics --port 9464`, asked of the servers at each scrape.

A server that does not answer costs its own figures only, and `dlpk_up` tells so.
"""

import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import httpx
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily as Gauge

from flows import gpus
from infra import api
from infra.api import Ask
from registry import searching, throughput
from registry.errors import DlpkError
from registry.searching import Wanted
from registry.settings import settings

STATES = ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
WAITING = ("Scheduled", "Late", "AwaitingConcurrencySlot", "AwaitingRetry")
SMI = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]


class Figures:
    """A collector: `collect` is called at each scrape."""

    def collect(self) -> Iterator[Gauge]:
        up = Gauge("dlpk_up", "Whether what figures come from answered", labels=["source"])
        for source in (_prefect, _champions, _throughput, _gpus, _disk):
            found = list[Gauge]()
            with suppress(DlpkError, httpx.HTTPError, OSError):
                found = list(source())
            up.add_metric([source.__name__.lstrip("_")], float(bool(found)))
            yield from found
        yield up


def serve(host: str, port: int) -> None:
    """Answer at /metrics until the process ends."""
    registry = CollectorRegistry()
    registry.register(Figures())
    _, thread = start_http_server(port, addr=host, registry=registry)
    thread.join()


def _gauge(name: str, help_: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Gauge:
    gauge = Gauge(name, help_, labels=labels)
    for values, figure in rows:
        gauge.add_metric(values, figure)
    return gauge


# -- Prefect -----------------------------------------------------------------------------------------------------------
def _prefect() -> Iterator[Gauge]:
    with api.server() as ask:
        counts = [([state.lower()], float(_count(ask, state))) for state in STATES]
        yield _gauge("dlpk_flow_runs", "Flow runs the server knows, by state", ["state"], counts)
        pools = [pool["name"] for pool in ask("/work_pools/filter", {})]
        ages = [([pool], _age(ask, pool)) for pool in pools]
        yield _gauge("dlpk_queue_age_seconds", "How long the longest waiting run has waited", ["pool"], ages)
        workers = [([pool], float(api.online(ask, pool))) for pool in pools]
        yield _gauge("dlpk_workers", "Workers that sent a heartbeat lately", ["pool"], workers)


def _count(ask: Ask, state: str) -> int:
    return int(ask("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": [state]}}}}))


def _age(ask: Ask, pool: str) -> float:
    """Seconds since the earliest run that should have started was to start; 0 where none waits."""
    now = datetime.now(UTC)
    due = {"state": {"name": {"any_": WAITING}}, "expected_start_time": {"before_": now.isoformat()}}
    wanted = {"flow_runs": due, "work_pools": {"name": {"any_": [pool]}}, "limit": 1}
    found = ask("/flow_runs/filter", {**wanted, "sort": "EXPECTED_START_TIME_ASC"})
    if not found:
        return 0.0
    return (now - datetime.fromisoformat(found[0]["expected_start_time"])).total_seconds()


# -- models ------------------------------------------------------------------------------------------------------------
def _champions() -> Iterator[Gauge]:
    champions = searching.search(Wanted(alias="champion"))
    now = datetime.now(UTC)
    rows = [([v.name, str(v.number)], (now - v.created).total_seconds()) for v in champions]
    yield _gauge("dlpk_champion_age_seconds", "Since the champion was published", ["model", "version"], rows)


def _throughput() -> Iterator[Gauge]:
    seen = throughput.lately()
    for name, help_ in {
        "px_per_second": "Pixels a second of the newest inference over new scenes, of the last day",
        "km2_per_hour": "Square kilometres an hour of it",
        "scenes": "Scenes that it finished",
        "failed": "Scenes that it could not do",
    }.items():
        rows = [([ref], figures[name]) for ref, figures in seen.items() if name in figures]
        yield _gauge(f"dlpk_inference_{name}", help_, ["model"], rows)


# -- this machine ------------------------------------------------------------------------------------------------------
def _gpus() -> Iterator[Gauge]:
    held = [([name], float(holder is not None)) for name, holder in gpus.holders().items()]
    yield _gauge("dlpk_gpu_held", "Whether a run holds the device", ["device"], held)
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(SMI, capture_output=True, text=True, check=True, timeout=10).stdout
        rows = [line.split(", ") for line in told.splitlines()]
        use = [([r[0]], float(r[1])) for r in rows if r[1].isdecimal()]  # else [N/A], as of a device that is divided
        yield _gauge("dlpk_gpu_use_percent", "Of the device's time", ["device"], use)
        memory = [([r[0]], float(r[2]) * 2**20) for r in rows if r[2].isdecimal()]
        yield _gauge("dlpk_gpu_memory_bytes", "In use on the device", ["device"], memory)


def _disk() -> Iterator[Gauge]:
    import psutil

    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    yield _gauge("dlpk_disk_free_bytes", "Where DLPK_HOME is", [], [([], float(psutil.disk_usage(str(home)).free))])
    yield _gauge("dlpk_scrape_time_seconds", "When this was asked", [], [([], time.time())])
