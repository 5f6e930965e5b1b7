"""Writes chips into an exported folder, a unit at a time (ArcGIS formats D.1, D.2).

What a unit leaves in `.parts/` comes last: its statistics, the names of its files and their bytes. A unit without it,
or whose files are not all there, is done again. Chips themselves need no more care than that.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import StoreError
from registry.files import write_text
from tasks.chip_statistics import ChipStatistics, amounts
from tasks.chips import FILE_TYPES, Chip
from tasks.rasters import write_raster

if TYPE_CHECKING:
    from tasks.exporting.options import ExportOptions

PARTS = ".parts"


class Note(NamedTuple):
    """What is remembered of one chip."""

    files: tuple[str, ...]  # of the chip, below the folder
    bounds: tuple[float, float, float, float] | None  # xmin ymin xmax ymax in map units
    holds: tuple[int, ...]  # (classes,) objects of each class, or pixels where it carries a mask alone

    @property
    def line(self) -> str:
        """Of map.txt: two spaces, backslashes, CRLF (ArcGIS formats D.2)."""
        columns = "  ".join(file.replace("/", "\\") for file in self.files)
        return f"{columns} \r\n"


@dataclass
class Part:
    """What is known of some chips that are written: a unit, or several of them together."""

    statistics: ChipStatistics
    notes: dict[str, Note] = field(default_factory=dict)  # by name of the chip
    left_out: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def merge(self, other: "Part") -> None:
        self.statistics.merge(other.statistics)
        self.notes |= other.notes
        self.left_out += other.left_out
        self.bytes += other.bytes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.notes))

    @property
    def bounds(self) -> NDArray[np.float64] | None:
        """(chips, 4) xmin ymin xmax ymax in map units, in order of name; None when a chip lies nowhere."""
        known = [self.notes[name].bounds for name in self.names]
        return None if None in known else np.array(known, np.float64)

    def text(self) -> str:
        facts = {"notes": self.notes, "left_out": self.left_out, "bytes": self.bytes}
        return json.dumps({**facts, "statistics": self.statistics.state()})

    @classmethod
    def parse(cls, text: str, classes: tuple[ClassLabel, ...]) -> "Part":
        document: dict[str, Any] = json.loads(text)
        notes = {
            name: Note(tuple(files), bounds and tuple(bounds), tuple(holds))
            for name, (files, bounds, holds) in document["notes"].items()
        }
        statistics = ChipStatistics.from_state(document["statistics"], classes)
        return cls(statistics, notes, Counter(document["left_out"]), document["bytes"])


class ChipWriter:
    """The chips of one unit. `finish` leaves the part that says they are all there."""

    def __init__(self, out: Path, classes: tuple[ClassLabel, ...], options: "ExportOptions") -> None:
        self.out, self.classes, self.options = out, classes, options
        self.format = plugins.load(tasks.formats, options.metadata_format)
        self.suffix = FILE_TYPES[options.image_chip_format]
        self.part = Part(ChipStatistics(classes, self.format.CARRIES))

    def add(self, chip: Chip, index: int) -> None:
        """Write one chip under its running number, nine digits (ArcGIS formats D.1)."""
        chip = replace(chip, name=f"{index:09d}")
        files = [self._image("image_path", "images", chip, chip.image)]
        files += self.format.write(chip, self.classes, self.out, self.suffix)
        if chip.image2 is not None:
            files.append(self._image("image2_path", "images2", chip, chip.image2))
        self.part.statistics.add(chip)
        below = tuple(file.relative_to(self.out).as_posix() for file in files)
        holds = tuple(amounts(chip, len(self.classes)).tolist())
        self.part.notes[chip.name] = Note(below, _bounds(chip), holds)
        self.part.bytes += sum(file.stat().st_size for file in files)

    def leave_out(self, reason: str) -> None:
        self.part.left_out[reason] += 1

    def finish(self, number: int) -> None:
        write_text(part_path(self.out, number), self.part.text())

    def _image(self, path_of: str, folder: str, chip: Chip, pixels: NDArray[np.generic]) -> Path:
        choose = getattr(self.format, path_of, None)
        place = choose(chip, self.classes, self.suffix) if choose else Path(folder) / (chip.name + self.suffix)
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            filled, nodata = _filled(chip, pixels)
            write_raster(path, filled, chip.grid, nodata, self.options.compress)
        except (OSError, RasterioError) as error:
            do = "free some space or choose another place, then run the same command again"
            raise StoreError(f"cannot write ({error})", where=path, do=do) from error
        return path


def part_path(out: Path, number: int) -> Path:
    return out / PARTS / f"{number:06d}.json"


def finished_part(out: Path, number: int, classes: tuple[ClassLabel, ...]) -> Part | None:
    """What a unit left, None when it is still to do: a power cut may keep the note and lose what it speaks of."""
    path = part_path(out, number)
    if not path.is_file():
        return None
    part = Part.parse(path.read_text(encoding="utf-8"), classes)
    files = [out / file for note in part.notes.values() for file in note.files]
    return part if part.bytes == sum(file.stat().st_size for file in files if file.is_file()) else None


def _filled(chip: Chip, pixels: NDArray[np.generic]) -> tuple[NDArray[np.generic], float | None]:
    """The picture, and the nodata value of its invalid pixels: one that no valid pixel has in all bands.

    Where they have every one, as in panchromatic images of 8 bits, black ones become 1, as in GDAL's warper.
    """
    if chip.valid.all() or chip.valid.shape != pixels.shape[1:]:
        return pixels, None
    nodata = _unused(pixels[:, chip.valid])
    if nodata is None:
        pixels, nodata = np.where((pixels == 0).all(axis=0), pixels.dtype.type(1), pixels), 0
    return np.where(chip.valid, pixels, pixels.dtype.type(nodata)), nodata


def _unused(pixels: NDArray[Any]) -> float | None:
    """Of (bands, n): 0, or an end of the type, or any that no pixel has in all bands; None when there is none."""
    if pixels.dtype.kind == "f":
        choices: Iterable[float] = (0, float(np.finfo(pixels.dtype).min))
    else:
        most = int(np.iinfo(pixels.dtype).max)
        choices = chain((0, most), range(1, most))
    taken = set(np.unique(pixels[0, (pixels == pixels[0]).all(axis=0)]).tolist())
    return next((value for value in choices if value not in taken), None)


def _bounds(chip: Chip) -> tuple[float, float, float, float] | None:
    """Of the four corners, for a chip may be turned."""
    if chip.grid is None:
        return None
    a, b, c, d, e, f = chip.grid.transform
    rows, cols = chip.valid.shape
    xs, ys = ([o + p * col + q * row for col in (0, cols) for row in (0, rows)] for o, p, q in ((c, a, b), (f, d, e)))
    return min(xs), min(ys), max(xs), max(ys)
