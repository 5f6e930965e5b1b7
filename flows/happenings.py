"""What others may react to: events on the Prefect server, which triggers and automations listen for.

    dlpk.model.published    a new version                  name, version, ref, sha256
    dlpk.model.promoted     a new champion, by any hand    the same, why
    dlpk.model.drifted      it scores surely less          the same, why, metric, before, now
    dlpk.inputs.unchanged   no retraining was needed       the same
    dlpk.scenes.done        a run over new scenes          model, results, failed, place
    dlpk.scenes.failed      some of them gave nothing      the same, scenes

Each has the resource id `dlpk.model.<name>`.
"""

from typing import Any

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from registry.catalog import Version


def tell(event: str, name: str, payload: dict[str, Any]) -> None:
    """Emit an event of a model; nobody listens where no server is set."""
    if PREFECT_API_URL.value():
        resource = {"prefect.resource.id": f"dlpk.model.{name}", "prefect.resource.name": name}
        emit_event(event=event, resource=resource, payload=payload)


def tell_of(event: str, version: Version, **more: Any) -> None:
    """The same, about a version."""
    facts = {"name": version.name, "version": version.number, "ref": version.ref, "sha256": version.sha256}
    tell(event, version.name, {**facts, **more})
