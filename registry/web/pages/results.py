"""Results of inference: as cards, and each on a map."""

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from registry import catalog
from registry.catalog import Version
from registry.errors import DlpkError
from registry.web import collection
from registry.web.access import Browsing
from registry.web.collection import Result
from registry.web.pages.models import PageNumber, Text
from registry.web.shelf import SIZES, Page
from registry.web.templating import render

router = APIRouter(include_in_schema=False)
KINDS = {"preview": "application/geo+json", "overlay": "image/png", "thumbnail": "image/png"}
Digest = Annotated[str, Query(pattern="^([0-9a-f]{64})?$")]


@router.get("/results")
def results(request: Request, _: Browsing, model: Text = "", sha256: Digest = "", page: PageNumber = 1) -> Response:
    """Newest first."""
    asked = {key: value for key, value in (("model", model), ("sha256", sha256)) if value}
    told = {"page": chosen(model, sha256, page), "model": model or sha256[:12], "asked": asked}
    return render(request, "results.html", told)


@router.get("/results.geojson")
def places(_: Browsing, model: Text = "", sha256: Digest = "", page: PageNumber = 1) -> Response:
    """Where those of a page lie."""
    features = [
        {
            "type": "Feature",
            "geometry": one.document.get("geometry"),
            "properties": {"title": one.title, "link": f"/results/{one.id}"},
        }
        for one in chosen(model, sha256, page).rows
        if one.document.get("geometry")
    ]
    content = json.dumps({"type": "FeatureCollection", "features": features})
    return Response(content, media_type="application/geo+json")


@router.get("/results/{item}")
def result(request: Request, _: Browsing, item: str) -> Response:
    """One of them, drawn."""
    found = collection.result(item)
    words = {"dlpk:scene": "Scene", "dlpk:imagery": "Imagery", "dlpk:tool": "Tool", "dlpk:sha256": "Package"}
    facts = [(word, found.properties[key]) for key, word in words.items() if found.properties.get(key)]
    return render(
        request,
        "result.html",
        {
            "result": found,
            "version": _version(found),
            "facts": facts,
            "data": str(found.assets.get("data", {}).get("href", "")),
            "run": str(found.properties.get("dlpk:flow_run_id", "") or ""),
        },
    )


@router.get("/results/{item}/{asset}")
def drawn(_: Browsing, item: str, asset: str) -> Response:
    """What the map and the card draw; never the data itself."""
    content, _kind = collection.asset(collection.result(item), asset)
    return Response(content, 200, {"cache-control": "private, max-age=3600"}, KINDS[asset])


def chosen(model: str, sha256: str, page: int) -> Page:
    found = collection.results(model=model, sha256=sha256)
    return Page(found[(page - 1) * SIZES[0] : page * SIZES[0]], len(found), page)


def _version(found: Result) -> Version | None:
    """The version that made it, while it is still there."""
    try:
        return next((v for v in catalog.of_package(found.sha256) if v.ref == found.model), None)
    except DlpkError:
        return None
