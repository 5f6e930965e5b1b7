"""The same as JSON, for programs: what there is, what was made with it, what can be started; see /api/openapi.json."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from registry import catalog, history
from registry.catalog import ModelRef, find_version
from registry.errors import OptionsError
from registry.newest import page as page_of_newest
from registry.parameters import laid_over, refuse_unknown
from registry.searching import page
from registry.web import collection, forms, prefect_api, shelf
from registry.web.access import OWN_PAGE, Browsing, Promoting, Triggering
from registry.web.pages.compare import differences_of, same_chips, score_rows
from registry.web.pages.deployments import schema_of
from registry.web.pages.history import promoted, rolled_back
from registry.web.pages.models import Search, Text
from registry.web.pages.version import Number

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": word, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, word in {
        400: "That cannot be read",
        401: "Sign in first",
        403: "This role may not do that",
        404: "No such thing",
        409: "Changed meanwhile",
        413: "Too large",
        421: "Not reached under that name",
        422: "Something of it does not fit",
        429: "Too many requests",
        503: "The store, the catalog or the Prefect server does not answer",
    }.items()
}
Document = dict[str, Any]


class Problem(BaseModel):
    """What is wrong, where, and what to do."""

    detail: str


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=history.LONGEST_REASON, description="stays in the history")


class Promotion(Change):
    number: int = Field(ge=1, le=2**31 - 1, description="of the version that becomes champion")


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parameters: dict[str, Any] = Field({}, description="laid over those of the deployment")


router = APIRouter(
    prefix="/api", responses={**ERRORS, 400: {"model": Problem, "description": "That cannot be read"}}, tags=["dlpk"]
)


@router.get("/models")
def models(
    _: Browsing,
    search: Search,
    sort: Text = "name",
    first: Annotated[int, Query(ge=0, le=10**9)] = 0,
    count: Annotated[int, Query(ge=1, le=500)] = 100,
    newest: bool = True,
) -> Document:
    """Versions that meet all conditions; of each model the newest, or every one."""
    if newest:
        found = page_of_newest(search, sort=sort, first=first, count=count)
    else:
        found = page(search, sort=sort, first=first, count=count)
    return {"total": found.total, "first": first, "versions": [version.document() for version in found.versions]}


@router.get("/models/{name}")
def model(_: Browsing, name: str) -> Document:
    """All versions of a model, newest first."""
    return {"name": name, "versions": [version.document() for version in catalog.versions(name)]}


@router.get("/models/{name}/history")
def champions(_: Browsing, name: str) -> list[Document]:
    """Every decision about its champion, newest first."""
    return [event.document() for event in history.history(name)]


@router.get("/models/{name}/{number}")
def version(_: Browsing, name: str, number: Number) -> Document:
    """A version, its manifest, and where its package is downloaded."""
    found = find_version(ModelRef(name, number))
    links = {"package": f"/models/{name}/{number}/package", "page": f"/models/{name}/{number}"}
    return {**found.document(), "manifest": dict(shelf.manifest(found)), "links": links}


@router.post("/models/{name}/promote", dependencies=[OWN_PAGE])
def promote(who: Promoting, name: str, change: Promotion) -> Document:
    """Make a version the champion."""
    return promoted(name, str(change.number), change.reason, who).document()


@router.post("/models/{name}/rollback", dependencies=[OWN_PAGE])
def rollback(who: Promoting, name: str, change: Change) -> Document:
    """Make the version champion that was it before."""
    return rolled_back(name, "", change.reason, who).document()


@router.get("/compare")
def compare(_: Browsing, a: Text, b: Text) -> Document:
    """Two versions: scores, and what differs in definition and files."""
    sides = [shelf.told(find_version(ref)) for ref in (a, b)]
    definition, members = differences_of(*sides)
    scores = {
        row.name: {"a": _number(row.figures[0]), "b": _number(row.figures[1]), "difference": row.difference}
        for row in score_rows(*sides)
    }
    return {
        "a": sides[0].version.ref,
        "b": sides[1].version.ref,
        "same_chips": same_chips(*sides),
        "scores": scores,
        "definition": _pairs(definition),
        "files": _pairs(members),
    }


@router.get("/results")
def results(_: Browsing, model: Text = "", count: Annotated[int, Query(ge=1, le=500)] = 100) -> list[Document]:
    """STAC items of inference, newest first."""
    return [dict(one.document) for one in collection.results(model=model)[:count]]


@router.get("/deployments")
def deployments(_: Browsing) -> list[Document]:
    """What can be started, with the schema of its parameters."""
    keys = ("id", "name", "flow_name", "description", "paused", "parameters", "parameter_openapi_schema")
    return [{key: row.get(key) for key in keys} for row in prefect_api.deployments()]


@router.post("/deployments/{identity}/runs", status_code=201, dependencies=[OWN_PAGE])
def start(who: Triggering, identity: UUID, wanted: Parameters) -> Document:
    """Start a run."""
    found = prefect_api.deployment(identity)
    refuse_unknown(schema_of(found), wanted.parameters)
    parameters = laid_over(found.get("parameters") or {}, wanted.parameters)
    if wrong := forms.problems(schema_of(found), parameters):
        raise OptionsError("; ".join(f"{path or 'parameters'}: {text}" for path, text in wrong.items()))
    return _run(prefect_api.start(identity, parameters, who.name))


@router.get("/runs/{identity}")
def run(_: Browsing, identity: UUID) -> Document:
    """Its state and the last lines of its log."""
    return {**_run(prefect_api.run(identity)), "log": [line.get("message", "") for line in prefect_api.log(identity)]}


@router.post("/runs/{identity}/cancel", dependencies=[OWN_PAGE])
def cancel(_: Triggering, identity: UUID) -> Document:
    """Ask its worker to end it."""
    prefect_api.cancel(identity)
    return _run(prefect_api.run(identity))


def _run(found: Document) -> Document:
    identity = found.get("id")
    return {"id": identity, "name": found.get("name"), "state": found.get("state_name"), "page": f"/runs/{identity}"}


def _pairs(rows: list[tuple[str, str, str]]) -> Mapping[str, list[str]]:
    return {place: [left, right] for place, left, right in rows}


def _number(figure: shelf.Figure | None) -> float | None:
    return figure.value if figure else None
