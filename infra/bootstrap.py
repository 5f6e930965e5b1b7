# ruff: noqa: INP001  a script, not a package
"""What a Prefect server must hold before prefect.yaml can be deployed: work pools, their queues, the zombie detector.

    python infra/bootstrap.py        (`dlpk deploy` runs it first)

Idempotent: what is missing is made, what is there is brought in line, nothing is deleted.
"""

import sys
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

POOLS = {"gpu": "retraining and inference; each host's worker runs with --limit 1", "cpu": "what needs no GPU"}
QUEUES = {"interactive": 1, "train": 2, "inference": 3}  # name -> priority, 1 is served first
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")
ZOMBIES = AutomationCore(
    name="crash runs whose heartbeat stopped",
    description="A host that dies leaves its runs Running for ever; deployments beat every 30 s (job variable)",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.flow-run.heartbeat"},
        expect={f"prefect.flow-run.{end}" for end in ("heartbeat", *ENDED)},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=90),
    ),
    actions=[ChangeFlowRunState(state=StateType.CRASHED, message="its heartbeat stopped")],
)


def ensure(client: SyncPrefectClient) -> None:
    """Bring the server in line."""
    for name, description in POOLS.items():
        _pool(client, name, description)
        for queue, priority in QUEUES.items():
            _queue(client, name, queue, priority)
    if not client.read_automations_by_name(ZOMBIES.name):
        client.create_automation(ZOMBIES)


def _pool(client: SyncPrefectClient, name: str, description: str) -> None:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=name, type="process", description=description, base_job_template=template)
        )
    else:
        client.update_work_pool(name, WorkPoolUpdate(description=description))


def _queue(client: SyncPrefectClient, pool: str, name: str, priority: int) -> None:
    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        client.create_work_queue(name, priority=priority, work_pool_name=pool)
    else:
        client.update_work_queue(queue.id, priority=priority)


if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        ensure(client)
    sys.stdout.write(f"work pools {', '.join(POOLS)} with queues {', '.join(QUEUES)}: ready\n")
