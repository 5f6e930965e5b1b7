"""From a template to an answer: what every page knows, and how values are written for people."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from registry.records import text
from registry.web import access
from registry.web.charts import hex_color
from registry.web.configuration import Role

STATIC = Path(__file__).parent / "static"
KINDS = {  # ModelType -> what people call it
    "ObjectDetection": "Object detection",
    "InstanceDetection": "Instance detection",
    "ImageClassification": "Pixel classification",
    "ObjectClassification": "Object classification",
    "PanopticSegmenter": "Panoptic segmentation",
    "SuperResolution": "Super resolution",
    "ImageCaptioner": "Image captioning",
}


def render(
    request: Request,
    template: str,
    facts: Mapping[str, Any] | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page; it knows who is looking, and the secret that its forms bring back."""
    state = request.app.state
    try:
        who = access.visitor(request)
    except Exception:  # noqa: BLE001  (the page that tells so is being made)
        who = access.Visitor("", None, "")
    around = {
        "who": who,
        "may": {role.value: who.may(role) for role in Role},
        "csrf": state.sessions.csrf(access.session(request)),
        "here": request.url.path,
        "configuration": state.configuration,
        "runs_known": state.runs_known(),
    }
    page = _environment().get_template(template).render({**around, **(facts or {})})
    return HTMLResponse(page, status, dict(headers or {}))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("registry.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": size,
        "when": when,
        "day": lambda moment: moment.strftime("%d %b %Y").lstrip("0"),
        "kind": lambda word: KINDS.get(word, word),
        "value": text,
        "figure": lambda number: f"{number:.3f}",
        "signed": lambda number: f"{number:+.3f}",
        "hex": hex_color,
        "query": query,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        "markdown": markdown,
    }
    made.globals |= {"static": static_url}
    return made


@cache
def static_url(name: str) -> str:
    """With its content's digest, so that a browser may keep it."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def when(moment: datetime | None) -> Markup:
    """A moment in UTC; the script of the page adds how long ago that is."""
    if moment is None:
        return Markup("")
    moment = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(moment.isoformat(), moment.strftime("%Y-%m-%d %H:%M"))


def query(parameters: Mapping[str, Any], **changes: Any) -> str:
    """A query string of what is not empty."""
    pairs: list[tuple[str, Any]] = []
    for key, value in {**parameters, **changes}.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        pairs += [(key, one) for one in values if one not in (None, "", False)]
    return urlencode(pairs)


def markdown(source: str) -> Markup:
    """Of a flow run; HTML in it is shown as text, and links go to the web alone."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(reader.render(source))  # noqa: S704  (the reader escapes)
