"""From the JSON schema of a flow's parameters to the fields of a form.

group    an object with known keys: fields within
rows     a list of objects: groups within, one for each
choice   one of several values           flag      yes or no
integer, number, text                    lines     several texts or numbers, one in a line
either   a text, or several in lines     numbers   a fixed count of numbers, with commas
json     anything else
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]
SCALARS = {"integer": "integer", "number": "number", "string": "text", "boolean": "flag"}
DEEPEST = 12  # levels; a schema that refers to itself ends as json there


@dataclass(frozen=True)
class Field:
    """One question; `path` is its dotted place in the document."""

    path: str
    title: str
    kind: str
    help: str = ""
    value: Any = None
    default: Any = None
    required: bool = False
    optional: bool = False  # may be null
    choices: Sequence[Any] = ()
    item: str = "text"  # kind of the entries of lines and numbers
    minimum: float | None = None
    maximum: float | None = None
    fields: Sequence["Field"] = field(default=())
    error: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def open(self) -> bool:
        """A group is shown unfolded when it asks for something, or something in it is wrong or was set."""
        return self.required or bool(self.error) or any(one.open or one.set for one in self.fields)

    @property
    def set(self) -> bool:
        return self.value not in (None, "", [], {}) and self.value != self.default


def fields(schema: Schema, values: Mapping[str, Any], errors: Mapping[str, str]) -> list[Field]:
    """The questions of an object's schema, filled with values, with what is wrong beside each."""
    return _within(schema, values, _Around(schema, errors), "", 0)


@dataclass(frozen=True)
class _Around:
    """What every level needs: where references lead, and what is wrong."""

    root: Schema
    errors: Mapping[str, str]

    def resolved(self, schema: Schema) -> Schema:
        """Without references; what stands beside one (title, default) stays."""
        merged = dict(schema)
        for _ in range(DEEPEST):
            if "$ref" in merged:
                target: Any = self.root
                for part in str(merged.pop("$ref")).removeprefix("#/").split("/"):
                    target = target.get(part, {}) if isinstance(target, Mapping) else {}
                merged = {**target, **merged}
            elif len(merged.get("allOf", ())) == 1:
                merged = {**merged.pop("allOf")[0], **merged}
            else:
                break
        return merged


def _within(schema: Schema, values: Any, around: _Around, path: str, depth: int) -> list[Field]:
    known = values if isinstance(values, Mapping) else {}
    needed = schema.get("required", ())
    places = sorted(schema.get("properties", {}).items(), key=lambda entry: entry[1].get("position", 0))
    return [
        _field(part, f"{path}.{key}".lstrip("."), known.get(key), around, needed=key in needed, depth=depth)
        for key, part in places
    ]


def _field(schema: Schema, path: str, value: Any, around: _Around, *, needed: bool, depth: int) -> Field:
    told = around.resolved(schema)
    kind, inner, optional = kind_of(told, around, depth)
    default = told.get("default")
    value = default if value is None else value
    items = around.resolved(inner.get("items", {})) if kind in ("lines", "either", "rows") else {}
    return Field(
        path,
        _title(path),
        kind,
        help=str(told.get("description") or inner.get("description") or "").split("\n\n")[0],
        value=value,
        default=default,
        required=needed,
        optional=optional,
        choices=inner.get("enum", ()) or ([inner["const"]] if "const" in inner else ()),
        item=SCALARS.get(str(items.get("type")), "text") if kind != "numbers" else "number",
        minimum=inner.get("minimum", inner.get("exclusiveMinimum")),
        maximum=inner.get("maximum", inner.get("exclusiveMaximum")),
        fields=_inner(kind, inner, items, value, around, path, depth),
        error=around.errors.get(path, ""),
    )


def _inner(
    kind: str, schema: Schema, items: Schema, value: Any, around: _Around, path: str, depth: int
) -> Sequence[Field]:
    if kind == "group":
        return _within(schema, value, around, path, depth + 1)
    if kind != "rows":
        return ()
    entries = value if isinstance(value, Sequence) and not isinstance(value, str) else []
    return [
        Field(
            f"{path}.{i}",
            f"{_title(path)} {i + 1}",
            "group",
            fields=_within(items, one, around, f"{path}.{i}", depth + 1),
        )
        for i, one in enumerate(entries)
    ]


def kind_of(told: Schema, around: _Around, depth: int) -> tuple[str, Schema, bool]:
    """The kind of field, the schema that decided it, and whether it may be null."""
    options = [around.resolved(one) for one in told.get("anyOf", ()) or told.get("oneOf", ())]
    optional = any(one.get("type") == "null" for one in options)
    options = [one for one in options if one.get("type") != "null"]
    if len(options) == 1:
        told = {**options[0], "default": told.get("default")}
    elif len(options) == 2 and options[0].get("type") == "string" and _is_list(options[1], "string", around):
        return "either", options[1], optional
    elif options:
        return "json", told, optional
    return _single(told, around, depth), told, optional


def _single(told: Schema, around: _Around, depth: int) -> str:
    kind = told.get("type")
    if "enum" in told or "const" in told:
        return "choice"
    if kind == "object" and told.get("properties") and depth < DEEPEST:
        return "group"
    if kind == "array" and told.get("prefixItems"):
        parts = [around.resolved(part).get("type") for part in told["prefixItems"]]
        return "numbers" if set(parts) <= {"integer", "number"} else "json"
    if kind == "array":
        items = around.resolved(told.get("items") or {})
        if items.get("type") == "object" and items.get("properties") and depth < DEEPEST:
            return "rows"
        return "lines" if items.get("type") in ("string", "integer", "number") else "json"
    return SCALARS.get(str(kind), "json")


def _is_list(schema: Schema, of: str, around: _Around) -> bool:
    return bool(schema.get("type") == "array" and around.resolved(schema.get("items") or {}).get("type") == of)


def _title(path: str) -> str:
    """The words of a key; titles of schemas are the same words, often less well written."""
    words = path.rpartition(".")[2].replace("_", " ")
    return words[:1].upper() + words[1:]
