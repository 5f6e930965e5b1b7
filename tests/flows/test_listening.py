"""What a flow run's log says of a scene, as a worker writes it: a JSON object a line."""

import json
import logging

import pytest
from prefect.logging.formatters import JsonFormatter

from flows import listening


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
        listening.say("end")
    lines = [json.loads(JsonFormatter("default", "", "%").format(record)) for record in caplog.records]
    told = [{key: line[key] for key in ("message", "model", "scene") if key in line} for line in lines]
    assert [
        {"message": "done", "model": "roofs@3", "scene": "east.tif"},
        {"message": "next", "model": "roofs@3"},
    ] == told[:2]
    assert {"message": "end"} == told[2]
