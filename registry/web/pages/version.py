"""The page of a version: how good it is, how it sees, where it learned, how to use it, what came of it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from registry import catalog, history
from registry.catalog import CHAMPION, ModelRef, Version
from registry.errors import DlpkError
from registry.settings import settings
from registry.tracking import Run
from registry.web import collection, shelf
from registry.web.access import Browsing
from registry.web.charts import Whisker, whisker
from registry.web.shelf import LOSS, REPORT, RESULTS, Figure, Told
from registry.web.snippets import snippets
from registry.web.templating import render

router = APIRouter(include_in_schema=False)
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
WORDS = {RESULTS: "Sample results on held-out chips", LOSS: "Loss of training and validation by epoch"}
MOST_PICTURES, MOST_RESULTS = 6, 10


@router.get("/models/{name}/{number:int}")
def version(request: Request, _: Browsing, name: str, number: Number) -> Response:
    """Everything that is known of it."""
    known = catalog.versions(name)
    found = catalog.find_version(ModelRef(name, number))
    told = shelf.told(found)
    made = collection.results(sha256=found.sha256)
    facts = {
        "told": told,
        "champion": next((v for v in known if CHAMPION in v.aliases), None),
        "before": next((v for v in known if v.number < number), None),
        "drawn": [(figure, _drawn(figure)) for figure in told.figures],
        "class_scores": list(dict.fromkeys(key for scores in told.per_class.values() for key in scores)),
        "shown": [(m, WORDS.get(m, _words(m))) for m in shelf.pictures(told.members)[:MOST_PICTURES]],
        "footprint": _footprint(told.document),
        "report": REPORT in told.members,
        "labels": shelf.classes_of(found, told.document),
        "sizes": told.properties.get("members", {}),
        "facts": _facts(told),
        "snippets": snippets(found),
        "chain": _chain(told, len(made)),
        "made": made[:MOST_RESULTS],
        "events": [event for event in history.history(name) if number in (event.version, event.replaced)][:5],
    }
    return render(request, "version.html", facts)


def _drawn(figure: Figure) -> Whisker | None:
    """On an axis from 0 to 1; other scores are not drawn."""
    return whisker(figure.value, figure.interval, (0, 1)) if 0 <= figure.value <= 1 else None


def _words(member: str) -> str:
    return member.rpartition("/")[2].rpartition(".")[0].replace("_", " ").capitalize()


def _footprint(document: Mapping[str, Any]) -> str:
    """The extent in words, "" when none is known."""
    box = (document.get("extent") or {}).get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return ""
    west, south, east, north = (float(n) for n in box)
    return f"{west:.4f}° to {east:.4f}° east, {south:.4f}° to {north:.4f}° north"


def _facts(told: Told) -> list[tuple[str, Any]]:
    known, version = told.properties, told.version
    cell = known.get("cell_size")
    tile = known.get("tile_size") or [version.tile_size] * 2
    pairs = [
        ("Bands", list(version.bands)),
        ("Bands used", known.get("extract_bands")),
        ("Tile", f"{tile[0]} x {tile[1]} pixels" if any(tile) else ""),
        ("Cell", f"{cell['x']:g} x {cell['y']:g} (WKID {cell['wkid'] or 'unknown'})" if cell else version.cell_size),
        ("Sensor", version.sensor),
        ("Framework", version.framework),
        ("Configuration", version.model_configuration),
        ("Chips", known.get("metadata_format")),
        ("Summary", known.get("summary") if known.get("description") else ""),
        ("Tags", list(version.tags)),
    ]
    return [(word, value) for word, value in pairs if value not in ("", None, [], ())]


def _chain(told: Told, results: int) -> list[dict[str, str]]:
    """Data, run, package, results: each made from the one before."""
    version, recipe = told.version, told.document.get("recipe") or {}
    imagery = recipe.get("imagery", "")
    data = imagery if isinstance(imagery, str) else ", ".join(imagery)
    links = [{"kind": "Training data", "name": data or "unknown", "note": version.data_digest, "address": ""}]
    earlier = {"Went on from": str(told.document.get("pretrained_model") or ""), "In use before": version.parent}
    for kind, ref in earlier.items():
        if ref:
            links.append({"kind": kind, "name": ref, "note": "", "address": f"/models/{ref.replace('@', '/')}"})
    run = version.run_id or ""
    code = f"code {version.git_commit[:12]}" if version.git_commit else ""
    links.append({"kind": "Training run", "name": run or "not recorded", "note": code, "address": _page_of(run)})
    links.append({"kind": "Package", "name": version.ref, "note": version.sha256[:16], "address": ""})
    count = f"{results:,} by this package" if results else "none yet"
    return [*links, {"kind": "Results", "name": count, "note": "", "address": f"/results?sha256={version.sha256}"}]


def _page_of(run: str) -> str:
    """Of MLflow, where a server shows it."""
    with suppress(DlpkError):
        return Run(run, settings().tracking_uri).url if run else ""
    return ""


def ref_of(version: Version) -> str:
    return f"/models/{version.name}/{version.number}"
