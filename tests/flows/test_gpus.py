"""One run, one device: real processes, whatever they die of."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flows import child, gpus
from registry.errors import DlpkError

CHECKOUT = Path(__file__).parents[2]
HOLDS = """
    import subprocess, time
    from flows.gpus import held
    with held() as gpu:
        sleeper = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, pass_fds=(gpu.handle,))
        print(gpu.name, sleeper.pid, flush=True)
        time.sleep(60)
"""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPK_GPUS", "0, GPU-1f")


def holder() -> tuple["subprocess.Popen[str]", str, int]:
    """A process that holds a device, with a child that computes on it."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout
    name, pid = process.stdout.readline().split()
    return process, name, int(pid)


@pytest.mark.parametrize(
    ("variable", "text", "names"),
    [
        ("DLPK_GPUS", "0, GPU-1f", ("0", "GPU-1f")),
        ("DLPK_GPUS", "none", ()),
        ("CUDA_VISIBLE_DEVICES", "1,2", ("1", "2")),
        ("CUDA_VISIBLE_DEVICES", "-1", ()),
    ],
)
def test_devices_are_those_that_are_named(
    variable: str, text: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    assert names == gpus.devices()


def test_where_there_is_no_device_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPK_GPUS", "none")
    with gpus.held() as first, gpus.held() as second:
        assert (None, None) == (first, second)


@pytest.mark.usefixtures("two_gpus")
def test_two_runs_hold_two_devices_and_a_third_waits() -> None:
    with gpus.held() as first, gpus.held() as second:
        assert first
        assert second
        assert {"0", "GPU-1f"} == {first.name, second.name}
        assert {"CUDA_VISIBLE_DEVICES": first.name} == first.environment
        assert [None, None] == [gpus._try(name) for name in gpus.devices()]
        assert [os.getpid()] * 2 == [facts["pid"] for facts in gpus.holders().values() if facts]
    assert [None, None] == list(gpus.holders().values())


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
def test_a_device_is_free_when_its_holder_and_what_computes_there_are_gone_and_not_before() -> None:
    process, name, computing = holder()
    process.kill()
    process.communicate()
    assert gpus.holders()[name]  # its child was not killed, and still uses the memory
    os.kill(computing, signal.SIGKILL)
    end = time.monotonic() + 10
    while gpus.holders()[name]:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
def test_a_verb_sees_its_device_only_and_gives_it_back_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(DlpkError):
        child.run_on_gpu("evaluate", tmp_path / "missing", tmp_path, listen=lambda _event: None)
    assert [None, None] == list(gpus.holders().values())
