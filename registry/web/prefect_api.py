"""Prefect's REST API: what can be triggered, what runs, and how far it is. No library of Prefect's is needed.

The address is `PREFECT_API_URL`, a password `PREFECT_API_AUTH_STRING` (name:password), a key `PREFECT_API_KEY`.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from registry.errors import DlpkError, NotFound, OptionsError, StoreError

Document = dict[str, Any]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
MOST_LINES = 200  # Prefect's own limit of a page
LONGEST = 30.0  # seconds; then whoever waits for the page hears of it
BUSY = (429, 502, 503, 504)  # 503 also when SQLite is locked
LOST = (
    httpx.ReadTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)  # it was there


class _Busy(StoreError):
    """It answered that it cannot now."""


class Rejected(DlpkError, ValueError):
    """Parameters that the server refused; `field` is where, "" unknown."""

    def __init__(self, what: str, field: str = "") -> None:
        super().__init__(what, where=field)
        self.field = field


def address() -> str:
    """ "" when no server is set."""
    return os.environ.get("PREFECT_API_URL", "").rstrip("/")


def page_of(run: str) -> str:
    """Prefect's own page of a run."""
    ui = os.environ.get("PREFECT_UI_URL", "").rstrip("/") or address().removesuffix("/api")
    return f"{ui}/runs/flow-run/{run}"


# -- deployments ---------------------------------------------------------------------------------------------------
def deployments() -> list[Document]:
    """By name; each with `flow_name`."""
    found: list[Document] = _ask("POST", "/deployments/filter", {"limit": 200, "sort": "NAME_ASC"})
    names = _flow_names({entry["flow_id"] for entry in found})
    return [{**entry, "flow_name": names.get(entry["flow_id"], "")} for entry in found]


def deployment(identity: UUID) -> Document:
    """With the schema of its parameters. Raises NotFound."""
    found: Document = _ask("GET", f"/deployments/{identity}")
    return {**found, "flow_name": _flow_names({found["flow_id"]}).get(found["flow_id"], "")}


def start(identity: UUID, parameters: Mapping[str, Any], by: str = "") -> Document:
    """A run with exactly these parameters. Raises Rejected where the server finds fault with one."""
    body = {
        "parameters": dict(parameters),
        "tags": [f"by {by}"] if by else [],
        "idempotency_key": str(uuid4()),  # asked again, the server starts no second one
    }
    found: Document = _ask("POST", f"/deployments/{identity}/create_flow_run", body)
    return found


# -- runs ------------------------------------------------------------------------------------------------------------
def runs(*, deployment_id: str = "", limit: int = 50, offset: int = 0) -> list[Document]:
    """Newest first."""
    chosen = {"deployments": {"id": {"any_": [deployment_id]}}} if deployment_id else {}
    body = {**chosen, "limit": limit, "offset": offset, "sort": "EXPECTED_START_TIME_DESC"}
    body["flow_runs"] = {"state": {"name": {"not_any_": ["Scheduled"]}}} if not deployment_id else {}
    found: list[Document] = _ask("POST", "/flow_runs/filter", body)
    return found


def run(identity: UUID) -> Document:
    """Raises NotFound."""
    found: Document = _ask("GET", f"/flow_runs/{identity}")
    return found


def log(identity: UUID) -> list[Document]:
    """The last lines, oldest first, {timestamp, level, message}."""
    body = {"logs": _of_run(identity), "sort": "TIMESTAMP_DESC", "limit": MOST_LINES}
    found: list[Document] = _ask("POST", "/logs/filter", body)
    return found[::-1]


def artifacts(identity: UUID) -> list[Document]:
    """Progress, markdown and tables of a run, oldest first; of many the last."""
    body = {"artifacts": _of_run(identity), "limit": 100, "sort": "CREATED_DESC"}
    found: list[Document] = _ask("POST", "/artifacts/filter", body)
    return sorted(found, key=lambda entry: str(entry.get("created", "")))


def steps(identity: UUID) -> list[Document]:
    """The task runs of a run, in the order of their start."""
    body = {"flow_runs": {"id": {"any_": [str(identity)]}}, "limit": 200, "sort": "EXPECTED_START_TIME_ASC"}
    found: list[Document] = _ask("POST", "/task_runs/filter", body)
    return found


def cancel(identity: UUID) -> Document:
    """Ask the worker to end a run; one that waits ends at once. Raises OptionsError when it is over."""
    state = (run(identity).get("state_type") or "").upper()
    if state in FINAL:
        raise OptionsError("the run is over", got=state.lower())
    wanted = "CANCELLED" if state in ("SCHEDULED", "PENDING", "PAUSED") else "CANCELLING"
    found: Document = _ask("POST", f"/flow_runs/{identity}/set_state", {"state": {"type": wanted}, "force": False})
    if found.get("status") not in ("ACCEPT", "WAIT"):
        raise OptionsError("Prefect refused", got=(found.get("details") or {}).get("reason") or found.get("status"))
    return found


# -- speaking --------------------------------------------------------------------------------------------------------
def _of_run(identity: UUID) -> Document:
    return {"flow_run_id": {"any_": [str(identity)]}}


def _flow_names(identities: set[str]) -> dict[str, str]:
    if not identities:
        return {}
    found = _ask("POST", "/flows/filter", {"flows": {"id": {"any_": sorted(identities)}}, "limit": 200})
    return {entry["id"]: entry["name"] for entry in found}


def _ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Asked again while the server is busy or breaks off: what is sent may be sent twice."""
    if not (url := address()):
        do = "start the page with PREFECT_API_URL=http://127.0.0.1:4200/api"
        raise StoreError("no Prefect server is set", where="PREFECT_API_URL", do=do)
    client = _client(url, os.environ.get("PREFECT_API_AUTH_STRING", ""), os.environ.get("PREFECT_API_KEY", ""))
    again = Retrying(
        retry=retry_if_exception_type((_Busy, *LOST)),
        wait=wait_random_exponential(multiplier=0.2, max=3),
        stop=stop_after_delay(LONGEST),
        reraise=True,
    )
    try:
        return again(lambda: _content(client.request(method, f"{url}{path}", json=body)))
    except httpx.HTTPError as error:
        what = f"the Prefect server does not answer ({type(error).__name__})"
        raise StoreError(what, where=url, do="start it, or correct PREFECT_API_URL") from error


@lru_cache(maxsize=4)
def _client(_url: str, password: str, key: str) -> httpx.Client:
    name, _, secret = password.partition(":")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(auth=(name, secret) if password else None, headers=headers, timeout=20)


def _content(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else {}
    reason = _reason(answer)
    if answer.status_code == 404:
        raise NotFound(reason or "Prefect has no such thing")
    if answer.status_code in (409, 422):
        raise _rejected(reason)
    do = "check PREFECT_API_AUTH_STRING" if answer.status_code in (401, 403) else "see the log of the Prefect server"
    failed = _Busy if answer.status_code in BUSY else StoreError
    raise failed(f"Prefect failed ({answer.status_code} {reason})", where=address(), do=do)


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        return answer.text[:300]
    return detail if isinstance(detail, str) else str(detail)[:600]


def _rejected(reason: str) -> Rejected:
    """Prefect says: Validation failed for field 'train.epochs'. Failure reason: 0 is less than the minimum of 1."""
    found = re.search(r"field '([^']*)'\.? Failure reason: (.*)", reason, re.DOTALL)
    return Rejected(found[2].strip(), found[1]) if found else Rejected(reason)
