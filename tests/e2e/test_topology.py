"""`dlpk up`: the whole topology as plain processes, used through its public doors, and hurt."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from infra import processes
from infra.local import Place, down, topology
from registry import catalog
from registry.promotion import promote
from registry.publishing import publish
from registry.stores import open_store
from tests.e2e.prefect_server import CHECKOUT, FINAL, until
from tests.registry.conftest import make_package
from tests.scenes import roofs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Not in pytest's own folder: that is closed, again and again, to the user that PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="dlpk-up-"))
    try:
        with topology(folder, cpu=1, gpu=0) as running:
            dlpk(running, "deploy", "--file", str(CHECKOUT / "prefect.yaml"))
            yield running
    finally:
        assert [] == processes.marked(folder)
        shutil.rmtree(folder)


def dlpk(place: Place, *arguments: str) -> str:
    """What a command prints in a shell that read the file `environment`."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment = {**os.environ, **place.environment}
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr + done.stdout
    return done.stdout


def api(place: Place, path: str, document: Any = None) -> Any:
    with httpx.Client(auth=place.plan.auth, timeout=30, transport=httpx.HTTPTransport(retries=5)) as client:
        url = f"{place.plan.api}{path}"
        answer = client.get(url) if document is None else client.post(url, json=document)
        assert answer.is_success, answer.text
        return answer.json()


def ended(place: Place, run: str) -> str:
    """Its last state, empty while it has not ended."""
    state = str(api(place, f"/flow_runs/{run}")["state_type"])
    return state if state in FINAL else ""


def test_a_run_triggered_over_http_ends_well_though_every_server_is_killed(place: Place, tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path)
    deployment = api(place, "/deployments/name/export/export")
    options = {"metadata_format": "PASCAL_VOC_rectangles", "tile_size": 48, "stride": 48}
    parameters = {"imagery": str(imagery), "labels": str(labels), "out": str(tmp_path / "chips"), "options": options}
    run = api(place, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]
    before = {state: place.process(state) for state in ("postgres", "s3", "mlflow", "prefect")}
    for name in before:
        place.kill(name)
    until(place.works, 120)
    assert all(place.process(name) not in (None, process) for name, process in before.items())
    assert "COMPLETED" == until(lambda: ended(place, run), 180)
    assert (tmp_path / "chips" / "esri_model_definition.emd").exists()
    assert [] != [line for line in logged(place, "cpu-1") if line.get("flow_run_id") == run and "task_run_id" in line]


def logged(place: Place, name: str) -> list[dict[str, Any]]:
    """What a worker and its runs logged: an object a line, but for what a library prints by itself."""
    lines = (place.plan.folder / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_stranger_gets_nothing_from_prefect(place: Place) -> None:
    assert 401 == httpx.post(f"{place.plan.api}/deployments/filter", json={}).status_code


def test_who_reads_the_catalog_changes_nothing(place: Place) -> None:
    with closing(psycopg2.connect(place.environment["DLPK_CATALOG"])) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM registered_models")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("DELETE FROM registered_models")


def test_the_set_up_does_nothing_the_second_time(place: Place) -> None:
    command = [sys.executable, "-m", "infra.bootstrap"]
    environment = {
        **os.environ,
        **place.environment,
        "DLPK_BUCKETS": "dlpk-packages,dlpk-mlflow",
        "DLPK_GPU_SLOTS": "3",
    }
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "work pool gpu: 3 runs at once" in told
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert [] == [line for line in told.splitlines() if "not done" not in line and "as it should be" not in line]
    names = {automation["name"] for automation in api(place, "/automations/filter", {})}
    assert "crash runs whose heartbeat stopped" in names


JOB = """
import asyncio, json
from prefect.client.orchestration import get_client
from prefect.workers.base import BaseJobConfiguration as Job

async def main():
    async with get_client() as client:
        template = (await client.read_work_pool("cpu")).base_job_template
        job = await Job.from_template_and_values(template, {"env": {"FREQUENCY": "30"}}, client=client)
    print(json.dumps([template, job.env]))

asyncio.run(main())
"""


def test_runs_get_the_variables_that_the_set_up_names(place: Place) -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "DLPK_STORE")
    environment = {**os.environ, **place.environment, "DLPK_POOL_ENV": ", ".join(names)}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    assert "variable DLPK_STORE: kept for runs" in run("-m", "infra.bootstrap")
    assert "kept for runs" not in run("-m", "infra.bootstrap")
    template, env = json.loads(run("-c", JOB))
    assert {name: place.environment[name] for name in names} == {name: env[name] for name in names}
    assert "30" == env["FREQUENCY"] == env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    assert place.environment["AWS_SECRET_ACCESS_KEY"] not in json.dumps(template)


def test_status_names_every_service(place: Place) -> None:
    rows = json.loads(dlpk(place, "status", str(place.plan.folder)))
    assert {"supervisor", "postgres", "s3", "prefect", "mlflow", "browse", "cpu-1"} <= {row["name"] for row in rows}
    assert {"working", "done"} == {row["state"] for row in rows}


def test_the_doctor_finds_what_is_missing_and_nothing_else(place: Place) -> None:
    command = [sys.executable, "-m", "flows.cli", "doctor", "--json"]
    done = subprocess.run(command, env={**os.environ, **place.environment}, capture_output=True, text=True, check=False)
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    wrong = [what for what, finding in findings.items() if finding["state"] == "wrong"]
    assert ["workers of gpu"] == [what for what in wrong if what != "disk"]
    assert "prefect worker start --pool gpu" in findings["workers of gpu"]["do"]
    assert {"store", "results", "MLflow", "Prefect", "package versions", "GPU"} <= set(findings)
    assert 1 == done.returncode


def test_the_figures_tell_of_runs_queues_and_workers(place: Place) -> None:
    page = httpx.get(f"http://127.0.0.1:{place.plan.ports['metrics']}/metrics", timeout=60).text
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert "1.0" == lines['dlpk_workers{pool="cpu"}']
    assert 1 <= float(lines['dlpk_flow_runs{state="completed"}'])
    assert "0.0" == lines['dlpk_queue_age_seconds{pool="cpu"}']
    assert ["1.0", "1.0"] == [lines[f'dlpk_up{{source="{name}"}}'] for name in ("prefect", "champions")]


def published(folder: Path, weights: str, f1: float) -> None:
    dlpk = make_package(folder / weights, weights=weights.encode())
    publish(dlpk, scores={"f1": f1}, data_digest="d1", git_commit="c1")


def promoted(place: Place) -> list[str]:
    """The versions that Prefect's events name as new champions."""
    wanted = {"filter": {"event": {"name": ["dlpk.model.promoted"]}}}
    return [event["payload"]["ref"] for event in api(place, "/events/filter", wanted)["events"]]


def deployed(place: Place) -> set[tuple[str, str]]:
    return {(deployment["name"], deployment["id"]) for deployment in api(place, "/deployments/filter", {})}


def test_a_restored_backup_gives_the_same_catalog(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    published(tmp_path, "one", f1=0.5)
    dlpk(place, "promote", "roofs@1", "--reason", "the first")
    until(lambda: promoted(place) == ["roofs@1"], 30)  # Prefect was told, though no flow did it
    before = catalog.versions("roofs"), deployed(place)
    dlpk(place, "backup", str(tmp_path / "backup"), "--topology", str(place.plan.folder))
    published(tmp_path, "two", f1=0.1)
    promote("roofs", 2, reason="a mistake")
    open_store(place.environment["DLPK_STORE"]).delete(before[0][0].uri.partition("dlpk-packages/")[2])
    dlpk(place, "restore", str(tmp_path / "backup"), "--topology", str(place.plan.folder), "--yes")
    assert before == (catalog.versions("roofs"), deployed(place))
    assert b"one" in catalog.fetch("roofs@champion").read_bytes()


def test_the_number_of_workers_follows_the_plan(place: Place) -> None:
    place.scale(cpu=2)
    until(lambda: "working" == place.states().get("cpu-2") and place.works(), 60)
    second = place.process("cpu-2")
    place.scale(cpu=1)
    until(lambda: "cpu-2" not in place.states() and second and not second.is_running(), 30)


def test_down_ends_what_a_killed_supervisor_left(place: Place) -> None:
    place.kill("supervisor")
    down(place.plan.folder)
    assert [] == processes.marked(place.plan.folder)
