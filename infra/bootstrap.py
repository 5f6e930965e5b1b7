"""What a Prefect server and a store must hold before prefect.yaml can be deployed: `python -m infra.bootstrap`.

Work pools with their job templates, queues, global concurrency limits, automations, buckets. Idempotent: what is
missing is made, what differs is brought in line, nothing is deleted. `dlpk deploy` and `dlpk up` run it first.

    DLPK_POOLS            process    or docker, kubernetes: how workers run a flow run (infra/pools)
    DLPK_GPU_SLOTS        1          GPUs of all machines together: slots of the limit `gpu`
    DLPK_BUCKETS          none       buckets to make, with commas
    DLPK_ALERT_WEBHOOK    none       an address that hears of failed, crashed and late runs
    DLPK_ALERT_EMAIL      none       the same by mail: mailtos://user:password@host?from=a@b&to=c@d (Apprise)
"""

import os
import sys

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound

from infra import automations, pools
from registry import buckets

LIMITS = {"promote": 1}  # name -> slots; the GPUs come on top


def ensure(client: SyncPrefectClient) -> list[str]:
    """Bring the server in line; what was done, in words."""
    done = pools.ensure(client, os.environ.get("DLPK_POOLS") or "process")
    for name, slots in {**LIMITS, "gpu": int(os.environ.get("DLPK_GPU_SLOTS") or 1)}.items():
        done += _limit(client, name, slots)
    return done + automations.ensure(client)


def _limit(client: SyncPrefectClient, name: str, slots: int) -> list[str]:
    try:
        known = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
        return [f"limit {name}: {slots}"]
    if known.limit == slots and known.active:
        return []
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots, active=True))
    return [f"limit {name}: {slots}"]


def main() -> None:
    with get_client(sync_client=True) as client:
        done = ensure(client)
    for name in filter(None, os.environ.get("DLPK_BUCKETS", "").split(",")):
        done += buckets.ensure(name.strip())
    sys.stdout.write("\n".join(done or ["everything is as it should be"]) + "\n")


if __name__ == "__main__":
    main()
