"""Whether a confidence can be believed: of the answers given with 80 %, are 80 % true?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence."""

    count: int
    confidence: float  # their mean, 0-1
    true: float  # share of them that is true, 0-1


@dataclass(frozen=True)
class Calibration:
    """The reliability diagram and, as one figure, the expected calibration error."""

    error: float  # 0-1: mean distance of confidence and truth, over the answers
    bins: Sequence[Bin]  # from low to high confidence, empty ones left out

    def document(self) -> dict[str, Any]:
        return {"error": self.error, "bins": [asdict(part) for part in self.bins]}


def calibrate(confidence: NDArray[np.floating], true: NDArray[np.bool_]) -> Calibration | None:
    """Of answers with a confidence (n,) 0-1, in ten bins of equal width; None when there are none."""
    if not len(confidence):
        return None
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(at, minlength=BINS)
    held = np.flatnonzero(counts)
    means = [np.bincount(at, values, BINS)[held] / counts[held] for values in (confidence, true)]
    error = float(np.average(np.abs(means[0] - means[1]), weights=counts[held]))
    rows = zip(counts[held].tolist(), means[0].tolist(), means[1].tolist(), strict=True)
    return Calibration(error, tuple(Bin(*row) for row in rows))
