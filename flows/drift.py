"""Whether a model has become worse: its scores on fresh labels against those that it was published with."""

from dataclasses import dataclass
from typing import Any

Scores = dict[str, Any]  # the record of `dlpk evaluate`: {"primary": "AP50", "AP50": 0.6, "intervals": {...}, ...}


@dataclass(frozen=True)
class Drift:
    """The verdict, and the figures behind it."""

    drifted: bool
    why: str
    metric: str
    now: float
    before: float | None = None


def judge(before: Scores, now: Scores) -> Drift:
    """Drifted when the whole 95 % interval of now lies below that of before: chance alone hardly ever does that.

    Without scores of before, as of a model from elsewhere, there is no verdict but the figure.
    """
    metric = str(now["primary"])
    score, ends = float(now[metric]), _ends(now, metric)
    told = f"{metric} {score:.4f} ({ends[0]:.4f} to {ends[1]:.4f})"
    if metric not in before:
        return Drift(False, f"{told}; there is nothing to compare it with", metric, score)
    old, former = float(before[metric]), _ends(before, metric)
    drifted = ends[1] < former[0]
    word = "is surely less than" if drifted else "is not surely less than"
    return Drift(drifted, f"{told} {word} {old:.4f} ({former[0]:.4f} to {former[1]:.4f})", metric, score, old)


def _ends(scores: Scores, metric: str) -> tuple[float, float]:
    """Of its interval; where none was computed, the figure itself."""
    low, high = scores.get("intervals", {}).get(metric, (scores[metric], scores[metric]))
    return float(low), float(high)
