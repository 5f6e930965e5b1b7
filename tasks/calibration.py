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
    """Of answers with a confidence (n,) 0-1; None when there are none."""
    return calibrated(binned(confidence, true))


def binned(confidence: NDArray[np.floating], true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(3, BINS) of bins of equal width: number of answers, sum of their confidence, how many are true."""
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(at, values, BINS) for values in (np.ones(len(at)), confidence, true)])


def calibrated(sums: NDArray[np.float64]) -> Calibration | None:
    """Of `binned`, or of a sum of such; None where no bin holds anything."""
    counts, confidence, true = sums[:, sums[0] > 0]
    if not len(counts):
        return None
    rows = [
        Bin(int(n), c / n, t / n) for n, c, t in zip(counts.tolist(), confidence.tolist(), true.tolist(), strict=True)
    ]
    error = float(np.abs(confidence - true).sum() / counts.sum())
    return Calibration(error, tuple(rows))
