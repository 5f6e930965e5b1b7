import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.dlpk import ModelFolder
from registry.errors import NotFound, OptionsError, StoreError
from registry.tracking import Run, connect, told
from tests.servers import free_ports


@pytest.fixture(params=["sqlite", pytest.param("http", marks=pytest.mark.slow)])
def tracking(request: pytest.FixtureRequest, mlflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same tests over a database and over a server."""
    if request.param == "http":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("mlflow_http"))
    return str(request.param)


@pytest.mark.usefixtures("tracking")
def test_a_run_keeps_what_was_tried_and_what_it_gave(model: ModelFolder) -> None:
    run = Run.start("roofs", "first", {"prefect.flow_run_id": "7"})
    run.log_parameters({"train": {"epochs": 3, "rate": 0.1}, "classes": ["roof"], "long": "x" * 9000})
    for number in range(3):
        run.log_epoch(number, {"training_loss": 1 / (number + 1), "validation_loss": float("nan")})
    run.log_dataset("town", "abc123", "file:///town")
    run.log_scores({"AP50": 0.5})
    run.log_figures(model.path)
    run.finish()
    client, kept = connect(), connect().get_run(run.id)
    assert {"train.epochs": "3", "train.rate": "0.1", "classes": "['roof']"}.items() <= kept.data.params.items()
    assert 6000 == len(kept.data.params["long"])
    assert [1.0, 0.5, 1 / 3] == [metric.value for metric in client.get_metric_history(run.id, "training_loss")]
    assert ("FINISHED", 0.5, "7") == (
        kept.info.status,
        kept.data.metrics["AP50"],
        kept.data.tags["prefect.flow_run_id"],
    )
    assert kept.inputs is not None
    assert ["abc123"] == [entry.dataset.digest for entry in kept.inputs.dataset_inputs]
    assert {"ModelCharacteristics", "model_metrics.html", "roofs.emd"} == {
        a.path for a in client.list_artifacts(run.id)
    }
    assert 2 == len(client.list_artifacts(run.id, "ModelCharacteristics"))


@pytest.mark.usefixtures("tracking")
def test_scores_of_classes_of_any_name_are_kept() -> None:
    named = {"道路": "道路", "Wald/Wiese": "Wald/Wiese", "Haus (neu), 50%": "Haus _neu__ 50_", "it's": "it_s"}
    named |= {"&": "_", "a//b": "a/b", "road/": "road", "a/../b": "a/_/b", "x" * 300: "x" * 237}
    run = Run.start("roofs", "named")
    run.log_scores({f"held_out/IoU_{name}": 0.5 for name in named})
    assert {f"held_out/IoU_{name}" for name in named.values()} == connect().get_run(run.id).data.metrics.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("tracking")
def test_the_machine_is_watched_and_a_resumed_run_goes_on_behind_the_last_sample() -> None:
    run = Run.start("roofs", "watched")
    counts = []
    for _ in range(2):
        with run.machine_watched(seconds=0.1):
            time.sleep(1.5)
        history = connect().get_metric_history(run.id, "system/cpu_utilization_percentage")
        steps = [metric.step for metric in history]
        assert steps == sorted(set(steps))
        counts.append(len(steps))
    assert 0 < counts[0] < counts[1]


@pytest.mark.usefixtures("tracking")
def test_pictures_go_into_the_image_grid(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "ModelCharacteristics").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "ModelCharacteristics" / "show_results.png")
    run = Run.start("roofs", "seen")
    run.log_images(tmp_path)
    (image, *_) = connect().list_artifacts(run.id, "images")
    assert "show_results" in image.path


@pytest.mark.usefixtures("tracking")
def test_a_killed_run_goes_on_and_a_finished_one_does_not() -> None:
    first = Run.start("roofs", "a", work="recipe-1")
    first.log_parameters({"epochs": 3})
    again = Run.start("roofs", "b", {"prefect.flow_run_id": "8"}, work="recipe-1")
    again.log_parameters({"epochs": 4, "rate": 1})
    assert first == again
    assert {"epochs": "3", "rate": "1"} == connect().get_run(first.id).data.params
    again.fail("out of memory")
    assert first == Run.start("roofs", "c", work="recipe-1")
    first.finish()
    assert first != Run.start("roofs", "d", work="recipe-1")
    assert first != Run.start("roofs", "e", work="recipe-2")


@pytest.mark.usefixtures("mlflow_home")
def test_epochs_that_a_kill_kept_from_a_run_are_logged_later() -> None:
    run = Run.start("roofs", "a")
    run.log_epoch(0, {"training_loss": 3.0, "seconds": 1.0})
    run.log_epoch(2, {"training_loss": 1.0, "seconds": 1.0})
    run.log_missing([{"training_loss": float(loss), "seconds": 1.0} for loss in (3, 2, 1, 0)])
    logged = connect().get_metric_history(run.id, "training_loss")
    assert [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)] == sorted((metric.step, metric.value) for metric in logged)


@pytest.mark.usefixtures("tracking")
def test_a_run_that_somebody_deleted_is_not_gone_on_with() -> None:
    run = Run.start("roofs", "a", work="recipe-1")
    connect().delete_run(run.id)
    with pytest.raises(NotFound, match="was deleted"):
        Run.resume(run.id)
    assert run != Run.start("roofs", "a", work="recipe-1")


@pytest.mark.usefixtures("tracking")
def test_many_runs_may_start_an_experiment_at_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(lambda i: Run.start("new", f"run {i}"), range(4)))
    assert 1 == len({connect().get_run(run.id).info.experiment_id for run in runs})


@pytest.mark.slow
def test_processes_may_be_first_at_once(dlpk_home: Path) -> None:
    command = [sys.executable, "-c", "from registry.tracking import connect; connect()"]
    first = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert ["", ""] == [process.communicate()[1] for process in first]
    assert (dlpk_home / "mlflow.db").is_file()


@pytest.mark.usefixtures("tracking")
def test_a_run_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFound):
        Run.resume("0" * 32)


@pytest.mark.usefixtures("mlflow_home")
def test_more_parameters_than_one_request_takes_are_kept() -> None:
    run = Run.start("roofs", "many")
    run.log_parameters({f"p{i}": i for i in range(250)})
    assert 250 == len(connect().get_run(run.id).data.params)


def test_artifacts_lie_in_our_home(mlflow_home: Path, model: ModelFolder) -> None:
    run = Run.start("roofs", "a")
    run.log_figures(model.path)
    assert (mlflow_home / "artifacts" / run.id / "artifacts" / "roofs.emd").is_file()
    assert "" == run.url


def test_a_name_of_work_that_would_break_the_search_is_refused() -> None:
    with pytest.raises(OptionsError, match="without quotes"):
        Run.start("roofs", "a", work="it's")


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{free_ports(1)[0]}/x")
    with pytest.raises(StoreError, match=r"did not answer .*check MLFLOW_TRACKING_URI") as caught:
        Run.start("roofs", "a")
    assert "secret" not in str(caught.value)


def test_an_error_tells_no_password_of_an_address() -> None:
    with pytest.raises(StoreError) as told_of, told():
        raise ConnectionError("API request to http://ada:secret@host:5000/api failed")
    assert "API request to http://ada@host:5000/api failed" in str(told_of.value)
