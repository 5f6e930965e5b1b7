"""Look for a model: every condition that is given must hold."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.catalog import Version, find
from registry.errors import OptionsError

ORDERS: dict[str, Callable[[Version], Any]] = {
    "name": lambda version: (version.name, -version.number),
    "created": lambda version: -version.created.timestamp(),
    "size": lambda version: version.size,
}


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
    least: str = ""  # "ap50=0.6": this score, at least
    since: str = ""  # ISO date, that day included
    before: str = ""  # ISO date, that day not included

    def check(self) -> None:
        """Raises OptionsError for a condition that cannot be read."""
        _score(self.least)
        for where, text in {"since": self.since, "before": self.before}.items():
            if text:
                _day(text, where)

    def holds(self, version: Version) -> bool:
        """Whether a version meets all conditions that `find` has not asked already."""
        score, least = _score(self.least)
        return (
            _among(self.class_name, version.classes)
            and _among(self.tag, version.tags)
            and self.sensor.casefold() in version.sensor.casefold()
            and all(_among(band, version.bands) for band in self.bands)
            and (not score or version.scores.get(score, -math.inf) >= least)
            and (not self.since or version.created >= _day(self.since, "since"))
            and (not self.before or version.created < _day(self.before, "before"))
        )


def search(wanted: Wanted, *, sort: str = "name", newest: bool = False) -> list[Version]:
    """The versions that meet all conditions, `newest` of each model only; by name, date, size or a score (best first).

    Raises OptionsError for a condition that cannot be read.
    """
    wanted.check()
    found = find(text=wanted.text, model_type=wanted.model_type, alias=wanted.alias)
    found = [version for version in found if wanted.holds(version)]
    if newest:
        found = list({version.name: version for version in reversed(found)}.values())
    if sort not in ORDERS and found and not any(sort in version.scores for version in found):
        known = sorted({*ORDERS, *(name for version in found for name in version.scores)})
        raise OptionsError("nothing to sort by", where="--sort", got=sort, do=f"use one of {', '.join(known)}")
    return sorted(found, key=ORDERS.get(sort, lambda version: -version.scores.get(sort, -math.inf)))


def _among(word: str, words: tuple[str, ...]) -> bool:
    return not word or word.casefold() in (known.casefold() for known in words)


def _score(text: str) -> tuple[str, float]:
    if not text:
        return "", 0.0
    found = re.fullmatch(r"\s*([^=<>]+?)\s*(?:>=|=)\s*([-+0-9.eE]+)\s*", text)
    try:
        return (found[1], float(found[2])) if found else ("", float("none"))
    except ValueError:
        raise OptionsError("expected a score and its least value", got=text, do="write e.g. ap50=0.6") from None


def _day(text: str, where: str) -> datetime:
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise OptionsError("expected a date", where=f"--{where}", got=text, do="write e.g. 2026-05-01") from None
    return day if day.tzinfo else day.replace(tzinfo=UTC)
