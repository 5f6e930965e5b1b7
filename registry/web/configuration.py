"""What the page asks of its visitors, out of a YAML file: `DLPK_BROWSE`, or `browse.yaml` in the home folder.

    tokens:                                     # `dlpk token NAME --role ROLE` adds one; only its hash is kept
      - {name: anna, role: promote, sha256: 9f86...}
    proxy:                                      # sign-in by a reverse proxy in front
      trusted: [10.0.0.5, 192.168.0.0/24]       # only these may say who is asking
      user_header: X-Forwarded-User
      roles: {anna: promote, "*": browse}
    hosts: [models.example.org]                 # names under which the page is reached
    anonymous: browse                           # what those may do who have not signed in; empty: nothing

Without the file, and without tokens or proxy in it, the page serves this machine alone; whoever is there may do all.
Where secrets come by the environment, `DLPK_BROWSE_TOKEN` is the token of one who may do all, called operator.
"""

import hashlib
import ipaddress
import os
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from registry.errors import Conflict, OptionsError
from registry.files import atomic
from registry.settings import settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
OPERATOR = "operator"  # whose token comes by the environment
SHORTEST = 32  # letters of it, as nothing but the number of guesses protects a page
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Role(StrEnum):
    """What somebody may do; each may do what those before it may."""

    BROWSE = "browse"
    TRIGGER = "trigger"
    PROMOTE = "promote"

    def may(self, needed: "Role") -> bool:
        ladder = list(Role)
        return ladder.index(self) >= ladder.index(needed)


class Part(BaseModel):
    """Unknown keys are refused: a misspelt one would leave a door open."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Token(Part):
    name: str = Field(min_length=1, max_length=100, description="whom the history names")
    role: Role
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the token")


class Proxy(Part):
    trusted: tuple[Annotated[Network, BeforeValidator(ipaddress.ip_network)], ...] = Field(
        min_length=1, description="addresses of the proxies"
    )
    user_header: str = Field("X-Forwarded-User", pattern="^[A-Za-z0-9-]+$", description="header with the user's name")
    roles: dict[str, Role] = Field({}, description='role of each user; "*" stands for all others')


class Limits(Part):
    """A visitor's requests in a minute; ten seconds' worth may come at once."""

    requests: int = Field(1200, ge=1, description="of any kind; a page with pictures is about 30")
    changes: int = Field(60, ge=1, description="that promote, roll back, start or cancel")
    sign_ins: int = Field(12, ge=1, description="attempts to sign in, and requests with a wrong token")


class Configuration(Part):
    tokens: tuple[Token, ...] = ()
    proxy: Proxy | None = None
    hosts: tuple[str, ...] = Field((), description="host names without port; none: any, on loopback only its own")
    anonymous: Role | None = Field(None, description="role of those who have not signed in")
    session_hours: float = Field(12, gt=0, le=24 * 31, description="until one must sign in again")
    limits: Limits = Limits()
    basemap_url: str = Field("", description="map tiles, https://host/{z}/{x}/{y}.png; none: no request leaves here")
    basemap_attribution: str = ""

    @field_validator("basemap_url")
    @classmethod
    def _tiles(cls, url: str) -> str:
        if url and not (url.startswith(("https://", "http://", "/")) and all(f"{{{k}}}" in url for k in "zxy")):
            raise ValueError("expected https://host/{z}/{x}/{y}.png")
        return url

    @model_validator(mode="after")
    def _names_are_single(self) -> Self:
        names = [token.name for token in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have one name")
        return self

    @property
    def open(self) -> bool:
        """Nobody needs to sign in: the page serves this machine alone."""
        return not self.tokens and self.proxy is None


def path() -> Path:
    return Path(os.environ.get("DLPK_BROWSE") or settings().home / "browse.yaml").expanduser()


def read() -> Configuration:
    """Raises OptionsError that names every wrong field."""
    document = _document(path())
    if url := os.environ.get("DLPK_BASEMAP_URL"):
        document["basemap_url"] = url
    known = _checked(document)
    if token := os.environ.get("DLPK_BROWSE_TOKEN"):
        return known.model_copy(update={"tokens": (*known.tokens, _operator(token, known.tokens))})
    return known


def add_token(name: str, role: Role) -> str:
    """A new token for somebody, of 256 random bits. Raises Conflict when the name has one."""
    document, place = _document(path()), path()
    if any(entry.name == name for entry in _checked(document).tokens):
        raise Conflict("has a token already", where=name, do=f"remove it from {place} first")
    token = f"dlpk_{secrets.token_urlsafe(32)}"
    document["tokens"] = [*document.get("tokens", ()), {"name": name, "role": str(role), "sha256": digest(token)}]
    _checked(document)
    with atomic(place) as part:
        part.touch(0o600)
        part.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return token


def digest(token: str) -> str:
    """Tokens are random, so a plain hash keeps them."""
    return hashlib.sha256(token.encode()).hexdigest()


def _operator(token: str, others: tuple[Token, ...]) -> Token:
    if len(token) < SHORTEST or any(other.name == OPERATOR for other in others):
        do = f"give {SHORTEST} random letters or more, and call nobody in the file {OPERATOR}"
        raise OptionsError("cannot be the operator's token", where="DLPK_BROWSE_TOKEN", do=do)
    return Token(name=OPERATOR, role=Role.PROMOTE, sha256=digest(token))


def _document(place: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(place.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError("is no valid YAML", where=place, do="correct the file") from error
    if not isinstance(document, dict):
        raise OptionsError("expected `key: value` lines", where=place)
    return document


def _checked(document: dict[str, Any]) -> Configuration:
    try:
        return Configuration.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise OptionsError("; ".join(problems), where=path()) from error
