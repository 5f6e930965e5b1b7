"""Read MLflow's registry as the tables that it is: ten thousand models in milliseconds.

Where the tracking address is a SQLite file or a PostgreSQL database, its tables are asked directly; MLflow alone writes
them. Over HTTP that is no way: DLPK_CATALOG may name the same database for reading, else the versions are asked of the
server and put into tables like MLflow's in memory. Why: docs/decisions/0007-catalog.md.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import StoreError
from registry.secrets import bare
from registry.settings import settings
from registry.tracking import connect, database_file, told

PAGE = 1000  # model versions in one request
WORKSPACE = "workspace = 'default'"  # MLflow keeps all in this one unless it is told otherwise
DELETED = "Deleted_Internal"  # the stage that MLflow gives to a version instead of deleting its row
PRUNED = "pruned"  # the tag of a version that `registry.pruning` is about to remove
TAG_OF = "t.workspace = 'default' AND t.name = {0}.name AND t.version = {0}.version AND t.key"
WHOLE = f"""{{0}}.workspace = 'default' AND {{0}}.current_stage <> '{DELETED}' AND {{0}}.status = 'READY'
    AND EXISTS (SELECT 1 FROM model_version_tags t WHERE {TAG_OF} = 'sha256')
    AND NOT EXISTS (SELECT 1 FROM model_version_tags t WHERE {TAG_OF} = '{PRUNED}')"""  # of the table {{0}}
TABLES = """
    CREATE TABLE registered_models (workspace, name, last_updated_time, PRIMARY KEY (workspace, name));
    CREATE TABLE model_versions (workspace, name, version INTEGER, creation_time INTEGER, current_stage, status, run_id,
        PRIMARY KEY (workspace, name, version));
    CREATE TABLE model_version_tags (key, value, name, version INTEGER, workspace,
        PRIMARY KEY (workspace, key, name, version));
    CREATE INDEX by_version ON model_version_tags (workspace, name, version);
    CREATE TABLE registered_model_tags (key, value, name, workspace, PRIMARY KEY (workspace, key, name));
    CREATE TABLE registered_model_aliases (workspace, name, alias, version INTEGER,
        PRIMARY KEY (workspace, name, alias));
"""


@dataclass(frozen=True)
class Rows:
    """An open database; `ask` takes SQL with ? for each value. The rest is where the two kinds of SQL differ."""

    connection: Any
    postgres: bool = False

    def ask(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(sql.replace("?", "%s") if self.postgres else sql, tuple(values))
            return list(cursor.fetchall())

    def scan(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The same about all versions: PostgreSQL expects a handful and would loop for hours without being told."""
        if self.postgres:
            self.ask_nothing("SET enable_nestloop = off")
        try:
            return self.ask(sql, values)
        finally:
            if self.postgres:
                self.ask_nothing("RESET enable_nestloop")

    def ask_nothing(self, sql: str) -> None:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(sql)

    def of(self, keys: Sequence[tuple[str, int]], table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Name, version and these columns of the rows of a table that belong to these versions."""
        if not keys:
            return []
        listed = f"WITH k(name, version) AS (VALUES {', '.join(['(?, ?)'] * len(keys))})"
        wanted = ", ".join(f"v.{column}" for column in ("name", "version", *columns))
        sql = f"{listed} SELECT {wanted} FROM k JOIN {table} v ON v.{WORKSPACE} AND v.name = k.name"
        return self.ask(f"{sql} AND v.version = k.version", [value for key in keys for value in key])

    def mark(self) -> tuple[Any, ...]:
        """Of PostgreSQL: another one once a version came or went, an alias moved or a version is about to be pruned."""
        sql = f"""SELECT * FROM
            (SELECT count(*), sum(hashtext(concat(name, ' ', last_updated_time))::bigint)
                FROM registered_models WHERE {WORKSPACE}) models,
            (SELECT count(*), sum(hashtext(concat(name, ' ', alias, ' ', version))::bigint)
                FROM registered_model_aliases WHERE {WORKSPACE}) aliases,
            (SELECT count(*), sum(hashtext(concat(name, ' ', version))::bigint)
                FROM model_version_tags WHERE {WORKSPACE} AND key = '{PRUNED}') pruned"""
        return self.ask(sql)[0]

    def aliases(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Model -> alias -> number, of the models that have any."""
        found: dict[str, dict[str, int]] = {}
        marks = ", ".join("?" * len(names))
        sql = f"SELECT name, alias, version FROM registered_model_aliases WHERE {WORKSPACE} AND name IN ({marks})"
        for name, alias, number in self.ask(sql, names):
            found.setdefault(name, {})[alias] = number
        return found

    def like(self, column: str, pattern: str) -> str:
        """Without regard to case; SQLite itself knows only the case of ASCII letters."""
        if self.postgres:
            return f"{column} ILIKE ?"
        return f"{column} LIKE ? ESCAPE '\\'" if pattern.isascii() else f"casefold({column}) LIKE ? ESCAPE '\\'"

    def absent(self, table: str, other: str) -> str:
        """Versions of a table that another has not; each database is slow at the other's way."""
        if self.postgres:
            return f"NOT EXISTS (SELECT 1 FROM {other} g WHERE g.name = {table}.name AND g.version = {table}.version)"
        return f"({table}.name, {table}.version) NOT IN (SELECT name, version FROM {other})"

    def folded(self, pattern: str) -> str:
        """The value for `like`."""
        return pattern if self.postgres or pattern.isascii() else pattern.casefold()

    def number(self, column: str) -> str:
        if self.postgres:
            return f"CASE WHEN {column} ~ '^[-+]{{0,1}}[0-9.]+(e[-+]{{0,1}}[0-9]+){{0,1}}$' THEN {column}::float8 END"
        return f"CAST(nullif({column}, 'null') AS REAL)"

    def item(self, column: str, index: int) -> str:
        """An entry of a JSON list of numbers."""
        if self.postgres:
            return f"CASE WHEN left({column}, 1) = '[' THEN ({column}::jsonb->>{index})::float8 END"
        return f"CASE WHEN substr({column}, 1, 1) = '[' THEN json_extract({column}, '$[{index}]') END"


@contextmanager
def reading(name: str = "", sha256: str = "") -> Iterator[Rows]:
    """All that there is; of one model or one package when only that is needed, which a server tells sooner.

    Raises StoreError when the database or the server cannot be reached, or is not as this version knows it."""
    address = settings().catalog or settings().tracking_uri
    if path := database():
        with _sqlite(path) as rows:
            yield rows
    elif address.startswith("postgresql"):
        with _postgres(address) as rows:
            yield rows
    else:
        with closing(memory()) as connection:
            text = f"name = '{name}'" if name else f"tags.sha256 = '{sha256}'" if sha256 else ""
            _copy(connection, text, name)
            yield Rows(connection)


def database() -> Path | None:
    """The catalog where it is a SQLite file, which need not be there yet."""
    return database_file(settings().catalog or settings().tracking_uri)


@contextmanager
def _sqlite(path: Path) -> Iterator[Rows]:
    if not path.is_file():
        with closing(memory()) as connection:  # nothing was published yet
            yield Rows(connection)
        return
    with _told(str(path), sqlite3.Error), closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA mmap_size = 1073741824")
        connection.create_function("casefold", 1, _casefold, deterministic=True)
        yield Rows(connection)


@contextmanager
def _postgres(address: str) -> Iterator[Rows]:
    import psycopg2

    plain = f"postgresql://{address.partition('://')[2]}"
    with _told(bare(address), psycopg2.Error), closing(psycopg2.connect(plain, connect_timeout=5)) as connection:
        connection.set_session(readonly=True, autocommit=True)
        yield Rows(connection, postgres=True)


@contextmanager
def _told(where: str, kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        text = " ".join(str(error).split())
        do = (
            "check MLFLOW_TRACKING_URI, and that this MLflow made the database: `mlflow db upgrade` renews an older one"
        )
        raise StoreError(f"the catalog cannot be read ({text})", where=where, do=do) from error


def memory() -> sqlite3.Connection:
    """Empty tables like MLflow's; threads may take turns with them."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("casefold", 1, _casefold, deterministic=True)
    connection.executescript(TABLES)
    return connection


def _casefold(text: Any) -> str:
    return str(text).casefold()


def _copy(connection: sqlite3.Connection, text: str, name: str) -> None:
    """What the server tells of the versions that MLflow's filter `text` lets through, and of their models."""
    client = connect()
    with told():
        for v in _pages(lambda token: client.search_model_versions(text, max_results=PAGE, page_token=token)):
            row = (v.name, int(v.version), v.creation_timestamp, v.current_stage or "None", v.status, v.run_id)
            connection.execute("INSERT OR REPLACE INTO model_versions VALUES ('default', ?, ?, ?, ?, ?, ?)", row)
            tags = [(key, value, v.name, int(v.version)) for key, value in v.tags.items()]
            sql = "INSERT OR REPLACE INTO model_version_tags VALUES (?, ?, ?, ?, 'default')"
            connection.executemany(sql, tags)
        text = f"name = '{name}'" if name else ""
        for model in _pages(lambda token: client.search_registered_models(text, PAGE, page_token=token)):
            moment = model.last_updated_timestamp
            connection.execute(
                "INSERT OR REPLACE INTO registered_models VALUES ('default', ?, ?)", (model.name, moment)
            )
            notes = [(key, value, model.name) for key, value in model.tags.items()]
            connection.executemany("INSERT OR REPLACE INTO registered_model_tags VALUES (?, ?, ?, 'default')", notes)
            held = [(model.name, alias, int(number)) for alias, number in model.aliases.items()]
            sql = "INSERT OR REPLACE INTO registered_model_aliases VALUES ('default', ?, ?, ?)"
            connection.executemany(sql, held)


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while token != "":
        page = ask(token)
        yield from page
        token = page.token or ""
