"""What Prefect adds: the same retraining and the same inference as plain functions and as flow runs, in turns.

    python tests/bench/bench_orchestration.py FOLDER [--rounds 3] [--epochs 10] [--inferences 15]

Starts the topology of `dlpk up` in FOLDER. `plain` is the function without a server, `flow` the same function in the
same kind of process with one, so the difference is Prefect's engine, its tasks and what it tells the server. `worker`
is the deployment, from its trigger to its end: a worker has to notice it and to start an interpreter, too. Inferences
are timed from the second on in one process, when everything is imported and fetched: many, as each may wait a part of
a second for Prefect's heartbeat thread.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from infra.local import Place, topology  # noqa: E402
from tests.e2e.prefect_server import CHECKOUT, FINAL  # noqa: E402
from tests.e2e.test_deployments import recipe  # noqa: E402
from tests.scenes import roofs  # noqa: E402

DLPK = [sys.executable, "-m", "flows.cli"]
MINUTES = 10  # of the retraining that 3 % are asked of
Took = dict[str, list[tuple[float, float]]]  # who: CPU and wall seconds of each round
INFER = """
import json, resource, sys, time
from flows.infer import infer
from flows.triggers import called

for number in range(int(sys.argv[1]) + 1):
    wall, cpu = time.perf_counter(), time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    called(infer, "roofs@1", sys.argv[2], f"{sys.argv[3]}-{number}.gpkg")
    cpu = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - cpu
    if number:
        print(json.dumps([cpu, time.perf_counter() - wall]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--inferences", type=int, default=15)
    given = parser.parse_args()
    folder = given.folder.absolute()
    with topology(folder / "place", cpu=0, gpu=1) as place:
        os.environ.update(place.environment)
        subprocess.run(
            [*DLPK, "deploy", "--file", str(CHECKOUT / "prefect.yaml")], check=True, stdout=subprocess.DEVNULL
        )
        told("retrain", retrainings(place, folder, given), 0.03 * 60 * MINUTES)
        told("infer, warm", inferences(place, folder, given.inferences), 1)


def retrainings(place: Place, folder: Path, given: argparse.Namespace) -> Took:
    """Each with a seed of its own, so that no step is found finished."""
    took: Took = {"plain": [], "flow": [], "worker": []}
    for number in range(given.rounds):
        document = recipe(folder / "town", "detector")
        document["train"] |= {"max_epochs": given.epochs, "stop_training": False}
        for i, who in enumerate(took):
            document["train"]["seed"] = 10 * number + i
            path = folder / f"{who}.yaml"
            path.write_text(yaml.safe_dump(document))
            if who == "worker":
                took[who].append(triggered(place, "retrain", {"recipe": document}))
            else:
                took[who].append(timed([*DLPK, "retrain", str(path)], who))
    return took


def inferences(place: Place, folder: Path, rounds: int) -> Took:
    town, _ = roofs(folder / "town")
    took: Took = {"plain": [], "flow": [], "worker": []}
    for who in ("plain", "flow"):
        command = [sys.executable, "-c", INFER, str(rounds), str(town), str(folder / who)]
        done = subprocess.run(
            command, env=environment(who), check=True, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
        took[who] = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
    for number in range(rounds):
        parameters = {"model": "roofs@1", "imagery": str(town), "out": str(folder / f"worker-{number}.gpkg")}
        took["worker"].append(triggered(place, "infer", parameters))
    return took


def environment(who: str) -> dict[str, str]:
    known = dict(os.environ)
    if who == "plain":
        known.pop("PREFECT_API_URL")
    return known


def timed(command: list[str], who: str) -> tuple[float, float]:
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment(who), check=True, stdout=subprocess.DEVNULL, cwd=CHECKOUT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(after[:2]) - sum(before[:2]), time.perf_counter() - wall


def triggered(place: Place, name: str, parameters: dict[str, Any]) -> tuple[float, float]:
    """Its processes are the worker's, so their CPU seconds are not known here."""
    with httpx.Client(auth=place.plan.auth, timeout=60, base_url=place.plan.api) as client:
        deployment = client.get(f"/deployments/name/{name}/{name}").raise_for_status().json()["id"]
        began = time.perf_counter()
        made = client.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
        run = made.raise_for_status().json()["id"]
        while (state := client.get(f"/flow_runs/{run}").raise_for_status().json()["state_type"]) not in FINAL:
            time.sleep(0.1)
        if state != "COMPLETED":
            raise SystemExit(f"{name}: {state}")
        return float("nan"), time.perf_counter() - began


def told(what: str, took: Took, most: float) -> None:
    print(f"{what:<12}{'CPU s':>8}{'wall s':>8}{'more wall s':>13}   asked for at most {most:g}")
    plain = statistics.median(wall for _, wall in took["plain"])
    for who, rounds in took.items():
        cpu, wall = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{who:<12}{cpu:>8.2f}{wall:>8.2f}{wall - plain:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
