"""The job templates of the work pools: whole, and with a place for each variable."""

import json
import re
from typing import Any, cast

import pytest

from infra.pools import POOLS, TEMPLATES, ensure, template
from registry.errors import OptionsError

KINDS = ("docker", "kubernetes", "process")
every = pytest.mark.parametrize(("kind", "pool"), [(kind, pool) for kind in KINDS for pool in POOLS])


def test_there_is_a_file_for_each_kind() -> None:
    assert list(KINDS) == sorted(path.stem for path in TEMPLATES.glob("*.json"))


@every
def test_every_place_has_a_variable_and_every_variable_a_place(kind: str, pool: str) -> None:
    document = template(kind, pool)
    places = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", json.dumps(document["job_configuration"])))
    assert places == set(document["variables"]["properties"])


@every
def test_a_job_beats_often_enough_for_the_zombie_detector(kind: str, pool: str) -> None:
    beats = template(kind, pool)["variables"]["properties"]["env"]["default"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    assert "30" == beats


def test_a_gpu_is_asked_for_where_one_is_needed_and_nowhere_else() -> None:
    asked = {pool: template("kubernetes", pool)["variables"]["properties"]["gpus"].get("default") for pool in POOLS}
    assert {"gpu": 1, "cpu": 0} == asked


@every
def test_runs_get_variables_out_of_secrets(kind: str, pool: str) -> None:
    env = template(kind, pool, ["DLPK_STORE"])["variables"]["properties"]["env"]["default"]
    assert "{{ prefect.blocks.secret.runs-dlpk-store }}" == env["DLPK_STORE"]


def test_a_variable_that_is_not_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLPK_STORE", raising=False)
    with pytest.raises(OptionsError, match="DLPK_POOL_ENV: DLPK_STORE is not set"):
        ensure(cast(Any, None), "docker", names="DLPK_STORE")


def test_an_unknown_kind_is_told_which_there_are() -> None:
    with pytest.raises(OptionsError, match="docker, kubernetes, process"):
        template("ecs", "gpu")
