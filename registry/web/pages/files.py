"""What is handed out of a version: its package, its pictures, its report, its extent."""

import json
import re
from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from registry.catalog import ModelRef, Version, find_version
from registry.errors import NotFound
from registry.web import pieces, shelf
from registry.web.access import Browsing
from registry.web.pages.version import Number
from registry.web.shelf import REPORT

router = APIRouter(prefix="/models/{name}/{number:int}", include_in_schema=False)
FOR_GOOD = "private, max-age=86400, immutable"  # the bytes of a version never change
REPORT_POLICY = (  # a stranger's page: no script, nothing from elsewhere, nothing to send
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)


@router.api_route("/package", methods=["GET", "HEAD"])
def package(request: Request, _: Browsing, name: str, number: Number) -> Response:
    """The .dlpk, streamed; a part of it where a broken download goes on."""
    return handed_out(request, find_version(ModelRef(name, number)))


@router.get("/picture/{member:path}")
def picture(request: Request, _: Browsing, name: str, number: Number, member: str) -> Response:
    """A picture of the package; nothing else of it is shown as a picture."""
    version = find_version(ModelRef(name, number))
    kind = pieces.PICTURES.get(member[member.rfind(".") :].lower()) if "." in member else None
    if kind is None or member not in shelf.manifest(version).get("members", {}):
        raise NotFound("the package has no such picture", where=f"{name}@{number} {member[:200]}")
    tag = f'"{version.sha256[:16]}"'
    if _has(request, tag):
        return Response(status_code=304, headers={"etag": tag, "cache-control": FOR_GOOD})
    return Response(pieces.checked(version, member), 200, {"cache-control": FOR_GOOD, "etag": tag}, kind)


@router.get("/report")
def report(_: Browsing, name: str, number: Number) -> Response:
    """The page model_metrics.html of the package, which cannot do anything but be read."""
    content = pieces.checked(find_version(ModelRef(name, number)), REPORT)
    headers = {"content-security-policy": REPORT_POLICY, "x-frame-options": "SAMEORIGIN", "cache-control": FOR_GOOD}
    return Response(content, 200, headers, "text/html; charset=utf-8")


@router.get("/extent.geojson")
def extent(_: Browsing, name: str, number: Number) -> Response:
    """Where the training chips lie."""
    told = shelf.manifest(find_version(ModelRef(name, number))).get("extent") or {}
    if not (shape := told.get("geometry") or _box(told.get("bbox"))):
        raise NotFound("no extent is known", where=f"{name}@{number}")
    feature = {"type": "Feature", "geometry": shape, "properties": {"title": f"training chips of {name}@{number}"}}
    return Response(json.dumps({"type": "FeatureCollection", "features": [feature]}), media_type="application/geo+json")


def _has(request: Request, tag: str) -> bool:
    """Whether who asks has it already (RFC 9110, 13.1.2)."""
    told = request.headers.get("if-none-match", "")
    return told.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in told.split(","))


def handed_out(request: Request, version: Version) -> Response:
    """A package as an answer, whole or the range that was asked for, with its sha256 in the headers."""
    tag = f'"{version.sha256}"'
    headers = {
        "content-disposition": f'attachment; filename="{version.name}.dlpk"',
        "etag": tag,
        "accept-ranges": "bytes",
        "x-checksum-sha256": version.sha256,
        "cache-control": FOR_GOOD,
    }
    if _has(request, tag):
        return Response(status_code=304, headers=headers)
    span = _span(request, version.size, tag)
    if span is None:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{version.size}"})
    start, end = span
    headers["content-length"] = str(end - start)
    if end - start < version.size:
        headers["content-range"] = f"bytes {start}-{end - 1}/{version.size}"
    status = 206 if "content-range" in headers else 200
    content: Iterator[bytes] = iter(()) if request.method == "HEAD" else pieces.stream(version, start, end)
    return StreamingResponse(content, status, headers, "application/zip")


def _span(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """First byte and the one behind the last; all of it without a range that can be read; None outside of the file."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    if not found or found.groups() == ("", "") or request.headers.get("if-range", tag) != tag:
        return 0, size
    first, last = found.groups()
    if first:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    else:
        start, end = max(0, size - int(last)), size
    return (start, end) if start < end else None


def _box(box: object) -> dict[str, object] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
