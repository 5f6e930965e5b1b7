"""Who may do a scene: workers that share nothing but a store, and may die at any line."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pystac
import pytest
import shapely

from registry import results
from registry.ledger import Claim, Entry, Ledger, Owner
from registry.scenes import Scene
from registry.stores import Store, open_store

SHA = "ab" * 32


def lies(*box: float) -> dict[str, Any]:
    return {"geometry": json.loads(shapely.to_geojson(shapely.box(*box))), "bbox": list(box)}


BOX = lies(13.0, 52.0, 13.1, 52.1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "results").as_uri())


def entry(name: str = "a.tif", content: str = "e1", version: str = "3") -> Entry:
    return Entry(Scene(name, content, f"/in/{name}", "file"), "roofs", version, SHA)


def ledger(store: Store, lease: float = 60) -> Ledger:
    owner = Owner(store, lease)
    owner.beat()
    return Ledger(owner, "roofs")


def claimed(book: Ledger, one: Entry) -> Claim | None:
    return book.claim(one, book.claims().get(one.key), book.owner.living())


def product(folder: Path, words: str = "roof") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preview.geojson").write_text(words)
    return folder / "preview.geojson"


def test_a_scene_that_somebody_living_has_is_not_to_be_had(store: Store) -> None:
    first, second = ledger(store), ledger(store)
    assert claimed(first, entry()) is not None
    assert claimed(second, entry()) is None


def test_of_two_who_saw_the_same_only_one_gets_it(store: Store) -> None:
    first, second = ledger(store), ledger(store)
    assert ["0001", None] == [c and c.attempt for c in (b.claim(entry(), None, set()) for b in (first, second))]


def test_a_scene_of_a_worker_that_fell_silent_is_free_after_a_lease(store: Store) -> None:
    dead, other = ledger(store), ledger(store, lease=0.05)
    assert claimed(dead, entry())
    assert claimed(other, entry()) is None  # its last beat may be a moment old
    time.sleep(0.06)
    taken = claimed(other, entry())
    assert taken
    assert "0002" == taken.attempt


def test_a_worker_that_ends_leaves_its_scenes_free_at_once(store: Store) -> None:
    with Owner(store).alive() as owner:
        assert claimed(Ledger(owner, "roofs"), entry())
    assert claimed(ledger(store), entry())


def test_what_is_done_is_known_to_all_and_leaves_no_claims(store: Store, tmp_path: Path) -> None:
    book = ledger(store)
    claim = claimed(book, entry())
    assert claim
    results.publish(store, claim, [product(tmp_path)], BOX)
    book.finish(entry())
    assert {entry().key} == ledger(store).done()
    assert [] == store.list("ledger/roofs/claims/")


def test_a_result_whose_author_died_before_writing_it_down_is_not_made_again(store: Store, tmp_path: Path) -> None:
    claim = claimed(ledger(store), entry())
    assert claim
    results.publish(store, claim, [product(tmp_path)], BOX)
    heir = ledger(store)
    assert heir.claim(entry(), claim.attempt, set()) is None
    assert {entry().key} == heir.done()


def test_another_content_or_version_is_another_entry() -> None:
    other = Entry(entry().scene, "roofs", "4", "cd" * 32)
    assert 3 == len({entry().key, entry(content="e2").key, other.key})


def test_failures_are_counted_with_their_reasons_and_free_the_scene(store: Store) -> None:
    book = ledger(store)
    for _ in range(2):
        claim = claimed(book, entry())
        assert claim
        book.fail(claim, "no raster")
    assert 2 == book.failures()[entry().key]
    assert ["no raster", "no raster"] == book.reasons(entry())


def test_nothing_is_kept_of_workers_that_are_long_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.ledger.FORGOTTEN", 0)
    ledger(store)
    looker = ledger(store)
    looker.owner.living()
    looker.owner.living()
    assert [] == store.list("ledger/owners/")


def test_a_killed_worker_counts_as_living_for_one_lease_and_no_longer(store: Store, tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from registry.ledger import Owner
        from registry.stores import open_store
        with Owner(open_store({store.uri!r}), 0.2).alive() as owner:
            print(owner.name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    other = Owner(store, 0.2)
    assert {done.stdout.strip()} == other.living()
    time.sleep(0.21)
    assert set() == other.living()


def test_the_first_result_counts_and_the_second_leaves_no_file(store: Store, tmp_path: Path) -> None:
    slow = claimed(ledger(store), entry())
    quick = ledger(store).claim(entry(), "0001", set())  # took over while the first was paused
    assert slow
    assert quick
    assert results.publish(store, quick, [product(tmp_path / "quick")], BOX)
    assert "" == results.publish(store, slow, [product(tmp_path / "slow", "other")], BOX)
    item = entry().item
    assert [f"{item}/{quick.folder.split('/')[1]}/preview.geojson", f"{item}/item.json"] == store.list(f"{item}/")


def test_an_attempt_may_be_published_again_when_the_answer_was_lost(store: Store, tmp_path: Path) -> None:
    claim = claimed(ledger(store), entry())
    assert claim
    first = results.publish(store, claim, [product(tmp_path)], BOX)
    assert first == results.publish(store, claim, [product(tmp_path)], BOX)


def test_an_item_is_stac_and_tells_which_model_made_it_of_what(store: Store, tmp_path: Path) -> None:
    claim = claimed(ledger(store), entry())
    assert claim
    results.publish(store, claim, [product(tmp_path)], {**BOX, "properties": {"dlpk:counts": {"roof": 2}}})
    [item] = results.items(store)
    assert ("roofs@3", SHA, "a.tif", {"roof": 2}) == tuple(
        item["properties"][f"dlpk:{name}"] for name in ("model", "sha256", "scene", "counts")
    )
    assert {"preview"} == pystac.Item.from_dict(item).assets.keys()


def test_the_collection_lists_all_results_and_their_common_box(store: Store, tmp_path: Path) -> None:
    book = ledger(store)
    for i, name in enumerate(("a.tif", "b.tif")):
        claim = claimed(book, entry(name))
        assert claim
        results.publish(store, claim, [product(tmp_path)], lies(i, 50, i + 1, 51))
        assert i + 1 == results.refresh(store)
    collection = json.loads(store.get_bytes(results.COLLECTION))
    assert [[0, 50, 2, 51]] == collection["extent"]["spatial"]["bbox"]
    assert 2 == len([link for link in collection["links"] if link["rel"] == "item"])
