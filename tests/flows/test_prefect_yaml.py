"""prefect.yaml against Prefect's own models: it ignores keys that it does not know, and nobody would notice."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import ConcurrencyLimitSpec, DeploymentConfig, PrefectYamlModel, WorkPoolConfig
from prefect.flows import Flow
from pydantic import BaseModel

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {deployment["name"]: deployment for deployment in DOCUMENT["deployments"]}
OURS = {"definitions"}  # YAML anchors, read by nobody else
everyone = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys())


def unknown(document: Mapping[str, Any], model: type[BaseModel]) -> set[str]:
    known = {field.alias or name for name, field in model.model_fields.items()}
    return set(document) - known


def flow_of(deployment: Mapping[str, Any]) -> Flow[Any, Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    return found


def test_it_has_a_deployment_for_each_flow() -> None:
    assert ["retrain", "infer", "export", "evaluate", "import", "prune"] == list(DEPLOYMENTS)


def test_prefect_knows_every_key_of_the_file() -> None:
    assert OURS == unknown(DOCUMENT, PrefectYamlModel)


@everyone
def test_prefect_knows_every_key_of_a_deployment(deployment: dict[str, Any]) -> None:
    assert set() == unknown(deployment, DeploymentConfig)
    assert set() == unknown(deployment["work_pool"], WorkPoolConfig)
    assert set() == unknown(deployment["concurrency_limit"], ConcurrencyLimitSpec)
    DeploymentConfig.model_validate(deployment)


@everyone
def test_its_flow_accepts_the_parameters(deployment: dict[str, Any]) -> None:
    assert set(deployment["parameters"]) == set(flow_of(deployment).validate_parameters(deployment["parameters"]))


@everyone
def test_every_schedule_can_be_told_apart_and_has_a_time_zone(deployment: dict[str, Any]) -> None:
    assert all(schedule["slug"] and schedule["timezone"] for schedule in deployment["schedules"])


@everyone
def test_the_form_explains_every_parameter(deployment: dict[str, Any]) -> None:
    schema = flow_of(deployment).parameters.model_dump()
    assert all(field.get("description") for field in schema["properties"].values())


def test_the_packages_are_ours_and_not_shadowed() -> None:
    root = str(Path(__file__).parents[2])
    for name in ("flows", "tasks", "registry"):
        assert str(importlib.import_module(name).__file__).startswith(root)
