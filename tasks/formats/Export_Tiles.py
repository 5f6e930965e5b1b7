"""Export_Tiles: pictures without labels, of one raster or of two that show the same ground (ArcGIS formats D.6).

images/000000000.tif
images2/000000000.tif    with a second raster: what the first is to be translated into
"""

from collections.abc import Sequence
from pathlib import Path

from registry.emd import ClassLabel
from tasks.chips import Chip

CARRIES = "nothing"


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    return ()


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    return chip
