"""How sure a score is: the chips are drawn again and again, with replacement, and the score is counted each time.

A draw is the number of times that each chip came: (draws, chips). The same draws for two models pair them.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED = 1000, 42
SHARE = 0.95  # of the draws that an interval holds
Key = TypeVar("Key")
Interval = tuple[float, float]


def draws(chips: int, *, count: int = DRAWS, seed: int = SEED) -> NDArray[np.float64]:
    """(count, chips) how often each chip is in each draw; every row sums to `chips`. The same in every run."""
    dice, drawn = np.random.default_rng(seed), np.empty((count, chips))
    for row in drawn:  # all at once would take three times the memory
        row[:] = np.bincount(dice.integers(0, chips, chips), minlength=chips)
    return drawn


def interval(values: NDArray[np.float64]) -> Interval | None:
    """Low and high end that hold 95 % of the draws; None when no draw could be counted."""
    counted = values[np.isfinite(values)]
    if not counted.size:
        return None
    low, high = np.quantile(counted, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)


def intervals(resampled: Mapping[Key, NDArray[np.float64]]) -> dict[Key, Interval]:
    """The interval of each figure that has one."""
    found = {key: interval(values) for key, values in resampled.items()}
    return {key: ends for key, ends in found.items() if ends is not None}
