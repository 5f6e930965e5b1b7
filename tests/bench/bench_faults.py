"""Scenes through several workers while workers, servers, database and S3 are killed: is each done once?

python tests/bench/bench_faults.py FOLDER [--scenes 1000] [--workers 4] [--kills 50] [--every 8] [--seed 0] [--gpus 0,1]

Starts the topology of `dlpk up` in FOLDER, trains and publishes a tiny detector, lays out the scenes, and triggers
`infer` over HTTP. Every few seconds one process, chosen at random, dies by SIGKILL: a worker, a flow run's process,
Prefect, MLflow, PostgreSQL, the S3 server. Runs that ended with scenes left are triggered again, as a calendar would.
The record says how many scenes have how many results, which runs still count as running, and what held a GPU. `--gpus`
names devices: runs then wait for one and hold it as they would on real ones; those without compute on the CPU.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from flows import gpus  # noqa: E402
from infra import processes  # noqa: E402
from infra.local import Place, topology  # noqa: E402
from registry import results  # noqa: E402
from registry.errors import DlpkError  # noqa: E402
from registry.stores import open_store  # noqa: E402
from tests.e2e.prefect_server import CHECKOUT  # noqa: E402
from tests.e2e.test_deployments import recipe  # noqa: E402
from tests.scenes import roofs  # noqa: E402

SERVERS = ("prefect", "mlflow", "postgres", "s3")
UNENDED = ("RUNNING", "PENDING", "SCHEDULED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, value in {"scenes": 1000, "workers": 4, "kills": 50, "every": 8, "seed": 0, "minutes": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--gpus", default="none")
    given = parser.parse_args()
    folder = given.folder.absolute()
    os.environ["DLPK_GPUS"] = given.gpus  # the workers inherit it
    with topology(folder / "place", cpu=0, gpu=given.workers) as place:
        os.environ.update(place.environment)
        prepared(place, folder, given.scenes)
        record = drilled(place, folder, given)
    sys.stdout.write(json.dumps(record, indent=2) + "\n")


def prepared(place: Place, folder: Path, count: int) -> None:
    """A champion `roofs`, the deployments, and the scenes."""
    (folder / "scenes").mkdir(parents=True, exist_ok=True)
    town, _ = roofs(folder / "town")
    for number in range(count):
        shutil.copy(town, folder / "scenes" / f"scene-{number:04}.tif")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder / "town", "detector")))
    for arguments in (("deploy", "--file", str(CHECKOUT / "prefect.yaml")), ("retrain", str(folder / "recipe.yaml"))):
        command = [sys.executable, "-m", "flows.cli", *arguments]
        known = {**os.environ, "DLPK_GPUS": "none"}  # a training takes its device at its word
        subprocess.run(command, check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL, env=known)


def drilled(place: Place, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    dice, killed = random.Random(given.seed), Counter[str]()
    began = last = time.monotonic()
    trigger(place, folder)
    while time.monotonic() - began < 60 * given.minutes:
        done = finished(place)
        if len(done) >= given.scenes and sum(killed.values()) >= given.kills:
            break
        if sum(killed.values()) < given.kills and time.monotonic() - last > given.every:
            killed[strike(place, dice)] += 1
            last = time.monotonic()
        if len(done) < given.scenes and unended(place) == []:
            trigger(place, folder)
        time.sleep(1)
    took = time.monotonic() - began
    settled = time.monotonic() + 240  # the zombie detector needs 90 s of silence
    while unended(place) and time.monotonic() < settled:
        time.sleep(2)
    done = finished(place)
    return {
        "seconds": round(took),
        "killed": dict(killed),
        "scenes": given.scenes,
        "with a result": len(done),
        "with more than one": sum(count > 1 for count in done.values()),
        "runs still counted as running": len(unended(place) or []),
        "GPUs held": [name for name, holder in gpus.holders().items() if holder],
        "services that work": sum(state == "working" for state in place.states().values()),
    }


def trigger(place: Place, folder: Path) -> None:
    scenes = {"runs": 4, "batch": 16, "settle": 0, "lease": 60}
    parameters = {"model": "roofs@champion", "imagery": str(folder / "scenes"), "scenes": scenes}
    with suppress(httpx.HTTPError):
        deployment = asked(place, "/deployments/name/infer/infer")
        asked(place, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})


def strike(place: Place, dice: random.Random) -> str:
    """Kill one process; its kind."""
    plan = place.plan
    kind = dice.choice(("worker", "flow run", *SERVERS))
    if kind in SERVERS:
        place.kill(kind)
    elif kind == "worker":
        place.kill(f"gpu-{dice.randint(1, plan.gpu)}")
    else:
        runs = [p for p in processes.marked(plan.folder) if is_run(p)]
        with suppress(psutil.NoSuchProcess):
            if runs:
                dice.choice(runs).kill()
    return kind


def is_run(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "flow-run" in process.cmdline() or "prefect.flow_engine" in process.cmdline()
    return False


def finished(place: Place) -> Counter[str]:
    """Scenes with a result, and how many."""
    with suppress(DlpkError, OSError):
        found = results.items(open_store(place.environment["DLPK_RESULTS"]))
        return Counter(item["properties"]["dlpk:scene"] for item in found)
    return Counter()


def unended(place: Place) -> list[str] | None:
    """Runs that wait or work, but for those of the calendar; None while the server does not answer."""
    wanted = {"flow_runs": {"state": {"type": {"any_": UNENDED}}}}
    with suppress(httpx.HTTPError):
        return [run["id"] for run in asked(place, "/flow_runs/filter", wanted) if not run["auto_scheduled"]]
    return None


def asked(place: Place, path: str, document: Any = None) -> Any:
    url = f"{place.plan.api}{path}"
    with httpx.Client(auth=place.plan.auth, timeout=10) as client:
        answer = client.get(url) if document is None else client.post(url, json=document)
    return answer.raise_for_status().json()


if __name__ == "__main__":
    main()
