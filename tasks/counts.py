"""What a result holds, counted by class name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyogrio
import rasterio

from registry.emd import ClassLabel


def count_features(path: Path) -> dict[str, int]:
    """Features of each Class, the most frequent first."""
    table = pyogrio.read_dataframe(path, columns=["Class"], read_geometry=False)
    return dict(Counter(table["Class"]).most_common())


def count_pixels(path: Path, classes: Sequence[ClassLabel]) -> dict[str, int]:
    """Pixels of each class that occurs, the most frequent first; `background` is value 0. Memory: one block."""
    names = {0: "background", **{label.value: label.name for label in classes}}
    total: Counter[str] = Counter()
    with rasterio.open(path) as raster:
        for _, window in raster.block_windows(1):
            values, counts = np.unique(raster.read(1, window=window), return_counts=True)
            total.update({names[v]: int(n) for v, n in zip(values.tolist(), counts, strict=True) if v in names})
    return dict(total.most_common())
