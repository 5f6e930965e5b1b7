import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.catalog import Version
from registry.cli import registry_commands
from registry.dlpk import ModelFolder, pack
from registry.emd import Emd
from registry.errors import OptionsError
from registry.publishing import publish
from registry.searching import Wanted, search
from tests.registry.conftest import make_model

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
        publish(dlpk, scores={"ap50": score}, data_digest="", git_commit="")


def names(wanted: Wanted, **order: Any) -> list[str]:
    return [version.name for version in search(wanted, **order)]


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
        (Wanted(least="f1=0"), []),
        (Wanted(since=f"{TODAY - timedelta(days=1):%Y-%m-%d}"), ["roofs", "trees"]),
        (Wanted(before=f"{TODAY - timedelta(days=1):%Y-%m-%d}"), []),
        (Wanted(since=f"{TODAY + timedelta(days=2):%Y-%m-%d}"), []),
        (Wanted(model_type="ObjectDetection"), []),
        (Wanted(text="tree", alias="challenger"), ["trees"]),
    ],
)
def test_every_condition_must_hold(wanted: Wanted, found: list[str]) -> None:
    assert found == names(wanted)


@pytest.mark.usefixtures("two")
def test_the_best_comes_first_when_sorted_by_a_score() -> None:
    assert ["trees", "roofs"] == names(Wanted(), sort="ap50")
    assert ["trees", "roofs"] == names(Wanted(), sort="created")
    with pytest.raises(OptionsError, match="nothing to sort by, got 'f1'; use one of ap50, created, name, size"):
        search(Wanted(), sort="f1")


def test_of_each_model_only_the_newest(published: Callable[..., Version]) -> None:
    published(b"one")
    published(b"two")
    assert ["roofs@2"] == [version.ref for version in search(Wanted(), newest=True)]


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
