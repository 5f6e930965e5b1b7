"""Parameters of a flow: changes laid over what a deployment has."""

from collections.abc import Mapping
from typing import Any


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
