"""A definition query asked of a table in memory: an SQL condition, as GDAL asks it of files (ArcGIS formats F.1)."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pandas

from registry.errors import LabelError

Table = TypeVar("Table", bound=pandas.DataFrame)


def meeting(path: Path, table: Table, query: str) -> Table:
    """The rows that meet the condition. Raises LabelError for one that is no SQL on the fields of the table."""
    kinds = zip(table.columns, table.dtypes.astype(str), strict=True)
    fields = [n for n, kind in kinds if str(n).lower() in query.lower() and kind != "geometry"]  # SQL knows their types
    try:
        with closing(sqlite3.connect(":memory:")) as base:
            pandas.DataFrame(table[fields]).to_sql("labels", base)
            meets = base.execute(f"SELECT ({query}) IS TRUE FROM labels").fetchall()  # noqa: S608  # of their own rows
    except (sqlite3.Error, ValueError) as error:
        do = f"write an SQL condition on {', '.join(map(str, table))}"
        raise LabelError(f"definition_query cannot be asked ({error})", where=path, got=query, do=do) from error
    return table[[bool(met) for (met,) in meets]]
