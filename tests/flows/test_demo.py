"""The demo's recipes are recipes, and its server ends with it and forgets nothing."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from flows import demo
from flows.demo import Theme
from flows.local_server import free_port
from flows.recipe import Recipe
from registry.emd import ClassLabel
from tasks.samples import Sample, Scene

CHECKOUT = Path(__file__).resolve().parent.parent.parent
RUN_A_FLOW = """
import os, sys, time
from pathlib import Path
from flows.local_server import settings_of, starting
home, port = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= settings_of(home, port)
with starting(home, port) as server:
    server.ready()
    from prefect import flow, get_run_logger, task
    @task
    def step(): get_run_logger().info("a line")
    @flow
    def chain(): step()
    chain()
    print("ran", flush=True)
    if len(sys.argv) > 3: time.sleep(600)
"""


def sample(folder: Path) -> Sample:
    scene = Scene(folder / "town.tif", folder / "roofs.gpkg")
    return Sample("town", scene, scene, folder / "town.tif", (ClassLabel(1, "roof", (1, 2, 3)),), "none", "nobody")


@pytest.mark.parametrize("facts", [demo.TREES, demo.LAND_USE], ids=["trees", "land use"])
def test_the_recipe_that_the_demo_writes_can_be_run_again(tmp_path: Path, facts: dict[str, object]) -> None:
    theme = Theme(lambda **_: sample(tmp_path), dict(facts), "town.gpkg", "roofs")
    recipe = Recipe.read(demo._write_recipe(sample(tmp_path), theme, tmp_path))
    assert str(tmp_path / "town.tif") == recipe.imagery
    assert recipe.evaluation
    assert [sample(tmp_path).classes[0]] == [entry.label() for entry in recipe.classes]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def run_a_flow(home: Path, port: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN_A_FLOW, str(home), str(port), *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_the_record_is_whole_when_the_server_has_ended(tmp_path: Path) -> None:
    port = free_port()
    process = run_a_flow(tmp_path, port)
    process.communicate(timeout=300)
    assert 0 == process.returncode
    assert not answers(port)
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        rows = {t: database.execute(f"select count(*) from {t}").fetchone()[0] for t in ("flow_run", "task_run")}
        lines = database.execute("select count(*) from log where message = 'a line'").fetchone()[0]
    assert ({"flow_run": 1, "task_run": 1}, 1) == (rows, lines)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_demo_leaves_no_server_behind(tmp_path: Path) -> None:
    port = free_port()
    with run_a_flow(tmp_path, port, "wait") as process:
        assert process.stdout
        assert "ran" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while answers(port) and time.monotonic() < end:
        time.sleep(0.5)
    assert not answers(port)
