import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry import newest
from registry.catalog import Version, find_version, of_package
from registry.cli import registry_commands
from registry.dlpk import ModelFolder, pack
from registry.editing import Changes, edit
from registry.emd import Emd
from registry.errors import NotFound, OptionsError
from registry.history import history
from registry.promotion import promote
from registry.publishing import publish
from registry.rows import PRUNED
from registry.searching import Wanted, page, search
from registry.tracking import connect
from tests.registry.conftest import make_model, make_package
from tests.servers import postgres

TODAY = datetime.now(UTC)


@pytest.fixture
def two(tmp_path: Path, mlflow_home: Path) -> None:
    """Roofs of 0.6 from three bands, and trees of 0.8 from Sentinel-2."""
    assert mlflow_home.is_dir()
    kinds: dict[str, tuple[float, dict[str, Any]]] = {
        "roofs": (0.6, {"Tags": "town, roof"}),
        "trees": (
            0.8,
            {
                "InputRastersProps": {"SensorName": "Sentinel-2A", "BandNames": ["Red", "NearInfrared"]},
                "Classes": [{"Value": 1, "Name": "Tree", "Color": [0, 255, 0]}],
                "ExtractBands": [0, 1],
            },
        ),
    }
    for name, (score, keys) in kinds.items():
        model = make_model(tmp_path / name, name)
        Emd({**model.emd.document, **keys}).write(model.emd_path)
        dlpk = pack(ModelFolder(model.path), tmp_path / f"{name}.dlpk")
        made = {"extent": {"bbox": [79.8, 6.8, 79.9, 6.9], "geometry": None}} if name == "roofs" else {}
        publish(dlpk, scores={"ap50": score}, data_digest="", git_commit="", made=made)


def names(wanted: Wanted, **order: Any) -> list[str]:
    return [version.name for version in search(wanted, **order)]


@pytest.mark.slow
@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), ["roofs", "trees"]),
        (Wanted(class_name="TREE"), ["trees"]),
        (Wanted(class_name="tre"), []),
        (Wanted(tag="Town"), ["roofs"]),
        (Wanted(sensor="sentinel"), ["trees"]),
        (Wanted(bands=("red", "nearinfrared")), ["trees"]),
        (Wanted(least="ap50=0.7"), ["trees"]),
        (Wanted(least="ap50 >= 0.6"), ["roofs", "trees"]),
        (Wanted(least="AP50=0.7"), ["trees"]),
        (Wanted(model_type="imageclassification"), ["roofs", "trees"]),
        (Wanted(since=f"{TODAY - timedelta(days=1):%Y-%m-%d}"), ["roofs", "trees"]),
        (Wanted(before=f"{TODAY - timedelta(days=1):%Y-%m-%d}"), []),
        (Wanted(since=f"{TODAY + timedelta(days=2):%Y-%m-%d}"), []),
        (Wanted(model_type="ObjectDetection"), []),
        (Wanted(cell_size="0.3:1"), ["roofs", "trees"]),
        (Wanted(cell_size=":0.3"), []),
        (Wanted(extent=(79, 6, 80, 7)), ["roofs"]),
        (Wanted(extent=(10, 50, 11, 51)), []),
        (Wanted(class_name="%"), []),
        (Wanted(text="o_fs"), []),
        (Wanted(text="tree", alias="challenger"), ["trees"]),
    ],
)
def test_every_condition_must_hold(wanted: Wanted, found: list[str]) -> None:
    assert found == names(wanted)
    assert (found, len(found)) == newest.names(wanted)


@pytest.mark.usefixtures("two")
def test_a_page_tells_how_many_there_are() -> None:
    second = page(Wanted(), first=1, count=1)
    assert (["trees"], 2) == ([version.name for version in second.versions], second.total)
    assert ([], 2) == (page(Wanted(), first=9).versions, page(Wanted(), first=9).total)
    assert (0, []) == (page(Wanted(text="gone")).total, page(Wanted(text="gone")).versions)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["postgres", "http"])
def test_every_database_gives_the_same_answers(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        if server == "http":
            uri = request.getfixturevalue("mlflow_http")
        else:
            uri = stack.enter_context(postgres("mlflow")).uri("mlflow", "postgresql+psycopg2")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for name, made in {"ärmel": {"extent": {"bbox": [79.8, 6.8, 79.9, 6.9]}}, "wand": {}}.items():
            dlpk = make_package(tmp_path / name, f"find-{name[-2:]}", name.encode())
            edit(dlpk, Changes(class_names={1: name.capitalize()}, tags=[f"a {name}", "100%"]))
            publish(dlpk, scores={"ap50": len(name) / 10}, data_digest="", git_commit="", made=made)
        promote("find-nd", 1)
        both, one, other = ["find-el", "find-nd"], ["find-el"], ["find-nd"]
        asked: list[tuple[dict[str, Any], list[str]]] = [
            *(({"text": "find-"}, both), ({"class_name": "ÄRMEL"}, one), ({"tag": "A WAND"}, other)),
            *(({"tag": "100%"}, both), ({"least": "ap50=0.45"}, one), ({"extent": (79, 6, 80, 7)}, one)),
            *(({"alias": "champion"}, other), ({"cell_size": ":0.5"}, both), ({"bands": ("red", "BLUE")}, both)),
            *(({"text": "wan"}, other), ({"since": "2020-01-01", "sensor": ""}, both), ({"before": "2020-01-01"}, [])),
        ]
        for conditions, found in asked:
            for of_newest in (False, True):
                wanted = Wanted(**{"text": "find-", **conditions})
                if "text" in conditions:
                    wanted = Wanted(**conditions)
                assert found == names(wanted, newest=of_newest), conditions
            assert (found, len(found)) == newest.names(wanted), conditions
        assert (one, other) == (
            names(Wanted(text="find-"), sort="ap50")[:1],
            names(Wanted(text="find-"), sort="created")[:1],
        )
        promote("find-el", 1)
        assert (both, 2) == newest.names(Wanted(text="find-", alias="champion"))
        assert ["find-nd@1"] == [version.ref for version in of_package(find_version("find-nd").sha256)]
        assert [1] == [event.version for event in history("find-nd")]
        with pytest.raises(NotFound, match="find-nd"):
            find_version("find-n")


@pytest.mark.usefixtures("two")
def test_the_best_comes_first_when_sorted_by_a_score() -> None:
    assert ["trees", "roofs"] == names(Wanted(), sort="ap50")
    assert ["trees", "roofs"] == names(Wanted(), sort="created")
    assert ["trees", "roofs"] == names(Wanted(), sort="AP50")
    with pytest.raises(OptionsError, match="nothing to sort by, got 'f1'; use one of ap50, created, name, size"):
        search(Wanted(), sort="f1")
    with pytest.raises(OptionsError, match="--score: there is no such score, got 'f1'; use one of ap50"):
        search(Wanted(least="f1=0"))


def test_scores_of_classes_of_any_name_are_looked_for(tmp_path: Path, mlflow_home: Path) -> None:
    """Also of two whose names have no letter of ASCII."""
    assert mlflow_home.is_dir()
    for name, road, house in (("a", 0.9, 0.2), ("b", 0.3, 0.8)):
        dlpk = pack(make_model(tmp_path / name, name), tmp_path / f"{name}.dlpk")
        scores = {"IoU_道路": road, "IoU_房屋": house, "IoU_a//b (it's)": house}
        assert scores == publish(dlpk, scores=scores, data_digest="", git_commit="").scores
    assert ["a", "b"] == names(Wanted(), sort="IoU_道路")
    assert ["b", "a"] == names(Wanted(), sort="IoU_房屋")
    assert ["b"] == names(Wanted(least="IoU_a//b (it's)=0.5"))


def test_of_each_model_only_the_newest(published: Callable[..., Version]) -> None:
    published(b"one")
    published(b"two")
    assert ["roofs@2"] == [version.ref for version in search(Wanted(), newest=True)]


def test_cards_are_found_and_ordered_by_the_version_that_they_show(published: Callable[..., Version]) -> None:
    for name, scores in {"alpha": (0.9, 0.3), "beta": (0.5,)}.items():
        for score in scores:
            published(str(score).encode(), name, ap50=score)
        promote(name, 1)
    assert (["alpha", "beta"], 2) == newest.names(Wanted(), sort="ap50")
    assert (["alpha"], 1) == newest.names(Wanted(least="ap50=0.8"))
    assert ["beta", "alpha"] == [version.name for version in newest.page(Wanted(), sort="ap50").versions]


def test_what_is_kept_of_the_newest_is_never_older_than_the_question(published: Callable[..., Version]) -> None:
    def refs(**conditions: Any) -> list[str]:
        return [version.ref for version in newest.page(Wanted(**conditions)).versions]

    published(b"one")
    assert (["roofs@1"], []) == (refs(), refs(alias="champion"))
    promote("roofs", 1)
    published(b"two")
    assert (["roofs@2"], ["roofs@1"]) == (refs(), refs(alias="champion"))
    promote("roofs", 2)
    assert ["roofs@2"] == refs(alias="champion")
    connect().set_model_version_tag("roofs", "2", PRUNED, "true")
    assert (["roofs@1"], []) == (refs(), refs(alias="champion"))
    connect().delete_model_version("roofs", "1")
    assert [] == refs()


@pytest.mark.usefixtures("mlflow_home")
@pytest.mark.parametrize("wanted", [Wanted(least="good"), Wanted(least="a=b"), Wanted(since="may"), Wanted(before="x")])
def test_a_condition_that_cannot_be_read_is_told(wanted: Wanted) -> None:
    with pytest.raises(OptionsError, match="write e.g."):
        search(wanted)


@pytest.mark.usefixtures("two")
def test_the_command_takes_every_condition() -> None:
    command = next(command for command in registry_commands if command.name == "models")
    words = ["--class", "tree", "--sensor", "sentinel", "--band", "Red", "--score", "ap50=0.5", "--sort", "ap50"]
    rows = json.loads(CliRunner().invoke(command, [*words, "--newest", "--json"]).output)
    assert ["trees@1"] == [row["ref"] for row in rows]
