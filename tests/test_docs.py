"""What the documents say is what there is: every command, the test command, the picture, the links."""

import re
from pathlib import Path

import click
import pytest

from flows.cli import main
from tasks.commands import ALIASES

CHECKOUT = Path(__file__).resolve().parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")])
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = main.list_commands(click.Context(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_documents(name: str) -> None:
    assert re.search(rf"\bdlpk {name}\b", TEXT), f"say what `dlpk {name}` is for in README.md or docs/"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    context = click.Context(main)
    command = main.get_command(context, name)
    assert command
    assert command.help
    options = [p for p in command.get_params(click.Context(command)) if isinstance(p, click.Option)]
    assert [p.name for p in options if not p.help] == []


def test_the_documents_name_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"^(?:\$ )?dlpk ([a-z][a-z-]*)", TEXT, re.MULTILINE)) | set(
        re.findall(r"`dlpk ([a-z][a-z-]*)", TEXT)
    )
    assert named - {*COMMANDS, *ALIASES} == set()


def test_ci_runs_the_readme_test_command() -> None:
    commands = re.findall(r"^make [a-z-]+$", (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["make lint", "make test"]
    assert re.search(r"^make test\b", README, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_makefile_lists_its_targets() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))


def test_constraints_name_versions_and_nothing_else() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin)] == []
    assert sorted(pins, key=str.lower) == pins
