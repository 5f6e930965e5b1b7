"""Backup and restore of both databases and of the stores.

    <backup>/databases/<name>.dump      pg_dump, custom format
    <backup>/stores/<bucket>/<key>      every object
    <backup>/backup.json                what there is, with the sha256 of each dump and object; written last

The databases come first: what they name was published before, so it is in the store when that is copied. What is
published meanwhile may be there in addition, and nothing refers to it.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql

from infra.databases import NAMES, close
from infra.plan import BUCKETS, Plan
from infra.services import postgres_program
from registry.errors import Conflict, NotFound, OptionsError, StoreError
from registry.files import sha256, write_text
from registry.stores import Store, open_store

MARK = "backup.json"
AT_ONCE = 8  # objects on their way
Say = Callable[[str], None]


@dataclass(frozen=True)
class Places:
    """What is backed up: a PostgreSQL server, as somebody who may make databases, and stores by their names."""

    server: str  # postgresql://owner:...@host:port/postgres
    stores: Mapping[str, str]  # name in the backup -> URI


def of_topology(plan: Plan) -> Places:
    return Places(plan.database("postgres", owner="owner"), {name: f"s3://{name}" for name in BUCKETS})


def backup(places: Places, out: Path, say: Say = lambda _: None) -> dict[str, Any]:
    """Write a backup into a new folder; its record. Raises OptionsError for a folder that is not empty, StoreError."""
    if out.exists() and any(out.iterdir()):
        do = "name another" if (out / MARK).is_file() else "name another, or delete it if a backup was cut short there"
        raise OptionsError("expected a new or empty folder", where=str(out), do=do)
    (out / "databases").mkdir(parents=True)
    record: dict[str, Any] = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "databases": {}, "stores": {}}
    for name in NAMES:
        dump = out / "databases" / f"{name}.dump"
        _program("pg_dump", places.server, name, "--format=custom", f"--file={dump}")
        record["databases"][name] = {"sha256": sha256(dump), "bytes": dump.stat().st_size}
        say(f"database {name}: {dump.stat().st_size:,} bytes")
    objects: dict[str, dict[str, str]] = {}
    for name, uri in places.stores.items():
        objects[name] = _copied(open_store(uri), out / "stores" / name)
        record["stores"][name] = len(objects[name])
        say(f"{uri}: {len(objects[name]):,} objects")
    write_text(out / MARK, json.dumps({**record, "objects": objects}, indent=2))
    return record


def restore(places: Places, source: Path, say: Say = lambda _: None) -> dict[str, Any]:
    """Put a backup in the place of what is there; its record. Raises OptionsError for one that is not whole.

    The objects come first, so that a restored database never names one that is missing. Each database is filled under
    another name and takes the place of the old one at once. Servers must be started anew afterwards.
    """
    record = _whole(source)
    record.pop("objects", None)  # a line for each would hide the rest
    for name, count in record["stores"].items():
        if name not in places.stores:
            do = "name its place with --store NAME=URI"
            raise OptionsError("the backup holds a store that has no place", got=name, do=do)
        _brought(source / "stores" / name, open_store(places.stores[name]))
        say(f"{places.stores[name]}: {count:,} objects")
    for name in record["databases"]:
        try:
            _replace(places.server, name, source / "databases" / f"{name}.dump")
        except psycopg2.Error as error:
            do = f"check --server and that the role {name} is there, then run the same command again"
            raise StoreError(f"cannot be restored ({' '.join(str(error).split())})", where=name, do=do) from error
        say(f"database {name}: restored")
    return record


def _whole(source: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((source / MARK).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError(f"there is no whole backup: no {MARK}", where=str(source), do="name another") from error
    for name, facts in record["databases"].items():
        dump = source / "databases" / f"{name}.dump"
        if not dump.exists() or sha256(dump) != facts["sha256"]:
            raise OptionsError("the dump is not the one that was written", where=str(dump), do="use another backup")
    for name, count in record["stores"].items():
        there = sum(path.is_file() for path in (source / "stores" / name).rglob("*"))
        if there != count:
            raise OptionsError(f"expected {count} objects", where=str(source / "stores" / name), got=there)
    for name, sums in record.get("objects", {}).items():  # older backups have none
        for key, there in zip(sums, _sums(source / "stores" / name, sums), strict=True):
            if there != sums[key]:
                where = str(source / "stores" / name / key)
                raise OptionsError("the object is not the one that was written", where=where, do="use another backup")
    return record


# -- objects -----------------------------------------------------------------------------------------------------------
def _copied(store: Store, folder: Path) -> dict[str, str]:
    """Every object as a file; the sha256 of each. What goes meanwhile, as the heartbeats of runs do, is left out."""

    def get(key: str) -> str:
        try:
            return sha256(store.get(key, folder / key))
        except NotFound:
            return ""

    folder.mkdir(parents=True)
    keys = store.list()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return {key: digest for key, digest in zip(keys, threads.map(get, keys), strict=True) if digest}


def _sums(folder: Path, keys: Iterable[str]) -> list[str]:
    """The sha256 of each of these objects, "" of one that is not there."""

    def of(key: str) -> str:
        return sha256(folder / key) if (folder / key).is_file() else ""

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(of, keys))


def _brought(folder: Path, store: Store) -> None:
    def put(path: Path) -> None:
        key = path.relative_to(folder).as_posix()
        try:
            store.put(key, path)
        except Conflict:  # something small that is written again and again, as a collection
            store.replace(key, path.read_bytes())

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(put, sorted(path for path in folder.rglob("*") if path.is_file())))


# -- databases ---------------------------------------------------------------------------------------------------------
def _replace(server: str, name: str, dump: Path) -> None:
    fresh = f"{name}_restored"
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            old, new = sql.Identifier(name), sql.Identifier(fresh)
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(new))
            cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(new, old))
            close(cursor, fresh, name)
            _program("pg_restore", server, fresh, "--no-owner", f"--role={name}", "--exit-on-error", str(dump))
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(old))
            cursor.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(new, old))


def _program(name: str, server: str, database: str, *flags: str) -> None:
    """A client program; the password goes by the environment, since everybody sees a command line."""
    parts = urlsplit(server)
    host = f"{parts.username}@{parts.hostname}:{parts.port or 5432}"
    address = urlunsplit(("postgresql", host, f"/{database}", parts.query, ""))
    environment = {**os.environ, "PGPASSWORD": unquote(parts.password or "")}
    command = [postgres_program(name), f"--dbname={address}", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StoreError(f"{name} failed: {done.stderr.strip()}", where=f"{parts.hostname}/{database}")
