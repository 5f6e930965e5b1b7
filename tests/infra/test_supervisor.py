"""The supervisor over real, small processes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra import plan as plans
from infra import processes, supervisor
from infra.services import Service
from infra.supervisor import Supervisor, stop_all

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
PARENT = (sys.executable, "-c", f"import subprocess, time; subprocess.Popen({SLEEP!r}); time.sleep(60)")


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Supervisor]:
    plans.made(tmp_path, 0, 0)
    (tmp_path / "run").mkdir()
    watching = Supervisor(tmp_path)
    yield watching
    stop_all(tmp_path)
    for process in watching.own.values():
        process.wait()
    assert [] == processes.marked(tmp_path)


def having(monkeypatch: pytest.MonkeyPatch, *services: Service) -> None:
    monkeypatch.setattr(supervisor, "services", lambda _: list(services))


def looks(watcher: Supervisor, until: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        watcher.look()
        time.sleep(0.02)


def alive(watcher: Supervisor, name: str) -> psutil.Process | None:
    return processes.alive(watcher.folder, name)


@pytest.mark.slow
def test_what_died_is_started_again(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, Service("a", SLEEP, ready=lambda: True))
    looks(watcher, lambda: alive(watcher, "a"))
    first = watcher.own["a"].pid
    os.kill(first, signal.SIGKILL)
    looks(watcher, lambda: (now := alive(watcher, "a")) and now.pid != first)
    found = processes.known(watcher.folder, "a")
    assert found
    assert 2 == found.starts


def test_what_ends_while_it_is_looked_at_is_buried_first(watcher: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, Service("a", SLEEP, ready=lambda: True))
    looks(watcher, lambda: alive(watcher, "a"))
    first = watcher.own["a"]
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with monkeypatch.context() as before:
        before.setattr(watcher, "_bury", lambda: None)  # it had come by already
        watcher.look()
    assert first is watcher.own["a"]
    looks(watcher, lambda: alive(watcher, "a"))
    assert first is not watcher.own["a"]


def test_a_job_runs_once_and_what_waits_for_it_comes_after(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    job = Service("job", (sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x')"))
    having(monkeypatch, job, Service("b", SLEEP, ready=lambda: True, after=("job",)))
    looks(watcher, lambda: alive(watcher, "b"))
    looks(watcher, lambda: alive(watcher, "b"))
    assert "x" == mark.read_text()


@pytest.mark.slow
def test_what_a_killed_service_left_behind_does_not_meet_its_successor(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    having(monkeypatch, Service("a", PARENT, ready=lambda: True))
    looks(watcher, lambda: (p := alive(watcher, "a")) and p.children())
    parent = alive(watcher, "a")
    assert parent
    (child,) = parent.children()
    parent.kill()
    looks(watcher, lambda: (now := alive(watcher, "a")) and now.pid != parent.pid)
    assert not child.is_running()


def test_a_new_supervisor_finds_the_processes_of_one_that_was_killed(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    having(monkeypatch, Service("a", SLEEP, ready=lambda: True))
    looks(watcher, lambda: alive(watcher, "a"))
    before = alive(watcher, "a")
    second = Supervisor(watcher.folder)
    for _ in range(5):
        second.look()
    assert before == alive(watcher, "a")
    assert {} == second.own


@pytest.mark.slow
def test_the_end_of_a_topology_takes_the_children_of_the_killed_along(
    watcher: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    having(monkeypatch, Service("a", PARENT, ready=lambda: True, keeps_children=True))
    looks(watcher, lambda: (p := alive(watcher, "a")) and p.children())
    os.kill(watcher.own["a"].pid, signal.SIGKILL)
    watcher.own["a"].wait()
    assert 1 == len(stop_all(watcher.folder))
    assert [] == processes.marked(watcher.folder)
