"""Who is champion, and why: the challenger must be better on the same held-out chips."""

from collections.abc import Callable
from typing import Any

from registry.catalog import Decision, Version, decide
from registry.errors import DlpkError, StoreError

Scores = dict[str, Any]  # the record of `dlpk evaluate`: {"primary": "ap50", "ap50": 0.6, ..., "per_class": {...}}


def judge(version: Version, scores: Scores, champion: Version | None, score: Callable[[Version], Scores]) -> Decision:
    """`score` evaluates the champion on the challenger's held-out chips; only a true gain moves the alias."""
    if champion and champion.number == version.number:
        return Decision(False, version.notes.get("champion.reason") or f"{version.ref} is champion already")
    try:
        theirs = numbers(score(champion)) if champion else None
    except StoreError:
        raise  # waiting may heal that
    except DlpkError as error:
        why = f"the champion cannot be scored on the same chips ({error}), so a person must decide"
        return Decision(False, f"{version.ref} stays challenger: {why}")
    decision = decide(numbers(scores), theirs, scores["primary"])
    rival = f" ({champion.ref})" if champion else ""
    outcome = "is champion" if decision.promote else "stays challenger"
    return Decision(decision.promote, f"{version.ref} {outcome}: {decision.why}{rival}")


def numbers(scores: Scores) -> dict[str, float]:
    """Every single figure of an evaluation's record."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
