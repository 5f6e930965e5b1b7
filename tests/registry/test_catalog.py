import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.cli import LAZY
from registry import catalog, publishing
from registry.catalog import ModelRef, Version, champion, fetch, find_version
from registry.cli import registry_commands
from registry.errors import Conflict, DlpkError, NotFound, OptionsError, PackageError, StoreError
from registry.files import sha256
from registry.promotion import promote
from registry.publishing import publish
from registry.searching import Wanted, search
from registry.settings import settings
from registry.stores import open_store
from registry.tracking import connect
from tests.registry.conftest import make_package
from tests.servers import Seaweed

Publish = Callable[..., Version]


# -- references --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("trees", ModelRef("trees")),
        ("trees@3", ModelRef("trees", number=3)),
        (" trees@champion ", ModelRef("trees", alias="champion")),
        ("tree-tops_2.1@challenger", ModelRef("tree-tops_2.1", alias="challenger")),
    ],
)
def test_a_reference_is_a_name_and_a_number_or_an_alias(text: str, ref: ModelRef) -> None:
    assert ref == ModelRef.parse(text)
    assert text.strip() == str(ref)


@pytest.mark.parametrize(
    "text", ["", "@3", "trees@", "a/b", "a:b", "..", ".a", "trees@@3", "latest", "x" * 200, "trees@v3"]
)
def test_a_reference_that_means_nothing_is_told_with_the_right_form(text: str) -> None:
    with pytest.raises(OptionsError, match="use letters|write NAME|use a word"):
        ModelRef.parse(text)


# -- publishing --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_published_package_is_a_whole_version(published: Publish) -> None:
    version = published(AP50=0.61, loss=float("nan"))
    assert ("roofs@1", ("challenger",), {"AP50": 0.61}) == (version.ref, version.aliases, version.scores)
    assert f"{settings().store}/roofs/{version.sha256}/roofs.dlpk" == version.uri
    assert ("ImageClassification", ("roof", "pond"), ("Red", "Green", "Blue")) == (
        version.model_type,
        version.classes,
        version.bands,
    )
    assert (0.5, 64, "PyTorch", "unet") == (
        version.cell_size,
        version.tile_size,
        version.framework,
        version.model_configuration,
    )
    assert ("d1", "c1", None) == (version.data_digest, version.git_commit, version.run_id)
    assert json.loads(json.dumps(version.document()))["ref"] == "roofs@1"


def test_the_manifest_names_every_member(published: Publish) -> None:
    version = published()
    manifest = json.loads(open_store(settings().store).get_bytes(f"roofs/{version.sha256}/manifest.json"))
    assert (version.sha256, version.size, "c1") == (manifest["sha256"], manifest["size"], manifest["git_commit"])
    assert 6 == len(manifest["members"])


def test_the_same_bytes_are_the_same_version(published: Publish, tmp_path: Path) -> None:
    first = published(AP50=0.5)
    again = publish(make_package(tmp_path / "again"), scores={"AP50": 0.9}, data_digest="d2", git_commit="c2")
    assert first == again
    assert 1 == len(catalog.versions("roofs"))


def test_the_newest_version_is_the_challenger(published: Publish) -> None:
    published(b"one")
    published(b"two")
    published(b"one2")
    assert [("challenger",), (), ()] == [version.aliases for version in catalog.versions("roofs")]


def test_publishing_an_old_package_again_moves_no_alias(published: Publish, tmp_path: Path) -> None:
    published(b"one")
    published(b"two")
    again = publish(make_package(tmp_path / "x", weights=b"one"), scores={}, data_digest="", git_commit="")
    assert (1, ()) == (again.number, again.aliases)


def test_many_publishers_of_the_same_bytes_get_one_version(mlflow_home: Path, tmp_path: Path) -> None:
    dlpk = make_package(tmp_path / "x")
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(publish, dlpk, scores={}, data_digest="", git_commit="") for _ in range(4)]
    assert 1 == len({job.result().number for job in jobs}) == len(catalog.versions("roofs"))
    assert mlflow_home.is_dir()


@pytest.mark.parametrize("write", ["create_registered_model", "create_model_version", "delete_model_version"])
def test_a_locked_database_is_waited_for(
    published: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    published()
    real, registered = getattr(MlflowClient, write), publishing._registered
    locked, late = [MlflowException("database is locked")], [None]  # and another publisher is quicker by a moment

    def busy(client: MlflowClient, *args: Any, **options: Any) -> Any:
        if locked:
            raise locked.pop()
        return real(client, *args, **options)

    monkeypatch.setattr(MlflowClient, write, busy)
    monkeypatch.setattr(publishing, "_registered", lambda *key: late.pop() if late else registered(*key))
    again = publish(make_package(tmp_path / "again"), scores={}, data_digest="", git_commit="")
    assert 1 == again.number == len(catalog.versions("roofs"))
    assert [] == locked == late


def test_a_double_which_its_publisher_takes_back_is_no_challenger(
    published: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, challenge = MlflowClient.set_registered_model_alias, publishing._challenge

    def with_a_double(client: MlflowClient, name: str) -> None:
        client.create_model_version(name, "dlpk://double")
        challenge(client, name)

    def taken_back(client: MlflowClient, name: str, alias: str, version: str) -> None:
        if version == "2":
            client.delete_model_version(name, version)
        real(client, name, alias, version)

    monkeypatch.setattr(publishing, "_challenge", with_a_double)
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", taken_back)
    version = published(b"one")
    assert (1, ("challenger",)) == (version.number, version.aliases)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "done"),  # how often the step was done before the kill
    [
        *(("store.put", 0), ("store.put_bytes", 0), ("store.put_bytes", 1), ("client.create_model_version", 0)),
        *(("client.set_registered_model_alias", 0), ("store.exists", 0)),
    ],
)
def test_a_publisher_killed_between_two_steps_is_completed_by_the_next(
    published: Publish, tmp_path: Path, step: str, done: int
) -> None:
    published(b"zero")
    dlpk = make_package(tmp_path / "x")
    program = f"""
        import os, signal, sys
        from pathlib import Path
        import mlflow
        from registry import publishing
        from registry.stores.file import FileStore as store
        from mlflow import MlflowClient as client
        real, left = {step}, [None] * {done}
        def die(*args, **kwargs): return left.pop() or real(*args, **kwargs) if left else os.kill(os.getpid(), 9)
        {step} = die
        publishing.publish(Path({str(dlpk)!r}), scores={{"AP50": 0.5}}, data_digest="d", git_commit="c")
    """
    assert -9 == subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode
    assert all(version.size and version.uri for version in catalog.versions("roofs"))
    version = publish(dlpk, scores={"AP50": 0.5}, data_digest="d", git_commit="c")
    assert (2, ("challenger",), {"AP50": 0.5}) == (version.number, version.aliases, version.scores)
    assert 2 == len(catalog.versions("roofs"))


def test_a_renamed_package_is_not_published(dlpk: Path) -> None:
    with pytest.raises(PackageError, match=r"expected the file name roofs\.dlpk"):
        publish(dlpk.rename(dlpk.with_name("roofs-v2.dlpk")), scores={}, data_digest="", git_commit="")


def test_a_version_made_by_another_program_is_not_ours(published: Publish) -> None:
    published()
    connect().create_model_version("roofs", "s3://elsewhere/model")
    connect().create_registered_model("foreign")
    assert [1] == [version.number for version in catalog.versions("roofs")]
    assert ["roofs@1"] == [version.ref for version in search(Wanted())]


# -- finding -----------------------------------------------------------------------------------------------------------
def test_models_are_found_by_words_type_and_alias(published: Publish) -> None:
    published(b"one")
    published(b"two")
    published(name="trees")
    assert ["roofs@2", "roofs@1", "trees@1"] == [version.ref for version in search(Wanted())]
    assert ["trees@1"] == [version.ref for version in search(Wanted(text="TREE"))]
    assert 3 == len(search(Wanted(text="pond")))
    assert ["roofs@2", "trees@1"] == [version.ref for version in search(Wanted(alias="challenger"))]
    assert [] == search(Wanted(model_type="ObjectDetection"))


def test_what_is_not_there_is_told_with_what_is(published: Publish) -> None:
    with pytest.raises(NotFound, match=r"no model 'trees'; there is no model"):
        find_version("trees")
    published(b"one")
    published(b"two")
    with pytest.raises(NotFound, match=r"no model 'trees'; there is roofs"):
        find_version("trees")
    with pytest.raises(NotFound, match=r"no roofs@9; there are 1, 2, and there is challenger"):
        find_version("roofs@9")
    with pytest.raises(NotFound, match=r"no roofs@champion"):
        find_version("roofs@champion")
    assert champion("roofs") is None
    assert champion("trees") is None


def test_a_bare_name_is_the_champion_or_the_newest(published: Publish) -> None:
    published(b"one")
    published(b"two")
    assert 2 == find_version("roofs").number
    promote("roofs", 1)
    assert 1 == find_version("roofs").number
    with pytest.raises(NotFound, match="no roofs@0; there are 1, 2"):
        find_version("roofs@0")


# -- fetching ----------------------------------------------------------------------------------------------------------
def test_a_fetched_package_is_what_was_published(published: Publish, tmp_path: Path, dlpk_home: Path) -> None:
    version = published()
    cached = fetch("roofs@challenger")
    assert dlpk_home / "cache" / "packages" / version.sha256 / "roofs.dlpk" == cached
    copied = fetch(ModelRef("roofs", 1), tmp_path / "out")
    assert (tmp_path / "out" / "roofs.dlpk", version.sha256) == (copied, sha256(copied))


def test_a_damaged_cache_is_repaired(published: Publish) -> None:
    version = published()
    fetch("roofs").write_bytes(b"damaged")
    assert version.sha256 == sha256(fetch("roofs"))


def test_a_damaged_store_is_told_and_nothing_is_handed_out(published: Publish, dlpk_home: Path) -> None:
    version = published()
    Path(version.uri.removeprefix("file://")).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=rf"expected the sha256 {version.sha256}"):
        fetch("roofs")
    assert [] == [path for path in (dlpk_home / "cache").rglob("*") if path.is_file()]


def test_the_advice_for_a_damaged_store_heals_it(published: Publish, tmp_path: Path) -> None:
    version = published()
    package = fetch("roofs", tmp_path / "kept")
    fetch("roofs").unlink()
    file = Path(version.uri.removeprefix("file://"))
    file.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="remove this object there and publish the same package again"):
        fetch("roofs")
    file.unlink()
    assert version == publish(package, scores={}, data_digest="", git_commit="")
    assert version.sha256 == sha256(fetch("roofs"))


def test_a_file_of_the_same_name_is_not_overwritten(published: Publish, tmp_path: Path) -> None:
    published()
    (tmp_path / "roofs.dlpk").write_text("mine")
    with pytest.raises(Conflict, match="another file of this name"):
        fetch("roofs", tmp_path)
    assert "mine" == (tmp_path / "roofs.dlpk").read_text()


# -- commands ----------------------------------------------------------------------------------------------------------
def run(*words: str) -> Result:
    command = next(command for command in registry_commands if command.name == words[0])
    return CliRunner().invoke(command, list(words[1:]))


def test_every_command_prints_one_record(published: Publish, tmp_path: Path, dlpk: Path) -> None:
    version = published()
    assert ["roofs@1"] == [row["ref"] for row in json.loads(run("models").output)]
    assert version.sha256 == json.loads(run("show", "roofs@1").output)["sha256"]
    assert "roofs" == json.loads(run("show", str(dlpk)).output)["name"]
    assert (
        str(tmp_path / "out" / "roofs.dlpk")
        == json.loads(run("fetch", "roofs", "--into", str(tmp_path / "out")).output)["path"]
    )
    assert ["challenger", "champion"] == json.loads(run("promote", "roofs@1", "--reason", "x").output)["aliases"]
    assert "whole" == json.loads(run("verify", "roofs@champion").output)["verdict"]
    assert 6 == json.loads(run("verify", str(dlpk)).output)["members"]
    assert str(tmp_path / "new") == json.loads(run("unpack", str(dlpk), "--into", str(tmp_path / "new")).output)["path"]


def test_a_reference_is_verified_in_the_store_though_the_package_was_fetched_before(published: Publish) -> None:
    version = published()
    fetch("roofs@1")
    file = Path(version.uri.removeprefix("file://"))
    file.write_bytes(b"damaged")
    assert "expected the sha256" in str(run("verify", "roofs@1").exception)
    file.unlink()
    assert "no such object" in str(run("verify", "roofs@1").exception)


def test_every_command_has_help_and_a_sentence_for_each_option() -> None:
    listed = {name for name, (place, _) in LAZY.items() if place == "registry.cli:registry_commands"}
    assert listed == {command.name for command in registry_commands}
    for command in registry_commands:
        assert command.help
        assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.usefixtures("mlflow_home")
def test_a_wrong_word_is_told_as_ours() -> None:
    for words in (("show", "gone.dlpk"), ("show", "gone"), ("fetch", "a@b@c"), ("verify", "./gone"), ("promote", "a")):
        assert isinstance(run(*words).exception, DlpkError)


# -- over the network --------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3://models/published", "folder"])
def test_a_version_lives_on_real_servers(
    weed: Seaweed, mlflow_http: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {**weed.environment(), "MLFLOW_TRACKING_URI": mlflow_http}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("DLPK_STORE", place if "://" in place else (tmp_path / place).as_uri())
    name = f"roofs-{place[:2]}"
    dlpk = make_package(tmp_path / "x", name)
    version = publish(dlpk, scores={"AP50": 0.5}, data_digest="d", git_commit="c")
    assert version == publish(dlpk, scores={"AP50": 0.5}, data_digest="d", git_commit="c")
    promote(name, version.number, reason="it is the first")
    assert sha256(dlpk) == sha256(fetch(f"{name}@champion"))
    assert [name] == [found.name for found in search(Wanted(text=name))]
    with pytest.raises(NotFound, match=rf"no {name}@9; there is 1"):
        fetch(f"{name}@9")
