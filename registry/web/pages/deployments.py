"""Start a flow on demand: a form made from the schema of its parameters."""

from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from registry.web import forms, prefect_api
from registry.web.access import OWN_PAGE, Browsing, Triggering
from registry.web.prefect_api import Document, Rejected
from registry.web.schema import fields
from registry.web.templating import render

router = APIRouter(include_in_schema=False)


@router.get("/deployments")
def deployments(request: Request, _: Browsing) -> Response:
    rows = [{**row, "calendar": calendar(row)} for row in prefect_api.deployments()]
    return render(request, "deployments.html", {"rows": rows})


@router.get("/deployments/{identity}")
def deployment(request: Request, _: Triggering, identity: UUID) -> Response:
    """The form, filled with what the deployment has."""
    found = prefect_api.deployment(identity)
    return _form(request, found, found.get("parameters") or {}, {}, {})


@router.post("/deployments/{identity}", dependencies=[OWN_PAGE])
async def start(request: Request, who: Triggering, identity: UUID) -> Response:
    """Start a run, or show the form again: with a row more or less, or with what is wrong beside each field."""
    form = dict(await forms.posted(request))
    return await run_in_threadpool(_started, request, identity, form, who.name)


def _started(request: Request, identity: UUID, form: dict[str, str], by: str) -> Response:
    found = prefect_api.deployment(identity)
    moved = forms.moved(form)
    parameters, wrong = forms.filled(schema_of(found), found.get("parameters") or {}, moved or form)
    if moved is not None:
        return _form(request, found, parameters, {}, moved)
    if not wrong:
        try:
            run = prefect_api.start(identity, parameters, by)
            return RedirectResponse(f"/runs/{run['id']}", 303)
        except Rejected as error:
            wrong = {error.field: error.what}
    return _form(request, found, parameters, wrong, {path: form[path] for path in wrong if path in form}, status=422)


def _form(
    request: Request, found: Document, values: Document, wrong: dict[str, str], raw: dict[str, str], status: int = 200
) -> Response:
    facts = {"deployment": found, "fields": fields(schema_of(found), values, wrong), "errors": wrong, "raw": raw}
    return render(request, "deployment.html", facts, status=status)


def schema_of(found: Document) -> Document:
    return found.get("parameter_openapi_schema") or {"type": "object", "properties": {}}


def calendar(found: Document) -> list[str]:
    """When it runs by itself."""
    lines = []
    for entry in found.get("schedules") or ():
        told = entry.get("schedule") or {}
        when = (
            told.get("cron") or told.get("rrule") or (f"every {told['interval']:g} s" if told.get("interval") else "")
        )
        if entry.get("active") and when:
            lines.append(f"{when} {told.get('timezone') or 'UTC'}")
    return lines
