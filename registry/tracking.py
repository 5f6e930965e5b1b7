"""One experiment run: what was tried, epoch by epoch, and what it gave. Kept in MLflow.

This is also MLflow's home for the catalog: `connect` is the only place that makes a client, `told` the only one that
names its errors. Nothing here is global: the fluent interface of MLflow ties a run to a thread.
"""

import json
import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from registry.errors import DlpkError, NotFound, OptionsError, StoreError
from registry.locks import locked
from registry.secrets import bare
from registry.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

WORK = "dlpk.work"  # the tag by which a killed run is found again
LONGEST_NAME = 250  # characters, MLflow's limit
LONGEST_PARAMETER = 6000  # characters, MLflow's limit
MOST_IN_BATCH = 100  # parameters in one request, MLflow's limit
FIGURES = ("*.emd", "model_metrics.html", "ModelCharacteristics/*")
PICTURES = "ModelCharacteristics/*.png"
BUSY = ("Giving up after", "UNIQUE constraint failed", "duplicate key", "database is locked")  # as the databases say it
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 with doubling pauses take minutes to tell that nobody is there
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


@dataclass(frozen=True)
class Run:
    """A run by its id; keeps nothing else, so another process may go on with it."""

    id: str
    tracking_uri: str

    @classmethod
    def start(cls, experiment: str, run_name: str, tags: Mapping[str, str] | None = None, *, work: str = "") -> "Run":
        """A new run; or, when `work` names what an unfinished run was at, that run again."""
        if "'" in work:
            raise OptionsError("expected a name without quotes", where=WORK, got=work)
        client, uri = connect(), settings().tracking_uri
        with told():
            place = _experiment(client, experiment)
            run_id = _unfinished(client, place, work) if work else None
            if run_id is None:
                marks = {WORK: work} if work else {}
                run_id = client.create_run(place, tags={**marks, **(tags or {})}, run_name=run_name).info.run_id
                return cls(run_id, uri)
        run = cls.resume(run_id)
        run.set_tags(tags or {})
        return run

    @classmethod
    def resume(cls, run_id: str) -> "Run":
        """Go on with a run. Raises NotFound, also for one that somebody deleted."""
        run = cls(run_id, settings().tracking_uri)
        with told():
            if run._client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise NotFound("the experiment run was deleted", where=run_id)
            run._client.update_run(run_id, status="RUNNING")
        return run

    @property
    def url(self) -> str:
        """Its page, "" when no server shows it."""
        if not self.tracking_uri.startswith("http"):
            return ""
        with told():
            experiment = self._client.get_run(self.id).info.experiment_id
        return f"{bare(self.tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{self.id}"

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Nested names are joined with dots. A parameter never changes: in a resumed run the first value stays."""
        from mlflow.entities import Param

        with told():
            known = self._client.get_run(self.id).data.params
            flat = {metric_name(key): bare(str(value))[:LONGEST_PARAMETER] for key, value in _flat(parameters)}
            new = [Param(key, value) for key, value in flat.items() if key not in known]
            for i in range(0, len(new), MOST_IN_BATCH):
                self._client.log_batch(self.id, params=new[i : i + MOST_IN_BATCH])

    def log_epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """One request an epoch; `number` counts from 0."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with told():
            known = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
            batch = [Metric(metric_name(key), value, now, number) for key, value in known.items()]
            self._client.log_batch(self.id, metrics=batch)

    def log_missing(self, epochs: Sequence[Mapping[str, float]]) -> None:
        """Of all epochs, with their seconds, those that the run has not: it was killed before they were logged."""
        with told():
            known = {metric.step for metric in self._client.get_metric_history(self.id, "seconds")}
        for number, metrics in enumerate(epochs):
            if number not in known:
                self.log_epoch(number, metrics)

    def log_scores(self, scores: Mapping[str, float]) -> None:
        """What the evaluation gave."""
        self.log_epoch(0, scores)

    def log_figures(self, folder: Path) -> None:
        """What of a model folder people look at: the definition, the report, its pictures."""
        with told():
            for path in sorted(path for pattern in FIGURES for path in folder.glob(pattern) if path.is_file()):
                below = path.parent.relative_to(folder).as_posix()
                self._client.log_artifact(self.id, str(path), None if below == "." else below)

    def log_images(self, folder: Path) -> None:
        """The pictures of a model folder, in MLflow's image grid, where runs are compared by eye."""
        from mlflow import Image

        with told():
            for path in sorted(folder.glob(PICTURES)):
                self._client.log_image(self.id, Image(str(path)), key=path.stem, step=0)

    @contextmanager
    def machine_watched(self, seconds: float = 10) -> Iterator[None]:
        """Processor, memory, disk, network and GPU of this machine, every so many seconds, as metrics system/...

        A resumed run goes on behind its last sample. A silent server costs samples, never the work.
        """
        from mlflow.system_metrics import system_metrics_monitor

        watch: Any = system_metrics_monitor.SystemMetricsMonitor
        with told():
            monitor = watch(self.id, sampling_interval=seconds, resume_logging=True, tracking_uri=self.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log_dataset(self, name: str, digest: str, uri: str, context: str = "training") -> None:
        """Which data went in, by name (up to 500 characters) and digest (up to 36)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": bare(uri)})
        dataset = Dataset(name[:500], digest[:36], source_type="uri", source=source)
        with told():
            entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
            self._client.log_inputs(self.id, datasets=[entry])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with told():
            for key, value in tags.items():
                self._client.set_tag(self.id, key, value)

    def finish(self) -> None:
        with told():
            self._client.set_terminated(self.id, "FINISHED")

    def fail(self, why: str = "") -> None:
        self.set_tags({"dlpk.error": why} if why else {})
        with told():
            self._client.set_terminated(self.id, "FAILED")

    @contextmanager
    def failing(self) -> Iterator[None]:
        """An error of the block ends the run, too."""
        try:
            yield
        except BaseException as error:
            with suppress(StoreError):  # the error itself is what must be told
                self.fail(f"{type(error).__name__}: {error}")
            raise

    @property
    def _client(self) -> "MlflowClient":
        return connect(self.tracking_uri)


_clients: dict[str, "MlflowClient"] = {}


def connect(tracking_uri: str = "") -> "MlflowClient":
    """A client for runs and model versions. Raises StoreError in seconds when nobody is there."""
    uri = tracking_uri or settings().tracking_uri
    _knock(uri)
    if uri in _clients:
        return _clients[uri]
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # or each new database tells of its 50 migrations
    with told():
        from mlflow import MlflowClient

        with _alone(database) if (database := database_file(uri)) else nullcontext():
            _clients[uri] = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return _clients[uri]


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """MLflow makes the tables of a new database without a lock: of two processes that are first at once, one fails."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that may only be read, a disk that knows no locks
            locked(stack.enter_context(database.with_name(f"{database.name}.lock").open("w")), wait=True)
        yield


def database_file(uri: str) -> Path | None:
    """Of an address of SQLite; the file need not be there yet."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None


@contextmanager
def told() -> Iterator[None]:
    """MLflow's errors as ours."""
    try:
        yield
    except (DlpkError, KeyboardInterrupt):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("mlflow.", "sqlalchemy.")):
            raise
        raise _named(error) from error


def _is_busy(error: BaseException) -> bool:
    return any(sign in str(error) for sign in BUSY)


# MLflow counts without a lock, and fails when several programs write the same row at the same moment
patiently = Retrying(
    retry=retry_if_exception(_is_busy),
    wait=wait_random_exponential(multiplier=0.05, max=1),
    stop=stop_after_attempt(8),
    reraise=True,
)


def metric_name(name: str) -> str:
    """As MLflow takes it, of metrics, parameters and tags: what is no letter, digit or one of `_ . - : /` and blank
    becomes _, and the name is a plain path. Class names, which are in it, may be anything.
    """
    parts = re.sub(r"[^\w. /:-]", "_", name)[:LONGEST_NAME].split("/")
    return "/".join(part if part.strip(".") else "_" for part in parts if part)


def code(error: "MlflowException") -> str:
    """MLflow's own name of an error: RESOURCE_ALREADY_EXISTS and the like."""
    return str(getattr(error, "error_code", ""))


def _named(error: Exception) -> StoreError | NotFound:
    where, text = bare(settings().tracking_uri), bare(" ".join(str(error).split()))[:500]
    if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
        return NotFound(text, where=where)
    return StoreError(f"MLflow failed ({text})", where=where, do="check MLFLOW_TRACKING_URI and that the server runs")


def _knock(uri: str) -> None:
    """MLflow's own attempts at an address where nobody answers take minutes."""
    parts = urlsplit(uri)
    try:
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
        if parts.hostname and port:
            socket.create_connection((parts.hostname, port), timeout=5).close()
    except (OSError, ValueError) as error:
        do = "check MLFLOW_TRACKING_URI and that the server runs"
        raise StoreError(f"the MLflow server did not answer ({error})", where=bare(uri), do=do) from error


def _experiment(client: "MlflowClient", name: str) -> str:
    """Its id; made when missing, by whoever is first."""
    from mlflow.exceptions import MlflowException

    place = None if settings().tracking_uri.startswith("http") else (settings().home / "artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if code(error) != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _unfinished(client: "MlflowClient", experiment: str, work: str) -> str | None:
    text = f"tags.`{WORK}` = '{work}' and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment], text, max_results=1, order_by=["attributes.start_time DESC"])
    return found[0].info.run_id if found else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
