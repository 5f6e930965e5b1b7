"""The plan of a topology: ports, secrets, workers, and who may read what."""

import stat
import subprocess
from pathlib import Path

import pytest

from infra import plan as plans
from infra.services import services


def test_a_plan_is_the_same_at_each_start(tmp_path: Path) -> None:
    first = plans.made(tmp_path, 2, 1)
    assert first == plans.made(tmp_path, None, None) == plans.read(tmp_path)


def test_every_port_and_every_secret_is_another(tmp_path: Path) -> None:
    plan = plans.made(tmp_path, None, None)
    assert len(plan.ports) == len(set(plan.ports.values()))
    assert len(plans.SECRETS) == len(set(plan.secrets.values()))
    assert all(len(word) >= 32 for word in plan.secrets.values())


def test_secrets_are_for_the_owner_alone_and_in_no_command_line(tmp_path: Path) -> None:
    plan = plans.made(tmp_path, None, None)
    for name in ("secrets.json", "environment"):
        assert 0o600 == stat.S_IMODE((tmp_path / name).stat().st_mode)
    shown = " ".join(word for s in services(plan) for word in s.command) + repr(plan)
    assert [] == [name for name, word in plan.secrets.items() if word in shown]


def test_a_client_and_its_maker_name_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPK_HOME", str(tmp_path))
    plan = plans.made(plans.default_folder(), None, None)
    assert tmp_path / "local" == plan.folder
    monkeypatch.setenv("DLPK_HOME", plan.environment["DLPK_HOME"])
    assert tmp_path / "local" == plans.default_folder()


def test_other_numbers_of_workers_leave_the_rest_alone(tmp_path: Path) -> None:
    before = plans.made(tmp_path, 1, 1)
    after = plans.made(tmp_path, 3, 0)
    assert (before.ports, before.secrets) == (after.ports, after.secrets)
    workers = [s.name for s in services(after) if s.name.startswith(("cpu-", "gpu-"))]
    assert ["cpu-1", "cpu-2", "cpu-3"] == workers


def test_a_shell_that_reads_the_environment_is_a_client(tmp_path: Path) -> None:
    plan = plans.made(tmp_path, None, None)
    command = [". ./environment && printf '%s' \"$PREFECT_API_URL $PREFECT_API_AUTH_STRING\""]
    told = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"{plan.api} dlpk:{plan.secrets['prefect']}" == told.stdout


def test_nothing_was_started_in_a_folder_without_plan(tmp_path: Path) -> None:
    assert plans.read(tmp_path) is None
