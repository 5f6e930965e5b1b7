"""The Prefect server's API over plain HTTP, with the address and the words of the settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from registry.errors import OptionsError

Ask = Callable[..., Any]


@contextmanager
def server(seconds: float = 20) -> Iterator[Ask]:
    """`ask(path)` gets, `ask(path, document)` posts; what came back. Raises OptionsError, httpx.HTTPError."""
    url, word = PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value()
    if not url:
        raise OptionsError("no Prefect server is set", where="PREFECT_API_URL", do=". ~/.dlpk/local/environment")
    name, _, secret = str(word or "").partition(":")
    with httpx.Client(base_url=str(url), auth=(name, secret) if name else None, timeout=seconds) as client:

        def ask(path: str, document: Any = None) -> Any:
            answer = client.get(path) if document is None else client.post(path, json=document)
            return answer.raise_for_status().json()

        yield ask


def online(ask: Ask, pool: str) -> int:
    """Workers that sent a heartbeat lately."""
    return sum(worker["status"] == "ONLINE" for worker in ask(f"/work_pools/{pool}/workers/filter", {}))
