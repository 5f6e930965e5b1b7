"""How long the pages take with 10,000 models of 10 versions each, and how many bytes they are.

    python tests/bench/bench_browse.py FOLDER [--rounds 40]

The page runs in a process of its own, as `dlpk browse` does, and is asked over HTTP by one visitor, each time for
another model. The catalog is that of bench_catalog.py, whose packages lie on S3; none of their manifests is there.
"""

import argparse
import random
import sqlite3
import statistics
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT)]
from tests.bench.bench_catalog import WORDS, fill_sqlite, p95  # noqa: E402
from tests.servers import Server, answers, free_ports  # noqa: E402

PAGES = {
    "cards, any page": "/?page={page}",
    "cards by class": "/?class_name=ponds&page={few}",
    "cards by text": "/?text=roofs-0{few}",
    "cards, best first": "/?sort=ap50&page={few}",
    "cards by extent": "/?extent=0,0,20,20",
    "a model": "/models/{name}",
    "a version": "/models/{name}/7",
    "history": "/models/{name}/history",
    "compare": "/compare?ref={name}@10&ref={name}@9",
    "JSON, 100 models": "/api/models?first={few}00",
}


def serve(stack: ExitStack, folder: Path, uri: str) -> str:
    (port,) = free_ports(1)
    (folder / "browse.yaml").write_text("limits: {requests: 1000000}\n")
    environment = {"DLPK_HOME": str(folder), "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(CHECKOUT)}
    environment |= {
        "DLPK_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    command = [sys.executable, "-m", "flows.cli", "browse", "--port", str(port)]
    server = Server(command, folder / "browse.log", environment)
    server.start(lambda: answers(f"http://127.0.0.1:{port}/health"))
    stack.callback(server.stop)
    return f"http://127.0.0.1:{port}"


def measure(address: str, rounds: int) -> None:
    rng = random.Random(2)
    print(f"{'page':20} {'first':>7} {'p50':>7} {'p95':>7}  ms   {'bytes':>9}")
    with httpx.Client(base_url=address, timeout=60) as client:
        for label, path in PAGES.items():
            times, sizes = list[float](), list[int]()
            for _ in range(rounds):
                i = rng.randrange(10_000)
                name = f"{WORDS[i % len(WORDS)]}-{i:05d}"
                asked = path.format(page=rng.randrange(1, 400), few=rng.randrange(1, 30), name=name)
                started = time.perf_counter()
                answer = client.get(asked)
                times.append((time.perf_counter() - started) * 1e3)
                sizes.append(len(answer.content))
                assert answer.status_code == 200, (asked, answer.text[-600:])
            first, several = times[0], sorted(times[1:])
            told = f"{first:7.0f} {statistics.median(several):7.0f} {p95(several):7.0f}"
            print(f"{label:20} {told}       {statistics.median(sizes):9,.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    from registry.tracking import connect

    with ExitStack() as stack:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        connect(uri)
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            filled = database.execute("SELECT count(*) FROM registered_models").fetchone()[0]
        if not filled:
            fill_sqlite(folder / "mlflow.db", 10_000, 10)
        measure(serve(stack, folder, uri), arguments.rounds)


if __name__ == "__main__":
    main()
