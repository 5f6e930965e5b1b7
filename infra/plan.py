"""What one machine's topology looks like: its folder, its ports, its secrets, its workers.

<folder>/plan.json      ports, numbers of workers; `dlpk up --cpu-workers 4` changes it while it runs
<folder>/secrets.json   made at the first start, readable by its owner alone
<folder>/environment    `. <folder>/environment` makes a shell a client of it; holds secrets too
"""

import base64
import json
import secrets
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from registry.files import write_text
from registry.locks import locked
from registry.settings import settings

HOST = "127.0.0.1"
PORTS = {"prefect": 4200, "mlflow": 5000, "browse": 8080, "metrics": 9464, "s3": 8333, "postgres": 15432}
PARTS = ("master", "volume", "filer", "admin")  # of the S3 server, each with a second port for its own talk
SECRETS = ("postgres", "prefect-database", "mlflow-database", "reader-database", "prefect", "s3-key", "s3-secret")
PACKAGES, ARTIFACTS, RESULTS = "dlpk-packages", "dlpk-mlflow", "dlpk-results"
BUCKETS = (PACKAGES, ARTIFACTS, RESULTS)
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Plan:
    """Everything that `up` needs to know, the same at each start."""

    folder: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)
    cpu: int = 1  # workers
    gpu: int = 1

    @property
    def api(self) -> str:
        return f"http://{HOST}:{self.ports['prefect']}/api"

    @property
    def s3(self) -> str:
        return f"http://{HOST}:{self.ports['s3']}"

    @property
    def mlflow(self) -> str:
        return f"http://{HOST}:{self.ports['mlflow']}"

    @property
    def auth(self) -> tuple[str, str]:
        """Of Prefect's API: who reaches it may start any command through a worker."""
        return "dlpk", self.secrets["prefect"]

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(":".join(self.auth).encode()).decode()}

    def database(self, name: str, driver: str = "postgresql", *, owner: str = "", role: str = "") -> str:
        """A database's URI, as its own role, as another or as the owner of all."""
        role = owner or role or name
        word = self.secrets["postgres" if owner else f"{role}-database"]
        return f"{driver}://{role}:{word}@{HOST}:{self.ports['postgres']}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """Of clients and workers."""
        return {
            **QUIET,
            "DLPK_HOME": str(self.folder / "home"),
            "DLPK_STORE": f"s3://{PACKAGES}",
            "DLPK_RESULTS": f"s3://{RESULTS}",
            "DLPK_S3_ENDPOINT_URL": self.s3,
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": self.secrets["s3-key"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["s3-secret"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "DLPK_CATALOG": self.database("mlflow", role="reader"),
            "MLFLOW_S3_ENDPOINT_URL": self.s3,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_UI_URL": self.api.removesuffix("/api"),
            "PREFECT_API_AUTH_STRING": ":".join(self.auth),
        }

    def write(self) -> "Plan":
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"ports": dict(self.ports), "cpu": self.cpu, "gpu": self.gpu}
        write_text(self.folder / "plan.json", json.dumps(document, indent=2))
        _write_secret(self.folder / "secrets.json", json.dumps(dict(self.secrets), indent=2))
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        _write_secret(self.folder / "environment", "\n".join(lines) + "\n")
        return self

    def with_workers(self, cpu: int | None, gpu: int | None) -> "Plan":
        return replace(self, cpu=self.cpu if cpu is None else cpu, gpu=self.gpu if gpu is None else gpu)


def default_folder() -> Path:
    """`local` in DLPK_HOME; in a shell that is its client, which has the home of its runs, the same one."""
    home = settings().home
    return home.parent if (home.parent / "plan.json").is_file() else home / "local"


def read(folder: Path) -> Plan | None:
    """The plan of a folder, None where nothing was ever started."""
    folder = folder.absolute()
    try:
        document = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        known = json.loads((folder / "secrets.json").read_text(encoding="utf-8"))
    except OSError:
        return None
    return Plan(folder=folder, secrets=known, **document)


def made(folder: Path, cpu: int | None, gpu: int | None) -> Plan:
    """The plan of a folder, with these numbers of workers; made, with fresh secrets and free ports, the first time."""
    plan = read(folder)
    if plan is None:
        from flows import gpus  # brings Prefect, for which other commands would wait a second

        words = {name: secrets.token_urlsafe(24) for name in SECRETS}
        plan = Plan(folder.absolute(), _ports(), words, gpu=max(1, len(gpus.devices())))
    changed = plan.with_workers(cpu, gpu)
    return changed.write() if changed != read(folder) else changed


def document_of(plan: Plan) -> dict[str, object]:
    """For people and programs, without its secrets."""
    return {key: value for key, value in asdict(plan).items() if key != "secrets"}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        locked(lock, wait=True)
        yield


def _ports() -> dict[str, int]:
    """The usual ones where they are free, others elsewhere."""
    with ExitStack() as stack:
        ports = {name: _port(stack, usual) for name, usual in PORTS.items()}
        inner = [f"{part}{talk}" for part in ("s3", *PARTS) for talk in ("", ".grpc") if part + talk != "s3"]
        return {**ports, **{name: _port(stack, 0) for name in inner}}


def _port(stack: ExitStack, usual: int) -> int:
    """Held until all are chosen, so that none is chosen twice."""
    for port in (usual, 0):
        probe = stack.enter_context(socket.socket())
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a moment ago is free
        with suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError("this machine has no free port")


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600, exist_ok=True)
    path.chmod(0o600)
    part = path.with_name(f".{path.name}.part")
    part.touch(mode=0o600)
    part.write_text(text, encoding="utf-8")
    part.replace(path)
