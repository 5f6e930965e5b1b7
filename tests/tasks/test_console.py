import json

import pytest

from registry.errors import LabelError
from tasks import console
from tasks.progress import Epoch, Progress


def test_lines_tell_each_quarter_of_a_step_once() -> None:
    said: list[str] = []
    lines = console.Lines(said.append)
    for done in range(9):
        lines(Progress("export", done, 8, "chips"))
    assert [f"export: {done} of 8 chips" for done in (0, 2, 4, 6, 8)] == said


def test_an_epoch_is_a_line_that_counts_from_one() -> None:
    line = console.epoch_line(Epoch(0, 3, {"validation_loss": 0.5}, 2.4))
    assert "epoch 1 of 3 (2 s): validation loss 0.5" == line


def test_without_a_terminal_progress_goes_to_stderr_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console.watching() as listen:
        listen(Progress("train", 1, 1, "steps", "epoch 1 of 1"))
    assert ("", "train: 1 of 1 steps  epoch 1 of 1\n") == tuple(capsys.readouterr())


def test_a_record_is_json_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    console.end(None, {"chips": 3})
    assert {"chips": 3} == json.loads(capsys.readouterr().out)


def test_an_error_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    console.end(None, LabelError("x" * 300, where="roofs.gpkg"))
    assert f"LabelError: roofs.gpkg: {'x' * 300}\n" == capsys.readouterr().err


@pytest.mark.parametrize("event", [Progress("train", 1, 2, "steps", "note"), Epoch(1, 2, {"loss": 0.5}, 1.5)])
def test_an_event_survives_its_line(event: Progress | Epoch) -> None:
    kind = "progress" if isinstance(event, Progress) else "epoch"
    assert event == console.event_of(json.loads(json.dumps({kind: vars(event)})))


def test_the_last_line_is_no_event() -> None:
    assert console.event_of({"result": {}}) is None
