"""The commands that browse and move models: each parses, calls one function, prints one record.

A table for people; JSON when the output is no terminal, or with --json.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from registry.errors import OptionsError

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as in a pipe.")
folder = click.Path(file_okay=False, path_type=Path)
package = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("text", default="")
@click.option("--type", "model_type", default="", help="Only this ModelType, e.g. ObjectDetection.")
@click.option("--alias", default="", help="Only versions that hold this alias.")
@as_json
def models(text: str, model_type: str, alias: str, as_json: bool) -> None:
    """List the published models, or those whose name or classes contain TEXT."""
    from registry import catalog

    found = catalog.find(text=text, model_type=model_type, alias=alias)
    print_rows([version.document() for version in found], as_json)


@click.command()
@click.argument("model", metavar="REF_OR_FILE")
@as_json
def show(model: str, as_json: bool) -> None:
    """Show all that is known of a version (roofs@champion) or of a .dlpk or .emd file."""
    from registry import catalog, dlpk
    from registry.emd import Emd

    if not _is_file(model):
        record = catalog.find_version(model).document()
    elif model.endswith(".emd"):
        record = dict(Emd.read(Path(model)).document)
    else:
        record = dlpk.inspect(Path(model)).document()
    print_record(record, as_json)


@click.command()
@click.argument("ref")
@click.option("--into", type=folder, help="Folder to copy the .dlpk into; without it, it stays in the cache.")
@as_json
def fetch(ref: str, into: Path | None, as_json: bool) -> None:
    """Fetch the .dlpk of a version out of the store; its sha256 is checked."""
    from registry import catalog

    print_record({"ref": ref, "path": str(catalog.fetch(ref, into))}, as_json)


@click.command()
@click.argument("ref", metavar="NAME@N")
@click.option("--alias", default="champion", show_default=True, help="The alias that the version gets.")
@click.option("--reason", default="", help="Why; it is kept with the version.")
@as_json
def promote(ref: str, alias: str, reason: str, as_json: bool) -> None:
    """Give a version an alias: the champion is the one in use."""
    from registry import catalog

    if "@" not in ref:
        raise OptionsError("expected the version to promote", got=ref, do="write NAME@3 or NAME@challenger")
    chosen = catalog.find_version(ref)
    print_record(catalog.promote(chosen.name, chosen.number, alias, reason=reason).document(), as_json)


@click.command()
@click.argument("model", metavar="FILE_OR_REF")
@as_json
def verify(model: str, as_json: bool) -> None:
    """Check a .dlpk, or the one behind a reference, against every rule for packages."""
    from registry import catalog, dlpk

    found = dlpk.verify(Path(model) if _is_file(model) else catalog.fetch(model))
    facts = {"path": str(found.path), "sha256": found.sha256, "size": found.size, "members": len(found.members)}
    print_record({"verdict": "whole", "name": found.name, **facts}, as_json)


@click.command()
@click.argument("file", type=package)
@click.option("--into", type=folder, help="A new folder; without it, one beside the file, of its name.")
@as_json
def unpack(file: Path, into: Path | None, as_json: bool) -> None:
    """Unpack a .dlpk into a model folder."""
    from registry import dlpk

    made = dlpk.unpack(file, into or file.with_suffix(""))
    print_record({"name": made.name, "path": str(made.path), "members": len(made.files())}, as_json)


registry_commands: list[click.Command] = [models, show, fetch, promote, verify, unpack]


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Versions as one line each, or as a JSON list."""
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(list(rows), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    columns = ("ref", "aliases", "model_type", "classes", "scores", "size", "created")
    table = Table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    Console().print(table if rows else "No models are published yet.")


def print_record(record: Mapping[str, Any], as_json: bool) -> None:
    """One thing: a line for each of its facts, or a JSON object."""
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(record, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for key, value in record.items():
        table.add_row(key.replace("_", " "), _text(value))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_file(model: str) -> bool:
    """A path, or a reference? Raises OptionsError for a path at which there is nothing."""
    if Path(model).is_file():
        return True
    if model.endswith((".dlpk", ".emd")) or "/" in model:
        raise OptionsError("no such file", where=model, do="give a .dlpk file or a reference such as roofs@champion")
    return False
