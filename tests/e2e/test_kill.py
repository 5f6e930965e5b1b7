"""`dlpk retrain` killed with -9, at several points; then the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from tests.e2e.test_deployments import recipe

pytestmark = pytest.mark.slow
POINTS: dict[str, Callable[[Path], bool]] = {  # what lies in the working folder when the process is killed
    "while chips are cut": lambda work: any((work / "chips" / "images").glob("*.tif")),
    "when the network is trained": lambda work: any((work / "model" / "roofs").rglob("*.ckpt")),
    "after the training": lambda work: (work / "model" / "roofs" / "roofs.emd").exists(),
    "after the evaluation": lambda work: (work / "done" / "scores.json").exists(),
    "after the upload": lambda work: any((work.parents[2] / "store").rglob("*.dlpk")),
}
SECONDS = 240


def start(file: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flows.cli", "retrain", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def work_folder(home: Path) -> Path:
    return next(iter((home / "work" / "roofs").glob("*")), home / "nothing")


def killed_when(reached: Callable[[Path], bool], file: Path, home: Path) -> None:
    """Kill the command as soon as its work is so far; its children must go with it."""
    with start(file) as command:
        deadline = time.monotonic() + SECONDS
        while not reached(work_folder(home)):
            assert command.poll() is None, command.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = psutil.Process(command.pid).children(recursive=True)
        os.kill(command.pid, signal.SIGKILL)
        command.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [] == alive


def half_done(home: Path) -> list[Path]:
    """What has the name of something finished and is not whole."""
    broken = [p for p in home.rglob("*.dlpk") if ".part" not in p.name and not zipfile.is_zipfile(p)]
    for definition in (home / "work").rglob("*.emd"):  # the experiment run has a copy to look at, without weights
        document = json.loads(definition.read_text())
        weights = document["ModelFile"]
        if not weights.startswith("e.g.") and not (definition.parent / weights).is_file():
            broken.append(definition)
    for mark in (home / "work").rglob("done/*.json"):
        json.loads(mark.read_text())
    return broken


def test_a_retraining_killed_again_and_again_ends_as_if_it_never_was(tmp_path: Path, dlpk_home: Path) -> None:
    from registry import catalog
    from registry.tracking import connect

    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(tmp_path / "town", "segmenter")))
    for reached in POINTS.values():
        killed_when(reached, file, dlpk_home)
        assert [] == half_done(dlpk_home)
        assert len(list((dlpk_home / "work" / "roofs").iterdir())) == 1
    trained = (work_folder(dlpk_home) / "model" / "roofs" / "roofs.pth").stat().st_mtime_ns

    done = start(file)
    out, told = done.communicate(timeout=SECONDS)
    assert 0 == done.returncode, told
    assert "roofs@1" == json.loads(out)["version"]
    assert trained == (work_folder(dlpk_home) / "model" / "roofs" / "roofs.pth").stat().st_mtime_ns
    assert ["roofs@1"] == [version.ref for version in catalog.versions("roofs")]
    assert ("challenger", "champion") == catalog.find_version("roofs@1").aliases
    client = connect()
    (experiment,) = (e for e in client.search_experiments() if e.name == "roofs")
    (run,) = client.search_runs([experiment.experiment_id])
    assert "FINISHED" == run.info.status
    logged = [metric.step for metric in client.get_metric_history(run.info.run_id, "training_loss")]
    assert list(range(recipe(tmp_path, "segmenter")["train"]["max_epochs"])) == sorted(logged)


def test_two_retrainings_of_the_same_recipe_do_not_meet(tmp_path: Path, dlpk_home: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(tmp_path / "town", "segmenter")))
    with start(file) as first:
        while not (work_folder(dlpk_home) / "mlflow.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = start(file)
        told = second.communicate(timeout=60)[1]
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    assert 1 == second.returncode
    assert "Conflict" in told
    assert "another process is at work on the same recipe; wait for it, or stop it" in told
