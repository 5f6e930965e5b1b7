"""Who is champion, and why: the challenger must be surely better on the same held-out chips.

The rule, and why it is not "the higher score": docs/decisions/0004-champion.md.
"""

from collections.abc import Callable
from typing import Any

from registry.catalog import Version
from registry.errors import DlpkError, StoreError
from registry.promotion import Decision, better, decide

Scores = dict[str, Any]  # the record of `dlpk evaluate`: {"primary": "AP50", "AP50": 0.6, ..., "per_class": {...}}
Comparison = dict[str, Any]  # the record of `dlpk compare CHALLENGER CHAMPION`: {"primary", "a", "b", "interval", ...}


def judge(
    version: Version, scores: Scores, champion: Version | None, compare: Callable[[Version], Comparison]
) -> Decision:
    """`compare` scores challenger (a) and champion (b) on the same chips; only a gain beyond chance moves the alias."""
    if champion and champion.number == version.number:
        return Decision(False, version.notes.get("champion.reason") or f"{version.ref} is champion already")
    if champion is None:
        return _told(version, decide(numbers(scores), None, scores["primary"]))
    try:
        decision = better(compare(champion))
    except StoreError:
        raise  # waiting may heal that
    except DlpkError as error:
        why = f"the champion cannot be scored on the same chips ({error}), so a person must decide"
        return Decision(False, f"{version.ref} stays challenger: {why}")
    return _told(version, decision, f" ({champion.ref})")


def _told(version: Version, decision: Decision, rival: str = "") -> Decision:
    outcome = "is champion" if decision.promote else "stays challenger"
    return Decision(decision.promote, f"{version.ref} {outcome}: {decision.why}{rival}", decision.gate)


def numbers(scores: Scores) -> dict[str, float]:
    """Every single figure of an evaluation's record."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
