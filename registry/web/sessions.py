"""Signed cookies: a visitor keeps an id, and after signing in the mark of the token; the server keeps nothing.

The mark is a part of the token's hash, so a token that is taken out of the file ends its sessions at once.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import MutableHeaders

from registry.errors import OptionsError
from registry.files import atomic
from registry.settings import settings

COOKIE = "dlpk_session"


@dataclass(frozen=True)
class Session:
    """`id` is random and belongs to one browser; `mark` names the token it signed in with, "" none."""

    id: str
    mark: str = ""

    @classmethod
    def new(cls, mark: str = "") -> "Session":
        return cls(secrets.token_urlsafe(18), mark)


class Sessions:
    """Writes and reads cookies with one key."""

    def __init__(self, key: bytes, hours: float) -> None:
        self._key, self.seconds = key, int(hours * 3600)
        self._signer = URLSafeTimedSerializer(key, salt="session", signer_kwargs={"digest_method": hashlib.sha256})

    def read(self, cookie: str) -> Session | None:
        """None for a cookie that is old, damaged or somebody else's."""
        try:
            content: Any = self._signer.loads(cookie, max_age=self.seconds)
            return Session(str(content["id"]), str(content["mark"]))
        except (BadSignature, KeyError, TypeError):
            return None

    def write(self, session: Session, headers: MutableHeaders, *, secure: bool) -> None:
        value = self._signer.dumps({"id": session.id, "mark": session.mark})
        flags = f"Path=/; HttpOnly; SameSite=Lax; Max-Age={self.seconds}{'; Secure' if secure else ''}"
        headers.append("set-cookie", f"{COOKIE}={value}; {flags}")

    def csrf(self, session: Session) -> str:
        """What a form of this browser must bring back."""
        return hmac.new(self._key, f"csrf:{session.id}:{session.mark}".encode(), hashlib.sha256).hexdigest()

    def is_csrf(self, session: Session, told: str) -> bool:
        return hmac.compare_digest(self.csrf(session).encode(), told.encode())


def key() -> bytes:
    """`DLPK_BROWSE_KEY`, or a random one that is kept in the home folder for its owner alone."""
    if text := os.environ.get("DLPK_BROWSE_KEY"):
        if len(text) < 32:
            raise OptionsError("expected 32 characters or more", where="DLPK_BROWSE_KEY", do="use a random text")
        return text.encode()
    return _kept(settings().home / "browse.key")


def _kept(place: Path) -> bytes:
    if not place.exists():
        with atomic(place) as part:
            part.touch(0o600)
            part.write_bytes(secrets.token_hex(32).encode())
    return place.read_bytes()
