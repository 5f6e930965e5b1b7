"""Statistics over all chips of an export: bands for normalisation, classes for balance (ArcGIS formats D.3, D.5).

Memory does not grow with the number of chips. Sums are exact, so that statistics of parts, merged in any order, are
those of the whole to the last bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from registry.emd import BandStatistics, ClassLabel
from registry.errors import LabelError
from tasks.chips import OF_CHIPS, Chip

OF_OBJECTS = ("boxes", "instances", "panoptic", *OF_CHIPS)
OF_PIXELS = ("mask", "panoptic")
BLOCK = 2**18  # pixels of a band looked at together
Exact = int | Fraction  # whole where it can be: fractions take time


@dataclass
class Range:
    """Smallest, largest, sum and count of a series."""

    min: float = float("inf")
    max: float = float("-inf")
    sum: Exact = 0
    count: int = 0

    def add(self, value: float) -> None:
        self.merge(Range(value, value, value if isinstance(value, int) else Fraction(value), 1))

    def merge(self, other: "Range") -> None:
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        self.sum, self.count = self.sum + other.sum, self.count + other.count

    @property
    def mean(self) -> float:
        return float(self.sum / self.count) if self.count else 0.0

    @property
    def limits(self) -> tuple[float, float]:
        return (self.min, self.max) if self.count else (0, 0)

    def document(self) -> dict[str, float]:
        low, high = self.limits
        return {"Min": low, "Max": high, "Mean": self.mean, "Sum": _number(self.sum), "Count": self.count}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Range":
        if not document["Count"]:
            return cls()
        return cls(document["Min"], document["Max"], _whole(Fraction(document["Sum"])), document["Count"])


@dataclass
class Band:
    """Running extremes, count, and exact sums of the values and of their squares."""

    min: float = float("inf")
    max: float = float("-inf")
    number: int = 0
    sum: Exact = 0
    squares: Exact = 0

    def add(self, values: NDArray[np.generic]) -> None:
        """values: (n,) valid pixels."""
        small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2  # a block's sums are whole and fit a float
        for start in range(0, values.size, BLOCK):
            raw = values[start : start + BLOCK]
            low, high, block = float(raw.min()), float(raw.max()), raw.astype(np.float64)
            if small:
                self.merge(Band(low, high, raw.size, int(block.sum()), int(_squared(block))))
                continue
            mean = Fraction(float(block.mean()))
            block -= float(mean)
            total = Fraction(float(block.sum()))
            squares = Fraction(_squared(block)) + 2 * mean * total + raw.size * mean**2
            self.merge(Band(low, high, raw.size, raw.size * mean + total, squares))

    def merge(self, other: "Band") -> None:
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        self.number += other.number
        self.sum, self.squares = self.sum + other.sum, self.squares + other.squares

    @property
    def mean(self) -> float:
        return float(self.sum / self.number) if self.number else 0.0

    @property
    def m2(self) -> float:
        """Sum of squared deviations from the mean."""
        return float(self.squares - Fraction(self.sum) ** 2 / self.number) if self.number else 0.0

    def statistics(self, name: str) -> BandStatistics:
        low, high = (self.min, self.max) if self.number else (0.0, 0.0)
        return BandStatistics(name, low, high, self.mean, float(np.sqrt(self.m2 / max(self.number, 1))))

    def document(self) -> dict[str, float]:
        low, high = (self.min, self.max) if self.number else (0.0, 0.0)
        return {"Min": low, "Max": high, "M1": self.mean, "M2": self.m2, "Num": self.number}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Band":
        if not (number := int(document["Num"])):
            return cls()
        mean = Fraction(document["M1"])
        squares = Fraction(document["M2"]) + number * mean**2
        return cls(float(document["Min"]), float(document["Max"]), number, number * mean, squares)


@dataclass
class Tally:
    """How often each class occurs: `sizes` of its objects in map units, or its pixels in each chip."""

    sizes: list[Range]
    images: list[int]  # chips that hold the class
    per_image: Range = field(default_factory=Range)  # objects, or classes, in a chip

    @classmethod
    def of(cls, classes: int) -> "Tally":
        return cls([Range() for _ in range(classes)], [0] * classes)

    def merge(self, other: "Tally") -> None:
        for mine, theirs in zip(self.sizes, other.sizes, strict=True):
            mine.merge(theirs)
        self.images = [a + b for a, b in zip(self.images, other.images, strict=True)]
        self.per_image.merge(other.per_image)


@dataclass
class ChipStatistics:
    """Add chips, or merge what others added, then ask. `carries` is that of the metadata format."""

    classes: tuple[ClassLabel, ...]
    carries: str
    chips: int = 0
    shape: tuple[int, ...] = ()  # bands, rows, cols of the last chip

    def __post_init__(self) -> None:
        self.objects, self.pixels = Tally.of(len(self.classes)), Tally.of(len(self.classes))
        self.first: list[Band] = []
        self.second: list[Band] = []

    def add(self, chip: Chip) -> None:
        self.chips, self.shape = self.chips + 1, chip.image.shape
        self.first = _with_bands(self.first, chip.image, chip.valid)
        if chip.image2 is not None:
            same = chip.image2.shape[1:] == chip.valid.shape
            self.second = _with_bands(self.second, chip.image2, chip.valid if same else None)
        if self.carries in OF_OBJECTS:
            self._add_objects(chip)
        if self.carries in OF_PIXELS:
            self._add_pixels(chip)

    def merge(self, other: "ChipStatistics") -> Self:
        """Add what another has seen. Raises LabelError when the two are not of one kind."""
        mine, theirs = (self.classes, self.carries), (other.classes, other.carries)
        if [c.value for c in mine[0]] != [c.value for c in theirs[0]] or mine[1] != theirs[1]:
            raise LabelError("statistics of other classes or of another format cannot be merged", got=theirs)
        self.chips, self.shape = self.chips + other.chips, self.shape or other.shape
        self.first, self.second = _merged(self.first, other.first), _merged(self.second, other.second)
        self.objects.merge(other.objects)
        self.pixels.merge(other.pixels)
        return self

    def bands(self, names: Sequence[str]) -> list[BandStatistics]:
        """In raw sensor units, over valid pixels."""
        return [band.statistics(name) for name, band in zip(names, self.first, strict=True)]

    def bands2(self, names: Sequence[str]) -> list[BandStatistics]:
        """The same of the second raster."""
        return [band.statistics(name) for name, band in zip(names, self.second, strict=True)]

    @property
    def counts(self) -> dict[str, int]:
        """Objects of each class by its name; pixels where the format carries a mask alone."""
        tally = self.objects if self.carries in OF_OBJECTS else self.pixels
        counts = (r.count if self.carries in OF_OBJECTS else int(r.sum) for r in tally.sizes)
        return {label.name: count for label, count in zip(self.classes, counts, strict=True)}

    @property
    def instance_classes(self) -> tuple[ClassLabel, ...]:
        """Those that have objects: `Panoptic_Segmentation_Instance_Classes` (ArcGIS formats D.6)."""
        return tuple(c for c, sizes in zip(self.classes, self.objects.sizes, strict=True) if sizes.count)

    def text(self, tile_shape: tuple[int, int]) -> str:
        """stats.txt, for people (D.3); tile_shape: rows, columns."""
        lines = [f"images = {self.chips} *{len(self.first)}*{tile_shape[0]}*{tile_shape[1]}"]
        if self.carries in OF_OBJECTS:
            features = sum(sizes.count for sizes in self.objects.sizes)
            lines += [f"features = {features}", _spread("features", self.objects.per_image)]
            lines += [f"classes = {len(self.classes)}", *self._table("features", self.objects)]
        if self.carries in OF_PIXELS:
            lines += [f"classes = {len(self.classes)}", _spread("classes", self.pixels.per_image)]
            lines += self._table("pixels  ", self.pixels)
        return "\n".join(lines) + "\n"

    def document(self, tile_shape: tuple[int, int], metadata_format: str) -> dict[str, Any]:
        """esri_accumulated_stats.json (D.5); tile_shape: rows, columns."""
        document = {
            "Version": 1,
            "NumBands": len(self.first),
            "TileSizeX": tile_shape[1],
            "TileSizeY": tile_shape[0],
            "NumClasses": len(self.classes),
            "NumTiles": self.chips,
            "OutputFeatures": self.carries in OF_OBJECTS,
            "MetaDataMode": metadata_format,
            "Classes": [{"ClassValue": c.value, "ClassName": c.name} for c in self.classes],
        }
        if self.carries in OF_OBJECTS:
            document["FeatureStats"] = self._feature_stats()
        if self.carries in OF_PIXELS:
            document["ClassPixelStats"] = self._pixel_stats()
        document["BandStatsState"] = [band.document() for band in self.first]
        if self.second:
            document["BandStatsState2"] = [band.document() for band in self.second]
        return document

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], classes: Sequence[ClassLabel], carries: str, where: object = ""
    ) -> "ChipStatistics":
        """What `document` says, of our exports or of ArcGIS's. Classes that it does not have were not seen.

        Raises LabelError for a document that has classes which are not given, is damaged, or, as those of old exports,
        says nothing of the bands.
        """
        statistics = cls(tuple(classes), carries)
        try:
            places = _places(document, classes, where)
            statistics.chips = int(document.get("NumTiles", document.get("NumTilesAsDouble", 0)))
            statistics.shape = (int(document["NumBands"]), int(document["TileSizeY"]), int(document["TileSizeX"]))
            statistics.first = [Band.from_document(band) for band in document.get("BandStatsState", ())]
            statistics.second = [Band.from_document(band) for band in document.get("BandStatsState2", ())]
            for tally, key, sizes, each in (
                (statistics.objects, "FeatureStats", "FeatureAreaPerClass", "NumFeaturesPerImage"),
                (statistics.pixels, "ClassPixelStats", "PixelsPerClass", "NumClassesPerImage"),
            ):
                if found := document.get(key):
                    if key == "ClassPixelStats":  # a class that was not there has no pixel in any chip
                        tally.sizes = [Range(0, 0, count=statistics.chips) for _ in classes]
                    tally.per_image = Range.from_document(found[each])
                    for i, size, images in zip(places, found[sizes], found["NumImagesPerClass"], strict=True):
                        tally.sizes[i], tally.images[i] = Range.from_document(size), int(images)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, LabelError):
                raise
            do = "export all chips again into an empty folder"
            raise LabelError(f"is no accumulated statistics ({error!r})", where=where, do=do) from error
        if statistics.chips and len(statistics.first) != statistics.shape[0]:
            do = "export all chips again into an empty folder"
            raise LabelError(f"has no BandStatsState of {statistics.shape[0]} bands", where=where, do=do)
        return statistics

    def state(self) -> dict[str, Any]:
        """All that is known, as JSON and exactly; see `from_state`."""
        return {
            "carries": self.carries,
            "chips": self.chips,
            "shape": self.shape,
            "bands": [[_plain(band) for band in bands] for bands in (self.first, self.second)],
            "tallies": [
                {"sizes": [_plain(r) for r in t.sizes], "images": t.images, "per_image": _plain(t.per_image)}
                for t in (self.objects, self.pixels)
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], classes: Sequence[ClassLabel]) -> "ChipStatistics":
        statistics = cls(tuple(classes), state["carries"], state["chips"], tuple(state["shape"]))
        statistics.first, statistics.second = ([Band(*_exact(band)) for band in bands] for bands in state["bands"])
        statistics.objects, statistics.pixels = (
            Tally([Range(*_exact(r)) for r in t["sizes"]], t["images"], Range(*_exact(t["per_image"])))
            for t in state["tallies"]
        )
        return statistics

    def _table(self, noun: str, tally: Tally) -> list[str]:
        """printf layout %-20s%11d%11d%11d%12.2f%12.2f%12.2f (D.3)."""
        head = (
            f"{'cls name':<20}{'cls value':>11}{'images':>11}   {noun}{'min size':>12}{'mean size':>12}{'max size':>12}"
        )
        rows = []
        for label, images, sizes in zip(self.classes, tally.images, tally.sizes, strict=True):
            what, (low, high) = sizes.count if noun == "features" else int(sizes.sum), sizes.limits
            sized = f"{low:>12.2f}{sizes.mean:>12.2f}{high:>12.2f}"
            rows.append(f"{label.name:<20}{label.value:>11}{images:>11}{what:>11}{sized}")
        return [head, *rows]

    def _feature_stats(self) -> dict[str, Any]:
        return {
            "NumClasses": len(self.classes),
            "NumImagesTotal": self.chips,
            "NumFeaturesTotal": sum(r.count for r in self.objects.sizes),
            "NumImagesPerClass": self.objects.images,
            "NumFeaturesPerClass": [r.count for r in self.objects.sizes],
            "NumFeaturesPerImage": self.objects.per_image.document(),
            "FeatureAreaPerClass": [r.document() for r in self.objects.sizes],
        }

    def _pixel_stats(self) -> dict[str, Any]:
        return {
            "NumClasses": len(self.classes),
            "NumImagesTotal": self.chips,
            "NumImagesPerClass": self.pixels.images,
            "NumPixelsPerClass": [int(r.sum) for r in self.pixels.sizes],
            "NumClassesPerImage": self.pixels.per_image.document(),
            "PixelsPerClass": [r.document() for r in self.pixels.sizes],
        }

    def _add_objects(self, chip: Chip) -> None:
        """Areas in square map units: of the pixels of an object where they are known, else of its box."""
        sides = chip.boxes[:, 2:].astype(np.float64) - chip.boxes[:, :2]
        cells = chip.masks.sum(axis=(1, 2)) if chip.masks is not None else sides.prod(axis=1)
        for area, label in zip((cells * _cell_area(chip)).tolist(), chip.labels.tolist(), strict=True):
            self.objects.sizes[label - 1].add(area)
        for label in set(chip.labels.tolist()):
            self.objects.images[label - 1] += 1
        self.objects.per_image.add(len(chip.labels))

    def _add_pixels(self, chip: Chip) -> None:
        assert chip.mask is not None
        counts = np.bincount(chip.mask.ravel(), minlength=len(self.classes) + 1)[1:].tolist()
        for i, count in enumerate(counts):
            self.pixels.sizes[i].add(count)
            self.pixels.images[i] += count > 0
        self.pixels.per_image.add(sum(count > 0 for count in counts))


def amounts(chip: Chip, classes: int) -> NDArray[np.int64]:
    """(classes,) objects of each class in a chip; pixels where it carries a mask, those of its objects too."""
    if chip.mask is None:
        return np.bincount(chip.labels, minlength=classes + 1)[1 : classes + 1]
    counts = np.bincount(chip.mask.ravel(), minlength=classes + 1)
    if chip.masks is not None:
        np.add.at(counts, chip.labels, chip.masks.sum(axis=(1, 2)))
    return counts[1 : classes + 1]


def _with_bands(bands: list[Band], image: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> list[Band]:
    bands = bands or [Band() for _ in image]
    if len(bands) != len(image):
        raise LabelError(f"expected chips with {len(bands)} bands", got=len(image))
    whole = valid is None or bool(valid.all())
    for band, pixels in zip(bands, image, strict=True):
        band.add(pixels.ravel() if whole else pixels[valid])
    return bands


def _merged(mine: list[Band], theirs: list[Band]) -> list[Band]:
    if not mine or not theirs:
        return mine or theirs
    if len(mine) != len(theirs):
        raise LabelError(f"expected chips with {len(mine)} bands", got=len(theirs))
    for band, other in zip(mine, theirs, strict=True):
        band.merge(other)
    return mine


def _places(document: Mapping[str, Any], classes: Sequence[ClassLabel], where: object) -> list[int]:
    """Where among `classes` those of the document are; arrays follow its order (D.5)."""
    values = [int(entry.get("ClassValue", entry.get("Value"))) for entry in document.get("Classes", ())]
    ours = [c.value for c in classes]
    if unknown := sorted(set(values) - set(ours)):
        raise LabelError("counts classes that the export does not have", where=where, got=unknown, do="list them too")
    return [ours.index(value) for value in values]


def _cell_area(chip: Chip) -> float:
    a, b, _, d, e, _ = chip.grid.transform if chip.grid else (1, 0, 0, 0, 1, 0)
    return abs(a * e - b * d)


def _spread(what: str, some: Range) -> str:
    low, high = some.limits
    return f"{what} per image = [min = {low:.0f}, mean = {some.mean:.2f}, max = {high:.0f}]"


def _squared(block: NDArray[np.float64]) -> float:
    """Not by BLAS: a sum of its depends on its threads."""
    return float(np.einsum("i,i->", block, block))


def _whole(value: Fraction) -> Exact:
    return value.numerator if value.denominator == 1 else value


def _number(value: Exact) -> float:
    return value.numerator if value.denominator == 1 else float(value)


def _plain(record: Range | Band) -> list[Any]:
    return [str(value) if isinstance(value, Fraction) else value for value in vars(record).values()]


def _exact(values: Sequence[Any]) -> list[Any]:
    return [Fraction(value) if isinstance(value, str) else value for value in values]
