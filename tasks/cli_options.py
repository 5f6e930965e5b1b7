"""The command line, derived: flags come from the fields of an options class, and commands are imported when called.

    @click.command("train", cls=Verb, options="tasks.train:TrainOptions")
    def train(chips: Path, out: Path, options: TrainOptions) -> None: ...

A field `epochs: int = Field(20, description="...")` becomes `--epochs INTEGER`, a bool `--name/--no-name`, a Literal a
choice, a fixed tuple takes that many values, a list may be given again and again, anything else is JSON. Where None
means something and is not the default, the word `none` says it.
`--options FILE` gives them all at once, as JSON; single flags win over it. `groups` are headings of the help page:
{"Chips": ("tile_size", "stride"), ...}; fields of no group come first.
"""

import json
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import BaseModel, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo

from registry.errors import OptionsError
from tasks.lazy_group import imported

Model = TypeVar("Model", bound=BaseModel)
PREFIX = "options_"  # keeps a field apart from an argument of the same name


def parse(model: type[Model], document: Mapping[str, Any], where: object = "") -> Model:
    """A checked options object. Raises OptionsError that names every wrong field."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise OptionsError("\n  ".join(_problem(model, each) for each in error.errors()), where=where) from error


def _problem(model: type[BaseModel], error: Any) -> str:
    field = ".".join(map(str, error["loc"])) or "options"
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(error["loc"][-1]), _names(model, error["loc"][:-1]), 1)
        return f"{field}: there is no such key" + "".join(f"; did you mean {name}" for name in near)
    given = "" if error["type"] == "missing" else f", got {error['input']!r}"
    return f"{field}: {error['msg']}{given}"


def _names(model: Any, place: Sequence[Any]) -> list[str]:
    """The keys that a document of this model has there; none where that is not simple to tell."""
    for key in place:
        field = getattr(model, "model_fields", {}).get(key)
        model = field.annotation if field else model if isinstance(key, int) else None
    return [*getattr(model, "model_fields", {})]


class Verb(click.Command):
    """A command whose flags are the fields of an options class, which is imported only when they are needed."""

    def __init__(
        self, *args: Any, options: str, groups: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.address, self.groups = options, groups or {}

    @cached_property
    def model(self) -> type[BaseModel]:
        model: type[BaseModel] = imported(self.address)
        return model

    @cached_property
    def flags(self) -> list[click.Option]:
        file = click.Path(exists=True, dir_okay=False, path_type=Path)
        return [flag(name, field) for name, field in self.model.model_fields.items()] + [
            click.Option(["--options", f"{PREFIX}file"], type=file, help="JSON file with any of the options above")
        ]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_flag = super().get_params(ctx)
        return [*own, *self.flags, help_flag]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        heading_of = {PREFIX + name: heading for heading, names in self.groups.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{heading: [] for heading in self.groups}}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                sections[heading_of.get(str(option.name), "Options")].append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        given = {key.removeprefix(PREFIX): ctx.params.pop(key) for key in list(ctx.params) if key.startswith(PREFIX)}
        file = given.pop("file")
        document = _read(file) if file else {}
        told = ParameterSource.COMMANDLINE
        chosen = {name: v for name, v in given.items() if ctx.get_parameter_source(PREFIX + name) is told}
        ctx.params["options"] = parse(self.model, {**document, **chosen}, where=file or self.name)
        return super().invoke(ctx)


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise OptionsError(f"is no JSON ({error})", where=file, do='write {"option": value, ...}') from error
    if not isinstance(document, dict):
        raise OptionsError("expected a JSON object", where=file, got=document, do='write {"option": value, ...}')
    return document


def flag(name: str, field: FieldInfo) -> click.Option:
    """The command line option of one field."""
    words = name.replace("_", "-")
    kind, shape = _choice(field) or _kind(field.annotation)
    if type(None) in get_args(field.annotation) and field.default is not None:
        kind = _OrNone(kind)
    switch = f"--{words}/--no-{words}" if kind is click.BOOL else f"--{words}"
    return click.Option([switch, PREFIX + name], type=kind, default=None, help=_help(field), **shape)


def _help(field: FieldInfo) -> str:
    default = "required" if field.is_required() else field.get_default(call_default_factory=True)
    known = "required" if field.is_required() else f"default: {default}" if default not in (None, "", (), False) else ""
    return f"{field.description or ''}  {f'[{known}]' if known else ''}".strip()


def _choice(field: FieldInfo) -> tuple[click.ParamType[Any], dict[str, Any]] | None:
    """The values that a field's schema lists, where its type alone does not tell."""
    schemas = (m.json_schema or {} for m in field.metadata if isinstance(m, WithJsonSchema))
    values = next((schema["enum"] for schema in schemas if "enum" in schema), None)
    return (click.Choice(values), {}) if values else None


def _kind(annotation: Any) -> tuple[click.ParamType[Any], dict[str, Any]]:
    """The click type of an annotation, and whether it takes several values."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and type(None) in inner and len(inner) == 2:
        return _kind(next(a for a in inner if a is not type(None)))
    if origin is Literal and all(isinstance(a, str) for a in inner):
        return click.Choice(inner), {}
    if origin is tuple and Ellipsis not in inner and len(set(inner)) == 1:
        return _kind(inner[0])[0], {"nargs": len(inner)}
    if origin in (tuple, list, Sequence):
        return _kind(inner[0])[0], {"multiple": True}
    return {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING, Path: click.STRING}.get(
        annotation, _Json()
    ), {}


class _OrNone(click.ParamType[Any]):
    def __init__(self, kind: click.ParamType[Any]) -> None:
        self.kind, self.name = kind, f"{kind.name}|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "none" else self.kind.convert(value, param, ctx)


class _Json(click.ParamType[Any]):
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            return value  # a bare word is a text; the options class says if that is wrong
