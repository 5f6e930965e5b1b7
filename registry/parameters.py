"""Parameters of a flow: changes laid over what a deployment has."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from registry.errors import OptionsError


def laid_over(parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the changes at their dotted places; Prefect itself would replace whole objects."""
    merged = dict(parameters)
    for key, value in changes.items():
        head, _, rest = key.partition(".")
        inner = merged.get(head)
        if rest:
            merged[head] = laid_over(inner if isinstance(inner, Mapping) else {}, {rest: value})
        elif isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[head] = laid_over(inner, value)
        else:
            merged[head] = value
    return merged


def refuse_unknown(schema: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises OptionsError for parameters that a flow, of this schema, has not: its run would end without a word."""
    known = schema.get("properties") or {}
    unknown = sorted({key.partition(".")[0] for key in parameters} - known.keys())
    if unknown:
        near = [like for key in unknown for like in get_close_matches(key, known, 1)]
        do = f"did you mean {', '.join(near)}" if near else f"it has {', '.join(known) or 'none'}"
        raise OptionsError("the flow has no such parameter", got=unknown, do=do)
