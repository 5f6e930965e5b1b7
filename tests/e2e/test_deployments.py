"""prefect.yaml on a real server with PostgreSQL: deployed, triggered over HTTP, run by a process worker, scheduled."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from registry.web.configuration import Configuration, Role, Token, digest
from tasks.chips import ChipFolder
from tests.e2e.prefect_server import CHECKOUT, Prefect, dlpk, prefect_server, until, worker
from tests.scenes import roofs
from tests.servers import postgres
from tests.web import browser

pytestmark = pytest.mark.slow
TINY = {  # the smallest networks that the chain can carry
    "detector": ("PASCAL_VOC_rectangles", "ObjectDetection", {"backbone_model": "mobilenet_v3_small"}),
    "segmenter": ("Classified_Tiles", "ImageClassification", {"backbone_model": "resnet18"}),
}


def recipe(folder: Path, kind: str) -> dict[str, Any]:
    """One epoch over a few chips of the small scene, from scratch."""
    imagery, labels = roofs(folder)
    metadata_format, _, network = TINY[kind]
    train = {"max_epochs": 1, "pretrained_weights": "none", "batch_size": 2, "freeze_model": False, **network}
    return {
        "name": "roofs",
        "imagery": str(imagery),
        "labels": str(labels),
        "export": {"metadata_format": metadata_format, "tile_size": 96, "stride": 96},
        "train": train,
    }


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A server with prefect.yaml deployed, and a worker."""
    folder = tmp_path_factory.mktemp("prefect")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLPK_HOME", str(folder / "home"))
        database = stack.enter_context(postgres("prefect")).uri("prefect", "postgresql+asyncpg")
        server = stack.enter_context(prefect_server(folder, database))
        dlpk(server, "deploy", "--file", str(CHECKOUT / "prefect.yaml"))
        stack.enter_context(worker(server, folder))
        yield server


def test_both_deployments_run_when_triggered_over_http(
    prefect: Prefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry import catalog

    deployment = prefect.get("/deployments/name/retrain/retrain")
    started = prefect.post(
        f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"recipe": recipe(tmp_path, "detector")}}
    )
    run = prefect.ended(started["id"])
    assert "COMPLETED" == run["state_type"], prefect.log(run["id"])

    monkeypatch.setenv("DLPK_HOME", str(Path(prefect.environment["PREFECT_HOME"]).parent / "home"))
    version = catalog.find_version("roofs@champion")
    assert ("roofs@1", TINY["detector"][1]) == (version.ref, version.model_type)
    artifacts = prefect.artifacts(run["id"])
    report = next(a for a in artifacts if a["key"] == "retrain-roofs")
    assert version.uri in report["data"]
    assert "roofs@1 is champion: there is no champion yet" in report["data"]
    assert {"retrain-roofs", "retrain-roofs-table", None} == {a["key"] for a in artifacts}

    out = tmp_path / "found.gpkg"
    flags = ["-p", "model=roofs@champion", "-p", f"imagery={tmp_path / 'town.tif'}", "-p", f"out={out}"]
    told = json.loads(dlpk(prefect, "run", "infer", *flags, "--wait"))
    assert "Completed" == told["state"], prefect.log(told["id"])
    assert out.is_file()
    page = next(a for a in prefect.artifacts(told["id"]) if a["key"] == "infer-roofs")
    assert version.sha256[:12] in page["data"]
    assert str(out) in page["data"]


def test_a_deployment_is_triggered_with_some_options_changed(prefect: Prefect, tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path / "town")
    chips = tmp_path / "roof-chips"
    places = ["-p", f"imagery={imagery}", "-p", f"labels={labels}", "-p", f"out={chips}"]
    sizes = ["-p", "options.tile_size=48", "-p", "options.stride=48", "-p", "options.split=[0.5, 0.25, 0.25]"]
    with worker(prefect, tmp_path, "cpu"):
        told = json.loads(dlpk(prefect, "run", "export", *places, *sizes, "--wait"))
    assert "Completed" == told["state"], prefect.log(told["id"])
    assert 32 == sum(map(len, ChipFolder.open(chips).splits.values()))
    artifacts = {a["key"]: a["data"] for a in prefect.artifacts(told["id"])}
    assert {"export-roof-chips", "export-roof-chips-table", None} == set(artifacts)
    assert str(chips / "export_report.html") in artifacts["export-roof-chips"]


@browser.needs_chromium
def test_the_page_starts_watches_and_cancels_runs(
    prefect: Prefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody signs in, fills the form of `export`, follows the run to its end, and cancels one that is at work."""
    monkeypatch.setenv("PREFECT_API_URL", prefect.url)
    imagery, labels = roofs(tmp_path)
    token = Token(name="anna", role=Role.TRIGGER, sha256=digest("dlpk_anna"))
    with ExitStack() as stack:
        stack.enter_context(worker(prefect, tmp_path, "cpu"))
        address = stack.enter_context(browser.served(Configuration(tokens=(token,))))
        page = stack.enter_context(browser.chromium()).new_page()
        page.set_default_timeout(120_000)
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{address}/deployments")
        page.get_by_label("Token").fill("dlpk_anna")
        page.get_by_role("button", name="Sign in").click()

        def start(out: Path, stride: str) -> str:
            page.goto(f"{address}/deployments")
            page.get_by_role("link", name="export").first.click()
            for name, text in {"imagery": imagery, "labels": labels, "out": out, "workers": 1}.items():
                page.locator(f'[name="{name}"]').fill(str(text))
            for name, number in {
                "tile_size_x": "48",
                "tile_size_y": "48",
                "stride_x": stride,
                "stride_y": stride,
            }.items():
                page.locator(f'[name="options.{name}"]').fill(number)
            page.get_by_role("button", name="Start the run").click()
            page.locator(".standing, #summary, .notice").first.wait_for()
            assert "/runs/" in page.url, page.locator("main").inner_text()
            return str(page.url).rpartition("/")[2]

        run = start(tmp_path / "chips", "24")
        page.locator(".standing .state.completed").wait_for()
        assert (tmp_path / "chips" / "esri_model_definition.emd").is_file()
        assert "by anna" in prefect.get(f"/flow_runs/{run}")["tags"]
        assert 24 == prefect.get(f"/flow_runs/{run}")["parameters"]["options"]["stride_x"]

        run = start(tmp_path / "many", "1")
        page.locator(".standing .state.running").wait_for()
        page.get_by_role("button", name="Cancel the run").click()
        page.locator(".standing .state.cancelled").wait_for()
        assert "CANCELLED" == prefect.get(f"/flow_runs/{run}")["state_type"]


def test_the_calendar_of_a_deployment_becomes_scheduled_runs(prefect: Prefect) -> None:
    """The scheduler is silent when SQLAlchemy is too new for it: no error, and no run, ever."""
    for name in ("retrain/retrain", "infer/infer"):
        deployment = prefect.get(f"/deployments/name/{name}")
        asked = {
            "deployments": {"id": {"any_": [deployment["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        runs = until(lambda asked=asked: prefect.post("/flow_runs/filter", asked), 120)  # type: ignore[misc]
        assert all(run["auto_scheduled"] for run in runs)


def test_deploying_again_changes_nothing(prefect: Prefect) -> None:
    before = prefect.post("/work_pools/filter", {}), prefect.post("/automations/filter", {})
    dlpk(prefect, "deploy", "--file", str(CHECKOUT / "prefect.yaml"))
    after = prefect.post("/work_pools/filter", {}), prefect.post("/automations/filter", {})
    assert [sorted(p["name"] for p in found) for found in before] == [sorted(p["name"] for p in f) for f in after]


def test_wrong_parameters_are_refused_before_anything_runs(prefect: Prefect) -> None:
    command = [sys.executable, "-m", "flows.cli", "run", "retrain", "-p", "recipe.train.max_epochs=0"]
    environment = {**os.environ, **prefect.environment}
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert "Traceback" not in done.stderr
    assert "max_epochs" in done.stderr


def test_the_server_can_be_imported() -> None:
    """A newer fastapi breaks it; flows would only say that a process exited."""
    code = "import prefect.server.api.server"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
