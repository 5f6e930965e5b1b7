"""Who is champion, and why: the challenger must be surely better on the same held-out chips.

The rule, and why it is not "the higher score": docs/decisions/0004-champion.md.
"""

from collections.abc import Callable
from typing import Any

from registry.catalog import Decision, Version, decide
from registry.errors import DlpkError, StoreError

Scores = dict[str, Any]  # the record of `dlpk evaluate`: {"primary": "ap50", "ap50": 0.6, ..., "per_class": {...}}
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


def better(comparison: Comparison) -> Decision:
    """Yes when 95 % of the draws of the chips, the whole interval of the difference, are on the challenger's side."""
    metric, mine, theirs = (comparison[key] for key in ("primary", "a", "b"))
    low, high = comparison["interval"]
    word = "better than" if low > 0 else "not better than" if mine <= theirs else "not surely better than"
    doubt = f"difference {mine - theirs:+.4f}, 95 % between {low:+.4f} and {high:+.4f} on {comparison['chips']} chips"
    return Decision(low > 0, f"{metric} {mine:.4f} is {word} the champion's {theirs:.4f}, {doubt}")


def _told(version: Version, decision: Decision, rival: str = "") -> Decision:
    outcome = "is champion" if decision.promote else "stays challenger"
    return Decision(decision.promote, f"{version.ref} {outcome}: {decision.why}{rival}")


def numbers(scores: Scores) -> dict[str, float]:
    """Every single figure of an evaluation's record."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
