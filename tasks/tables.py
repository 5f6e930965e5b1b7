"""Small tables as files: CSV, JSON, dBASE or a GeoPackage. Whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyogrio

from registry.errors import OptionsError
from registry.files import write_text
from tasks.results import workshop

KINDS = (".csv", ".json", ".dbf", ".gpkg")
LONGEST = 10  # letters of a name in dBASE


def write_rows(out: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows of equal keys; a number that is not known is empty. Raises OptionsError for another suffix."""
    kind = check_table(out)
    if kind == ".json":
        write_text(out, json.dumps(plain(rows), indent=2) + "\n")
        return out
    table = pandas.DataFrame(list(rows))
    if kind == ".csv":
        write_text(out, table.to_csv(index=False))
        return out
    with workshop(out) as folder:
        driver = "GPKG" if kind == ".gpkg" else "ESRI Shapefile"
        if kind == ".dbf":
            table = table.rename(columns={name: str(name)[:LONGEST] for name in table})
        pyogrio.write_dataframe(table, folder / out.name, driver=driver)
    return out


def plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As JSON has them: a number that is not known is null."""
    return [{key: None if pandas.isna(value) else value for key, value in row.items()} for row in rows]


def check_table(out: Path) -> str:
    """The suffix, in small letters."""
    if out.suffix.lower() not in KINDS:
        raise OptionsError(f"expected {', '.join(KINDS)}", where=out, got=out.suffix, do="choose one of these suffixes")
    return out.suffix.lower()
