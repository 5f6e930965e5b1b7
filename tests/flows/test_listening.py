"""What a flow run tells: its log, a JSON object a line as a worker writes it, its page and its experiment run."""

import json
import logging
from uuid import uuid4

import httpx
import pytest
from prefect.logging.formatters import JsonFormatter

from flows import listening, patience
from registry.errors import StoreError
from registry.tracking import Run
from tasks.progress import Epoch, Progress


def test_lines_tell_model_and_scene_while_these_are_at_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "in_flow_run", lambda: True)
    monkeypatch.setattr(listening, "get_run_logger", lambda: logging.getLogger("run"))
    with caplog.at_level("INFO", "run"):
        with listening.about(model="roofs@3"):
            with listening.about(scene="east.tif"):
                listening.say("done")
            listening.say("next")
        listening.say("end", logging.WARNING)
    assert ["INFO", "INFO", "WARNING"] == [record.levelname for record in caplog.records if record.name == "run"]
    lines = [json.loads(JsonFormatter("default", "", "%").format(record)) for record in caplog.records]
    told = [{key: line[key] for key in ("message", "model", "scene") if key in line} for line in lines]
    assert [
        {"message": "done", "model": "roofs@3", "scene": "east.tif"},
        {"message": "next", "model": "roofs@3"},
    ] == told[:2]
    assert {"message": "end"} == told[2]


def test_an_epoch_is_told_again_when_the_server_of_experiments_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def log_epoch(_run: Run, number: int, _metrics: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            raise StoreError("the server did not answer")

    monkeypatch.setattr(Run, "log_epoch", log_epoch)
    monkeypatch.setattr(patience, "PAUSES", (0.0,))
    with listening.listening("train", Run("1", "")) as tell:
        tell(Epoch(3, 9, {"training_loss": 1.0}, 60.0))
    assert [3, 3] == asked


def test_a_page_that_cannot_be_brought_up_to_date_ends_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def away(*_: object, **__: object) -> None:
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(listening, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(listening, "update_progress_artifact", away)
    monkeypatch.setattr(listening, "SECONDS", -1.0)
    monkeypatch.setattr(listening, "_log", said.append)
    with listening._run_page("train") as tell:
        tell(Progress("train", 1, 2, "steps"))
    assert ["train: 1 of 2 steps"] == said
