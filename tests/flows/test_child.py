import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import child
from registry.errors import DlpkError, ImageryError, OptionsError
from tasks.progress import Epoch, Progress, ignore
from tests.scenes import roofs
from tests.tiny_model import bright, scene


@pytest.mark.slow
def test_a_verb_gives_its_record_and_tells_its_progress(tmp_path: Path) -> None:
    heard: list[Progress | Epoch] = []
    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    options = ("--tile-size", 48, "--stride", 48)
    record = child.run("export", imagery, labels, tmp_path / "chips", *options, listen=heard.append)
    assert 4 == record["chips"]
    assert {"survey", "export"} == {event.step for event in heard if isinstance(event, Progress)}


@pytest.mark.slow
def test_what_a_verb_warns_of_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DLPK_TRUSTED", str(tmp_path))
    model, imagery = bright(tmp_path / "model"), scene(tmp_path / "town.tif")
    document = json.loads((model.path / "roofs.emd").read_text())
    document["AllTilesStats"] = [{"BandName": "NIR", "Min": 1, "Max": 9000, "Mean": 2500, "StdDev": 700}]
    (model.path / "roofs.emd").write_text(json.dumps(document))
    record = child.run("classify-pixels", model.path, imagery, tmp_path / "roofs.tif", listen=ignore)
    assert {"background": 4096} == record["counts"]
    [warning] = [record for record in caplog.records if "dlpk" == record.name]
    assert "WARNING" == warning.levelname
    assert "town.tif: its pixels (about" in warning.getMessage()


@pytest.mark.slow
def test_the_error_of_a_verb_comes_back_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ImageryError, match="nowhere.tif: does not exist; check the path"):
        child.run("export", tmp_path / "nowhere.tif", tmp_path / "labels.gpkg", tmp_path / "chips", listen=ignore)


def test_a_wrong_option_comes_back_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="export: stride: .*got 0"):
        child.run("export", "a.tif", "b.gpkg", tmp_path, "--stride", 0, listen=ignore)


def test_a_verb_that_falls_says_its_last_words() -> None:
    with pytest.raises(DlpkError, match=r"(?s)dance: stopped unexpectedly with exit code 2; it said:.*No such command"):
        child.run("dance", listen=ignore)


PARENT = """
from flows import child
dials = ("--tile-size", 32, "--stride", 1)
child.run("export", {imagery!r}, {labels!r}, {out!r}, *dials, listen=lambda event: print("on", flush=True))
"""


@pytest.mark.slow
def test_a_verb_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    imagery, labels = map(str, roofs(tmp_path / "town", columns=16, rows=16))
    program = PARENT.format(imagery=imagery, labels=labels, out=str(tmp_path / "chips"))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert b"on\n" == parent.stdout.readline()
        (verb,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while verb.is_running() and verb.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not verb.is_running() or verb.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "chips" / "esri_model_definition.emd").exists()
