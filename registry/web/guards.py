"""What every request must pass, before any page hears of it, and what every answer carries.

In this order: the host's name (a foreign one is a rebound DNS name), the size, the rate, the browser's session.
"""

import math
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.web.access import is_here, is_trusted, peer
from registry.web.configuration import LOOPBACK, Configuration
from registry.web.limits import Buckets
from registry.web.problems import answer
from registry.web.sessions import COOKIE, Session, Sessions

MOST_BYTES = 2**20  # of a request: forms are small
TOO_LARGE = f"a request has at most {MOST_BYTES:,} bytes"
READS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guards:
    """The door, as a middleware."""

    def __init__(self, app: ASGIApp, configuration: Configuration, sessions: Sessions) -> None:
        self.app, self.known, self.sessions = app, configuration, sessions
        limits = configuration.limits
        self.all, self.changes = Buckets(limits.requests), Buckets(limits.changes)
        self.failures = Buckets(limits.sign_ins)
        self.policy = content_policy(configuration)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no websockets
        request = Request(scope)
        fresh = self._session(request)
        refusal = self._refusal(request)
        answering = self._answering(request, send, fresh)
        if refusal:
            await answer(request, *refusal)(scope, receive, answering)
        else:
            await self.app(_asked(scope), _limited(receive), answering)

    # -- in --------------------------------------------------------------------------------------------------------
    def _refusal(self, request: Request) -> tuple[int, str] | tuple[int, str, dict[str, str]] | None:
        if not self._is_our_host(request):
            return 421, "this page is not reached under that name; `hosts` in its configuration lists the names"
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or int(length) > MOST_BYTES:
            return 413, TOO_LARGE
        if request.url.path.startswith("/static/"):
            return None
        who = self.address(request)
        if _tries_token(request) and self.failures.is_empty(who):
            return _later(60, "too many wrong tokens came from here")
        wait = self.all.wait(who) or (0 if request.method in READS else self.changes.wait(who))
        return _later(wait, "ask less often") if wait else None

    def _is_our_host(self, request: Request) -> bool:
        host = (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
        if self.known.open:
            return host in LOOPBACK
        return not self.known.hosts or host in self.known.hosts or (host in LOOPBACK and is_here(peer(request)))

    def address(self, request: Request) -> str:
        """Where a request came from; what a trusted proxy says of it, and nobody else."""
        told = request.headers.get("x-forwarded-for", "")
        if told and is_trusted(self.known, peer(request)):
            return told.rpartition(",")[2].strip()[:100]
        return peer(request)

    def _session(self, request: Request) -> Session | None:
        """Puts the browser's session where pages find it; the session itself when it is a new one."""
        found = self.sessions.read(request.cookies.get(COOKIE, ""))
        request.scope["dlpk.session"] = found or Session.new()
        request.scope["dlpk.guards"] = self
        return None if found else request.scope["dlpk.session"]

    # -- out -------------------------------------------------------------------------------------------------------
    def _answering(self, request: Request, send: Send, fresh: Session | None) -> Send:
        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers(request).items():
                    headers.setdefault(name, value)
                if fresh and "text/html" in headers.get("content-type", "") and "set-cookie" not in headers:
                    self.sessions.write(fresh, headers, secure=is_secure(request, self.known))
                if message["status"] == 401 and _tries_token(request):
                    self.failures.wait(self.address(request))
            await send(message)

        return answering

    def _headers(self, request: Request) -> dict[str, str]:
        own = {**HEADERS, "content-security-policy": self.policy, "cache-control": "no-store"}
        return {**own, "strict-transport-security": "max-age=31536000"} if is_secure(request, self.known) else own


def content_policy(configuration: Configuration) -> str:
    """Everything from here, no script in a page, no style in an attribute; map tiles from where they are set."""
    parts = urlsplit(configuration.basemap_url)
    tiles = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
        f"img-src 'self' data:{tiles}; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def is_secure(request: Request, configuration: Configuration) -> bool:
    """Whether the browser speaks TLS, to us or to a trusted proxy."""
    told = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or (told == "https" and is_trusted(configuration, peer(request)))


def _tries_token(request: Request) -> bool:
    return "authorization" in request.headers or (request.method == "POST" and request.url.path == "/sign-in")


def _later(seconds: float, why: str) -> tuple[int, str, dict[str, str]]:
    return 429, why, {"retry-after": str(math.ceil(seconds))}


def _asked(scope: Scope) -> Scope:
    """HEAD is asked as GET where no route knows it; the server leaves the body out."""
    routes = scope["app"].routes if scope["method"] == "HEAD" and "app" in scope else ()
    alone = [route.matches(scope)[0] for route in routes]
    return {**scope, "method": "GET"} if alone and Match.FULL not in alone else scope


def _limited(receive: Receive) -> Receive:
    """A body that says no length is counted while it comes."""
    total = 0

    async def counted() -> Any:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MOST_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

    return counted
