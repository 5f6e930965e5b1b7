"""`dlpk export` as a person types it: every option a flag under a heading, a forecast, a record, warnings apart."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tasks import town
from tasks.chips import ChipFolder
from tasks.cli import EXPORT_GROUPS, main
from tasks.exporting.options import ExportOptions

SIZE = ("--tile-size", "32", "--stride", "32")


def dlpk(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def record(*arguments: object) -> dict[str, Any]:
    result = dlpk(*arguments)
    assert 0 == result.exit_code, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return town.write(tmp_path / "town")


def test_every_option_is_under_one_heading_of_the_help() -> None:
    listed = [name for names in EXPORT_GROUPS.values() for name in names]
    assert sorted(ExportOptions.model_fields) == sorted(listed)
    text = dlpk("export", "--help").output
    headings = ["Options:", *(f"{heading}:" for heading in EXPORT_GROUPS)]
    assert sorted(map(text.index, headings)) == list(map(text.index, headings))


def test_every_option_is_a_flag_and_becomes_what_it_must_be() -> None:
    command = main.get_command(click.Context(main), "export")
    assert command
    flags = {o.name: o for o in command.get_params(click.Context(command)) if isinstance(o, click.Option)}
    assert isinstance(flags["options_metadata_format"].type, click.Choice)
    assert (3, click.FLOAT) == (flags["options_split"].nargs, flags["options_split"].type)
    assert (4, click.FLOAT) == (flags["options_extent"].nargs, flags["options_extent"].type)
    assert click.FLOAT is flags["options_cell_size"].type
    assert click.INT is flags["options_split_block_size"].type
    assert flags["options_warp"].is_bool_flag


def test_the_record_says_what_was_written_and_where(scene: tuple[Path, Path], tmp_path: Path) -> None:
    told = record("export", *scene, tmp_path / "chips", *SIZE, "--workers", 1)
    chips = ChipFolder.open(tmp_path / "chips")
    assert (len(chips.names), chips.digest) == (told["chips"], told["digest"])
    assert {"roof": {"chips": 7, "objects": 7}, "pond": {"chips": 4, "objects": 4}} == told["classes"]
    assert Path(told["preview"]).is_file()
    assert Path(told["report"]).is_file()


def test_warnings_are_on_stderr_and_not_in_the_record(scene: tuple[Path, Path], tmp_path: Path) -> None:
    result = dlpk("export", *scene, tmp_path / "chips", *SIZE, "--workers", 1)
    assert "Warning: class 'pond' is in" in result.stderr
    assert "warnings" not in json.loads(result.stdout)


def test_a_dry_run_says_how_much_it_will_be_and_writes_nothing(scene: tuple[Path, Path], tmp_path: Path) -> None:
    told = record("export", *scene, tmp_path / "chips", *SIZE, "--dry-run", "--workers", 1)
    assert not (tmp_path / "chips").exists()
    done = record("export", *scene, tmp_path / "chips", *SIZE, "--workers", 1)
    assert (done["chips"], done["left_out"]) == (told["chips"], told["left_out"])
    assert {name: amounts["chips"] for name, amounts in done["classes"].items()} == told["classes"]
    written = sum(p.stat().st_size for p in (tmp_path / "chips" / "images").rglob("*"))
    assert written == pytest.approx(told["bytes"], rel=0.5)
    assert told["minutes"] > 0


def test_a_second_time_the_same_is_told_without_work(scene: tuple[Path, Path], tmp_path: Path) -> None:
    command = ("export", *scene, tmp_path / "chips", *SIZE, "--workers", 1)
    assert record(*command) == record(*command)


def test_several_rasters_come_before_the_labels(tmp_path: Path) -> None:
    first, labels = town.write(tmp_path / "a")
    second, _ = town.write(tmp_path / "b")
    once = record("export", first, labels, tmp_path / "one", *SIZE, "--workers", 1)
    twice = record("export", first, second, labels, tmp_path / "two", *SIZE, "--workers", 1)
    assert 2 * once["chips"] == twice["chips"]


def test_the_split_is_told(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "town", repeat=3)
    told = record("export", imagery, labels, tmp_path / "chips", *SIZE, "--split", 0.5, 0.25, 0.25, "--workers", 1)
    assert {"train", "validation", "test"} == set(told["split"])
    assert told["chips"] == sum(told["split"].values())


def test_oversampling_gives_rare_classes_more_chips(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "town", repeat=2)
    plain = record("export", imagery, labels, tmp_path / "plain", *SIZE, "--workers", 1)
    more = record("export", imagery, labels, tmp_path / "more", *SIZE, "--oversample", "--workers", 1)
    rare = min(plain["classes"], key=lambda name: plain["classes"][name]["chips"])
    assert plain["classes"][rare]["chips"] < more["classes"][rare]["chips"]


def test_pictures_alone_need_no_labels(scene: tuple[Path, Path], tmp_path: Path) -> None:
    flags = ("--metadata-format", "Export_Tiles", *SIZE, "--workers", 1)
    assert 9 == record("export", scene[0], "-", tmp_path / "chips", *flags)["chips"]


def test_the_name_in_arcgis_is_the_same_command(scene: tuple[Path, Path], tmp_path: Path) -> None:
    told = record("export-training-data", *scene, tmp_path / "chips", *SIZE, "--workers", 1)
    assert told["chips"] > 0


def test_a_wrong_format_lists_the_right_ones() -> None:
    result = dlpk("export", "a.tif", "b.gpkg", "chips", "--metadata-format", "PASCAL")
    assert 2 == result.exit_code
    assert "PASCAL_VOC_rectangles" in result.stderr


@pytest.mark.parametrize("text", ["- {value: 1, name: roof", "roof", "- roof"])
def test_a_file_of_classes_that_holds_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(text)
    result = dlpk("export", "a.tif", "b.gpkg", "chips", "--classes", tmp_path / "classes.yaml")
    assert 1 == result.exit_code
    assert "classes.yaml: " in result.stderr
