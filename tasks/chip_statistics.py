"""Statistics over all chips of an export: bands for normalisation, classes for balance (ArcGIS formats D.3, D.5).

Memory does not grow with the number of chips: running counts, extremes, and mean and variance after Chan et al. (1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.emd import BandStatistics, ClassLabel
from tasks.chips import Chip


@dataclass
class Range:
    """Smallest, largest, sum and count of a series."""

    min: float = float("inf")
    max: float = float("-inf")
    sum: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.min, self.max = min(self.min, value), max(self.max, value)
        self.sum, self.count = self.sum + value, self.count + 1

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def document(self) -> dict[str, float]:
        low, high = (self.min, self.max) if self.count else (0, 0)
        return {"Min": low, "Max": high, "Mean": self.mean, "Sum": self.sum, "Count": self.count}


@dataclass
class ChipStatistics:
    """Add chips, then ask. `carries` is that of the metadata format: boxes or mask."""

    classes: tuple[ClassLabel, ...]
    carries: str
    chips: int = 0
    shape: tuple[int, ...] = ()
    number: int = 0  # valid pixels seen
    low: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    high: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    m2: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.per_class = [Range() for _ in self.classes]  # area of each object, or pixels of the class in each chip
        self.images = [0] * len(self.classes)
        self.per_image = Range()  # objects, or classes, in a chip
        self.cell_area = 1.0

    def add(self, chip: Chip) -> None:
        self.chips, self.shape = self.chips + 1, chip.image.shape
        self._add_bands(chip.image[:, chip.valid].astype(np.float64))
        if chip.grid:
            self.cell_area = abs(chip.grid.transform[0] * chip.grid.transform[4])
        counts = self._add_boxes(chip) if self.carries == "boxes" else self._add_mask(chip)
        for i, count in enumerate(counts):
            self.images[i] += count > 0
        self.per_image.add(sum(counts) if self.carries == "boxes" else sum(c > 0 for c in counts))

    def bands(self, names: Sequence[str]) -> list[BandStatistics]:
        """In raw sensor units, over valid pixels."""
        std = np.sqrt(self.m2 / max(self.number, 1))
        columns = (self.low, self.high, self.mean, std)
        return [BandStatistics(name, *(float(c[i]) for c in columns)) for i, name in enumerate(names)]

    def text(self, tile_size: int) -> str:
        """stats.txt, for people (D.3)."""
        boxes = self.carries == "boxes"
        noun, each = ("features", "features per image") if boxes else ("pixels  ", "classes per image")
        some = self.per_image
        spread = f"{each} = [min = {some.min:.0f}, mean = {some.mean:.2f}, max = {some.max:.0f}]"
        features = int(sum(r.count for r in self.per_class))
        classes = f"classes = {len(self.classes)}"
        lines = [f"images = {self.chips} *{self.shape[0]}*{tile_size}*{tile_size}"]
        lines += [f"features = {features}", spread, classes] if boxes else [classes, spread]
        lines.append(
            f"{'cls name':<20}{'cls value':>11}{'images':>11}   {noun}{'min size':>12}{'mean size':>12}{'max size':>12}"
        )
        for label, images, sizes in zip(self.classes, self.images, self.per_class, strict=True):
            what = sizes.count if boxes else int(sizes.sum)
            low, high = (sizes.min, sizes.max) if sizes.count else (0, 0)
            lines.append(
                f"{label.name:<20}{label.value:>11}{images:>11}{what:>11}{low:>12.2f}{sizes.mean:>12.2f}{high:>12.2f}"
            )
        return "\n".join(lines) + "\n"

    def document(self, tile_size: int, metadata_format: str) -> dict[str, Any]:
        """esri_accumulated_stats.json (D.5)."""
        bands = zip(self.low, self.high, self.mean, self.m2, strict=True)
        return {
            "Version": 1,
            "NumBands": self.shape[0],
            "TileSizeX": tile_size,
            "TileSizeY": tile_size,
            "NumClasses": len(self.classes),
            "NumTiles": self.chips,
            "OutputFeatures": self.carries == "boxes",
            "MetaDataMode": metadata_format,
            "Classes": [{"ClassValue": c.value, "ClassName": c.name} for c in self.classes],
            **({"FeatureStats": self._features()} if self.carries == "boxes" else {"ClassPixelStats": self._pixels()}),
            "BandStatsState": [
                {"Min": float(a), "Max": float(b), "M1": float(m), "M2": float(v), "Num": self.number}
                for a, b, m, v in bands
            ],
        }

    def _features(self) -> dict[str, Any]:
        return {
            "NumClasses": len(self.classes),
            "NumImagesTotal": self.chips,
            "NumFeaturesTotal": int(sum(r.count for r in self.per_class)),
            "NumImagesPerClass": self.images,
            "NumFeaturesPerClass": [r.count for r in self.per_class],
            "NumFeaturesPerImage": self.per_image.document(),
            "FeatureAreaPerClass": [r.document() for r in self.per_class],
        }

    def _pixels(self) -> dict[str, Any]:
        return {
            "NumClasses": len(self.classes),
            "NumImagesTotal": self.chips,
            "NumImagesPerClass": self.images,
            "NumPixelsPerClass": [int(r.sum) for r in self.per_class],
            "NumClassesPerImage": self.per_image.document(),
            "PixelsPerClass": [r.document() for r in self.per_class],
        }

    def _add_boxes(self, chip: Chip) -> list[int]:
        areas = (chip.boxes[:, 2] - chip.boxes[:, 0]) * (chip.boxes[:, 3] - chip.boxes[:, 1]) * self.cell_area
        for area, label in zip(areas.tolist(), chip.labels.tolist(), strict=True):
            self.per_class[label - 1].add(area)
        return [int((chip.labels == i + 1).sum()) for i in range(len(self.classes))]

    def _add_mask(self, chip: Chip) -> list[int]:
        assert chip.mask is not None
        counts = np.bincount(chip.mask.ravel(), minlength=len(self.classes) + 1)[1:].tolist()
        for sizes, count in zip(self.per_class, counts, strict=True):
            sizes.add(count)
        return [int(c) for c in counts]

    def _add_bands(self, values: NDArray[np.float64]) -> None:
        """values: (bands, n) valid pixels of one chip."""
        if not values.shape[1]:
            return
        n, mean = values.shape[1], values.mean(axis=1)
        m2, low, high = ((values - mean[:, None]) ** 2).sum(axis=1), values.min(axis=1), values.max(axis=1)
        if not self.number:
            self.low, self.high, self.mean, self.m2, self.number = low, high, mean, m2, n
            return
        total, shift = self.number + n, mean - self.mean
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.m2 = self.m2 + m2 + shift**2 * (self.number * n / total)
        self.mean = self.mean + shift * (n / total)
        self.number = total
