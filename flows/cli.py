"""The command `dlpk`: the verbs, the registry and the flows, in the order of a model's life."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.announcing import announce
from registry import watchers
from registry.errors import OptionsError
from tasks.commands import ALIASES
from tasks.commands import LAZY as VERBS
from tasks.lazy_group import LazyGroup

if TYPE_CHECKING:
    from tasks import console  # it brings rich

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LAZY: Mapping[str, tuple[str, str]] = {
    "demo": ("flows.demo:demo_command", "Train and run a model on real imagery, from nothing."),
    "retrain": ("flows.cli:retrain", "Train, publish and maybe promote a model by a recipe."),
    **VERBS,
    "models": ("registry.cli:registry_commands", "List the models and their versions."),
    "show": ("registry.cli:registry_commands", "Show all about a version or a file."),
    "fetch": ("registry.cli:registry_commands", "Get the package of a version."),
    "promote": ("registry.cli:registry_commands", "Give a version an alias, such as champion."),
    "rollback": ("registry.cli:registry_commands", "Give an alias back to the version before."),
    "history": ("registry.cli:registry_commands", "Tell which version was champion when, and why."),
    "sign": ("registry.cli:registry_commands", "Vouch for a package with a signature."),
    "verify": ("registry.cli:registry_commands", "Check a package."),
    "unpack": ("registry.cli:registry_commands", "Unpack a package into a model folder."),
    "edit": ("registry.cli:registry_commands", "Change what a package says of its model."),
    "add-file": ("registry.cli:registry_commands", "Add files to a package."),
    "remove-file": ("registry.cli:registry_commands", "Remove files from a package."),
    "import": ("registry.cli:registry_commands", "Register a model that was made elsewhere."),
    "prune": ("registry.cli:registry_commands", "Remove old versions that nothing refers to."),
    "share": ("registry.cli:registry_commands", "Share a package in an ArcGIS portal."),
    "diff": ("registry.cli:registry_commands", "Tell what differs between two packages."),
    "browse": ("registry.web.cli:web_commands", "Serve the page to browse models, results and runs."),
    "token": ("registry.web.cli:web_commands", "Make a token with which somebody signs in there."),
    "run": ("flows.cli:run", "Trigger a deployment on the Prefect server."),
    "deploy": ("flows.cli:deploy", "Send prefect.yaml to the Prefect server."),
    "up": ("infra.cli:up", "Start servers and workers on this machine, without containers."),
    "down": ("infra.cli:down", "End them."),
    "status": ("infra.cli:status", "Show which of them work."),
    "doctor": ("infra.cli:doctor", "Look at everything that a run needs."),
    "metrics": ("infra.cli:metrics", "Serve figures for Prometheus."),
    "backup": ("infra.cli:backup", "Back up both databases and the stores."),
    "restore": ("infra.cli:restore", "Restore them."),
}


class _Drawn(logging.Handler):
    """What is logged, on stderr; rich is imported when there is something to say."""

    def emit(self, record: logging.LogRecord) -> None:
        self._handler.emit(record)

    @cached_property
    def _handler(self) -> logging.Handler:
        from rich.logging import RichHandler

        from tasks import console

        return RichHandler(console=console.errors(), show_time=False, show_path=False, show_level=False)


@click.group(cls=LazyGroup, lazy=LAZY, aliases=ALIASES)
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@click.version_option(package_name="dlpk-flows")
def main(debug: bool) -> None:
    """Deep learning packages for ArcGIS: imagery and labels in, a published .dlpk and inference results out."""
    watchers.champions.add(announce)
    logger = logging.getLogger("dlpk")
    logger.addHandler(_Drawn())
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Prefect, once imported, would say every line again


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--only-if-changed", is_flag=True, help="do nothing where the newest version is of these very inputs")
@click.pass_obj
def retrain(program: "console.JsonLines | None", recipe: Path, only_if_changed: bool) -> None:
    """Train, publish and maybe promote a model by a recipe.

    Runs here and needs no server; with PREFECT_API_URL set it is a flow run on that server. The same command
    again after a kill goes on where it stopped.
    """
    from tasks import console

    if console.errors().is_terminal:  # bars and verdict are drawn there: Prefect's own lines would tear them
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    from flows.recipe import Recipe
    from flows.retrain import retrain as flow
    from flows.triggers import called
    from registry import catalog

    version = catalog.find_version(called(flow, Recipe.read(recipe), only_if_changed))
    facts = {"aliases": list(version.aliases), "scores": dict(version.scores), "package": version.uri}
    console.end(program, {"version": version.ref, **facts})


@click.command()
@click.argument("name")
@click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="e.g. recipe.train.max_epochs=30"
)
@click.option("--wait", is_flag=True, help="wait for the run to end; exit code 1 unless it completes")
@click.pass_obj
def run(program: "console.JsonLines | None", name: str, parameters: tuple[str, ...], wait: bool) -> None:
    """Trigger a deployment, by its name (`retrain`) or in full (`retrain/retrain`).

    Parameters are laid over those of prefect.yaml, at any depth; values are JSON, anything else is a text.
    """
    from flows.triggers import trigger
    from tasks import console

    console.end(program, trigger(name, dict(map(_parameter, parameters)), wait=wait))


@click.command()
@click.option("--file", type=FILE, default="prefect.yaml", show_default=True, help="the deployments")
def deploy(file: Path) -> None:
    """Make the work pools and send prefect.yaml to the Prefect server."""
    from flows.triggers import server

    server()
    send = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    for command in ([sys.executable, "-m", "infra.bootstrap"], send):
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)


def _parameter(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise OptionsError("expected KEY=VALUE", where="-p", got=text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    main(prog_name="dlpk")
