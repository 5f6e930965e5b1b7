"""What a Prefect server and a store must hold before prefect.yaml can be deployed: `python -m infra.bootstrap`.

Work pools with their job templates, queues and limits, automations, buckets. Idempotent: what is
missing is made, what differs is brought in line, nothing is deleted. `dlpk deploy` and `dlpk up` run it first.

    DLPK_POOLS            process    or docker, kubernetes: how workers run a flow run (infra/pools)
    DLPK_GPU_SLOTS        none       runs of the pool gpu at once, say the GPUs of all machines
    DLPK_POOL_ENV         none       variables of this environment that runs get, too, with commas
    DLPK_BUCKETS          none       buckets to make, with commas
    DLPK_ALERT_WEBHOOK    none       an address that hears of failed, crashed and late runs
    DLPK_ALERT_EMAIL      none       the same by mail: mailtos://user:password@host?from=a@b&to=c@d (Apprise)
"""

import os
import sys

from prefect.client.orchestration import SyncPrefectClient, get_client

from infra import automations, pools
from registry import buckets
from registry.errors import DlpkError


def ensure(client: SyncPrefectClient) -> list[str]:
    """Bring the server in line; what was done, in words."""
    kind, slots, names = (os.environ.get(f"DLPK_{name}", "") for name in ("POOLS", "GPU_SLOTS", "POOL_ENV"))
    done = pools.ensure(client, kind or "process", slots, names)
    return done + automations.ensure(client)


def main() -> None:
    with get_client(sync_client=True) as client:
        done = ensure(client)
    for name in filter(None, os.environ.get("DLPK_BUCKETS", "").split(",")):
        done += buckets.ensure(name.strip())
    sys.stdout.write("\n".join(done or ["everything is as it should be"]) + "\n")


if __name__ == "__main__":
    try:
        main()
    except DlpkError as error:
        sys.exit(f"{type(error).__name__}: {error}")
