"""A verb in an interpreter of its own: `python -m tasks.cli --json-progress VERB ...`.

That frees its memory (and the GPU's) when it ends, lets a time limit really end it, leaves nothing behind when the flow
is killed, and keeps the forks of data loaders away from Prefect, whose at-exit hooks break them.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import IO, Any

from flows.gpus import Gpu, held
from flows.listening import say
from registry import errors
from registry.errors import DlpkError
from tasks.cli import PARENT
from tasks.console import Listener, event_of

KEPT_LINES = 15
ASKS = ("evaluate", "compare")  # verbs that are told where to compute by a flag, and else stay on the CPU
DEVICE = ("--device", "-2")  # the GPU that it sees; the CPU where torch finds none


def run(verb: str, *arguments: object, listen: Listener, gpu: Gpu | None = None) -> dict[str, Any]:
    """The verb's record. Raises the verb's own DlpkError; its whole process group is gone when this returns.

    It sees only `gpu`, and holds its lock until its last process is gone.
    """
    command = [sys.executable, "-m", "tasks.cli", "--json-progress", verb, *map(str, arguments)]
    environment = {**os.environ, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    environment |= gpu.environment if gpu else {}
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            start_new_session=True,
            pass_fds=(gpu.handle,) if gpu else (),
        )
        try:
            assert process.stdout
            last = _heard(process.stdout, listen)
            process.wait()
        finally:
            _end(process)
        return _outcome(verb, process.returncode, last, complaints)


def run_on_gpu(verb: str, *arguments: object, listen: Listener) -> dict[str, Any]:
    """The same, with a GPU of this machine for itself as soon as one is free; at once where there is none."""
    with held() as gpu:
        return run(verb, *arguments, *((DEVICE if gpu else ()) if verb in ASKS else ()), listen=listen, gpu=gpu)


def _heard(lines: Iterable[bytes], listen: Listener) -> Mapping[str, Any]:
    """Pass every event on; the line that is none is the last."""
    last: Mapping[str, Any] = {}
    for line in lines:
        message = json.loads(line)
        if event := event_of(message):
            listen(event)
        elif "warning" in message:
            say(message["warning"], logging.WARNING)
        else:
            last = message
    return last


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # every product is made whole or not at all: there is nothing to save
    process.wait()
    if process.stdout:
        process.stdout.close()


def _outcome(verb: str, code: int, last: Mapping[str, Any], complaints: IO[bytes]) -> dict[str, Any]:
    if "result" in last:
        return dict(last["result"])
    if "error" in last:
        kind = getattr(errors, last["error"]["type"], DlpkError)
        raise kind(last["error"]["message"])
    complaints.seek(0)
    said = "\n  ".join(complaints.read().decode(errors="replace").splitlines()[-KEPT_LINES:])
    if code == -signal.SIGKILL:
        do = "it probably ran out of memory: make the batch or the tiles smaller"
        raise DlpkError("was killed by the system", where=verb, do=do)
    raise DlpkError(f"stopped unexpectedly with exit code {code}", where=verb, do=f"it said:\n  {said}")
