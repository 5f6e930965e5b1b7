"""preview.png: a contact sheet of exported chips with their labels drawn on, for one look before hours of training.

Chips are chosen evenly over the export, so that each class is seen; all are stretched alike, so they can be compared.
Nodata is white with grey strokes. A second picture (change detection, image translation) stands beside the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from registry.emd import ClassLabel, Emd
from registry.files import atomic
from tasks.chip_statistics import amounts
from tasks.chips import Chip, ChipFolder
from tasks.labels import colour
from tasks.pictures import STRETCH, shown_bands

PREVIEW = "preview.png"
MOST = 24  # chips on the sheet
LOOKED_AT = 96  # chips read to choose from
MEASURED = 10_000  # pixels of a chip, for the stretch
GAMMA = 0.7  # of what has more than 8 bits: beside clouds or bare soil, woods would be black
COLUMNS, SIDE, GAP, LINE = 6, 224, 10, 20  # cells in a row; pixels of a cell, between cells, of a line of text
FILL, OUTLINE = 0.4, 0.95  # opacity of a mask, and of the line around an object
RLE = 3  # of zlib: pictures become smaller by it, and sooner
MOST_CLASSES = 30  # in the legend
INK, PAPER, NODATA = (40, 40, 40), (255, 255, 255), (222, 222, 222)
Picture = NDArray[np.uint8]  # (rows, cols, 3)


def write_preview(folder: Path, definition: Emd | None = None, holds: NDArray[np.int64] | None = None) -> Path:
    """Draw up to 24 chips of an export. Same chips, same bytes.

    `definition` is given while the folder has none yet; `holds`, (chips, classes) how much of each class is in each
    chip, saves reading some of them to choose from.
    """
    chips = unfinished(folder, definition)
    names = chosen(*_candidates(chips, holds))
    looks = _looks(chips, names)
    part_of = {name: part for part, listed in chips.splits.items() for name in listed}
    cells = [_cell(chips.read(name), looks, chips.classes, part_of.get(name, "")) for name in names]
    title = f"{len(names)} of {len(chips.names):,} chips, {chips.metadata_format}"
    with atomic(folder / PREVIEW) as part:
        _sheet(cells, title, chips.classes).save(part, format="PNG", compress_level=1, compress_type=RLE)
    return folder / PREVIEW


def unfinished(folder: Path, definition: Emd | None) -> ChipFolder:
    """The view on an export that is being finished: its definition is not on the disk yet."""
    chips = ChipFolder(folder)
    if definition is not None:
        chips.__dict__["definition"] = definition  # where the cached property looks first
    return chips


def spread(names: Sequence[str], most: int) -> list[str]:
    """Up to `most` names, evenly over all."""
    steps = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[i] for i in steps.tolist()]


def chosen(names: Sequence[str], holds: NDArray[np.int64]) -> list[str]:
    """At most 24 of the chips, in their order: for each class one with most of it, then evenly those with labels."""
    picked = dict.fromkeys(int(column.argmax()) for column in holds.T[:MOST] if column.any())
    labelled = holds.any(axis=1)
    for pool in (np.flatnonzero(labelled), np.flatnonzero(~labelled)):
        rest = [i for i in pool.tolist() if i not in picked]
        wanted = min(MOST - len(picked), len(rest))
        picked |= dict.fromkeys(rest[i] for i in np.linspace(0, len(rest) - 1, wanted).astype(int).tolist())
    return [names[i] for i in sorted(picked)]


def _candidates(chips: ChipFolder, holds: NDArray[np.int64] | None) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Names to choose from, and what each holds."""
    if holds is not None:  # a row for each picture, also for those that have no label file
        return chips.names, holds[np.isin([*chips.pictures], chips.names)]
    names = spread(chips.names, LOOKED_AT)
    rows = [amounts(chips.read(name), len(chips.classes)) for name in names]
    return names, np.array(rows, np.int64).reshape(len(names), len(chips.classes))


def _looks(chips: ChipFolder, names: Sequence[str]) -> list["_Look"]:
    """Of the pictures, and of the second ones where there are any; one chip is in memory at a time."""
    some: list[list[NDArray[np.generic]]] = [[], []]
    for name in names:
        chip = chips.read(name)
        if chip.image.dtype == np.uint8 and chip.image2 is None and some[0]:
            break  # shown as it is: there is nothing more to measure
        some[0].append(seen(chip.image, chip.valid))
        if chip.image2 is not None:
            some[1].append(seen(chip.image2, chip.valid))
    bands = [s.name for s in chips.band_statistics]
    return [_Look.of(np.concatenate(part, axis=1), bands if i == 0 else ()) for i, part in enumerate(some) if part]


def class_colour(label: ClassLabel, i: int) -> tuple[int, int, int]:
    """The colour of the definition; a legible one for the i-th class where it leaves the choice (-1)."""
    return label.color if min(label.color) >= 0 else colour(i)


@dataclass(frozen=True)
class _Look:
    """How raw values become a picture, alike for all chips: the bands shown, black and white of each."""

    bands: tuple[int, int, int]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    gamma: float = 1.0

    @classmethod
    def of(cls, values: NDArray[np.generic], names: Sequence[str]) -> "_Look":
        """values: (bands, n) of some pixels."""
        bands = shown_bands(values.shape[0], names)
        if values.dtype == np.uint8:
            return cls(bands, np.zeros(3), np.full(3, 255.0))
        shown = values[list(bands)].astype(np.float64)
        shown = shown[:, np.isfinite(shown).all(axis=0)]
        if not shown.shape[1]:
            return cls(bands, np.zeros(3), np.ones(3))
        low, high = np.percentile(shown, STRETCH, axis=1)
        return cls(bands, low, np.maximum(high, low + 1e-9), GAMMA)

    def picture(self, image: NDArray[np.generic], valid: NDArray[np.bool_]) -> Picture:
        """(rows, cols, 3) for the eye."""
        raw = np.moveaxis(image[list(self.bands)], 0, 2)
        plain = image.dtype == np.uint8
        shown = raw.astype(np.uint8) if plain else self._stretched(np.nan_to_num(raw.astype(np.float64)))
        if valid.shape == shown.shape[:2]:
            rows, cols = np.nonzero(~valid)
            shown[rows, cols] = np.where(((rows + cols) % 12 < 2)[:, None], NODATA, PAPER)
        return shown

    def _stretched(self, raw: NDArray[np.float64]) -> Picture:
        scaled = ((raw - self.low) / (self.high - self.low)).clip(0, 1) ** self.gamma
        return np.asarray(scaled * 255, np.uint8)


def seen(image: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.generic]:
    """(bands, n) some of the valid pixels; a second picture of another size counts whole."""
    flat, same = image.reshape(len(image), -1), valid.shape == image.shape[1:]
    shown = np.flatnonzero(valid) if same else np.arange(flat.shape[1])
    return flat[:, shown[:: max(1, len(shown) // MEASURED)]]


def _cell(chip: Chip, looks: Sequence[_Look], classes: Sequence[ClassLabel], part: str) -> Image.Image:
    """One chip, drawn on and named; with its second picture to the right."""
    pictures = [_fitted(looks[0].picture(chip.image, chip.valid))]
    if chip.image2 is not None:
        pictures.append(_fitted(looks[1].picture(chip.image2, chip.valid)))
    for picture in pictures:
        _draw(picture, chip, classes)
    cell = Image.new("RGB", (len(pictures) * (SIDE + 2) - 2, SIDE + LINE), PAPER)
    for i, picture in enumerate(pictures):
        cell.paste(picture, (i * (SIDE + 2), 0))
    found = sorted(set(chip.labels.tolist()))
    names = ", ".join(classes[i - 1].name for i in found) if chip.mask is None and len(classes) > 1 else ""
    words = [chip.name, part, names]
    ImageDraw.Draw(cell).text((1, SIDE + 3), _short(" ".join(filter(None, words)), cell.width), INK, font=_font(11))
    return cell


def _fitted(picture: Picture) -> Image.Image:
    """As large as a cell allows; pixels stay square, and stay pixels where they are enlarged."""
    rows, cols = picture.shape[:2]
    scale = SIDE / max(rows, cols)
    size = max(1, round(cols * scale)), max(1, round(rows * scale))
    return Image.fromarray(picture).resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _draw(picture: Image.Image, chip: Chip, classes: Sequence[ClassLabel]) -> None:
    """Masks in the colours of their classes, objects with an outline; boxes where there are no masks."""
    colours = [class_colour(label, i) for i, label in enumerate(classes)]
    if chip.mask is not None:
        for i in np.unique(chip.mask[chip.mask > 0]).tolist():
            _paint(picture, chip.mask == i, colours[i - 1], FILL)
    if chip.masks is not None:
        for mask, label in zip(chip.masks, chip.labels.tolist(), strict=True):
            _paint(picture, mask, colours[label - 1], FILL / 2 if chip.mask is not None else FILL, outlined=True)
        return
    draw, scale = ImageDraw.Draw(picture), picture.width / chip.image.shape[2]
    for box, label in zip((chip.boxes * scale).round().astype(int).tolist(), chip.labels.tolist(), strict=True):
        xmin, ymin, xmax, ymax = box
        corners = (xmin, ymin, max(xmin, xmax - 1), max(ymin, ymax - 1))
        draw.rectangle(corners, outline=colours[label - 1], width=2 if scale >= 0.4 else 1)


def _paint(
    picture: Image.Image,
    mask: NDArray[np.bool_],
    rgb: tuple[int, int, int],
    opacity: float,
    outlined: bool = False,
) -> None:
    shape = np.array(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)).astype(bool)
    strength = shape * opacity
    if outlined:
        inner = np.pad(shape, 1)
        inside = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        strength[shape & ~inside] = OUTLINE
    picture.paste(rgb, (0, 0), Image.fromarray((strength * 255).astype(np.uint8)))


def _sheet(cells: Sequence[Image.Image], title: str, classes: Sequence[ClassLabel]) -> Image.Image:
    """The cells in rows under a title, and the legend below."""
    width = max((cell.width for cell in cells), default=SIDE)
    columns = min(max(1, COLUMNS * (SIDE + GAP) // (width + GAP)), max(1, len(cells)))
    rows = -(-len(cells) // columns)
    total = max(columns * (width + GAP) + GAP, 3 * SIDE)
    legend = _legend(classes, total - 2 * GAP)
    top = 2 * LINE
    sheet = Image.new("RGB", (total, top + rows * (SIDE + LINE + GAP) + legend.height + GAP), PAPER)
    ImageDraw.Draw(sheet).text((GAP, GAP), title, INK, font=_font(15))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (GAP + i % columns * (width + GAP), top + i // columns * (SIDE + LINE + GAP)))
    sheet.paste(legend, (GAP, sheet.height - legend.height - GAP))
    return sheet


def _legend(classes: Sequence[ClassLabel], width: int) -> Image.Image:
    """Colour and name of each class, in as many lines as it takes."""
    words = [(class_colour(label, i), label.name) for i, label in enumerate(classes[:MOST_CLASSES])]
    places, x, y = [], 0, 0
    for rgb, name in words:
        text = _short(name, width - 3 * LINE)
        length = round(_font(13).getlength(text)) + 2 * LINE
        x, y = (0, y + LINE) if x and x + length > width else (x, y)
        places.append((rgb, text, x, y))
        x += length
    more = f"and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
    legend = Image.new("RGB", (width, y + LINE * (2 if more else 1)), PAPER)
    draw = ImageDraw.Draw(legend)
    for rgb, text, left, top in places:
        draw.rectangle((left, top + 3, left + 13, top + 16), fill=rgb, outline=INK)
        draw.text((left + LINE, top + 1), text, INK, font=_font(13))
    draw.text((0, y + LINE), more, INK, font=_font(13))
    return legend


def _short(text: str, width: int) -> str:
    """What fits into a cell's caption."""
    while text and _font(11).getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries: the same letters on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
