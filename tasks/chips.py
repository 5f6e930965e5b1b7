"""Chips: small labelled pictures, and the folder that Export Training Data For Deep Learning leaves behind.

On disk a chip speaks class Value, here it speaks class index: 0 is background, i is `classes[i - 1]`.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import plugins
from registry.emd import BandStatistics, ClassLabel, Emd, is_number
from registry.errors import LabelError, NotFound
from registry.files import sha256

DEFINITION = "esri_model_definition.emd"
ACCUMULATED = "esri_accumulated_stats.json"
SPLITS = "splits.json"
INSTANCE_CLASSES = "Panoptic_Segmentation_Instance_Classes"
FILE_TYPES = {"TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg", "MRF": ".mrf"}
PICTURES = {*FILE_TYPES.values(), ".tiff", ".jpeg"}
FIRST = ("images", "images_before", "A/images", "Images/train_a")  # where the pictures lie; the later are old layouts
SECOND = ("images2", "images_after", "B/images", "Images/train_b")
GATHERED = ("labels.json", "data.yaml")  # what some formats write once for all chips
CONTENT = ("images", "images2", "images_before", "images_after", "Images", "labels", "labels2", "A", "B")
OF_PIXELS = ("mask", "change")  # what formats carry whose labels are a class for each pixel
OF_CHIPS = ("label", "labels")  # and those that tell what a chip shows: they do not move with its pixels
NO_CONTENT = (".aux.xml", ".ovr", "thumbs.db")  # ends of names: what programs leave beside pictures that they show
CHANGE = ClassLabel(255, "Change", (255, 255, 255))  # as arcgis.learn names and colours it
NOWHERE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the transform of a picture that does not say where it lies


def no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Grid:
    """Where a chip lies: the coordinate system (WKT, "" = none) and the six affine numbers a b c d e f."""

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Chip:
    """One labelled picture. What counts of its labels depends on the metadata format (its `CARRIES`)."""

    name: str  # nine digits, the stem of its files
    image: NDArray[np.generic]  # (bands, rows, cols) raw sensor values
    valid: NDArray[np.bool_]  # (rows, cols) False = nodata
    boxes: NDArray[np.float32] = field(default_factory=no_boxes)  # (n, 4) xmin ymin xmax ymax, chip pixels, half open
    labels: NDArray[np.int64] = field(default_factory=no_labels)  # (n,) class index from 1
    mask: NDArray[np.unsignedinteger[Any]] | None = None  # (rows, cols) class index, 0 = background or unlabelled
    masks: NDArray[np.bool_] | None = None  # (n, rows, cols) the pixels of each object, in the order of the boxes
    image2: NDArray[np.generic] | None = None  # (bands, rows, cols) the second raster: the later date, the translation
    grid: Grid | None = None

    @property
    def dates(self) -> NDArray[np.generic]:
        """(bands, rows, cols) of the picture, and behind them those of the second one where there is one."""
        return self.image if self.image2 is None else np.concatenate([self.image, self.image2])

    def without(self, ignored: Collection[int]) -> "Chip":
        """With the objects only whose class index counts."""
        if not ignored:
            return self
        keep = ~np.isin(self.labels, list(ignored))
        masks = None if self.masks is None else self.masks[keep]
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep], masks=masks)

    def __post_init__(self) -> None:
        for what, image in (("image", self.image), ("image2", self.image2)):
            if image is not None and image.ndim != 3:
                raise LabelError(f"{what} must be (bands, rows, cols)", where=self.name, got=image.shape)
        if self.masks is not None and self.masks.shape != (len(self.labels), *self.valid.shape):
            expected = (len(self.labels), *self.valid.shape)
            raise LabelError(f"masks must be (objects, rows, cols) = {expected}", where=self.name, got=self.masks.shape)


@dataclass(frozen=True)
class ChipFolder:
    """A view on an exported folder, ours or one of ArcGIS. Finished when `esri_model_definition.emd` is there: it is
    written last."""

    path: Path
    together: tuple[ClassLabel, ...] = ()  # classes of all folders that it is read with, () = its own

    @staticmethod
    def open(path: Path) -> "ChipFolder":
        """Raises LabelError when the export is missing or was not finished."""
        folder = ChipFolder(path)
        if not (folder.home / DEFINITION).is_file():
            do = "run the export again; it writes this file last"
            raise LabelError(f"is no finished export: {DEFINITION} is missing", where=path, do=do)
        return folder

    @property
    def home(self) -> Path:
        """Where the metadata files lie: ArcGIS keeps those of CycleGAN in A/ and B/ alone (ArcGIS formats D.6)."""
        side = self.path / "A"
        return side if not (self.path / DEFINITION).is_file() and (side / DEFINITION).is_file() else self.path

    @cached_property
    def definition(self) -> Emd:
        return Emd.read(self.home / DEFINITION)

    @cached_property
    def accumulated(self) -> dict[str, Any]:
        """`esri_accumulated_stats.json`, {} when there is none (ArcGIS formats D.5)."""
        return _json_object(self.home / ACCUMULATED)

    @cached_property
    def metadata_format(self) -> str:
        """Of the definition; exports before Pro 2.7 say it only in the accumulated statistics."""
        name = self.definition.metadata_format or str(self.accumulated.get("MetaDataMode", ""))
        if not name:
            do = 'add "MetaDataMode", e.g. "PASCAL_VOC_rectangles"'
            raise LabelError("does not say its metadata format", where=self.home / DEFINITION, do=do)
        return name

    @cached_property
    def format(self) -> ModuleType:
        """The module of the metadata format, in `tasks/formats/`."""
        import tasks.formats

        try:
            return plugins.load(tasks.formats, self.metadata_format)
        except NotFound as error:
            do = f"export as one of {', '.join(plugins.names(tasks.formats))}"
            raise LabelError("has an unknown MetaDataMode", where=self.path, got=self.metadata_format, do=do) from error

    @property
    def classes(self) -> tuple[ClassLabel, ...]:
        """What is learned: the listed classes; of two dates the one that anything changed (ArcGIS formats D.6)."""
        several = len(self.listed) > 1 and self.format.CARRIES == "mask" and bool(self.seconds)
        return (CHANGE,) if several else self.listed

    @cached_property
    def listed(self) -> tuple[ClassLabel, ...]:
        """Of the definition, by Value. 0 is background and left out (D.4), but as a label of a whole chip."""
        if self.together:
            return self.together
        listed = self.definition.classes if "Classes" in self.definition.document else ()
        kept = [c for c in listed if c.value != 0 or self.format.CARRIES in OF_CHIPS]
        for label in self._instance_classes():
            if label.name not in {c.name for c in kept}:  # its Value is that of no pixel, and may be taken
                taken = {c.value for c in kept}
                kept.append(label if label.value not in taken else replace(label, value=max(taken) + 1))
        return tuple(sorted(kept, key=lambda c: c.value))

    @cached_property
    def band_statistics(self) -> tuple[BandStatistics, ...]:
        """Of the definition; where it has none, or NaN for a number, over the valid pixels of all chips."""
        known = self.definition.band_statistics
        numbers = [number for band in known for number in (band.min, band.max, band.mean, band.std)]
        return known if known and all(is_number(n) and math.isfinite(n) for n in numbers) else self._measured()

    @cached_property
    def pictures(self) -> dict[str, Path]:
        """The image of each chip by its name, in order of name, labelled or not."""
        return self._images(FIRST)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The image of each chip that has labels; one without label file does not count (ArcGIS formats D.1)."""
        if not hasattr(self.format, "labelled"):
            return self.pictures
        labelled = self.format.labelled(self.path, self.classes)
        files = {name: path for name, path in self.pictures.items() if name in labelled}
        if self.pictures and not files:
            do = "export again with labels that overlap the imagery"
            raise LabelError(f"none of {len(self.pictures)} chips has a label file", where=self.path, do=do)
        return files

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files)

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Chips left out because they have no label file."""
        return tuple(name for name in self.pictures if name not in self.files)

    @property
    def paired(self) -> bool:
        """Whether the chips are pairs of pictures, as the first one is."""
        return bool(self.names) and self.names[0] in self.seconds

    @property
    def tile_size(self) -> int:
        """Rows of a chip, which are its columns too where a square is asked for."""
        return self.tile_shape[0]

    @cached_property
    def tile_shape(self) -> tuple[int, int]:
        """Rows and columns of a chip: of the definition, the statistics, or, in old exports, the first chip itself."""
        document, accumulated = self.definition.document, self.accumulated
        named = (document.get("ImageHeight"), document.get("ImageWidth"))
        counted = (accumulated.get("TileSizeY"), accumulated.get("TileSizeX"))
        for rows, cols in (named, counted):
            if str(rows).isdigit() and str(cols).isdigit():  # an old definition says "e.g. 256"
                return int(str(rows)), int(str(cols))
        return self._shape(next(iter(self.pictures)))

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Names by part: train, validation, test; {} when the export was not split."""
        parts = _json_object(self.path / SPLITS)
        return {str(part): tuple(map(str, names)) for part, names in parts.items()}

    def read(self, name: str) -> Chip:
        """Picture and labels of one chip. Raises ImageryError or LabelError naming the file."""
        from tasks.rasters import read_raster

        raster = read_raster(self._picture(name))
        second = read_raster(self.seconds[name]) if name in self.seconds else None
        valid = raster.valid
        if second and second.valid.shape == valid.shape:
            valid = valid & second.valid
        chip = Chip(name, raster.pixels, valid, image2=second.pixels if second else None, grid=raster.grid)
        read: Chip = self.format.read(chip, self.classes, self.path)
        return read

    @cached_property
    def digest(self) -> str:
        """sha256 over names and content of images, labels and definition: equal data, equal digest."""
        total = hashlib.sha256()
        for name in sorted((*CONTENT, *GATHERED, SPLITS)):
            for path in _files_below(self.path / name):
                total.update(f"{path.relative_to(self.path).as_posix()} {sha256(path)}\n".encode())
        total.update(self.definition.text().encode())
        return total.hexdigest()

    @property
    def digests(self) -> tuple[str, ...]:
        """Of each folder that the chips come from."""
        return (self.digest,)

    def bounds(self, name: str) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax of a chip in map units, from its world file (ArcGIS formats D.1).

        Chips that lie nowhere on the map are laid side by side, in order of name.
        """
        from tasks.rasters import world_path

        image = self._picture(name)
        world = world_path(image)
        variable = self.definition.document.get("CropTileMode") == "Variable_Size"
        rows, cols = self._shape(name) if variable else self.tile_shape
        if not world.is_file():
            return self._own_bounds(name)
        try:
            a, d, b, e, x, y = (float(line) for line in world.read_text(encoding="utf-8-sig").split())
        except ValueError as error:
            raise LabelError(f"is no world file ({error})", where=world, do="export the chips again") from error
        return _bounds((a, b, x - (a + b) / 2, d, e, y - (d + e) / 2), rows, cols)

    def _picture(self, name: str) -> Path:
        if name not in self.pictures:
            raise LabelError("has no such chip", where=self.path, got=name)
        return self.pictures[name]

    def _instance_classes(self) -> tuple[ClassLabel, ...]:
        listed = self.definition.document.get(INSTANCE_CLASSES)
        return Emd({"Classes": listed}, str(self.home / DEFINITION)).classes if listed else ()

    @cached_property
    def seconds(self) -> dict[str, Path]:
        return self._images(SECOND) if any((self.path / folder).is_dir() for folder in SECOND) else {}

    def _images(self, folders: Sequence[str]) -> dict[str, Path]:
        """By stem; by path below the folder where sub-folders of classes hold the same stem twice."""
        home = next((self.path / name for name in folders if (self.path / name).is_dir()), None)
        if home is None:
            raise LabelError(f"has no folder {folders[0]}", where=self.path, do="export the chips again")
        found = [p for p in home.rglob("*.*") if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
        by_stem = {p.stem: p for p in found}
        if len(by_stem) < len(found):
            by_stem = {p.relative_to(home).with_suffix("").as_posix(): p for p in found}
        if len(by_stem) < len(found):
            do = "keep one of them: they have the same labels"
            raise LabelError("several pictures have the same name", where=home, got=len(found) - len(by_stem), do=do)
        return dict(sorted(by_stem.items()))

    def _shape(self, name: str) -> tuple[int, int]:
        from tasks.rasters import read_raster

        rows, cols = read_raster(self._picture(name)).valid.shape
        return rows, cols

    def _own_bounds(self, name: str) -> tuple[float, float, float, float]:
        from tasks.rasters import read_raster

        raster = read_raster(self._picture(name))
        rows, cols = raster.valid.shape
        if raster.grid.transform != NOWHERE:
            return _bounds(raster.grid.transform, rows, cols)
        left = float(list(self.pictures).index(name) * cols)
        return left, 0.0, left + cols, float(rows)

    def _measured(self) -> tuple[BandStatistics, ...]:
        from tasks.chip_statistics import ChipStatistics
        from tasks.rasters import read_raster

        statistics = ChipStatistics((), "nothing")
        for name, image in self.files.items():
            raster = read_raster(image)
            statistics.add(Chip(name, raster.pixels, raster.valid))
        bands = statistics.shape[0] if statistics.shape else 0
        named = (self.definition.document.get("InputRastersProps") or {}).get("BandNames") or []
        usual = ["Red", "Green", "Blue"] if bands == 3 else [f"Band_{i + 1}" for i in range(bands)]
        return tuple(statistics.bands(named if len(named) == bands else usual))


def _files_below(path: Path) -> Iterator[Path]:
    """A file, or those of a folder in order, one at a time: there may be hundreds of thousands."""
    own = path.name.lower()
    if path.is_dir():
        for name in sorted(below.name for below in path.iterdir()):
            yield from _files_below(path / name)
    elif path.is_file() and "." in own and not own.startswith(".") and not own.endswith(NO_CONTENT):
        yield path


def class_index(classes: Sequence[ClassLabel]) -> dict[int, int]:
    """Class Value -> class index from 1, by position; that of background is 0."""
    return {0: 0, **{label.value: i for i, label in enumerate(classes, start=1)}}


def indexes_of(values: NDArray[Any], index: Mapping[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(rows, cols) class indexes of class Values, and where there is one that `index` does not have: 0 there."""
    known = np.array(sorted(index))
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    strange = known[place] != values
    small = np.min_scalar_type(max(index.values()))
    found = np.array([index[value] for value in known.tolist()], small)[place]
    found[strange] = 0
    return found, strange


def _bounds(
    transform: tuple[float, float, float, float, float, float], rows: int, cols: int
) -> tuple[float, float, float, float]:
    """Of the four corners: a turned chip has them anywhere."""
    a, b, c, d, e, f = transform
    xs = [c + a * col + b * row for col in (0, cols) for row in (0, rows)]
    ys = [f + d * col + e * row for col in (0, cols) for row in (0, rows)]
    return min(xs), min(ys), max(xs), max(ys)


def _json_object(path: Path) -> dict[str, Any]:
    """{} when the file is not there. Raises LabelError when it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise LabelError(f"is no valid JSON ({error})", where=path, do="export the chips again") from error
    if not isinstance(document, dict):
        raise LabelError("expected a JSON object", where=path, got=type(document).__name__)
    return document
