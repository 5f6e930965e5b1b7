"""Runs of flows: which there were, and one while it runs: state, steps, progress, reports, log."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from registry.errors import NotFound
from registry.web import prefect_api
from registry.web.access import OWN_PAGE, Browsing, Triggering
from registry.web.prefect_api import FINAL, MOST_LINES, Document
from registry.web.templating import render

router = APIRouter(include_in_schema=False)
SHOWN = 50  # runs on a page
MOST_ROWS = 200  # of a table


@router.get("/runs")
def runs(
    request: Request, _: Browsing, deployment: UUID | None = None, offset: Annotated[int, Query(ge=0, le=10**6)] = 0
) -> Response:
    """Newest first; those of one deployment with what is still to come on its calendar."""
    names = {row["id"]: row["name"] for row in prefect_api.deployments()}
    chosen = str(deployment or "")
    rows = prefect_api.runs(deployment_id=chosen, limit=SHOWN, offset=offset)
    facts = {
        "rows": [{**shown(row), "deployment_name": names.get(row.get("deployment_id"), "")} for row in rows],
        "deployment": {"name": names.get(chosen, chosen)} if chosen else None,
        "chosen": chosen,
        "offset": offset,
        "earlier": offset or len(rows) == SHOWN,
    }
    return render(request, "runs.html", facts)


@router.get("/runs/{identity}")
def run(request: Request, _: Browsing, identity: UUID) -> Response:
    return render(request, "run.html", live(identity))


@router.get("/runs/{identity}/live")
def part(request: Request, _: Browsing, identity: UUID) -> Response:
    """What of the page changes; the page asks for it until the run is over."""
    facts = live(identity)
    return render(request, "_live.html", facts, headers={"x-over": "1"} if facts["over"] else {})


@router.post("/runs/{identity}/cancel", dependencies=[OWN_PAGE])
def cancel(_: Triggering, identity: UUID) -> Response:
    prefect_api.cancel(identity)
    return RedirectResponse(f"/runs/{identity}", 303)


def live(identity: UUID) -> dict[str, Any]:
    """A run as it stands now."""
    found = shown(prefect_api.run(identity))
    artifacts, lines = prefect_api.artifacts(identity), prefect_api.log(identity)
    deployment = found.get("deployment_id")
    name = ""
    with suppress(NotFound):  # Prefect's runs outlive their deployment
        name = prefect_api.deployment(UUID(deployment))["name"] if deployment else ""
    return {
        "run": {**found, "deployment_name": name},
        "over": (found.get("state_type") or "") in FINAL,
        "bars": [bar(one) for one in artifacts if one.get("type") == "progress"],
        "reports": [str(one.get("data", "")) for one in artifacts if one.get("type") == "markdown"],
        "tables": [table(one) for one in artifacts if one.get("type") == "table"],
        "steps": [shown(step) for step in prefect_api.steps(identity)],
        "lines": lines,
        "more": len(lines) == MOST_LINES,
        "prefect": prefect_api.page_of(str(identity)),
    }


def shown(run: Document) -> Document:
    """With moments as such, and how long it took or takes."""
    began = moment(run.get("start_time"))
    ended = moment(run.get("end_time"))
    took = took_words((ended or datetime.now(UTC)) - began) if began else ""
    return {**run, "began": began, "took": took}


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def took_words(span: timedelta) -> str:
    """`2 h 05 min`, `3 min 20 s`, `12 s`."""
    seconds = max(0, int(span.total_seconds()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"


def bar(artifact: Document) -> Document:
    try:
        percent = min(max(float(artifact.get("data") or 0), 0), 100)
    except (TypeError, ValueError):
        percent = 0.0
    return {"name": str(artifact.get("description") or artifact.get("key") or "").partition(":")[0], "percent": percent}


def table(artifact: Document) -> Document:
    """Rows of a table artifact, which Prefect keeps as JSON text."""
    data = artifact.get("data")
    try:
        rows = json.loads(data) if isinstance(data, str) else data
    except ValueError:
        rows = []
    rows = [row for row in rows if isinstance(row, dict)][:MOST_ROWS] if isinstance(rows, list) else []
    return {"rows": rows, "columns": list(dict.fromkeys(key for row in rows for key in row))}
