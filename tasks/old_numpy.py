"""What NumPy took away in 1.24 and 2.0 and other people's raster functions still ask for (ArcGIS formats E.10).

ArcGIS brought NumPy 1 for years. What is missing is put in place while such a function runs, and only then.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

GONE = {"float": float, "int": int, "object": object, "bool": bool, "str": str, "complex": complex} | {
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
    "string_": np.bytes_,
    "NaN": np.nan,
    "Inf": np.inf,
    "infty": np.inf,
    "product": np.prod,
    "alltrue": np.all,
    "sometrue": np.any,
}
array = np.array


def array_as_before(*values: Any, copy: bool | None = True, **options: Any) -> Any:
    """np.array, whose `copy=False` meant "only where it must be" up to NumPy 1 and refuses a change of type since."""
    return array(*values, copy=copy or None, **options)


def asked_for(folder: Path) -> dict[str, Any]:
    """Name -> what it stood for, of all that the code in a package's folder uses and NumPy lacks."""
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in folder.rglob("*.py"))
    found = {name: GONE[name] for name in GONE if re.search(rf"\b(np|numpy)\.{name}\b", text) and not hasattr(np, name)}
    return found | ({"array": array_as_before} if re.search(r"\.array\([^\n]*copy\s*=\s*False", text) else {})


def put(names: Mapping[str, Any]) -> dict[str, Any]:
    """Set names of NumPy and give back what to `take` away again: its own value, or None where it had none."""
    own = {name: getattr(np, name) if name == "array" else None for name in names}
    for name, value in names.items():
        setattr(np, name, value)
    return own


def take(own: Mapping[str, Any]) -> None:
    """Undo `put`."""
    for name, value in own.items():
        if value is None:
            delattr(np, name)
        else:
            setattr(np, name, value)
