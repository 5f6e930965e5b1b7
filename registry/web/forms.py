"""From what a browser posts to the parameters of a flow: each field read by its kind, what is wrong told beside it."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
from fastapi import Request

from registry.parameters import laid_over
from registry.web.problems import Refused
from registry.web.schema import Field, Schema, fields

MOST_FIELDS = 5000
URLENCODED = "application/x-www-form-urlencoded"
COUNT = "#"  # `recipe.also.#`: how many rows the form has
NOTHING = object()


async def posted(request: Request) -> list[tuple[str, str]]:
    """The pairs of a posted form, in order; read once a request. Raises Refused (400)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != URLENCODED:
        return []
    try:
        text = (await request.body()).decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(400, f"the form cannot be read ({error})") from error


def filled(schema: Schema, values: Mapping[str, Any], form: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a form says, laid over `values` (those of the deployment), and what is wrong with it by field.

    Fields that the form does not have keep their value; one that is set to the flow's own default is left out where
    the deployment has none. An object that may be null stays null while nothing in it is filled in.
    """
    wrong: dict[str, str] = {}
    known = fields(schema, _with_rows(schema, values, form), {})
    merged = _document(known, form, values, wrong)
    return merged, {**problems(schema, merged), **wrong}


def problems(schema: Schema, document: Mapping[str, Any]) -> dict[str, str]:
    """What the schema finds wrong, by dotted place; "" for the whole."""
    validator = jsonschema.Draft202012Validator(_with_definitions(schema))
    found: dict[str, str] = {}
    for error in validator.iter_errors(dict(document)):
        deepest = _deepest(error)
        path = ".".join(map(str, deepest.absolute_path))
        if deepest.validator == "required":
            missing = [name for name in deepest.validator_value if name not in deepest.instance]
            found |= {f"{path}.{name}".lstrip("."): "is needed" for name in missing}
        else:
            found.setdefault(path, deepest.message[:300])
    return found


def _deepest(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of alternatives, the complaint that went furthest into the document."""
    while error.context:
        error = max(error.context, key=lambda one: len(one.absolute_path))
    return error


def _with_definitions(schema: Schema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "$schema"}


def _document(known: Iterable[Field], form: Mapping[str, str], values: Any, wrong: dict[str, str]) -> dict[str, Any]:
    base = values if isinstance(values, Mapping) else {}
    document = dict(base)
    for field in known:
        value = _value(field, form, base.get(field.name), wrong)
        is_default = value == field.default and type(value) is type(field.default)
        if value is NOTHING or (field.name not in base and (is_default or value == {})):
            continue
        document[field.name] = value
    return document


def _value(field: Field, form: Mapping[str, str], base: Any, wrong: dict[str, str]) -> Any:
    if field.kind == "group":
        wrong_within: dict[str, str] = {}
        document = _document(field.fields, form, base, wrong_within)
        told = any(form[path].strip() for path in wrong_within)
        if base is None and field.optional and not told and _is_blank(document):
            return None
        wrong |= wrong_within
        return document
    if field.kind == "rows":
        if f"{field.path}.{COUNT}" not in form:
            return NOTHING
        return [_document(row.fields, form, {}, wrong) for row in field.fields]
    if field.path not in form:
        return NOTHING
    text = form[field.path].replace("\r\n", "\n")
    try:
        return _read(field, text)
    except ValueError as error:
        wrong[field.path] = str(error)
        return NOTHING


def _is_blank(value: Any) -> bool:
    return all(map(_is_blank, value.values())) if isinstance(value, Mapping) else value in (None, "", [])


def _read(field: Field, text: str) -> Any:
    """Raises ValueError with what is expected."""
    blank = not text.strip()
    if blank and field.required and field.kind not in ("lines", "flag"):
        raise ValueError("is needed")
    if blank and field.kind not in ("lines", "either", "flag"):
        return None if field.optional else "" if field.kind == "text" else field.default
    match field.kind:
        case "flag":
            return {"yes": True, "no": False}.get(text, None if field.optional else field.default)
        case "choice":
            return next((choice for choice in field.choices if str(choice) == text), text)
        case "integer" | "number":
            return _number(text, field.kind)
        case "numbers":
            return [_number(part, "number") for part in text.split(",")]
        case "lines" | "either":
            return _lines(field, [line.strip() for line in text.split("\n") if line.strip()])
        case "json":
            return _json(text)
    return text


def _lines(field: Field, lines: list[str]) -> Any:
    if field.kind == "either":
        return lines[0] if len(lines) == 1 else lines or ""
    if not lines and field.optional:
        return None
    return lines if field.item == "text" else [_number(line, field.item) for line in lines]


def _number(text: str, kind: str) -> int | float:
    try:
        if not math.isfinite(value := float(text)):
            _no_number(text)
        return int(text) if kind == "integer" or text.strip().lstrip("+-").isdecimal() else value
    except ValueError:
        raise ValueError(f"expected a {'whole ' if kind == 'integer' else ''}number, got {text.strip()!r}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON ({error})") from None


def _no_number(word: str) -> None:
    """NaN and Infinity, which Python reads and JSON does not know. Raises ValueError."""
    raise ValueError(f"{word} is no number")


def _with_rows(schema: Schema, values: Mapping[str, Any], form: Mapping[str, str]) -> dict[str, Any]:
    """`values` with lists of as many empty objects as the form has rows."""
    changed = dict(values)
    for key, text in form.items():
        if key.endswith(f".{COUNT}") and text.isdecimal() and int(text) <= 200:
            changed = laid_over(changed, {key.removesuffix(f".{COUNT}"): [{} for _ in range(int(text))]})
    return changed


def with_row(form: Mapping[str, str], path: str) -> dict[str, str]:
    """The form with one more row."""
    count = form.get(f"{path}.{COUNT}", "0")
    return {**form, f"{path}.{COUNT}": str(int(count) + 1 if count.isdecimal() else 1)}


def without_row(form: Mapping[str, str], path: str) -> dict[str, str]:
    """The form without a row `recipe.also.1`; those behind it move up."""
    place, _, number = path.rpartition(".")
    count = form.get(f"{place}.{COUNT}", "0")
    if not number.isdecimal() or not count.isdecimal():
        return dict(form)
    changed = {key: text for key, text in form.items() if not key.startswith(f"{path}.")}
    for i in range(int(number) + 1, int(count)):
        moved = {key: text for key, text in changed.items() if key.startswith(f"{place}.{i}.")}
        changed = {key: text for key, text in changed.items() if key not in moved}
        changed |= {f"{place}.{i - 1}.{key.removeprefix(f'{place}.{i}.')}": text for key, text in moved.items()}
    return {**changed, f"{place}.{COUNT}": str(max(0, int(count) - 1))}


def moved(form: Mapping[str, str]) -> dict[str, str] | None:
    """The form after a button that adds or removes a row, None after any other."""
    if path := form.get("_add"):
        return with_row(form, path)
    if path := form.get("_remove"):
        return without_row(form, path)
    return None
