"""Make the databases of a topology, each with a role of its own that sees no other: `python -m infra.databases FOLDER`.

Prefect and MLflow never share one: their migrations are their own.
"""

import sys
import time
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from infra import plan as plans
from infra.plan import Plan

NAMES = ("prefect", "mlflow")
READER, READ = "reader", "mlflow"  # a role that changes nothing, and what it sees: where clients look for versions
SECONDS = 60


def ensure(plan: Plan) -> None:
    """Idempotent: what is missing is made, passwords are brought in line."""
    with_server = _connected(plan)
    try:
        with with_server.cursor() as cursor:
            for name in (*NAMES, READER):
                _ensure_role(cursor, name, plan.secrets[f"{name}-database"])
            cursor.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(sql.Identifier(READER)))
            for name in NAMES:
                _ensure(cursor, name)
    finally:
        with_server.close()


def close(cursor: Any, database: str, name: str) -> None:
    """Nobody but its owner reaches a database; MLflow's, which is called `name`, a role that only reads it, too."""
    cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
    if name == READ and _has_role(cursor, READER):
        names = sql.Identifier(database), sql.Identifier(READER)
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*names))


def _ensure_role(cursor: Any, name: str, word: str) -> None:
    verb = sql.SQL("ALTER" if _has_role(cursor, name) else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(name), sql.Literal(word)))


def _has_role(cursor: Any, name: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    return cursor.fetchone() is not None


def _ensure(cursor: Any, name: str) -> None:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
    if not cursor.fetchone():
        owned = sql.Identifier(name)
        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(owned, owned))
    close(cursor, name, name)


def _connected(plan: Plan) -> Any:
    """As soon as the server takes clients: after a crash it recovers first."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            connection = psycopg2.connect(plan.database("postgres", owner="owner"))
        except psycopg2.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            connection.autocommit = True
            return connection


if __name__ == "__main__":
    known = plans.read(Path(sys.argv[1]))
    if known is None:
        sys.exit(f"{sys.argv[1]} holds no topology; run dlpk up")
    ensure(known)
