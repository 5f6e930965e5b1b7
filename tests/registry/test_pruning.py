import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from registry import catalog, pruning, publishing
from registry.catalog import Version, fetch
from registry.cli import registry_commands
from registry.errors import OptionsError
from registry.promotion import promote
from registry.pruning import prune
from registry.publishing import publish
from registry.settings import settings
from registry.stores import locate, open_store
from registry.stores.file import FileStore

Publish = Callable[..., Version]


@pytest.fixture
def seven(published: Publish) -> list[Version]:
    return [published(f"w{i}".encode()) for i in range(7)]


def numbers() -> list[int]:
    return [version.number for version in catalog.versions("roofs")]


@pytest.mark.slow
def test_the_newest_stay_and_the_files_of_the_others_go(seven: list[Version]) -> None:
    plan = prune(3)
    assert [4, 3, 2, 1] == [version.number for version in plan.remove]
    assert [7, 6, 5] == numbers()
    assert sum(v.size for v in seven[:4]) == plan.document()["bytes"]
    assert 3 * 3 == len(open_store(settings().store).list("roofs/"))
    assert fetch("roofs@5").is_file()


@pytest.mark.slow
def test_a_dry_run_touches_nothing(seven: list[Version]) -> None:
    assert 6 == len(prune(1, dry_run=True).remove)
    assert len(seven) == len(numbers())


@pytest.mark.slow
def test_an_aliased_version_and_what_it_replaced_stay(seven: list[Version]) -> None:
    promote("roofs", 1)
    promote("roofs", 3)
    promote("roofs", 2, "tested")
    kept = prune(1).keep
    assert {"roofs@1": "roofs@3 tells of it as champion", "roofs@2": "is tested", "roofs@3": "is champion"} == kept
    assert [len(seven), 3, 2, 1] == numbers()


def test_a_version_that_is_promoted_meanwhile_stays(published: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in (b"one", b"two", b"three"):
        published(weights)
    delete = FileStore.delete

    def promoting(store: FileStore, key: str) -> None:
        promote("roofs", 1)
        delete(store, key)

    monkeypatch.setattr(FileStore, "delete", promoting)
    assert [2] == [version.number for version in prune(1).remove]
    assert [3, 1] == numbers()


@pytest.mark.slow
def test_the_parent_of_a_version_that_stays_stays(published: Publish) -> None:
    published(b"one")
    promote("roofs", published(b"two").number)
    published(b"three")
    promote("roofs", 3)
    promote("roofs", published(b"four").number)
    assert "roofs@3" in prune(1).keep
    assert [4, 3] == numbers()


@pytest.mark.slow
def test_other_models_stay(seven: list[Version], published: Publish) -> None:
    published(b"a", "trees")
    published(b"b", "trees")
    prune(1, name="trees")
    assert (len(seven), 1) == (len(numbers()), len(catalog.versions("trees")))


def test_none_left_is_not_a_choice() -> None:
    with pytest.raises(OptionsError, match="at least 1 version, got 0"):
        prune(0)


def test_pruned_bytes_may_be_published_again(published: Publish, tmp_path: Path) -> None:
    first = fetch(published(b"one").ref, tmp_path / "kept")
    published(b"two")
    prune(1)
    again = catalog.find_version("roofs")
    assert 2 == again.number
    assert 3 == publish(first, scores={}, data_digest="", git_commit="").number
    assert first.read_bytes() == fetch("roofs@3").read_bytes()


def test_the_files_of_bytes_that_were_published_again_stay(
    published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dlpk = fetch(published(b"one").ref, tmp_path / "kept")
    published(b"two")
    with monkeypatch.context() as killed:
        killed.setattr(pruning, "locate", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prune(1)
    promote("roofs", publish(dlpk, scores={}, data_digest="", git_commit="").number)
    prune(1)
    kept = catalog.find_version("roofs@champion")
    store, key = locate(kept.uri, depth=3)
    assert (3, dlpk.read_bytes(), "roofs") == (kept.number, store.get_bytes(key), catalog.manifest_of(kept)["name"])


def test_what_a_prune_takes_while_it_is_published_comes_back(
    published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = published(b"one", AP50=0.5)
    dlpk, beside = fetch(first.ref, tmp_path / "kept"), open_store(settings().store).list("roofs/")
    published(b"two")

    def pruned(client: Any, facts: dict[str, Any], run_id: str | None) -> int:
        prune(1)
        return register(client, facts, run_id)

    register = publishing._register
    monkeypatch.setattr(publishing, "_register", pruned)
    again = publish(dlpk, scores={}, data_digest="", git_commit="")
    assert 3 == again.number
    assert beside == open_store(settings().store).list(f"roofs/{first.sha256}/")
    assert {"AP50": 0.5} == catalog.manifest_of(again)["scores"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["store.delete", "client.delete_model_version"])
def test_a_killed_prune_shows_no_half_version_and_is_completed_by_the_next(seven: list[Version], step: str) -> None:
    program = f"""
        import os, signal
        import mlflow
        from mlflow import MlflowClient as client
        from registry.pruning import prune
        from registry.stores.file import FileStore as store
        def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
        {step} = die
        prune(6)
    """
    assert -9 == subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode
    assert [7, 6, 5, 4, 3, 2] == numbers()
    prune(6)
    assert 6 * 3 == len(open_store(settings().store).list("roofs/"))
    assert len(seven) - 1 == len(numbers())


@pytest.mark.slow
def test_the_command_says_what_goes_and_what_stays(seven: list[Version]) -> None:
    command = next(command for command in registry_commands if command.name == "prune")
    told = json.loads(CliRunner().invoke(command, ["--keep", "5", "--dry-run"]).output)
    assert (["roofs@2", "roofs@1"], True) == (told["remove"], told["dry_run"])
    assert len(seven) == len(numbers())


@pytest.mark.parametrize("step", ["set_model_version_tag", "delete_model_version"])
def test_another_prune_at_the_same_moment_ends_nothing(
    published: Publish, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for content in (b"one", b"two"):
        published(content)
    real, delete = getattr(MlflowClient, step), MlflowClient.delete_model_version

    def late(client: MlflowClient, name: str, version: str, *more: str) -> None:
        delete(client, name, version)
        real(client, name, version, *more)

    monkeypatch.setattr(MlflowClient, step, late)
    prune(1)
    assert [2] == numbers()
