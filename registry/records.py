"""How one thing, or several, are printed: a table for people, JSON where the output is no terminal.

Texts come from anybody's packages, so they are shown as they are: no markup, no control characters.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

MANY = 40  # a list of more is told by its ends


def print_record(record: Mapping[str, Any], as_json: bool = False) -> None:
    """One thing: a line for each of its facts, or a JSON object."""
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(record, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("key", Column("value", overflow="fold"), show_header=False, box=None)
    for key, value in record.items():
        table.add_row(Text(key.replace("_", " "), style="bold"), _cell(value))
    Console().print(table)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool, *, nothing: str) -> None:
    """Several of a kind: a line each, of some of their facts, or a JSON list of all."""
    if as_json or not sys.stdout.isatty():
        click.echo(json.dumps(list(rows), indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(column.replace("_", " "), overflow="fold") for column in columns))
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    Console().print(table if rows else nothing)


def text(value: Any) -> str:
    """A value for people: lists with commas, a line for each entry of an object, four digits of a fraction."""
    if isinstance(value, Mapping):
        return "\n".join(f"{_shown(str(key))} {text(e).replace(chr(10), ', ')}" for key, e in value.items()) or "none"
    if isinstance(value, list | tuple):
        lines = list(map(_line, value))
        return "\n".join(lines) if any(isinstance(entry, Mapping) for entry in value) else few(lines)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else _shown(str(value))


def few(things: Sequence[object]) -> str:
    """With commas between them; of many, as the bands of a hyperspectral sensor are, the first three and the last."""
    shown = [*things[:3], f"... {things[-1]} ({len(things)})"] if len(things) > MANY else things
    return ", ".join(map(str, shown))


def _line(value: Any) -> str:
    return text(value).replace("\n", ", ")


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, list) and value and all(isinstance(entry, Mapping) and "color" in entry for entry in value):
        return Text("\n").join(_swatch(entry) for entry in value)
    return Text(text(value))


def _swatch(label: Mapping[str, Any]) -> Any:
    """A class: its colour, its Value and its Name."""
    from rich.text import Text

    color = ",".join(map(str, label["color"]))
    known = all(0 <= part <= 255 for part in label["color"])
    told = f" {label['value']} {_shown(label['name'])} ({color})"
    return Text.assemble(("  ", f"on rgb({color})" if known else ""), told)


def _shown(text: str) -> str:
    return "".join(sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in text)
