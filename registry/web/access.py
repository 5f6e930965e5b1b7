"""Who is asking, and whether that role may: by a token, a signed cookie, a trusted proxy, or from this machine."""

import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from registry.web.configuration import Configuration, Role, Token, digest
from registry.web.problems import Refused
from registry.web.sessions import Session, Sessions

MARK = 32  # hex digits of a token's hash that a session keeps


@dataclass(frozen=True)
class Visitor:
    """`role` None: may nothing yet."""

    name: str
    role: Role | None
    by: str  # token, session, proxy, machine; "" nobody knows

    def may(self, needed: Role) -> bool:
        return self.role is not None and self.role.may(needed)


def visitor(request: Request) -> Visitor:
    """Raises Refused (401) for a token that nobody has."""
    known: Configuration = request.app.state.configuration
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found = token_of(known, token.strip())
        if found is None:
            raise Refused(401, "nobody has this token")
        return Visitor(found.name, found.role, "token")
    if known.proxy and (name := request.headers.get(known.proxy.user_header)) and is_trusted(known, peer(request)):
        return Visitor(name[:100], known.proxy.roles.get(name, known.proxy.roles.get("*")), "proxy")
    if marked := next((t for t in known.tokens if t.sha256[:MARK] == session(request).mark), None):
        return Visitor(marked.name, marked.role, "session")
    if known.open and is_here(peer(request)):
        return Visitor("", Role.PROMOTE, "machine")
    return Visitor("", known.anonymous, "")


def token_of(known: Configuration, token: str) -> Token | None:
    """Every hash is compared, each in constant time."""
    told = digest(token)
    found = [entry for entry in known.tokens if hmac.compare_digest(entry.sha256, told)]
    return found[0] if found else None


def needs(role: Role) -> Callable[[Request], Visitor]:
    """A dependency: the visitor, who has this role. Raises Refused: 401 before signing in, 403 after."""

    def check(request: Request) -> Visitor:
        found = visitor(request)
        if not found.may(role):
            signed_in = found.by not in ("", "machine")
            raise Refused(403 if signed_in else 401, f"this needs the role {role}")
        return found

    return check


async def from_own_page(request: Request) -> None:
    """A dependency of every change: it comes from a page of ours, or with a token. Raises Refused (403).

    The browser's word (Sec-Fetch-Site, Origin) is asked first, then the secret that our forms carry.
    """
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return  # no browser adds this by itself
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (origin and origin.partition("://")[2] != request.headers.get("host")):
        raise Refused(403, "this came from another site")
    told = request.headers.get("x-csrf-token") or (await _form(request)).get("csrf", "")
    sessions: Sessions = request.app.state.sessions
    if not sessions.is_csrf(session(request), told):
        raise Refused(403, "this form is too old or not ours: load its page again")


async def _form(request: Request) -> dict[str, str]:
    from registry.web.forms import posted

    return dict(await posted(request))


def session(request: Request) -> Session:
    """That of this browser; the guard has put it there."""
    found: Session = request.scope["dlpk.session"]
    return found


def peer(request: Request) -> str:
    return request.client.host if request.client else ""


def is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_trusted(known: Configuration, address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return known.proxy is not None and any(found in network for network in known.proxy.trusted)


Browsing = Annotated[Visitor, Depends(needs(Role.BROWSE))]
Triggering = Annotated[Visitor, Depends(needs(Role.TRIGGER))]
Promoting = Annotated[Visitor, Depends(needs(Role.PROMOTE))]
OWN_PAGE = Depends(from_own_page)
