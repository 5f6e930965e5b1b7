"""Look for a model: every condition that is given must hold.

The conditions become one question to the tables of MLflow (`registry.rows`), so an answer takes as long for a page of
ten thousand models as for all of a hundred. What is looked for lies in the tags that `registry.publishing` writes.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.catalog import CHAMPION, SCORE, Version, loaded
from registry.errors import OptionsError
from registry.rows import DELETED, PRUNED, WORKSPACE, Rows, reading
from registry.tracking import metric_name

ORDERS = ("name", "created", "size")
Extent = tuple[float, float, float, float]  # west, south, east, north in degrees


@dataclass(frozen=True)
class Wanted:
    """Conditions on a version; what is empty asks for nothing. Words are compared without regard to case."""

    text: str = ""  # part of a name or of a class name
    model_type: str = ""
    alias: str = ""
    class_name: str = ""
    tag: str = ""
    sensor: str = ""  # part of its name
    bands: tuple[str, ...] = ()  # all of these
    least: str = ""  # "AP50=0.6": this score, at least
    cell_size: str = ""  # "0.3:1": from, to, in units of the training imagery; either may be left out
    extent: Extent | None = None  # where the training ground and this meet
    since: str = ""  # ISO date, that day included
    before: str = ""  # ISO date, that day not included


@dataclass(frozen=True)
class Page:
    """Some of the versions that were found, and how many there are."""

    versions: list[Version]
    total: int


def search(wanted: Wanted, *, sort: str = "name", newest: bool = False) -> list[Version]:
    """All versions that meet the conditions; see `page`."""
    return page(wanted, sort=sort, newest=newest, count=0).versions


def page(wanted: Wanted, *, sort: str = "name", newest: bool = False, first: int = 0, count: int = 24) -> Page:
    """`count` versions (0: all) from the `first` on, which counts from 0; by name, date, size or a score (best first).

    `newest` asks the conditions of the newest version of each model only. Raises OptionsError for a condition that
    cannot be read and for a score by which nothing can be sorted.
    """
    if first < 0 or count < 0:
        raise OptionsError("expected no number below 0", got=[first, count])
    with reading() as rows:
        keys, total = found(rows, wanted, sort=sort, newest=newest, first=first, count=count)
        return Page(loaded(rows, keys), total)


def found(
    rows: Rows, wanted: Wanted, *, sort: str, newest: bool, first: int, count: int, in_use: bool = False
) -> tuple[list[tuple[str, int]], int]:
    """Name and number of the versions on a `page`, and how many there are in all.

    `in_use` asks for the champion of each model where it has one, in the place of its newest version.
    """
    sql, values = _question(rows, wanted, sort, newest=newest, in_use=in_use)
    some = rows.scan(f"{sql} LIMIT {count or 2**62} OFFSET {first}", values)
    total = some[0][2] if some else len(rows.scan(sql, values)) if first else 0
    return [(name, number) for name, number, _ in some], total


# -- the question ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sql:
    """A piece of a question, and the values for its question marks."""

    text: str
    values: tuple[Any, ...] = ()

    def on(self, table: str) -> str:
        """The text, about the value of this table."""
        return self.text.replace("{v}", f"{table}.value")


# Versions that are there, each once: one row of our tag `sha256`, and neither deleted nor marked to be
_GONE = f"""gone AS (SELECT name, version FROM model_versions WHERE {WORKSPACE}
    AND (current_stage = '{DELETED}' OR status <> 'READY')
    UNION SELECT name, version FROM model_version_tags WHERE {WORKSPACE} AND key = '{PRUNED}')"""
_HELD = f"""t.version = (SELECT a.version FROM registered_model_aliases a
    WHERE a.{WORKSPACE} AND a.name = t.name AND a.alias = '{CHAMPION}')"""
_OURS = f"FROM model_version_tags t WHERE t.{WORKSPACE} AND t.key = 'sha256' AND"


def _question(rows: Rows, wanted: Wanted, sort: str, *, newest: bool, in_use: bool) -> tuple[str, tuple[Any, ...]]:
    """Name and number of each version that is wanted, and how many there are.

    Every condition joins the tags of one key, which lie side by side in the database; of the few versions that are the
    newest or hold an alias, each is asked for its own.
    """
    ours = f"{_OURS} {rows.absent('t', 'gone')}"
    source = Sql(f"SELECT t.name, t.version {ours}")
    if wanted.alias:
        held = f"SELECT a.name, a.version FROM registered_model_aliases a JOIN ({source.text}) w ON w.name = a.name"
        source = Sql(f"{held} AND w.version = a.version WHERE a.{WORKSPACE} AND a.alias = ?", (wanted.alias,))
    elif newest:
        chosen = f"coalesce(max(CASE WHEN {_HELD} THEN t.version END), max(t.version))" if in_use else "max(t.version)"
        source = Sql(f"SELECT t.name, {chosen} AS version {ours} GROUP BY t.name")
    parts = [Sql(f"WITH {_GONE}, whole AS ("), source, Sql("), found AS MATERIALIZED (SELECT c.name, c.version,")]
    worth, joined, order = _order(rows, sort)
    parts += [Sql(f"{worth} AS worth FROM whole c"), joined]
    few, about = newest or bool(wanted.alias), [(f"t{i}", *asked) for i, asked in enumerate(_about_tags(rows, wanted))]
    if not few:
        parts += [Sql(f"JOIN {_tag(t, key)} AND {test.on(t)}", test.values) for t, key, test in about]
    parts += _about_versions(rows, wanted)
    if few:
        parts += [Sql(f"AND (SELECT {test.on(t)} FROM {_tag(t, key, 'WHERE')})", test.values) for t, key, test in about]
    parts.append(Sql(f") SELECT name, version, (SELECT count(*) FROM found) FROM found {order}"))
    return " ".join(part.text for part in parts), tuple(value for part in parts for value in part.values)


def _tag(table: str, key: str, where: str = "ON") -> str:
    """The tag of a version; `key` is one of our own names."""
    own = f"{table}.{WORKSPACE} AND {table}.key = '{key}'"
    return f"model_version_tags {table} {where} {own} AND {table}.name = c.name AND {table}.version = c.version"


_MOMENT = f"JOIN model_versions m ON m.{WORKSPACE} AND m.name = c.name AND m.version = c.version"


def _about_tags(rows: Rows, wanted: Wanted) -> Iterator[tuple[str, Sql]]:
    """The key of a tag, and what must hold of its value {v}."""
    for key, word in [("classes", wanted.class_name), ("tags", wanted.tag), *(("bands", b) for b in wanted.bands)]:
        if word:
            yield key, _among(rows, word)
    if wanted.extent:
        yield "extent", _meets(rows, wanted.extent)
    if wanted.least:
        score, least = _score(wanted.least)
        yield _score_tag(rows, score, "--score"), Sql(f"{rows.number('{v}')} >= ?", (least,))
    if wanted.sensor:
        yield "sensor", _holds(rows, wanted.sensor)
    if wanted.cell_size:
        yield "cell_size", Sql(f"{rows.number('{v}')} BETWEEN ? AND ?", _range(wanted.cell_size))
    if wanted.model_type:
        yield "model_type", Sql("lower({v}) = ?", (wanted.model_type.lower(),))


def _about_versions(rows: Rows, wanted: Wanted) -> Iterator[Sql]:
    """Further joins, then what must hold of name and date."""
    days = [(where, text) for where, text in (("since", wanted.since), ("before", wanted.before)) if text]
    if days:
        yield Sql(_MOMENT)
    if wanted.text:
        yield Sql(f"LEFT JOIN {_tag('x', 'classes')}")
    yield Sql("WHERE c.version IS NOT NULL")
    for where, text in days:
        sign = ">=" if where == "since" else "<"
        yield Sql(f"AND m.creation_time {sign} ?", (int(_day(text, where).timestamp() * 1000),))
    if wanted.text:
        within = json.dumps(wanted.text, ensure_ascii=False)[1:-1]  # a class name, in a JSON list of them
        name, classes = _holds(rows, wanted.text), _holds(rows, within)
        either = f"{name.text.replace('{v}', 'c.name')} OR {classes.text.replace('{v}', 'x.value')}"
        yield Sql(f"AND ({either})", name.values + classes.values)


def _order(rows: Rows, sort: str) -> tuple[str, Sql, str]:
    """What a version is worth, what must be joined to know it, and the order."""
    if sort == "name":
        return "0", Sql(""), "ORDER BY name, version DESC"
    if sort == "created":
        joined = _MOMENT.replace("m.", "s.").replace(" m ", " s ")
        return "s.creation_time", Sql(joined), "ORDER BY worth DESC, name, version DESC"
    if sort == "size":
        return rows.number("s.value"), Sql(f"LEFT JOIN {_tag('s', 'size')}"), "ORDER BY worth, name, version DESC"
    key = _score_tag(rows, sort, "--sort", ORDERS)
    order = "ORDER BY worth IS NULL, worth DESC, name, version DESC"
    return rows.number("s.value"), Sql(f"LEFT JOIN {_tag('s', key)}"), order


def _among(rows: Rows, word: str) -> Sql:
    """An entry of a JSON list of texts: the first of them, or one behind a comma."""
    text = _plain(json.dumps(word, ensure_ascii=False))
    patterns = (f"[{text}%", f"%, {text}%")
    either = " OR ".join(rows.like("{v}", pattern) for pattern in patterns)
    return Sql(f"({either})", tuple(map(rows.folded, patterns)))


def _holds(rows: Rows, word: str) -> Sql:
    pattern = f"%{_plain(word)}%"
    return Sql(rows.like("{v}", pattern), (rows.folded(pattern),))


def _plain(word: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", word)


def _meets(rows: Rows, extent: Extent) -> Sql:
    west, south, east, north = extent
    if not (west <= east and south <= north):
        do = "give west,south,east,north in degrees"
        raise OptionsError("expected an extent", where="--extent", got=list(extent), do=do)
    places = [rows.item("{v}", i) for i in range(4)]
    text = f"{places[0]} <= ? AND {places[1]} <= ? AND {places[2]} >= ? AND {places[3]} >= ?"
    return Sql(text, (east, north, west, south))


def _scores(rows: Rows) -> list[str]:
    sql = f"SELECT DISTINCT key FROM model_version_tags WHERE {WORKSPACE} AND key LIKE ?"
    return [key.removeprefix(SCORE) for (key,) in rows.ask(sql, (f"{SCORE}%",))]


def _score_tag(rows: Rows, score: str, where: str, besides: Sequence[str] = ()) -> str:
    """The tag of a score that some version has. Raises OptionsError for another name."""
    tag = metric_name(SCORE + score)  # as publishing writes it; nothing of SQL is left in it
    if rows.ask(f"SELECT 1 FROM model_version_tags WHERE {WORKSPACE} AND key = ? LIMIT 1", (tag,)):
        return tag
    known = _scores(rows)
    alike = [name for name in known if (SCORE + name).lower() == tag.lower()]
    if alike or not (known or besides):
        return SCORE + alike[0] if alike else tag
    what, do = "there is no such score", f"use one of {', '.join(sorted({*known, *besides}))}"
    raise OptionsError("nothing to sort by" if besides else what, where=where, got=score, do=do)


def read_extent(text: str) -> Extent | None:
    """None for "". Raises OptionsError."""
    try:
        west, south, east, north = map(float, text.split(",")) if text.strip() else (math.inf,) * 4
    except ValueError:
        do = "write west,south,east,north in degrees, e.g. 79.8,6.8,80,7"
        raise OptionsError("expected an extent", where="--extent", got=text, do=do) from None
    return (west, south, east, north) if text.strip() else None


# -- what people write -------------------------------------------------------------------------------------------------
def _score(text: str) -> tuple[str, float]:
    found = re.fullmatch(r"\s*([^=<>]+?)\s*(?:>=|=)\s*([-+0-9.eE]+)\s*", text)
    try:
        return (found[1], float(found[2])) if found else ("", float("none"))
    except ValueError:
        raise OptionsError("expected a score and its least value", got=text, do="write e.g. AP50=0.6") from None


def _range(text: str) -> tuple[float, float]:
    least, colon, most = text.partition(":")
    try:
        first, last = float(least or 0), float(most or "inf" if colon else least)
    except ValueError:
        first, last = math.nan, math.nan
    if not first <= last:
        do = "write e.g. 0.3:1, 0.3: or :1"
        raise OptionsError("expected a range of cell sizes", where="--cell-size", got=text, do=do)
    return first, last


def _day(text: str, where: str) -> datetime:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise OptionsError("expected a date", where=f"--{where}", got=text, do="write e.g. 2026-05-01") from None
    return day if day.tzinfo else day.replace(tzinfo=UTC)
