"""What an operator applies, checked by the tools of its makers; no container engine and no cluster are needed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import passwords
from infra.pools import POOLS, template

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "compose.yaml"


def tool(name: str) -> str:
    """A program of the extra `dev`; without it there is nothing to check with."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return str(found)


def checked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that `kubectl apply -k` would send, in one file."""
    folder = tmp_path_factory.mktemp("kustomize") / "kubernetes"
    shutil.copytree(INFRA / "kubernetes", folder, ignore=shutil.ignore_patterns("*.env"))
    passwords.write(folder)
    out = folder.with_suffix(".yaml")
    out.write_text(checked(tool("kubectl"), "kustomize", str(folder)))
    return out


def containers(documents: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    pods = [
        (d["metadata"]["name"], d["spec"]["template"]["spec"]) for d in documents if "template" in d.get("spec", {})
    ]
    return [(name, pod, c) for name, pod in pods for c in [*pod["containers"], *pod.get("initContainers", [])]]


def test_the_images_follow_the_rules_of_hadolint() -> None:
    checked(tool("hadolint"), str(INFRA / "images" / "Dockerfile"))


def test_the_compose_file_follows_its_specification() -> None:
    checked(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


def test_compose_has_no_default_password_and_asks_for_those_that_are_made() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert set(passwords.NAMES) == set(re.findall(r"\$\{(\w+):\?", text))
    assert [] == re.findall(r"\$\{\w*(?:PASSWORD|KEY)\w*:-", text)


def test_compose_is_reached_from_this_machine_only_and_looks_after_its_health() -> None:
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert [] == [p for s in services.values() for p in s.get("ports", []) if not p.startswith("127.0.0.1:")]
    assert ["setup"] == [name for name, service in services.items() if "healthcheck" not in service]


def test_a_run_in_a_container_of_its_own_reaches_the_servers_of_compose() -> None:
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    variables = template("docker", "cpu")["variables"]["properties"]
    names = {part: [f"{compose['name']}_{name}" for name in compose[part]] for part in ("networks", "volumes")}
    assert names["networks"] == variables["networks"]["default"]
    assert {volume.partition(":")[0] for volume in variables["volumes"]["default"]} <= set(names["volumes"])


@pytest.mark.slow
def test_kubernetes_knows_every_field_of_the_manifests(manifests: Path) -> None:
    checked(tool("kubernetes-validate"), "--strict", str(manifests))


def test_no_container_is_root_or_may_become_it_and_each_says_what_it_needs(manifests: Path) -> None:
    documents = list(yaml.safe_load_all(manifests.read_text()))
    for name, pod, container in containers(documents):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not container["securityContext"]["allowPrivilegeEscalation"], name
        assert {"requests", "limits"} <= set(container["resources"]), name


def test_every_server_is_closed_to_the_world_outside_of_the_namespace(manifests: Path) -> None:
    documents = list(yaml.safe_load_all(manifests.read_text()))
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    assert {} in [p["podSelector"] for p in policies if "ingress" not in p]
    named = {p["podSelector"].get("matchLabels", {}).get("app") for p in policies}
    assert {d["metadata"]["name"] for d in documents if d["kind"] == "Service"} <= named


@pytest.mark.parametrize("pool", POOLS)
def test_the_pod_of_a_run_is_one_that_kubernetes_takes(pool: str, manifests: Path, tmp_path: Path) -> None:
    document = template("kubernetes", pool)
    variables = {name: facts.get("default") for name, facts in document["variables"]["properties"].items()}
    given = {"name": "run", "labels": {"app": "run"}, "command": ["prefect", "flow-run", "execute"], "cpu_limit": "8"}
    job = filled(document["job_configuration"]["job_manifest"], {**variables, **given, "env": []})
    job["metadata"]["name"] = "run-1"  # the cluster makes it of generateName
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    checked(tool("kubernetes-validate"), "--strict", str(tmp_path / "job.yaml"))
    documents = list(yaml.safe_load_all(manifests.read_text()))
    known = {(d["kind"], d["metadata"]["name"]) for d in documents}
    pod = job["spec"]["template"]["spec"]
    wanted = {("ConfigMap", "dlpk"), ("Secret", "dlpk-clients"), ("PersistentVolumeClaim", "dlpk-work")}
    assert wanted | {("ServiceAccount", pod["serviceAccountName"])} <= known


def filled(value: Any, variables: dict[str, Any]) -> Any:
    """A template with its variables, as Prefect's worker fills it."""
    if isinstance(value, dict):
        return {key: filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, variables) for inner in value]
    if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
        return variables[whole[1]]
    return re.sub(r"\{\{ (\w+) \}\}", lambda m: str(variables[m[1]]), value) if isinstance(value, str) else value


def test_both_ways_make_the_databases_alike() -> None:
    assert (INFRA / "images" / "make-databases.sh").read_text() == (
        INFRA / "kubernetes" / "make-databases.sh"
    ).read_text()
