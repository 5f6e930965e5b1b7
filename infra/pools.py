"""Work pools, their queues and their job templates, of one kind: process, docker or kubernetes.

The templates are files (infra/pool_templates/<kind>.json), so that an operator can read and change them. A GPU pool is
the same template with other defaults.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from registry.errors import OptionsError

TEMPLATES = Path(__file__).parent / "pool_templates"
POOLS = {"gpu": "retraining and inference; each worker holds one GPU", "cpu": "what needs no GPU"}
QUEUES = {"interactive": 1, "train": 2, "inference": 3}  # name -> priority, 1 is served first
DEVICE = {"driver": "nvidia", "count": 1, "capabilities": [["gpu"]]}
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
DEFAULTS: Mapping[tuple[str, str], Mapping[str, Any]] = {  # (kind, pool) -> what differs from the file
    ("docker", "gpu"): {"image": "dlpk-flows:gpu", "container_create_kwargs": {"device_requests": [DEVICE]}},
    ("kubernetes", "gpu"): {
        "image": "dlpk-flows:gpu",
        "gpus": 1,
        "memory_limit": "32Gi",
        "node_selector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [TAINT],
    },
}


def template(kind: str, pool: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """The base job template of a pool, whose runs get variables of these `names` out of secrets (`ensure`).

    Raises OptionsError for a kind that has no file.
    """
    known = sorted(path.stem for path in TEMPLATES.glob("*.json"))
    if kind not in known:
        raise OptionsError(f"expected one of {', '.join(known)}", where="DLPK_POOLS", got=kind)
    document: dict[str, Any] = json.loads((TEMPLATES / f"{kind}.json").read_text(encoding="utf-8"))
    for name, value in DEFAULTS.get((kind, pool), {}).items():
        variable = document["variables"]["properties"][name]
        old = variable.get("default")
        variable["default"] = {**old, **value} if isinstance(old, dict) else value
    kept = {name: f"{{{{ prefect.blocks.secret.{_block(name)} }}}}" for name in names}
    document["variables"]["properties"]["env"]["default"] |= kept
    return document


def ensure(client: SyncPrefectClient, kind: str, slots: str = "", names: str = "") -> list[str]:
    """Make or mend both pools and their queues; what was done, in words.

    `slots`: of the pool gpu; empty = as it is. `names`: of variables of this environment, with commas, that runs get,
    too: those in containers have none of their worker's. Raises OptionsError for one that is not set.
    """
    limits = {"gpu": _slots(slots)} if slots else {}
    given = {name: _value(name) for name in filter(None, map(str.strip, names.split(",")))}
    templates = {pool: template(kind, pool, given) for pool in POOLS}
    done = [told for name, value in given.items() for told in _secret(name, value)]
    for pool, description in POOLS.items():
        done += _pool(client, templates[pool], kind, pool, description)
        if pool in limits and client.read_work_pool(pool).concurrency_limit != limits[pool]:
            client.update_work_pool(pool, WorkPoolUpdate(concurrency_limit=limits[pool]))
            done.append(f"work pool {pool}: {slots} runs at once")
        for queue, priority in QUEUES.items():
            done += _queue(client, pool, queue, priority)
    return done


def _value(name: str) -> str:
    if name not in os.environ:
        raise OptionsError(f"{name} is not set", where="DLPK_POOL_ENV", do="set it, or take it off the list")
    return os.environ[name]


def _secret(name: str, value: str) -> list[str]:
    """Kept encrypted by the server, whatever it is: an address may hold a password."""
    with suppress(ValueError):  # there is none yet
        known = Secret.load(_block(name))
        if isinstance(known, Secret) and known.get() == value:
            return []
    Secret(value=value).save(_block(name), overwrite=True)
    return [f"variable {name}: kept for runs"]


def _block(variable: str) -> str:
    return f"runs-{variable.lower().replace('_', '-')}"


def _slots(text: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise OptionsError("expected the number of runs at once, 1 or more", where="DLPK_GPU_SLOTS", got=text)
    return int(text)


def _pool(client: SyncPrefectClient, wanted: dict[str, Any], kind: str, name: str, description: str) -> list[str]:
    try:
        known = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, description=description, base_job_template=wanted))
        return [f"work pool {name}: made, {kind}"]
    if known.type != kind:  # the server cannot change it, and its workers and deployments hang on it
        do = f"set DLPK_POOLS={known.type}, or delete the pool: prefect work-pool delete {name}"
        raise OptionsError(f"the work pool {name} is there already, of another kind", got=known.type, do=do)
    if known.base_job_template == wanted and known.description == description:
        return []
    client.update_work_pool(name, WorkPoolUpdate(description=description, base_job_template=wanted))
    return [f"work pool {name}: brought in line"]


def _queue(client: SyncPrefectClient, pool: str, name: str, priority: int) -> list[str]:
    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        client.create_work_queue(name, priority=priority, work_pool_name=pool)
        return [f"queue {pool}/{name}: made"]
    if queue.priority == priority:
        return []
    client.update_work_queue(queue.id, priority=priority)
    return [f"queue {pool}/{name}: priority {priority}"]
