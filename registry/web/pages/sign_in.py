"""Sign in with a token, and out."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from registry.web import access
from registry.web.access import MARK, OWN_PAGE
from registry.web.configuration import Configuration
from registry.web.forms import posted
from registry.web.guards import is_secure
from registry.web.sessions import Session
from registry.web.templating import render

router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
def form(request: Request, next: str = "/") -> Response:  # noqa: A002  (the word of the address)
    return render(request, "sign_in.html", {"next": local(next), "error": ""})


@router.post("/sign-in", dependencies=[OWN_PAGE])
async def sign_in(request: Request) -> Response:
    """A token that is known starts a session of its own."""
    told = dict(await posted(request))
    known: Configuration = request.app.state.configuration
    back = local(told.get("next", "/"))
    found = access.token_of(known, told.get("token", "").strip())
    if found is None:
        facts = {"next": back, "error": "Nobody has this token. Ask whoever runs this page for one."}
        return render(request, "sign_in.html", facts, status=401)
    answer = RedirectResponse(back, 303)
    _keep(request, answer, Session.new(found.sha256[:MARK]))
    return answer


@router.post("/sign-out", dependencies=[OWN_PAGE])
async def sign_out(request: Request) -> Response:
    answer = RedirectResponse("/sign-in", 303)
    _keep(request, answer, Session.new())
    return answer


def local(address: str) -> str:
    """An address of this page, and of no other: `//host` and `/\\host` would lead elsewhere."""
    plain = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if plain else "/"


def _keep(request: Request, answer: Response, session: Session) -> None:
    state = request.app.state
    state.sessions.write(session, answer.headers, secure=is_secure(request, state.configuration))
