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
SECONDS = 60


def ensure(plan: Plan) -> None:
    """Idempotent: what is missing is made, passwords are brought in line."""
    with_server = _connected(plan)
    try:
        with with_server.cursor() as cursor:
            for name in NAMES:
                _ensure(cursor, name, plan.secrets[f"{name}-database"])
    finally:
        with_server.close()


def _ensure(cursor: Any, name: str, word: str) -> None:
    role = sql.Identifier(name)
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
    cursor.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, role, sql.Literal(word)))
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
    if not cursor.fetchone():
        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))


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
