"""Which version held an alias when, why, and who said so: a record that is only ever added to. MLflow keeps none.

Every move of an alias is one tag of the registered model, `history.<alias>.<moment>.<random>`, a JSON object of at most
5000 characters. It is written before the alias moves, so no move by `registry.promotion` goes unrecorded; what a kill
prevented, or another program did, is seen where two neighbours do not fit together.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.catalog import CHAMPION, check_name
from registry.errors import NotFound
from registry.rows import WORKSPACE, Rows, reading
from registry.settings import settings
from registry.tracking import connect, patiently, told

PROMOTED, ROLLED_BACK, KEPT = "promoted", "rolled back", "kept"
MOVES = (PROMOTED, ROLLED_BACK)
GATE = ("primary", "a", "b", "difference", "interval", "surely", "chips", "chips_digest")  # of a comparison's record
LONGEST_REASON = 2000  # characters
MOMENT = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True)
class Event:
    """One decision about an alias."""

    at: datetime
    alias: str
    action: str  # promoted, rolled back; kept: the gate was asked and the holder stayed
    version: int  # that the decision was about
    replaced: int | None = None  # the holder at that moment
    by: str = ""
    reason: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)  # what the comparison on the same chips gave, see GATE
    until: datetime | None = None  # when the next move came
    held: bool = False  # False: kept; or the move was never completed, or the alias moved by another program's hand

    def document(self) -> dict[str, Any]:
        until = self.until.isoformat(timespec="seconds") if self.until else None
        return {**vars(self), "at": self.at.isoformat(timespec="seconds"), "until": until, "gate": dict(self.gate)}


def history(name: str, alias: str = CHAMPION) -> list[Event]:
    """Every decision about an alias of a model, newest first; `alias` "" asks for all. Raises NotFound."""
    with reading(check_name(name)) as rows:
        tags = _tags(rows, name)
        holders = rows.aliases([name]).get(name, {})
        if not tags and not rows.ask(f"SELECT 1 FROM registered_models WHERE {WORKSPACE} AND name = ?", (name,)):
            raise NotFound(f"no model {name!r}")
    events = sorted(_events(tags), key=lambda event: event.at)
    kinds = sorted({event.alias for event in events if alias in ("", event.alias)})
    found = [event for kind in kinds for event in _linked([e for e in events if e.alias == kind], holders.get(kind))]
    return sorted(found, key=lambda event: event.at, reverse=True)


def record(name: str, event: Event) -> Event:
    """Add an event; its moment is moved behind the last one's, should the clocks of two machines differ."""
    with reading(name) as rows:
        last = max((known.at for known in _events(_tags(rows, name))), default=event.at)
    with told():
        at = event.at if event.at > last else last + timedelta(microseconds=1)
        key = f"history.{event.alias}.{at.strftime(MOMENT)}.{secrets.token_hex(4)}"
        patiently(connect().set_registered_model_tag, name, key, json.dumps(_written(event)))
    return replace(event, at=at)


def now(alias: str, action: str, version: int, replaced: int | None, **told_of_it: Any) -> Event:
    """An event of this moment, by this user unless `by` names another."""
    by = told_of_it.pop("by", "") or settings().user
    return Event(datetime.now(UTC), alias, action, version, replaced, by=by, **told_of_it)


def predecessors(events: Iterable[Event], holder: int) -> list[int]:
    """The versions to which a rollback from `holder` may go, the next one first.

    A rollback takes the holder off, so that the next one goes further back and never forth.
    """
    stack: list[int] = []
    for event in sorted((e for e in events if e.action in MOVES), key=lambda event: event.at):
        if event.replaced is not None and stack[-1:] != [event.replaced]:
            stack.append(event.replaced)  # another program's hand
        if event.action == ROLLED_BACK and event.version in stack:
            del stack[len(stack) - stack[::-1].index(event.version) :]
        elif stack[-1:] != [event.version]:
            stack.append(event.version)
    back = stack[::-1]
    if holder in back:
        back = back[back.index(holder) + 1 :]
    return list(dict.fromkeys(number for number in back if number != holder))


def _linked(events: list[Event], holder: int | None) -> list[Event]:
    """`events` of one alias, oldest first, each told until when it stood."""
    moves = [event for event in events if event.action in MOVES]
    nexts = dict(zip(map(id, moves), moves[1:], strict=False))
    done = []
    for event in events:
        after = nexts.get(id(event))
        found = after.replaced if after else holder
        held = event.action in MOVES and found == event.version
        done.append(replace(event, until=after.at if after else None, held=held))
    return done


def _tags(rows: Rows, name: str) -> dict[str, str]:
    sql = f"SELECT key, value FROM registered_model_tags WHERE {WORKSPACE} AND name = ?"
    return dict(rows.ask(sql, (name,)))


def _events(tags: Mapping[str, str]) -> list[Event]:
    return [_read(key, value) for key, value in tags.items() if key.startswith("history.")]


def _read(key: str, value: str) -> Event:
    _, alias, *moment, _ = key.split(".")
    at = datetime.strptime(".".join(moment), MOMENT).replace(tzinfo=UTC)
    return Event(at, alias, **json.loads(value))


def _written(event: Event) -> dict[str, Any]:
    gate = {key: event.gate[key] for key in GATE if key in event.gate}
    facts = {"action": event.action, "version": event.version, "replaced": event.replaced, "by": event.by[:200]}
    return {**facts, "reason": event.reason[:LONGEST_REASON], "gate": gate}
