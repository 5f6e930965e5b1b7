"""Each new scene once, by real runs of a tiny model; without a server."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from flows import new_scenes, steps
from flows.infer import infer
from flows.new_scenes import Summary, left, survey
from flows.scene_batch import RECORD, Batch, _publish_finished
from flows.scene_options import NewScenes
from flows.steps import Known
from registry import results, scenes
from registry.catalog import Version
from registry.errors import Denied, OptionsError, StoreError
from registry.ledger import Entry, Ledger, Owner
from registry.scenes import Scene
from registry.settings import settings
from registry.stores import Store, open_store
from registry.tracking import connect
from tasks.inference_options import ModelSource
from tests.tiny_model import published, scene

CHECKOUT = Path(__file__).parents[2]
READY = NewScenes(settle=0)
SHAS = {"1": "aa" * 32, "2": "bb" * 32}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number in range(3):
        scene(tmp_path / "scenes" / f"s{number}.tif", place=number)
    return tmp_path / "scenes"


@pytest.fixture
def store() -> Store:
    return open_store(settings().results)


def known(version: str = "1") -> Known:
    return Known(Path("roofs.dlpk"), ModelSource("roofs", version, SHAS[version]), "classify-pixels")


def ledger(store: Store) -> Ledger:
    return Ledger(Owner(store), "roofs")


def names(entries: list[Entry]) -> list[str]:
    return [entry.scene.id for entry in entries]


def test_what_is_done_is_not_new_and_what_was_replaced_is(place: Path, store: Store) -> None:
    book = ledger(store)
    found, entries = survey(known(), str(place), READY, book)
    assert (3, ["s0.tif", "s1.tif", "s2.tif"]) == (found, names(entries))
    for entry in entries:
        book.finish(entry)
    scene(place / "s1.tif", roof=20)
    assert (3, ["s1.tif"]) == ((of := survey(known(), str(place), READY, book))[0], names(of[1]))


@pytest.mark.parametrize(
    ("policy", "again"),
    [({}, []), ({"rerun": "all"}, ["s0.tif", "s1.tif"]), ({"rerun": "since", "since": "2026-05-01"}, ["s1.tif"])],
)
def test_a_new_champion_does_again_what_the_policy_says(
    policy: dict[str, str], again: list[str], place: Path, store: Store
) -> None:
    os.utime(place / "s0.tif", (1, 1))
    (place / "s2.tif").unlink()
    book = ledger(store)
    dials = NewScenes(settle=0, **policy)
    for entry in survey(known("1"), str(place), dials, book)[1]:
        book.finish(entry)
    assert again == names(survey(known("2"), str(place), dials, book)[1])


def test_a_scene_that_failed_too_often_is_left_and_its_reason_told(place: Path, store: Store) -> None:
    book = ledger(store)
    _, entries = survey(known(), str(place), READY, book)
    for _ in range(READY.most_failures):
        claim = book.claim(entries[0], book.claims().get(entries[0].key), set())
        assert claim
        book.fail(claim, "no raster")
    summary = Summary()
    assert names(entries[1:]) == names(left(book, entries, READY, summary))
    assert {"s0.tif": "no raster"} == summary.failed


@pytest.fixture
def roofs(tmp_path: Path) -> Version:
    return published(tmp_path / "models")


@pytest.mark.slow
def test_new_scenes_are_done_once_and_a_damaged_one_stops_no_other(roofs: Version, place: Path, store: Store) -> None:
    (place / "bad.tif").write_bytes(b"no raster")
    dials = NewScenes(settle=0, most_failures=1)
    assert store.uri == infer.fn(roofs.ref, str(place), scenes=dials)
    made = {item["properties"]["dlpk:scene"]: item for item in results.items(store)}
    assert {f"s{number}.tif": {"background": 3840, "roof": 256} for number in range(3)} == {
        name: item["properties"]["dlpk:counts"] for name, item in made.items()
    }
    kinds = {"data", "preview", "thumbnail", "overlay", "attributes", "classes", "encoding"}
    assert kinds == made["s0.tif"]["assets"].keys()
    infer.fn(roofs.ref, str(place), scenes=dials)
    assert made == {item["properties"]["dlpk:scene"]: item for item in results.items(store)}


@pytest.mark.slow
def test_bands_in_files_of_their_own_are_done_as_one_scene(roofs: Version, tmp_path: Path, store: Store) -> None:
    scene(tmp_path / "scenes/a_B02.tif", roof=20)
    scene(tmp_path / "scenes/a_B08.tif")
    scene(tmp_path / "scenes/b_B08.tif")
    dials = NewScenes(settle=0, bands=("*_B08.tif", "*_B02.tif"))
    for _ in range(2):
        infer.fn(roofs.ref, str(tmp_path / "scenes"), scenes=dials)
    [made] = results.items(store)
    facts = made["properties"]
    assert ("a", {"background": 3840, "roof": 256}) == (facts["dlpk:scene"], facts["dlpk:counts"])
    sources = [link["href"] for link in made["links"] if link["rel"] == "derived_from"]
    assert [str(tmp_path / f"scenes/a_{band}.tif") for band in ("B08", "B02")] == sources


@pytest.mark.parametrize("bands", [("*_B02.tif", "*_B02.tif"), ("_B02.tif",), ("*_B*.tif",)])
def test_patterns_that_do_not_tell_bands_apart_are_refused(bands: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match=r"expected different patterns with one \* each, such as \*_B02.tif, got"):
        NewScenes(bands=bands)


@pytest.mark.slow
def test_scenes_that_cannot_be_had_keep_no_other_one_waiting(
    roofs: Version, place: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, away = scenes.fetch, iter([StoreError("does not answer")])

    def fetched(one: Scene, folder: Path) -> Path:
        if one.id == "s0.tif":
            raise Denied("answered 403")
        if one.id == "s1.tif" and (error := next(away, None)):
            raise error
        return fetch(one, folder)

    monkeypatch.setattr(scenes, "fetch", fetched)
    monkeypatch.setattr(new_scenes, "POLL", 0.0)
    told: list[str] = []
    monkeypatch.setattr(new_scenes, "say", told.append)
    infer.fn(roofs.ref, str(place), scenes=READY)
    assert {"s1.tif", "s2.tif"} == {item["properties"]["dlpk:scene"] for item in results.items(store)}
    assert "1 scenes gave nothing: s0.tif" in told
    monkeypatch.setattr(scenes, "fetch", fetch)
    infer.fn(roofs.ref, str(place), scenes=READY)
    assert 3 == len(list(results.items(store)))


def test_a_scene_that_is_denied_after_it_was_read_ends_no_batch(
    place: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(_scene: Scene) -> str:
        raise Denied("answered 403")

    monkeypatch.setattr(scenes, "content", content)
    book = ledger(store)
    entry = survey(known(), str(place), READY, book)[1][0]
    claim = book.claim(entry, None, set())
    assert claim
    batch = Batch(known(), book, tmp_path, open={entry.key: claim})
    (record := batch.place(entry) / RECORD).parent.mkdir(parents=True)
    record.write_text("{}")
    _publish_finished(batch)
    assert ([entry.key], {"s0.tif": "answered 403"}) == (batch.gone, batch.refused)
    assert ({}, {entry.key: "0001-free"}) == (batch.open, book.claims())


@pytest.mark.slow
def test_a_run_that_gets_nothing_done_ends_with_the_reason(
    roofs: Version, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_scene: Scene, _folder: Path) -> Path:
        raise StoreError("does not answer")

    monkeypatch.setattr(scenes, "fetch", away)
    monkeypatch.setattr(new_scenes, "POLL", 0.0)
    monkeypatch.setattr(new_scenes, "LONGEST", 0.0)
    with pytest.raises(StoreError, match="nothing was done for 0 s: does not answer"):
        infer.fn(roofs.ref, str(place), scenes=READY)
    experiment = f"{roofs.name} inference"
    found = connect().get_experiment_by_name(experiment)
    assert found
    assert ["FAILED"] == [run.info.status for run in connect().search_runs([found.experiment_id])]


def test_a_model_of_two_dates_asks_for_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").touch()
    monkeypatch.setattr(steps, "fetch", lambda _: replace(known(), tool="detect-change"))
    with pytest.raises(OptionsError, match=r"compares two dates; give the second date as later_imagery"):
        infer.fn("roofs@1", str(tmp_path))


@pytest.mark.parametrize("out", ["", "s3://models/results"])
def test_results_of_rasters_that_would_lie_nowhere_are_refused(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tif").touch()
    monkeypatch.setattr(steps, "fetch", lambda _: known())
    with pytest.raises(OptionsError, match=f"out: expected a file or a folder, got '{out}'"):
        infer.fn("roofs@1", str(tmp_path / "*.tif"), out)


def test_suffixes_are_written_in_any_way() -> None:
    assert (".tif", ".jp2") == NewScenes(suffixes=("TIF", ".Jp2")).suffixes


@pytest.mark.slow
def test_what_a_killed_run_had_claimed_is_done_by_another(roofs: Version, place: Path, store: Store) -> None:
    code = "from flows.infer import infer; from flows.scene_options import NewScenes as S; import sys; "
    code += "infer.fn(*sys.argv[1:], scenes=S(settle=0))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, roofs.ref, str(place)], cwd=CHECKOUT, start_new_session=True
    )
    while not store.list("ledger/roofs/claims/"):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    infer.fn(roofs.ref, str(place), scenes=NewScenes(settle=0, lease=1))
    assert 3 == len(list(results.items(store)))
    links = json.loads(store.get_bytes(results.COLLECTION))["links"]
    assert 3 == len([link for link in links if link["rel"] == "item"])
