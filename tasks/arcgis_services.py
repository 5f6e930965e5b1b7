"""What layers and image services of ArcGIS have in common: an address with the server's own parameters, and a token.

A token is one of DLPK_ARCGIS_TOKENS, by host; it goes to that host alone.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from registry.errors import OptionsError
from registry.settings import settings


def address_of(where: str) -> tuple[str, dict[str, str]]:
    """The address alone, and the parameters behind its ?. Raises OptionsError for a token among these."""
    parts = urlsplit(where)
    url = parts._replace(path=parts.path.rstrip("/"), query="", fragment="").geturl()
    if "token" in (given := dict(parse_qsl(parts.query))):
        do = f"leave it out and set DLPK_ARCGIS_TOKENS={parts.hostname}=TOKEN"
        raise OptionsError("a token in an address would be kept with what is made of it", where=url, do=do)
    return url, given


def token_for(url: str) -> str:
    """The token for its host, or ""."""
    return settings().arcgis_tokens.get(str(urlsplit(url).hostname), "")


def told_by(url: str, form: Mapping[str, str]) -> dict[str, Any]:
    """What the server answers to a form. Raises StoreError where it does not, or refuses."""
    from registry.arcgis_rest import ask  # only now: httpx takes longer to load than all that loads this module

    rights = f"set DLPK_ARCGIS_TOKENS={urlsplit(url).hostname}=TOKEN, with one of a user who may see it"
    return ask(url, form, token=token_for(url), who="the server", rights=rights)
