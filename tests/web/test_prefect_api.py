"""Prefect's REST API as it is on a bad day: busy, breaking off, down."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest

from registry.errors import StoreError
from registry.web import prefect_api

DEPLOYMENT = UUID(int=7)


class BadDay(ThreadingHTTPServer):
    """Answers with what is left in `moods`, the last again and again: a status, or "gone" without a word."""

    def __init__(self, *moods: int | str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.moods = list(moods)
        self.asked: list[Any] = []


class Handler(BaseHTTPRequestHandler):
    server: BadDay

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        mood = self.server.moods.pop(0) if len(self.server.moods) > 1 else self.server.moods[0]
        if isinstance(mood, str):
            return
        self.send_response(mood)
        self.end_headers()
        self.wfile.write(json.dumps({"id": "a run", "detail": "database is locked"}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadDay]:
    with BadDay(*request.param) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{running.server_port}/api")
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("server", [(503, "gone", 201)], indirect=True)
def test_a_busy_server_is_asked_again_and_starts_one_run(server: BadDay) -> None:
    assert {"id": "a run"}.items() <= prefect_api.start(DEPLOYMENT, {"out": "x"}, "anna").items()
    assert 3 == len(server.asked)
    (key,) = {asked["idempotency_key"] for asked in server.asked}
    prefect_api.start(DEPLOYMENT, {"out": "x"}, "anna")
    assert server.asked[-1]["idempotency_key"] != key


@pytest.mark.slow
@pytest.mark.parametrize("server", [(503,)], indirect=True)
def test_one_that_stays_busy_is_told(server: BadDay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_api, "LONGEST", 0.2)
    with pytest.raises(StoreError, match="503 database is locked"):
        prefect_api.start(DEPLOYMENT, {})
    assert len(server.asked) > 1


@pytest.mark.parametrize("server", [(500,), (401,)], indirect=True)
def test_what_asking_again_cannot_mend_is_told_at_once(server: BadDay) -> None:
    with pytest.raises(StoreError, match=r"Prefect failed \((500|401)"):
        prefect_api.start(DEPLOYMENT, {})
    assert 1 == len(server.asked)


def test_a_server_that_is_down_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(StoreError, match="does not answer"):
        prefect_api.deployments()


def test_of_many_reports_the_last_are_asked_for_and_come_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(*question: Any) -> list[dict[str, str]]:
        asked.append(question[-1])
        return [{"created": "2026-05-02"}, {"created": "2026-05-01"}]

    monkeypatch.setattr(prefect_api, "_ask", ask)
    assert ["2026-05-01", "2026-05-02"] == [one["created"] for one in prefect_api.artifacts(DEPLOYMENT)]
    assert "CREATED_DESC" == asked[0]["sort"]
