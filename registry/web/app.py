"""Puts the page together: every module in pages/ that has a `router` is a part of it.

Another part of the program adds its own (metrics, say) with `app.mount` or `app.include_router` on what `create`
returns; the guards stand before it, and `needs(Role...)` of `registry.web.access` asks for a role.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from registry import plugins
from registry.web import pages, prefect_api, problems
from registry.web.access import Browsing
from registry.web.configuration import Configuration, read
from registry.web.guards import Guards
from registry.web.sessions import Sessions, key
from registry.web.templating import STATIC

TITLE = "dlpk"
DESCRIPTION = """Models, versions, champions, results and runs. Sign in with `Authorization: Bearer TOKEN`; a browser's
session does as well, with the header `X-CSRF-Token` for changes."""


def create(configuration: Configuration | None = None) -> FastAPI:
    """The application. Raises OptionsError for a configuration that cannot be read."""
    known = configuration or read()
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version="1",
        openapi_url=None,  # told below, to those who may browse
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.configuration = known
    app.state.sessions = Sessions(key(), known.session_hours)
    app.state.runs_known = lambda: bool(prefect_api.address())
    app.add_middleware(Guards, configuration=known, sessions=app.state.sessions)
    problems.register(app)
    for name in plugins.names(pages):
        app.include_router(plugins.load(pages, name).router)
    app.mount("/static", Kept(directory=STATIC), name="static")
    app.add_api_route("/api/openapi.json", openapi, include_in_schema=False)
    app.add_api_route("/health", health, include_in_schema=False)
    return app


async def health() -> JSONResponse:
    """It answers; says nothing of what it holds."""
    return JSONResponse({"status": "ok"})


def openapi(request: Request, _: Browsing) -> JSONResponse:
    """What there is below /api."""
    return JSONResponse(request.app.openapi())


class Kept(StaticFiles):
    """Files that a browser may keep: their address changes with their content."""

    async def get_response(self, path: str, scope: Scope) -> Any:
        answer = await super().get_response(path, scope)
        answer.headers["cache-control"] = "public, max-age=31536000, immutable"
        return answer
