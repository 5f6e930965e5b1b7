"""The first page: models as cards, searched, sorted, page by page; and the page of one model with its versions."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from registry import catalog
from registry.emd import ModelType
from registry.errors import OptionsError
from registry.searching import Wanted, read_extent
from registry.web import shelf
from registry.web.access import Browsing
from registry.web.shelf import SIZES, Page
from registry.web.templating import render

router = APIRouter(include_in_schema=False)
ORDERS = (("name", "By name"), ("created", "Newest first"), ("size", "Smallest first"))
TREND = {"width": 720.0, "height": 200.0, "margin": 14.0}
CONDITIONS = (  # of the form: key, word, hint, type of the input
    ("class_name", "Class", "roof", "text"),
    ("tag", "Tag", "buildings", "text"),
    ("sensor", "Sensor", "Sentinel-2", "text"),
    ("bands", "Bands, with commas", "Red, NearInfrared", "text"),
    ("least", "Score of at least", "AP50=0.6", "text"),
    ("cell_size", "Cell size, from:to", "0.3:1", "text"),
    ("extent", "Trained within west,south,east,north", "79.8,6.8,80,7", "text"),
    ("since", "Published since", "", "date"),
    ("before", "Published before", "", "date"),
)
Text = Annotated[str, Query(max_length=200)]
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


def wanted(
    text: Text = "",
    model_type: Text = "",
    alias: Text = "",
    class_name: Text = "",
    tag: Text = "",
    sensor: Text = "",
    bands: Text = "",
    least: Text = "",
    cell_size: Text = "",
    extent: Text = "",
    since: Text = "",
    before: Text = "",
) -> Wanted:
    """The conditions of a query string; bands have commas between them. Raises OptionsError."""
    several = tuple(band.strip() for band in bands.split(",") if band.strip())
    return Wanted(
        text=text.strip(),
        model_type=model_type,
        alias=alias,
        class_name=class_name.strip(),
        tag=tag.strip(),
        sensor=sensor.strip(),
        bands=several,
        least=least.strip(),
        cell_size=cell_size.strip(),
        extent=read_extent(extent),
        since=since,
        before=before,
    )


Search = Annotated[Wanted, Depends(wanted)]


@router.get("/")
def models(
    request: Request, _: Browsing, search: Search, sort: Text = "name", page: PageNumber = 1, size: int = SIZES[0]
) -> Response:
    """The cards; a condition that cannot be read is told above all models that meet nothing."""
    size, wrong = size if size in SIZES else SIZES[0], ""
    try:
        found = shelf.cards(search, sort=sort, page=page, size=size)
    except OptionsError as error:
        found, wrong = Page([], 0, 1, size), str(error)
    extent = ",".join(f"{number:g}" for number in search.extent or ())
    asked = {**vars(search), "bands": ", ".join(search.bands), "extent": extent}
    chosen = {**asked, "sort": "" if sort == "name" else sort, "size": "" if size == SIZES[0] else size}
    orders = ORDERS if sort in dict(ORDERS) else (*ORDERS, (sort, f"Best {sort} first"))
    scores = tuple((name, f"Best {name} first") for name in shelf.PRIMARY if name not in dict(orders))
    facts = {
        "page": found,
        "asked": asked,
        "sort": sort,
        "orders": (*orders, *scores),
        "sizes": SIZES,
        "wrong": wrong,
        "conditions": CONDITIONS,
        "model_types": list(ModelType),
        "parameters": chosen,
        "searched": any(asked.values()),
        "narrowed": sum(bool(asked[key]) for key in (*(c[0] for c in CONDITIONS), "alias")),
    }
    return render(request, "models.html", facts, status=422 if wrong else 200)


@router.get("/models/{name}")
def model(request: Request, _: Browsing, name: str, page: PageNumber = 1) -> Response:
    """A model with its versions."""
    versions = catalog.versions(name)
    glance = catalog.overview(versions)
    card = shelf.card(glance)
    rows = versions[(page - 1) * SIZES[1] : page * SIZES[1]]
    champion = next((i for i, version in enumerate(versions) if catalog.CHAMPION in version.aliases), None)
    preset = [0, champion] if champion not in (0, None) else [0, 1]
    facts: dict[str, Any] = {
        "name": name,
        "card": card,
        "page": Page(rows, len(versions), page, SIZES[1]),
        "trend": shelf.score_trend(glance, card.metric, 200, **TREND) if card.metric else None,
        "preset": preset if page == 1 else [],
    }
    return render(request, "model.html", facts)
