"""Flows started from the command line: here, or on the Prefect server."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from flows.patience import patiently
from registry.errors import DlpkError, NotFound, OptionsError, StoreError
from registry.parameters import laid_over, refuse_unknown

START = "start it (prefect server start), or correct PREFECT_API_URL"
SECONDS = 2.0


def called(flow: Flow[..., str], *arguments: Any) -> str:
    """A flow run where a server is set, the plain function where none is: Prefect would start one of its own."""
    if not (url := PREFECT_API_URL.value()):
        return flow.fn(*arguments)
    _reach(url)
    return flow(*arguments)


def trigger(name: str, changes: Mapping[str, Any], *, wait: bool = False) -> dict[str, Any]:
    """Start a deployment with some changes (`{"recipe.train.max_epochs": 30}`); the run's name, state and page."""
    url = server()
    with get_client(sync_client=True) as client:
        deployment = _deployment(client, name)
        refuse_unknown(deployment.parameter_openapi_schema or {}, changes)
        parameters = laid_over(deployment.parameters or {}, changes)
        try:
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        except PrefectHTTPStatusError as error:
            raise OptionsError(_reason(error), where=name, do="correct the parameters") from error
        run = _ended(client, run) if wait else run
    page = f"{PREFECT_UI_URL.value() or url.rstrip('/').removesuffix('/api')}/runs/flow-run/{run.id}"
    state = run.state_name or "Scheduled"
    if wait and not (run.state and run.state.is_completed()):
        raise DlpkError(f"ended {state}: {run.state and run.state.message}", where=run.name, do=f"see {page}")
    return {"run": run.name, "id": str(run.id), "state": state, "page": page}


def server() -> str:
    """The address of a Prefect server that answers. Raises OptionsError where none is set, StoreError for silence."""
    if not (url := PREFECT_API_URL.value()):
        do = "export PREFECT_API_URL=http://127.0.0.1:4200/api, or run the flow here: dlpk retrain recipe.yaml"
        raise OptionsError("no Prefect server is set", where="PREFECT_API_URL", do=do)
    _reach(url)
    return str(url)


def _reach(url: str) -> None:
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise StoreError(f"the Prefect server does not answer ({error})", where=url, do=START) from error


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """By `flow/deployment`, or by the deployment's name where only one flow has it."""
    found: list[DeploymentResponse]
    if "/" in name:
        try:
            found = [client.read_deployment_by_name(name)]
        except ObjectNotFound:
            found = []
    else:
        found = client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))
    if len(found) != 1:
        known = ", ".join(sorted(d.name for d in client.read_deployments())) or "none yet"
        what = "several flows have a deployment of this name" if found else "there is no such deployment"
        do = "name it as flow/deployment, or run dlpk deploy"
        raise NotFound(f"{what}; the server has {known}", where=name, do=do)
    return found[0]


def _ended(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    while not (run.state and run.state.is_final()):
        time.sleep(SECONDS)
        run = patiently(partial(_read, client, run))
    return run


def _read(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    try:
        return client.read_flow_run(run.id)
    except ObjectNotFound as error:
        raise NotFound("the run was deleted", where=run.name) from error
    except httpx.HTTPError as error:
        raise StoreError(f"the Prefect server does not answer ({error})", where=run.name, do=START) from error


def _reason(error: PrefectHTTPStatusError) -> str:
    try:
        return str(error.response.json()["detail"])
    except (ValueError, KeyError):
        return str(error)
