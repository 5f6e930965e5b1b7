"""CycleGAN: pictures of two rasters, which need not show the same ground (ArcGIS formats D.6).

A/images/000000000.tif    of the first raster; map.txt, stats.txt and the definition are in A/
B/images/000000000.tif    of the second, and its own in B/; old exports say Images/train_a, Images/train_b
"""

from collections.abc import Sequence
from pathlib import Path

from registry.emd import ClassLabel
from tasks.chips import Chip

CARRIES = "nothing"
SIDES = ("A", "B")


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    return ()


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    return chip
