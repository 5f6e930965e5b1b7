"""Questions to ArcGIS Online and Enterprise: forms, answered in JSON. Errors come with the status 200, too."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from registry.errors import StoreError

WAIT = httpx.Timeout(10, read=300, write=300)  # seconds
OF_RIGHTS = (401, 403, 498, 499)  # codes of errors: nobody, not allowed, a bad token, no token


def ask(
    where: str, form: Mapping[str, str], *, token: str, who: str, rights: str, files: Sequence[Any] = ()
) -> dict[str, Any]:
    """The answer to a form. `who` is asked, as errors say; `rights`: what to do where a token does not suffice.

    Raises StoreError where there is no answer, or an error in it.
    """
    data = {**form, "f": "json"} | ({"token": token} if token else {})
    try:
        answer = httpx.post(where, data=data, files=list(files) or None, timeout=WAIT)
        answer.raise_for_status()
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        do = f"check the address of {who} and that it runs"
        raise StoreError(f"{who} did not answer ({error})", where=where, do=do) from error
    if isinstance(told, dict) and "error" not in told and told.get("success") is not False:
        return told
    refusal = told.get("error", told) if isinstance(told, dict) else {"message": str(told)}
    texts = [str(refusal.get("message", "no reason")), *map(str, refusal.get("details") or ())]
    text = " ".join(" ".join(texts).split())[:300]
    do = rights if refusal.get("code") in OF_RIGHTS else f"see the log of {who}"
    raise StoreError(f"{who} refused ({text})", where=where, do=do)
