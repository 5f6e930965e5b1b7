"""What others may react to: events on the Prefect server, which triggers and automations listen for.

    dlpk.scenes.done        a run over new scenes          model, results, failed, place
    dlpk.scenes.failed      some of them gave nothing      the same, scenes

Each has the resource id `dlpk.model.<name>`.
"""

from typing import Any

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL


def tell(event: str, name: str, payload: dict[str, Any]) -> None:
    """Emit an event of a model; nobody listens where no server is set."""
    if PREFECT_API_URL.value():
        resource = {"prefect.resource.id": f"dlpk.model.{name}", "prefect.resource.name": name}
        emit_event(event=event, resource=resource, payload=payload)
