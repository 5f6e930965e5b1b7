"""The newest version of every model, kept in memory by a program that lives on: where the page looks for its cards.

Tables like MLflow's hold of each model its newest version and those with an alias, and of these what one looks for. A
mark of the database tells before each question whether anything was written; then the models that changed are read
again, so an answer is never older than its question.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

from registry.catalog import AT_ONCE, SCORE, loaded
from registry.rows import PRUNED, WHOLE, WORKSPACE, Rows, database, memory, reading
from registry.searching import Page, Wanted, found
from registry.settings import settings

KEYS = ("sha256", "size", "model_type", "classes", "bands", "tags", "sensor", "cell_size", "extent", PRUNED)
COPIED = {  # table: its columns behind name and version
    "model_versions": ("creation_time", "current_stage", "status"),
    "model_version_tags": ("key", "value"),
    "registered_model_aliases": ("alias",),
}
State = Mapping[str, Sequence[Any]]  # model -> facts that differ once its newest version or an alias does


def names(wanted: Wanted, *, sort: str = "name", first: int = 0, count: int = 24) -> tuple[list[str], int]:
    """The models of which the version that `registry.catalog.overview` shows meets the conditions, and how many they
    are in all. Raises OptionsError.
    """
    keys, total = _catalog().found(wanted, sort, first, count, in_use=True)
    return [name for name, _ in keys], total


def page(wanted: Wanted, *, sort: str = "name", first: int = 0, count: int = 24) -> Page:
    """As `registry.searching.page` of the newest versions answers, sooner from the second time on."""
    keys, total = _catalog().found(wanted, sort, first, count)
    with reading() as rows:
        return Page(loaded(rows, keys), total)


class Newest:
    """The tables of one catalog; several threads may ask."""

    def __init__(self) -> None:
        self._lock, self._rows = Lock(), Rows(memory())
        self._watched: tuple[int, sqlite3.Connection] | None = None
        self._mark: Any = None
        self._state: State = {}

    def found(
        self, wanted: Wanted, sort: str, first: int, count: int, *, in_use: bool = False
    ) -> tuple[list[tuple[str, int]], int]:
        with self._lock:
            with reading() as rows:
                self._renew(rows)
            return found(self._rows, wanted, sort=sort, newest=True, first=first, count=count, in_use=in_use)

    def _renew(self, rows: Rows) -> None:
        mark = rows.mark() if rows.postgres else self._data_version()
        if mark is not None and mark == self._mark:
            return
        state = _state(rows)
        changed = [name for name in {**self._state, **state} if self._state.get(name) != state.get(name)]
        for i in range(0, len(changed), AT_ONCE):
            self._copy(rows, changed[i : i + AT_ONCE])
        self._rows.connection.commit()
        self._mark, self._state = mark, state

    def _data_version(self) -> tuple[int, int] | None:
        """SQLite's own count of what others wrote, told to a connection that stays open; None without a database."""
        path = database()
        if path is None or not path.is_file():
            return None
        inode = path.stat().st_ino  # another one once a backup was laid in its place
        if self._watched is None or self._watched[0] != inode:
            self._watched = inode, sqlite3.connect(path, timeout=30, check_same_thread=False)
        return inode, self._watched[1].execute("PRAGMA data_version").fetchone()[0]

    def _copy(self, rows: Rows, names: Sequence[str]) -> None:
        marks = ", ".join("?" * len(names))
        sql = f"""SELECT v.name, max(v.version) FROM model_versions v WHERE v.name IN ({marks}) AND {WHOLE.format("v")}
            GROUP BY v.name UNION SELECT name, version FROM registered_model_aliases
            WHERE {WORKSPACE} AND name IN ({marks})"""
        keys = rows.ask(sql, [*names, *names])
        for table, columns in COPIED.items():
            self._rows.connection.execute(f"DELETE FROM {table} WHERE {WORKSPACE} AND name IN ({marks})", names)
            places = ", ".join("?" * (2 + len(columns)))
            sql = f"INSERT INTO {table} (workspace, name, version, {', '.join(columns)}) VALUES ('default', {places})"
            self._rows.connection.executemany(sql, _looked_for(table, rows.of(keys, table, columns)))


def _catalog() -> Newest:
    return _at(settings().catalog or settings().tracking_uri)


@lru_cache(maxsize=2)
def _at(_: str) -> Newest:
    return Newest()


def _state(rows: Rows) -> State:
    """In this order: when a version came or went, the aliases, the versions about to be pruned."""
    sql = f"SELECT name, last_updated_time FROM registered_models WHERE {WORKSPACE}"
    state: dict[str, list[Any]] = {name: [moment] for name, moment in rows.ask(sql)}
    held = f"SELECT name, alias, version FROM registered_model_aliases WHERE {WORKSPACE} ORDER BY name, alias"
    gone = f"SELECT name, '', version FROM model_version_tags WHERE {WORKSPACE} AND key = '{PRUNED}' ORDER BY version"
    for sql in (held, gone):
        for name, *facts in rows.ask(sql):
            state.setdefault(name, []).extend(facts)
    return state


def _looked_for(table: str, rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    if table != "model_version_tags":
        return rows
    return [row for row in rows if row[2] in KEYS or row[2].startswith(SCORE)]
