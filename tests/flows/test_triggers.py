import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Running

from flows import patience, triggers
from flows.triggers import trigger
from registry.errors import NotFound, OptionsError
from registry.parameters import laid_over, refuse_unknown


def test_a_dotted_key_changes_one_place_and_keeps_the_rest() -> None:
    stored = {"recipe": {"name": "roofs", "train": {"epochs": 20, "network": "unet"}}}
    expected = {"recipe": {"name": "roofs", "train": {"epochs": 3, "network": "unet"}}}
    assert expected == laid_over(stored, {"recipe.train.epochs": 3})


def test_an_object_is_laid_over_an_object_at_any_depth() -> None:
    assert {"a": {"b": {"c": 1, "d": 2}}} == laid_over({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}})


def test_what_is_not_there_yet_is_made() -> None:
    assert {"a": 1, "b": {"c": {"d": 2}}} == laid_over({"a": 1}, {"b.c.d": 2})


def test_what_was_stored_is_not_changed() -> None:
    stored = {"a": {"b": 1}}
    laid_over(stored, {"a.b": 2})
    assert {"a": {"b": 1}} == stored


def test_a_parameter_that_a_flow_has_not_is_refused() -> None:
    schema: dict[str, Any] = {"properties": {"recipe": {}, "fresh": {}}}
    refuse_unknown(schema, {"recipe.train.max_epochs": 3, "fresh": True})
    with pytest.raises(OptionsError, match=r"no such parameter, got \['recpie'\]; did you mean recipe"):
        refuse_unknown(schema, {"recpie.name": "roofs"})
    with pytest.raises(OptionsError, match="got .*x.*; it has recipe, fresh"):
        refuse_unknown(schema, {"x": 1})


def test_without_a_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(OptionsError, match="no Prefect server is set; export PREFECT_API_URL="):
        trigger("retrain", {})


def test_an_address_may_end_in_a_slash() -> None:
    asked = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        triggers._reach(f"http://127.0.0.1:{server.server_port}/api/")
    assert ["/api/health"] == asked


class Client:
    """Answers of a Prefect server, one after the other."""

    def __init__(self, *answers: FlowRun | Exception) -> None:
        self.answers = iter(answers)

    def read_flow_run(self, _: object) -> FlowRun:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_who_waits_for_a_run_outlasts_a_restart_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "SECONDS", 0.0)
    monkeypatch.setattr(patience, "PAUSES", (0.0,))
    run = FlowRun(flow_id=uuid4(), name="brave-owl", state=Running())
    done = run.model_copy(update={"state": Completed()})
    client: Any = Client(httpx.ConnectError("All connection attempts failed"), done)
    assert done == triggers._ended(client, run)
    with pytest.raises(NotFound, match="brave-owl: the run was deleted"):
        triggers._ended(Client(ObjectNotFound(httpx.HTTPError("404"))), run)  # type: ignore[arg-type]
