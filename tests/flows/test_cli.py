import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flows.cli import LAZY, _parameter, main
from flows.recipe import Recipe
from registry.errors import OptionsError
from registry.parameters import laid_over
from tasks.cli_options import parse


def dlpk(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom flows.cli import main\n"
        "assert 0 == CliRunner().invoke(main, ['--help']).exit_code\n"
        "print([m for m in ('prefect', 'mlflow', 'torch', 'rasterio', 'boto3', 'geopandas') if m in sys.modules])"
    )
    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", LAZY)
def test_a_command_is_there_under_its_name(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command
    assert name == command.name


def test_an_unknown_command_is_no_traceback() -> None:
    result = CliRunner().invoke(main, ["dance"])
    assert 2 == result.exit_code
    assert "No such command 'dance'" in result.output


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = dlpk("retrain", str(tmp_path / "recipe.yaml"))
    assert 1 == done.returncode
    assert "" == done.stdout
    assert f"NotFound: {tmp_path}/recipe.yaml: there is no such recipe\n" == done.stderr


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in dlpk("--debug", "retrain", str(tmp_path / "recipe.yaml")).stderr


@pytest.mark.slow
def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = dlpk("detect-objects", str(tmp_path / "roofs.dlpk"), "a.tif", "b.gpkg")
    assert 1 == done.returncode
    assert (
        "roofs.dlpk: there is no such model; check the path, or give a reference such as trees@champion" in done.stderr
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ("model=trees@3", ("model", "trees@3")),
        ('x={"y": [1]}', ("x", {"y": [1]})),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_a_parameter_is_json_or_else_a_text(text: str, expected: tuple[str, object]) -> None:
    assert expected == _parameter(text)


def test_a_parameter_without_a_value_is_told() -> None:
    with pytest.raises(OptionsError, match="-p: expected KEY=VALUE, got 'epochs'"):
        _parameter("epochs")


def test_the_parameter_in_the_help_is_one() -> None:
    (key, value) = re.findall(r"recipe\.([a-z_.]+)=(\d+)", CliRunner().invoke(main, ["run", "--help"]).output)[0]
    recipe = laid_over({"name": "roofs", "imagery": "a.tif", "labels": "b.gpkg"}, {key: int(value)})
    assert 30 == parse(Recipe, recipe).train.max_epochs


@pytest.mark.slow
def test_a_record_is_json_in_a_pipe(tmp_path: Path) -> None:
    from tests.scenes import roofs

    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    flags = ("--tile-size", "48", "--stride", "48")
    done = dlpk("export", str(imagery), str(labels), str(tmp_path / "chips"), *flags)
    record = json.loads(done.stdout)
    assert (4, str(tmp_path / "chips")) == (record["chips"], record["folder"])
