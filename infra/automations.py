"""What the Prefect server does by itself: end runs whose machine died, tell people of what went wrong.

Each automation is known by its name. One that differs from what stands here is replaced in place, others are left
alone.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from pydantic import SecretStr

ENDED = ("Completed", "Failed", "Cancelled", "Crashed")
RUNS = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
ZOMBIES = AutomationCore(
    name="crash runs whose heartbeat stopped",
    description="A host that dies leaves its runs Running for ever; deployments beat every 30 s (job variable)",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.flow-run.heartbeat"},
        expect={f"prefect.flow-run.{end}" for end in ("heartbeat", *ENDED)},
        match=RUNS,
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=90),
    ),
    actions=[ChangeFlowRunState(state=StateType.CRASHED, message="its heartbeat stopped")],
)
TOLD = {"failed": "Failed", "crashed": "Crashed", "late": "Late"}  # word of the message -> state of the run
WEBHOOK, EMAIL = "dlpk-alerts", "dlpk-alert-mail"


def ensure(client: SyncPrefectClient) -> list[str]:
    """Bring the automations in line; what was done, in words."""
    wanted = [ZOMBIES]
    if address := os.environ.get("DLPK_ALERT_WEBHOOK"):
        block = _webhook(address)
        wanted += [_telling(word, state, CallWebhook(block_document_id=block, payload=_payload(word)), "tell")
                   for word, state in TOLD.items()]  # fmt: skip
    if address := os.environ.get("DLPK_ALERT_EMAIL"):
        block = _email(address)
        wanted += [_telling(word, state, _mail(block, word), "mail") for word, state in TOLD.items()]
    return [line for automation in wanted for line in _ensure(client, automation)]


def _ensure(client: SyncPrefectClient, wanted: AutomationCore) -> list[str]:
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return [f"automation {wanted.name!r}: made"]
    first, *twins = known
    for twin in twins:  # two bootstraps at the same moment
        client.delete_automation(twin.id)
    if _essence(first) == _essence(wanted):
        return [f"automation {wanted.name!r}: a twin removed"] if twins else []
    client.update_automation(first.id, wanted)
    return [f"automation {wanted.name!r}: brought in line"]


def _essence(automation: AutomationCore) -> dict[str, Any]:
    """What counts, in a form in which sets and server-side ids compare."""
    document = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    return dict(_sorted({**document, "trigger": {k: v for k, v in document["trigger"].items() if k != "id"}}))


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=str)
    return value


def _payload(word: str) -> str:
    """JSON of whatever the run is called."""
    text = "'Flow run ' ~ flow.name ~ '/' ~ flow_run.name ~ ' is " + word + ": ' ~ (flow_run|ui_url)"
    told = {"what": f"'{word}'", "run": "flow_run.name", "flow": "flow.name", "id": "flow_run.id|string", "text": text}
    return "{" + ", ".join(f'"{key}": {{{{ ({value})|tojson }}}}' for key, value in told.items()) + "}"


def _mail(block: UUID, word: str) -> SendNotification:
    body = "Flow run {{ flow.name }}/{{ flow_run.name }} is " + word + ".\n\n{{ flow_run|ui_url }}"
    return SendNotification(block_document_id=block, subject=f"A flow run is {word}", body=body)


def _telling(word: str, state: str, action: CallWebhook | SendNotification, verb: str) -> AutomationCore:
    return AutomationCore(
        name=f"{verb} of {word} runs",
        description=f"Somebody hears of every run that is {word}",
        trigger=EventTrigger(
            posture=Posture.Reactive, expect={f"prefect.flow-run.{state}"}, match=RUNS,
            for_each={"prefect.resource.id"}, threshold=1, within=timedelta(seconds=0),
        ),
        actions=[action],
    )  # fmt: skip


def _email(address: str) -> UUID:
    """Slack's block by name; any other address it hands to Apprise as it is, mailtos:// among them."""
    made = SlackWebhook(url=SecretStr(address)).save(EMAIL, overwrite=True)
    assert isinstance(made, UUID)
    return made


def _webhook(address: str) -> UUID:
    """The block that holds the address: it may be a secret, so it is kept encrypted."""
    made = Webhook(url=address).save(WEBHOOK, overwrite=True)
    assert isinstance(made, UUID)
    return made
