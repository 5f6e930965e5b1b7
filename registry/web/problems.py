"""What goes wrong, as an answer: a page for people, JSON below /api; the words of our errors, never a traceback."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from registry.errors import Conflict, DlpkError, NotFound, OptionsError, StoreError

STATUS: dict[type[DlpkError], int] = {NotFound: 404, OptionsError: 422, Conflict: 409, StoreError: 503}
TITLES = {
    400: "That cannot be read",
    401: "Please sign in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible here",
    409: "Taken meanwhile",
    413: "Too large",
    421: "Wrong address",
    422: "That does not fit",
    429: "Too many requests",
    500: "Something broke",
    503: "Out of reach",
}


class Refused(Exception):
    """A request that may not be; `headers` tell more."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers or {}


def register(app: FastAPI) -> None:
    """Have every error answered here."""
    handlers: dict[Any, Any] = {
        Refused: _refused,
        DlpkError: _told,
        RequestValidationError: _unreadable,
        HTTPException: _plain,
        Exception: _broken,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def answer(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """The same in the language of who asked."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": text}, status, headers)
    from registry.web.templating import render

    facts = {"status": status, "title": TITLES.get(status, "Not possible"), "text": text}
    return render(request, "error.html", facts, status=status, headers=headers)


async def _refused(request: Request, error: Refused) -> Response:
    wants_page = request.method == "GET" and not request.url.path.startswith("/api/")
    if error.status == 401 and wants_page and "authorization" not in request.headers:
        from urllib.parse import quote

        back = quote(request.url.path + (f"?{request.url.query}" if request.url.query else ""), safe="")
        return RedirectResponse(f"/sign-in?next={back}", 303)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return answer(request, error.status, error.why, {**headers, **error.headers})


async def _told(request: Request, error: DlpkError) -> Response:
    status = next((number for kind, number in STATUS.items() if isinstance(error, kind)), 422)
    return answer(request, status, str(error))


async def _unreadable(request: Request, error: RequestValidationError) -> Response:
    problems = [
        f"the body is no JSON: {e['ctx']['error']} at character {e['loc'][-1]}"
        if e["type"] == "json_invalid"
        else f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}"
        for e in error.errors()
    ]
    return answer(request, 422, "; ".join(problems))


async def _plain(request: Request, error: HTTPException) -> Response:
    return answer(request, error.status_code, str(error.detail), dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(request, 500, "The log of the server tells more.")
