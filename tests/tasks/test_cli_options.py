import json
import os
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from registry.errors import OptionsError
from registry.files import sha256
from tasks.cli import fetched
from tasks.cli_options import Verb, parse
from tasks.lazy_group import LazyGroup, imported
from tasks.options import Options


class PaintOptions(Options):
    colour: Literal["red", "green"] = Field("red", description="what to paint with")
    coats: int = Field(2, ge=1, description="layers of paint")
    drying: float | None = Field(1.5, description="hours between coats; none: until it is dry")
    quick: bool = Field(False, description="skip the primer")
    window: tuple[float, float] | None = Field(None, description="width and height, in metres")
    rooms: tuple[str, ...] = Field((), description="rooms to paint")
    mixture: dict[str, float] = Field(default_factory=dict, description="parts by pigment")


@click.command("paint", cls=Verb, options=f"{__name__}:PaintOptions")
@click.argument("wall")
def paint(wall: str, options: PaintOptions) -> None:
    """Paint a wall."""
    click.echo(json.dumps({"wall": wall, **options.model_dump()}))


@pytest.fixture(autouse=True)
def found_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module has no address to import by, so the command is told its class."""
    monkeypatch.setitem(paint.__dict__, "model", PaintOptions)


def painted(*arguments: str) -> Any:
    result = CliRunner().invoke(paint, ["north", *arguments], catch_exceptions=False)
    assert 0 == result.exit_code, result.output
    return json.loads(result.output)


def test_without_flags_every_option_has_its_default() -> None:
    assert {"wall": "north", **json.loads(PaintOptions().model_dump_json())} == painted()


def test_each_kind_of_field_is_a_flag_of_its_kind() -> None:
    sized = ["--coats", "3", "--window", "1.5", "2"]
    flags = ["--colour", "green", "--quick", *sized, "--rooms", "hall", "--rooms", "attic"]
    expected = {
        "colour": "green",
        "coats": 3,
        "drying": 1.5,
        "quick": True,
        "window": [1.5, 2.0],
        "rooms": ["hall", "attic"],
    }
    assert {"wall": "north", **expected, "mixture": {"ochre": 0.5}} == painted(*flags, "--mixture", '{"ochre": 0.5}')


@pytest.mark.parametrize(("given", "hours"), [("none", None), ("3", 3.0)])
def test_none_is_a_value_where_the_default_is_another(given: str, hours: float | None, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"drying": 7}')
    assert hours == painted("--options", str(file), "--drying", given)["drying"]
    assert "--drying FLOAT|NONE" in CliRunner().invoke(paint, ["--help"]).output


def test_a_flag_wins_over_the_options_file(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"coats": 5, "colour": "green"}')
    result = painted("--options", str(file), "--coats", "1")
    assert (1, "green") == (result["coats"], result["colour"])


@pytest.mark.parametrize("text", ["{coats: 3", "[1]", "\xe9"])
def test_an_options_file_that_holds_none_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(OptionsError, match="options.json: .*JSON"):
        painted("--options", str(file))


def test_a_false_flag_wins_over_the_options_file(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"quick": true}')
    assert painted("--options", str(file), "--no-quick")["quick"] is False


def test_the_help_tells_every_field_and_its_default() -> None:
    text = " ".join(CliRunner().invoke(paint, ["--help"]).output.split())
    for name, field in PaintOptions.model_fields.items():
        assert f"--{name}" in text
        assert str(field.description) in text
    assert "[default: 2]" in text


def test_a_wrong_value_is_told_with_its_field() -> None:
    with pytest.raises(OptionsError, match=r"paint: coats: .*greater than or equal to 1, got 0"):
        CliRunner().invoke(paint, ["north", "--coats", "0"], catch_exceptions=False)


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(OptionsError) as told:
        parse(PaintOptions, {"coats": "many", "brush": 3}, where="options.json")
    assert "options.json: coats:" in str(told.value)
    assert "brush: there is no such key" in str(told.value)


def test_an_address_names_a_thing_of_a_module() -> None:
    assert imported("tasks.options:Options") is Options


@pytest.mark.parametrize("hidden", [[], ["--hidden"]])
def test_a_disk_that_refuses_is_one_line(hidden: list[str]) -> None:
    result = CliRunner().invoke(FAILING, ["fail", "28", *hidden])
    assert 1 == result.exit_code
    assert "StoreError: b.tif: the disk refuses (No space left on device); free some space" in result.stderr


def test_another_error_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):  # that may be a defect of ours
        CliRunner().invoke(FAILING, ["fail", "2"], catch_exceptions=False)


@click.command("fail")
@click.argument("number", type=int)
@click.option("--hidden", is_flag=True)
def fail(number: int, hidden: bool) -> None:
    try:
        raise OSError(number, os.strerror(number), "a.tif", None, "b.tif")
    except OSError:
        if hidden:
            raise RuntimeError("enforce fail") from None
        raise


FAILING = LazyGroup(lazy={"fail": (f"{__name__}:fail", "")})


def test_a_package_may_have_its_suffix_in_capitals(tmp_path: Path) -> None:
    file = tmp_path / "roofs.DLPK"
    file.write_bytes(b"")
    path, source = fetched(str(file))
    assert (file, "roofs", sha256(file)) == (path, source.name, source.sha256)
