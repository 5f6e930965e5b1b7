"""The arguments table of a raster function, and values that fit into it (ArcGIS formats E.4, E.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.errors import OptionsError, RasterFunctionError

NUMBERS = {"numeric", "gplong", "gpdouble"}
BOOLEANS = {"boolean", "gpboolean"}
NOT_ASKED = {"raster", "rasters", "model", "device"}  # the host gives these itself
TRUE, FALSE = {"true", "1", "t", "y", "yes"}, {"false", "0", "f", "n", "no"}


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    data_type: str
    value: Any  # default
    required: bool
    domain: tuple[Any, ...] = ()  # choices, or least and most of a number
    description: str = ""

    @property
    def kind(self) -> str:
        return self.data_type.lower()


def read_parameters(rows: Sequence[Any]) -> tuple[Parameter, ...]:
    """The rows without the rasters; unfilled templates put an explanatory text into the list, which is left out."""
    tables = [row for row in rows if isinstance(row, Mapping)]
    return tuple(_parameter(row) for row in tables if str(row.get("dataType", "")).lower() not in {"raster", "rasters"})


def raster_name(rows: Sequence[Any], where: str) -> str:
    """What the function calls its raster, "raster" in those of ArcGIS. Raises RasterFunctionError for two."""
    tables = [row for row in rows if isinstance(row, Mapping) and str(row.get("dataType", "")).lower() == "raster"]
    needed = [str(row["name"]) for row in tables if truth(row.get("required"))]
    if len(needed) > 1:
        do = "the tools hand over one raster; stack the bands and change the function"
        raise RasterFunctionError("works on several rasters", where=where, got=", ".join(needed), do=do)
    return needed[0] if needed else str(tables[0]["name"]) if tables else "raster"


def scalars(parameters: Sequence[Parameter], given: Mapping[str, object], where: str) -> dict[str, Any]:
    """Every argument that a user may give: its default, or what was given. Raises OptionsError."""
    known = {p.name: p for p in parameters if p.name not in NOT_ASKED}
    if unknown := sorted(set(given) - set(known)):
        do = f"it knows {', '.join(known) or 'none'}"
        raise OptionsError(f"no argument {', '.join(unknown)}", where=where, do=do)
    chosen = {name: fitting(known[name], value) for name, value in given.items()}
    missing = [p.name for p in known.values() if p.required and p.value is None and p.name not in chosen]
    if missing:
        do = f"give it as an argument: {missing[0]} VALUE"
        raise OptionsError(f"{', '.join(missing)} is required", where=where, do=do)
    return {name: _default(p) for name, p in known.items()} | chosen


def fitting(parameter: Parameter, value: object) -> Any:
    """The value as ArcGIS would hand it over: numbers as numbers, booleans and texts as texts. Raises OptionsError."""
    text = str(value).strip()
    if parameter.kind in BOOLEANS:
        if text.lower() not in TRUE | FALSE:
            raise OptionsError("expected True or False", where=parameter.name, got=text)
        return str(text.lower() in TRUE)
    if parameter.kind in NUMBERS:
        return _number(parameter, text)
    if parameter.domain and text not in map(str, parameter.domain):
        expected = ", ".join(map(str, parameter.domain))
        raise OptionsError(f"expected one of {expected}", where=parameter.name, got=text)
    return text


def truth(value: object) -> bool:
    """True of True, "True", "1", "yes" ... in any case."""
    return str(value).strip().lower() in TRUE


def _number(parameter: Parameter, text: str) -> int | float:
    try:
        number = float(text.replace(",", "."))
    except ValueError as error:
        raise OptionsError("expected a number", where=parameter.name, got=text) from error
    whole = number.is_integer()
    if parameter.kind == "gplong" and not whole:
        raise OptionsError("expected a whole number", where=parameter.name, got=text)
    domain = [float(bound) for bound in parameter.domain]
    if len(domain) == 2 and not domain[0] <= number <= domain[1]:
        low, high = parameter.domain
        raise OptionsError(f"expected {low} to {high}", where=parameter.name, got=number)
    if domain and len(domain) != 2 and number not in domain:
        expected = ", ".join(map(str, parameter.domain))
        raise OptionsError(f"expected one of {expected}", where=parameter.name, got=number)
    return int(number) if whole and parameter.kind != "gpdouble" else number


def _default(parameter: Parameter) -> Any:
    """As it stands in the table; a boolean is a text like one that was given."""
    return str(parameter.value) if isinstance(parameter.value, bool) else parameter.value


def _parameter(row: Mapping[str, Any]) -> Parameter:
    kind, required, domain = str(row.get("dataType", "string")), truth(row.get("required")), row.get("domain")
    return Parameter(
        str(row["name"]),
        kind,
        row.get("value"),
        required,
        tuple(domain) if isinstance(domain, list | tuple) else (),
        str(row.get("description", "")),
    )
