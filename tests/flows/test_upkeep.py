"""What keeps a registry in order without anybody looking: no needless training, imports, pruning, scoring again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from click.testing import CliRunner

from flows import cli, work
from flows.evaluate import evaluate
from flows.recipe import Recipe
from flows.rescoring import _classes
from flows.retrain import retrain
from flows.take_in import packages, take_in
from flows.tidy import _old_work, prune
from registry import catalog, promotion
from registry.emd import ClassLabel
from registry.errors import Conflict, DlpkError, OptionsError
from registry.locks import locked
from registry.publishing import publish
from registry.settings import settings
from registry.tracking import Run
from tasks.chips import CHANGE
from tasks.definition import NO_CHANGE
from tasks.export import ExportOptions
from tests.registry.conftest import make_package
from tests.scenes import roofs
from tests.tiny_model import published as bright


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    return Recipe(name="roofs", imagery=str(imagery), labels=str(labels))


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Path]:
    def make(weights: str, name: str = "roofs") -> Path:
        return make_package(tmp_path / f"{name}-{weights}", name, weights.encode())

    return make


def test_one_name_for_several_packages_is_refused(package: Callable[..., Path], tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("roofs", "ponds"):
        os.utime(shutil.move(package("one", name), inbox), (1, 1))
    with pytest.raises(OptionsError, match="name: is for a single model, and 2 lie at"):
        take_in.fn(str(inbox), name="both")
    assert set() == catalog.refs()


def test_a_definition_that_lies_among_packages_makes_no_model_of_the_place(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("flows.take_in.say", said.append)
    (tmp_path / "ponds.emd").write_text("{}")
    for name in ("roofs", "trees"):
        os.utime(shutil.move(package("one", name), tmp_path), (1, 1))
    assert "roofs@1, trees@1" == take_in.fn(str(tmp_path))
    assert f"ponds.emd is left alone, as packages lie there, too; give it by its own path: {tmp_path}" in said


@pytest.mark.parametrize(
    ("packed", "found"), [("roofs.DLPK", "roofs.DLPK"), ("2026/roofs.dlpk",) * 2, ("ponds.dlpk", "inbox")]
)
def test_packages_of_any_depth_and_case_lie_at_a_place(packed: str, found: str, tmp_path: Path) -> None:
    (place := tmp_path / "inbox" / packed).parent.mkdir(parents=True)
    (tmp_path / "inbox" / "ponds.emd").write_text("{}")
    place.write_bytes(b"x")
    assert [found] == [one.id for one in packages(str(tmp_path / "inbox"), settle=0)]


@pytest.mark.slow
def test_where_nothing_changed_nothing_is_trained(recipe: Recipe, package: Callable[..., Path]) -> None:
    run, made = Run.start("roofs", "first"), {"fingerprint": recipe.digest()}
    version = publish(package("one"), scores={}, data_digest="", git_commit="", run_id=run.id, made=made)
    promotion.promote(version.name, version.number)
    assert version.ref == retrain.fn(recipe, only_if_changed=True)
    file = Path(recipe.labels).with_name("roofs.yaml")
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    told = CliRunner().invoke(cli.main, ["retrain", str(file), "--only-if-changed"])
    assert 0 == told.exit_code, told.output
    assert version.ref == json.loads(told.stdout)["version"]
    assert not (settings().home / "work").exists()


def test_changed_labels_are_another_fingerprint(recipe: Recipe) -> None:
    before = recipe.digest()
    os.utime(recipe.labels, (1, 1))
    assert before != recipe.digest()


@pytest.mark.slow
def test_what_was_published_but_never_judged_is_gone_on_with(recipe: Recipe, package: Callable[..., Path]) -> None:
    from flows.steps import unchanged

    run, made = Run.start("roofs", "first"), {"fingerprint": recipe.digest()}
    publish(package("one"), scores={}, data_digest="", git_commit="", run_id=run.id, made=made)
    assert "" == unchanged(recipe)


@pytest.mark.slow
def test_packages_of_a_place_are_imported_once_and_a_damaged_one_stops_no_other(
    tmp_path: Path, package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    said: list[str] = []
    monkeypatch.setattr("flows.take_in.tell_of", lambda event, version: told.append(f"{event} {version.ref}"))
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for source, name in ((package("one"), "a"), (package("two", "ponds"), "b")):
        shutil.copy(source, inbox / f"{name}.dlpk")
    (inbox / "c.dlpk").write_bytes(b"no zip")
    for path in inbox.iterdir():
        os.utime(path, (1, 1))
    shutil.copy(package("three", "trees"), inbox / "d.dlpk")  # just dropped
    monkeypatch.setattr("flows.take_in.say", said.append)
    assert "roofs@1, ponds@1" == take_in.fn(str(inbox))
    assert "roofs@1, ponds@1" == take_in.fn(str(inbox))
    assert catalog.find_version("ponds@1").imported
    assert ["dlpk.model.published roofs@1", "dlpk.model.published ponds@1"] == told
    assert f"1 more were changed less than a minute ago, and wait for the next run: {inbox}" == said[0]


def test_what_a_prune_removed_comes_back_only_when_it_is_named(
    tmp_path: Path, package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("flows.take_in.say", said.append)
    for weights in ("one", "two"):
        (tmp_path / "inbox" / weights).mkdir(parents=True)
        old = shutil.copy(package(weights), tmp_path / "inbox" / weights)
        os.utime(old, (1, 1))
    assert "roofs@1, roofs@2" == take_in.fn(str(tmp_path / "inbox"))
    prune.fn(keep=1)
    assert "roofs@2" == take_in.fn(str(tmp_path / "inbox"))
    assert ["one/roofs.dlpk is passed over: it was pruned as roofs@1"] == said
    assert "roofs@3" == take_in.fn(str(tmp_path / "inbox" / "one" / "roofs.dlpk"))
    assert "roofs@3, roofs@2" == take_in.fn(str(tmp_path / "inbox"))


@pytest.mark.slow
def test_a_single_model_gets_the_name_that_it_is_given(package: Callable[..., Path]) -> None:
    assert "houses@1" == take_in.fn(str(package("one")), name="houses")


def test_an_import_of_which_nothing_came_fails(tmp_path: Path) -> None:
    (tmp_path / "c.dlpk").write_bytes(b"no zip")
    with pytest.raises(DlpkError, match="no package could be imported"):
        take_in.fn(str(tmp_path / "c.dlpk"))


@pytest.mark.slow
def test_old_versions_and_old_working_folders_go(package: Callable[..., Path]) -> None:
    for weights in ("one", "two", "three"):
        publish(package(weights), scores={}, data_digest="", git_commit="")
    old = settings().home / "work" / "roofs" / "0123"
    old.mkdir(parents=True)
    os.utime(old, (1, 1))
    assert "2 versions and 1 working folders would go" == prune.fn(keep=1, dry_run=True)
    assert "2 versions and 1 working folders are gone" == prune.fn(keep=1)
    assert not old.exists()
    assert ["roofs@3"] == [version.ref for version in catalog.versions("roofs")]


def test_a_working_folder_that_somebody_is_at_stays() -> None:
    folder = settings().home / "work" / "roofs" / "0123"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        assert locked(lock)
        for path in (folder / ".lock", folder):
            os.utime(path, (1, 1))
        assert [] == _old_work(30, "", dry_run=False)
    assert folder.is_dir()


@pytest.mark.parametrize("before", ["open", "locked"])
def test_a_working_folder_that_a_prune_removes_at_its_beginning_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    lock, prunes = tmp_path / "roofs" / "0123" / ".lock", [shutil.rmtree]
    where: Any = Path if before == "open" else work
    known = getattr(where, before)

    def pruned(file: Any, *mode: str) -> Any:
        if prunes:
            prunes.pop()(lock.parent)
        return known(file, *mode)

    monkeypatch.setattr(where, before, pruned)
    with work._held(lock):
        assert lock.is_file()
        with pytest.raises(Conflict, match="another process is at work"), work._held(lock):
            pytest.fail("both got it")


def first_band(imagery: Path) -> Path:
    with rasterio.open(imagery) as source:
        alone = imagery.with_name("first.tif")
        with rasterio.open(alone, "w", **{**source.profile, "count": 1}) as raster:
            raster.write(source.read(1), 1)
    return alone


def test_fresh_labels_of_several_changes_are_cut_by_the_classes_of_the_recipe() -> None:
    told = [{"value": 1, "name": "burnt", "color": [1, 2, 3]}, {"value": 2, "name": "cut", "color": [1, 2, 3]}]
    of_two_dates = (NO_CHANGE, CHANGE)
    assert [1, 2] == [one.value for one in _classes(of_two_dates, {"recipe": {"classes": told}})]
    assert () == _classes(of_two_dates, {"recipe": {}}) == _classes(of_two_dates, {})
    roof = ClassLabel(3, "roof", (1, 2, 3))
    assert ["roof"] == [one.name for one in _classes((NO_CHANGE, roof), {"recipe": {"classes": told}})]


@pytest.mark.slow
def test_a_champion_is_scored_again_on_fresh_labels(tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    version = bright(tmp_path / "models")
    export = ExportOptions(metadata_format="Classified_Tiles", tile_size=64)
    why = evaluate.fn(version.ref, str(first_band(imagery)), str(labels), export=export)
    assert "there is nothing to compare it with" in why
    [folder] = (settings().home / "evaluations" / "roofs").iterdir()
    assert (folder / "report" / "model_metrics.html").is_file()
