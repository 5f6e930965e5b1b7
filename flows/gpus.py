"""One run, one GPU: a device is taken by a lock on a file of this machine, which the kernel gives back at any death.

    $DLPK_HOME/gpus/<device>.lock      held by the flow and by the child interpreter that computes on it

No server is asked, so none can forget that a slot is taken, or that it is free (docs/decisions/0009-gpus.md). Only what
computes waits: a finished step is found before. Devices are counted, or named by DLPK_GPUS (`0,1`; `none`).
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.listening import run_tags, say
from registry.locks import locked
from registry.settings import settings

SECONDS = 0.5  # between two looks for a free device


@dataclass(frozen=True)
class Gpu:
    """A device that is ours; the open file is its lock, and whoever inherits that holds it, too."""

    name: str
    handle: int

    @property
    def environment(self) -> dict[str, str]:
        """For the child: it sees this device only, as number 0."""
        return {"CUDA_VISIBLE_DEVICES": self.name}


def devices() -> tuple[str, ...]:
    """The devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    for variable in ("DLPK_GPUS", "CUDA_VISIBLE_DEVICES"):
        if (named := os.environ.get(variable)) is not None:
            names = (name.strip() for name in named.split(","))
            return tuple(name for name in names if name and name not in ("none", "-1"))
    return tuple(map(str, range(_counted())))


@contextmanager
def held() -> Iterator[Gpu | None]:
    """A device as soon as one is free; None at once where the machine has none."""
    if not (names := devices()):
        yield None
        return
    gpu = _taken(names)
    try:
        yield gpu
    finally:
        os.close(gpu.handle)


def holders() -> dict[str, Mapping[str, Any] | None]:
    """Each device and who has it now: pid, flow run and since when; None where nobody does."""
    return {name: _holder(name) for name in devices()}


def _taken(names: tuple[str, ...]) -> Gpu:
    told = False
    while True:
        for name in names:
            if gpu := _try(name):
                return gpu
        if not told:
            say(f"waits for a GPU: all of {', '.join(names)} are in use")
            told = True
        time.sleep(SECONDS)


def _try(name: str) -> Gpu | None:
    handle = os.open(_file(name), os.O_RDWR | os.O_CREAT, 0o644)
    if not locked(handle):
        os.close(handle)
        return None
    facts = {"pid": os.getpid(), "since": time.time(), **run_tags()}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(facts).encode(), 0)
    return Gpu(name, handle)


def _holder(name: str) -> Mapping[str, Any] | None:
    handle = os.open(_file(name), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        return None if locked(handle, shared=True) else dict(json.loads(os.pread(handle, 10_000, 0) or b"{}"))
    finally:
        os.close(handle)


def _file(name: str) -> Path:
    folder = settings().home / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace('/', '-')}.lock"


def _counted() -> int:
    """By the driver; 0 without nvidia-ml-py (MLflow's system metrics want it, too) or without a driver."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
