import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import State, StateType

from flows import steps
from flows.listening import run_tags
from flows.pages import retrain_page
from flows.recipe import HoldOut, LabelledScene, Recipe
from flows.work import Work
from registry import catalog, history
from registry.catalog import Version
from registry.errors import Denied, LabelError, StoreError
from registry.promotion import Decision, promote
from registry.tracking import Run, connect
from tasks.export import ExportOptions
from tasks.train_options import TrainOptions
from tests.exports import chip, written
from tests.scenes import roofs
from tests.tiny_model import published


def failed(error: BaseException) -> State[Any]:
    return State(type=StateType.FAILED, data=error)


def test_outside_of_a_flow_run_a_step_is_a_plain_call() -> None:
    def double(number: int) -> int:
        """Twice as much."""
        return 2 * number

    call = steps.step(double, hours=1, retries=3)
    assert 6 == call(3)
    assert "double" == call.__name__
    assert {} == run_tags()


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (StoreError("silent"), True),
        (httpx.ConnectError("refused"), True),
        (LabelError("wrong"), False),
        (Denied("403"), False),
    ],
)
def test_only_what_may_heal_is_tried_again(error: Exception, heals: bool) -> None:
    assert heals == steps._may_heal(None, None, failed(error))


def test_the_held_out_part_is_next_to_the_part_that_is_trained_on(tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path)
    hold_out = HoldOut(side="east", share=0.25)
    recipe = Recipe(name="roofs", imagery=str(imagery), labels=str(labels), hold_out=hold_out)
    [training], [held_out] = steps.divide(recipe)
    west, east, south, north = 500_000.0, 500_384.0, 5_499_808.0, 5_500_000.0
    assert (west, south, east - 96, north) == training.options.extent
    assert (east - 96, south, east, north) == held_out.options.extent


def test_held_out_ground_is_seen_once_and_empty_ground_counts() -> None:
    scene = LabelledScene(imagery="other.tif", labels="other.gpkg")
    export = ExportOptions(tile_size=96, stride=32)
    recipe = Recipe(name="roofs", imagery=("a.tif", "b.tif"), labels="c.gpkg", evaluation=scene, export=export)
    [training], [held_out] = steps.divide(recipe)
    assert (32, False) == (training.options.stride, training.options.output_nofeature_tiles)
    assert (96, True) == (held_out.options.stride, held_out.options.output_nofeature_tiles)
    assert ("a.tif", "b.tif") == training.scene.imagery
    assert scene == held_out.scene


@pytest.mark.slow
def test_every_try_goes_on_from_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another one became champion between them."""
    told = list[dict[str, Any]]()

    def child(*words: Any, **_: Any) -> dict[str, Any]:
        told.append(json.loads(Path(words[-1]).read_text()))
        raise StoreError("away")

    monkeypatch.setattr("flows.child.run_on_gpu", child)
    first = published(tmp_path / "models", level=1)
    promote("roofs", first.number, reason="by hand", scores={})
    chips = written(tmp_path / "chips", [chip(1)], "Classified_Tiles")
    train = TrainOptions(pretrained_model="roofs@champion")
    recipe = Recipe(name="roofs", imagery="a.tif", labels="a.gpkg", train=train)
    work = Work(recipe, tmp_path / "work", Run.start("roofs", "try"))
    for level in (2, 3):
        begun = steps.begin(work)
        with pytest.raises(StoreError, match="away"):
            steps.train(work, chips, begun)
        promote("roofs", published(tmp_path / "models", level=level).number, reason="by hand", scores={})
    assert [str(catalog.fetch(first.ref))] * 2 == [options["pretrained_model"] for options in told]
    assert first.ref == connect().get_run(work.run.id).data.tags["dlpk.pretrained_model"]
    assert "roofs@champion" == connect().get_run(work.run.id).data.params["train.pretrained_model"]


def comparing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, champions: Sequence[int]
) -> tuple[Decision, list[tuple[str, str]]]:
    """roofs@2 is judged while these versions become champion, one during each comparison; and what roofs tells."""
    v1, v2, *_ = (published(folder / "models", level=level) for level in (1, 2, 3, 4))
    promote("roofs", v1.number, reason="by hand")
    others = iter(champions)

    def child(*_: Any, **__: Any) -> dict[str, Any]:
        rival = catalog.find_version("roofs@champion").number
        if other := next(others, 0):
            promote("roofs", other, reason="meanwhile")
        gain = 0.2 if rival == 1 else -0.2
        return {"primary": "ap50", "a": 0.7, "b": 0.7 - gain, "interval": [gain, gain], "chips": 50}

    monkeypatch.setattr("flows.child.run_on_gpu", child)
    chips = written(folder / "chips", [chip(1)], "Classified_Tiles")
    work = Work(Recipe(name="roofs", imagery="a.tif", labels="a.gpkg"), folder / "work", Run.start("roofs", "try"))
    verdict = steps.promote(work, v2, {"primary": "ap50", "ap50": 0.7}, chips)
    return verdict, [(event.action, f"roofs@{event.version}") for event in history.history("roofs")]


def test_who_became_champion_during_the_comparison_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [("kept", "roofs@2"), ("promoted", "roofs@3"), ("promoted", "roofs@1")]
    assert told == comparing(tmp_path, monkeypatch, [3])[1]


@pytest.mark.slow
def test_a_version_that_meets_another_champion_each_time_stays_challenger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, _ = comparing(tmp_path, monkeypatch, [3, 4, 3])
    assert "roofs@3" == catalog.find_version("roofs@champion").ref
    assert verdict.why.startswith("roofs@2 stays challenger: another version became champion during each of 3 compar")


@pytest.mark.parametrize(("name", "expected"), [("Roofs_2", "roofs-2"), ("land.use--x", "land-use-x")])
def test_a_key_of_an_artifact_is_small_letters_digits_and_dashes(name: str, expected: str) -> None:
    assert expected == steps.slug(name)


def test_the_page_of_a_run_tells_no_password(tmp_path: Path) -> None:
    run = Run("1", "postgresql://mlflow:secret@db:5432/mlflow")
    work = Work(Recipe(name="roofs", imagery="town.tif", labels="roofs.gpkg"), tmp_path, run)
    version = Version("roofs", 1, "file:///roofs.dlpk", "aa" * 32, 1, datetime(2026, 5, 1, tzinfo=UTC))
    markdown, _ = retrain_page(work, version, {}, Decision(True, "there is no champion yet"))
    assert "`1` in `postgresql://mlflow@db:5432/mlflow`" in markdown
