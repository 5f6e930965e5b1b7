"""Which class a feature belongs to: its Value, and the Name and Color of that value (ArcGIS formats A.3, F.1).

A value is never numbered by what comes first in the file, so the order of features does not matter.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import LabelError

# Classvalue is the field of ArcGIS training samples (F.1); a shapefile keeps ten letters of class_value
VALUE_FIELDS = ("classvalue", "class_value", "class_valu", "value")
CLASS_FIELDS = ("classname", "class_name", "class")  # where no field of values is: `name` may name anything
NAME_FIELDS = (*CLASS_FIELDS, "name")
PALETTE = ((230, 60, 40), (60, 120, 220), (70, 180, 80), (240, 190, 40), (150, 80, 190), (40, 190, 190), (200, 120, 60))
LARGEST = 65_535  # what the 16 bits of a label raster hold


def class_values(
    path: Path, table: pandas.DataFrame, value_field: str, given: Sequence[ClassLabel], *, least: int = 1
) -> tuple[NDArray[np.int64], tuple[ClassLabel, ...]]:
    """(n,) class Value of each row, and the classes sorted by Value; 0, background, counts where `least` is 0.

    The Value comes from `value_field`, else from a field Classvalue, class_value or Value, else from a filled field
    Classname, class_name or class, else every row is of the only class given, or of class 1.
    A field of texts is matched with the names of `given`, or numbered in alphabetical order. Raises LabelError for
    values that are missing, below `least`, above 65535, no whole numbers, or of no given class.
    """
    field = _value_field(path, table, value_field)
    if field is None and len(given) != 1:
        field = _class_field(table)
    if field is None:
        return _of_one_class(path, len(table), given)
    column = table[field]
    check_filled(path, column, field)
    if pandas.api.types.is_numeric_dtype(column):
        values = _whole(path, field, column, least)
        labels = tuple(given) or _named(table, values, field)
    else:
        values, labels = _by_name(path, field, column.astype(str).str.strip(), given, least)
    if lost := sorted(set(np.unique(values).tolist()) - {c.value for c in labels}):
        what = f"field {field} has values that are no class"
        do = "list them among the classes, or leave these features out (in an export by definition_query)"
        raise LabelError(what, where=path, got=lost, do=do)
    return values, tuple(sorted(labels, key=lambda c: c.value))


def field_of_names(path: Path, table: pandas.DataFrame, value_field: str) -> str:
    """The field that `class_values` takes, if it names classes in words; "" if it holds Values, or there is none."""
    field = _value_field(path, table, value_field) or _class_field(table)
    if field is None or pandas.api.types.is_numeric_dtype(table[field]):
        return ""
    return "" if all(name.strip().isdecimal() for name in table[field].dropna().astype(str)) else field


def colour(i: int) -> tuple[int, int, int]:
    """A legible colour for the i-th class."""
    return PALETTE[i % len(PALETTE)]


def check_filled(path: Path, column: "pandas.Series[Any]", field: str) -> None:
    """Raises LabelError for features without a class."""
    if empty := int(_empty(column).sum()):
        raise LabelError(f"{empty} features have no {field}", where=path, do="fill or delete them")


def _empty(column: "pandas.Series[Any]") -> "pandas.Series[bool]":
    """Nothing, or a text of spaces alone: a form that was left empty."""
    missing = column.isna()
    return missing if pandas.api.types.is_numeric_dtype(column) else missing | (column.astype(str).str.strip() == "")


def check_values(path: Path, values: NDArray[np.generic], what: str, least: int = 1) -> NDArray[np.int64]:
    """Whole numbers, `least` to 65535, or LabelError."""
    numbers = np.asarray(values, np.float64)
    bad = ~np.isfinite(numbers) | (numbers != np.round(numbers)) | (numbers < least) | (numbers > LARGEST)
    if bad.any():
        numbering = f"class values are whole numbers from {least} to {LARGEST}, 0 is background"
        do = f"{numbering}; an export leaves features out by definition_query"
        raise LabelError(
            f"{what} has values that are no class", where=path, got=np.unique(numbers[bad])[:9].tolist(), do=do
        )
    return numbers.astype(np.int64)


def _of_one_class(
    path: Path, rows: int, given: Sequence[ClassLabel]
) -> tuple[NDArray[np.int64], tuple[ClassLabel, ...]]:
    """Of several that are given class 1, as ArcGIS has it where no field tells (F.1)."""
    labels = sorted((c for c in given if c.value != 0), key=lambda c: c.value) or [ClassLabel(1, "1", colour(0))]
    value = labels[0].value if len(labels) == 1 else 1
    if value not in {c.value for c in labels}:
        do = "name the field by class_value_field, or give one class alone"
        raise LabelError("has no field of classes", where=path, got=f"{len(labels)} classes, none with Value 1", do=do)
    return np.full(rows, value, np.int64), tuple(labels)


def _whole(path: Path, field: str, column: "pandas.Series[float]", least: int) -> NDArray[np.int64]:
    return check_values(path, column.to_numpy(np.float64), f"field {field}", least)


def _by_name(
    path: Path, field: str, column: "pandas.Series[str]", given: Sequence[ClassLabel], least: int
) -> tuple[NDArray[np.int64], tuple[ClassLabel, ...]]:
    found = sorted(set(column))
    known = {c.name.strip(): c.value for c in given}
    if not (known and set(found) <= set(known)) and all(name.isdecimal() for name in found):
        values = _whole(path, field, column.astype(float), least)  # numbers kept as text
        return values, tuple(given) or tuple(
            ClassLabel(v, str(v), colour(i)) for i, v in enumerate(np.unique(values).tolist())
        )
    names = known or {name: i for i, name in enumerate(found, 1)}
    if unknown := sorted(set(found) - set(names)):
        do = f"the classes are {', '.join(names)}"
        raise LabelError(f"field {field} has classes that were not given", where=path, got=unknown, do=do)
    labels = tuple(given) or tuple(ClassLabel(v, n, colour(v - 1)) for n, v in names.items())
    return np.asarray(column.map(names), np.int64), labels


def _value_field(path: Path, table: pandas.DataFrame, wanted: str) -> str | None:
    fields = {str(name).lower(): str(name) for name in table.columns if str(name) != "geometry"}
    if wanted and wanted.lower() not in fields:
        raise LabelError(f"has no field {wanted!r}", where=path, do=f"choose one of {', '.join(fields.values())}")
    if wanted in table:  # another may differ from it in case alone
        return wanted
    return fields[wanted.lower()] if wanted else next((fields[f] for f in VALUE_FIELDS if f in fields), None)


def _class_field(table: pandas.DataFrame) -> str | None:
    """ArcGIS would call all of it class 1; here what is said of every feature counts."""
    fields = {str(name).lower(): str(name) for name in table.columns}
    return next((fields[f] for f in CLASS_FIELDS if f in fields and not _empty(table[fields[f]]).any()), None)


def _named(table: pandas.DataFrame, values: NDArray[np.int64], value_field: str) -> tuple[ClassLabel, ...]:
    """Names and colours of the values from Classname and Red, Green, Blue, where the file has them.

    A field `roof_value` is named by its sister `roof`. Of several names of a value the first in the alphabet counts.
    """
    fields = {str(name).lower(): str(name) for name in table.columns}
    sister = value_field.lower().removesuffix("_value").removesuffix("value")
    names = (sister, sister + "name", *NAME_FIELDS) if sister else NAME_FIELDS  # a field Value has no sister
    name_field = next((fields[f] for f in names if f in fields and f != value_field.lower()), None)
    rgb = [fields[c] for c in ("red", "green", "blue") if c in fields]
    kept = [*([name_field] if name_field else []), *(rgb if len(rgb) == 3 else [])]
    filled = table[kept]
    if name_field:
        filled = filled.assign(**{name_field: table[name_field].mask(_empty(table[name_field]))})
    rows = filled.assign(_value=values).sort_values(["_value", *kept]).drop_duplicates("_value")
    labels = []
    for i, (value, row) in enumerate(zip(rows["_value"].tolist(), rows.to_dict("records"), strict=True)):
        name = str(row[name_field]).strip() if name_field and pandas.notna(row[name_field]) else str(value)
        labels.append(ClassLabel(value, name, _colour_of([row[c] for c in rgb], i)))
    if len({label.name for label in labels}) < len(labels):  # the field names something else than these classes
        return tuple(replace(label, name=str(label.value)) for label in labels)
    return tuple(labels)


def _colour_of(rgb: list[object], i: int) -> tuple[int, int, int]:
    if len(rgb) == 3 and all(isinstance(c, int | float) and 0 <= c <= 255 for c in rgb):
        red, green, blue = (int(str(c).partition(".")[0]) for c in rgb)
        return red, green, blue
    return colour(i)
