"""Chips as torch reads them: normalised, augmented, in batches, the same in every run of the same seed.

Every draw depends on (seed, epoch, chip) alone, so a resumed training sees what an uninterrupted one would have seen.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from registry.errors import LabelError, OptionsError
from tasks import augment
from tasks.chips import OF_CHIPS, Chip, ChipFolder
from tasks.raster_functions._tiles import centred
from tasks.targets import Target, batch, ignoring, learned, normalised, statistics

KEPT = 2**30  # bytes of chips in memory, shared by the processes that load: opening a chip costs more than the rest
CORNERS = (1, 1), (-1, -1), (1, -1), (-1, 1)  # of the map, where chips to validate with may lie
Bounds = tuple[float, float, float, float]
Held = Mapping[str, NDArray[np.bool_]]  # name of a chip -> (classes,), those that count and that it holds
Draw = tuple[int, int, int]  # epoch, number of the chip, how often it came before in that epoch
ROUNDED = 1e-3  # of a chip's side: world files have ten decimals, so neighbours may seem to overlap by less
TRIED = 20  # draws of an augmentation before the first step
RARE = 4.0  # a chip is shown at most that many times as often as by chance


@dataclass(frozen=True)
class Loading:
    """How chips become batches."""

    batch_size: int
    carries: str  # what is learned from them, a key of `tasks.goals.GOALS`
    bands: tuple[int, ...] | None = None  # of `Chip.dates`, those that are shown, in this order; None = all
    ignored: tuple[int, ...] = ()  # class indexes that do not count, 0 = background
    augment: Any = None  # pipeline of albumentations, None = chips as they are
    rarity: NDArray[np.float64] | None = None  # (chips to train on,) by which they are drawn, None = each once an epoch
    seed: int = 0
    workers: int = 0
    part: int = 0  # of `parts` processes that train together
    parts: int = 1


def usable(chips: ChipFolder) -> list[str]:
    """Names to train on or to validate with: all, or of a split export those of its parts train and validation."""
    training, validation = _parts(chips)
    return [*training, *validation] if training else list(chips.names)


def divide(chips: ChipFolder, share: float, held: Held | None = None) -> tuple[list[str], list[str]]:
    """Names to train on and to validate with: as the export was split, else apart in space by `share`, 0-1."""
    training, validation = _parts(chips)
    if training and validation:
        return training, validation
    return split(chips, share, training or None, held)


def _parts(chips: ChipFolder) -> tuple[list[str], list[str]]:
    """Of a split export, the labelled chips to train on and those to validate with."""
    train, validation = ([n for n in chips.splits.get(p, ()) if n in chips.files] for p in ("train", "validation"))
    return train, validation


def split(
    chips: ChipFolder, share: float, among: Sequence[str] | None = None, held: Held | None = None
) -> tuple[list[str], list[str]]:
    """Names to train on and to validate with, apart in space.

    Validation takes the chips in one corner, which touches the fewest others; training chips that overlap them are
    left out, else validation would only repeat what was learned. With `held` it is the first corner that holds an
    object and takes no class away from training. Raises LabelError when too few chips are left.
    """
    bounds = {name: chips.bounds(name) for name in among or chips.names}
    found = [parts for corner in CORNERS if (parts := _cut(bounds, corner, share))[0]]
    if not found:
        do = "export more chips, with less overlap, or lower validation_percentage"
        raise LabelError(f"{len(bounds)} chips are too few to train and validate on", where=chips.path, do=do)

    def lost(parts: tuple[list[str], list[str]]) -> tuple[int, bool]:
        """Classes that training would lack, and whether validation would hold nothing."""
        assert held
        train, validation = (np.any([held[name] for name in names], axis=0) for names in parts)
        return int((validation & ~train).sum()), not validation.any()

    return min(found, key=lost) if held else found[0]


def _cut(bounds: Mapping[str, Bounds], corner: tuple[int, int], share: float) -> tuple[list[str], list[str]]:
    """Names outside of a corner, and in it: (1, 1) is the south west, in map coordinates."""
    boxes = np.array(list(bounds.values()))
    ends = np.where(np.array(corner) > 0, boxes[:, :2], -boxes[:, 2:])
    away = (ends - ends.min(axis=0)).max(axis=1)  # from the corner, as a king walks
    order = np.argsort(away, kind="stable")[: max(1, round(len(boxes) * share))]
    validation = [name for i, name in enumerate(bounds) if i in set(order.tolist())]
    reach = boxes[order]
    training = [name for name in bounds if name not in set(validation) and not _touches(bounds[name], reach)]
    return training, validation


def loader(chips: ChipFolder, names: Sequence[str], loading: Loading, *, train: bool) -> "DataLoader[Any]":
    """Batches of (images (n, bands, rows, cols) float32, targets, names of the chips)."""
    data = Chips(chips, names, loading if train else replace(loading, augment=None))
    order = Shuffled(len(names), loading.seed, loading.rarity, loading.part, loading.parts) if train else None
    return DataLoader(
        data,
        batch_size=loading.batch_size,
        sampler=order,
        num_workers=loading.workers,
        collate_fn=batch,
        drop_last=train and len(names) > loading.batch_size * loading.parts,
        persistent_workers=loading.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


class Chips(Dataset[tuple[Tensor, Target, str]]):
    """Normalised chips; `(epoch, i, turn)` asks for the i-th chip as it is seen in that epoch, for the turn-th time."""

    def __init__(self, chips: ChipFolder, names: Sequence[str], loading: Loading) -> None:
        self.chips, self.names, self.loading = chips, list(names), loading
        self.statistics, self.classes, self.form = statistics(chips), len(chips.classes), form(chips)
        self.kept: dict[int, Chip] = {}
        self.room = KEPT // max(1, loading.workers)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: int | Draw) -> tuple[Tensor, Target, str]:
        epoch, i, turn = at if isinstance(at, tuple) else (0, at, 0)
        chip = self._read(i)
        image = normalised(chip, self.statistics, self.loading.bands)
        if self.loading.carries in OF_CHIPS:
            image = centred(image, (self.chips.tile_size,) * 2)  # as in the raster function
        if chip.mask is not None:
            chip = replace(chip, mask=ignoring(chip, self.loading.ignored))  # type: ignore[arg-type]  # -1: int16
        chip = chip.without(self.loading.ignored)
        if self.loading.augment is not None:
            augment.seed(self.loading.augment, hash((self.loading.seed, epoch, i, turn)) % 2**32)
            image, chip = _changed(self.loading.augment, image, chip, objects=self.loading.carries not in OF_CHIPS)
        return *learned(image, chip, self.loading.carries, self.classes), chip.name

    def _read(self, i: int) -> Chip:
        """From memory where it was read before."""
        if i in self.kept:
            return self.kept[i]
        chip = read(self.chips, self.names[i], self.form)
        arrays = (chip.image, chip.image2, chip.valid, chip.mask, chip.masks)
        if (size := sum(a.nbytes for a in arrays if a is not None)) <= self.room:
            self.kept[i], self.room = chip, self.room - size
        return chip


def form(chips: ChipFolder) -> tuple[int, ...]:
    """Pictures of a chip, and bands of one; where labels lie on pixels also rows and columns."""
    dates = 2 if chips.paired else 1
    return (dates, len(statistics(chips)) // dates, *(() if chips.format.CARRIES in OF_CHIPS else chips.tile_shape))


def read(chips: ChipFolder, name: str, wanted: tuple[int, ...]) -> Chip:
    """One chip. Raises LabelError for one that has not the `form` of the rest."""
    chip = chips.read(name)
    dates, *shape = wanted
    pictures = {chips.files[name]: chip.image, chips.seconds.get(name, chips.path / name): chip.image2}
    for where, picture in list(pictures.items())[:dates]:
        found = () if picture is None else picture.shape
        if list(found[: len(shape)]) != shape:
            rows, cols = chips.tile_shape
            what = f"expected {shape[0]} bands of {rows} x {cols} pixels as in the definition"
            raise LabelError(what, where=where, got=found or "no picture", do="export the chips again")
    return chip


class Shuffled(Sampler[Draw]):
    """A new order every epoch, the same in every run; Lightning calls `set_epoch`.

    With `weights` (length,) chips are drawn by them, with replacement; one that comes again is changed in another way.
    Each of `parts` processes gets its share.
    """

    def __init__(
        self, length: int, seed: int, weights: NDArray[np.float64] | None = None, part: int = 0, parts: int = 1
    ) -> None:
        self.length, self.seed, self.weights, self.part, self.parts, self.epoch = length, seed, weights, part, parts, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.length / self.parts)

    def __iter__(self) -> Iterator[Draw]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = draw.permutation(self.length)
        if self.weights is not None:
            order = draw.choice(self.length, self.length, p=self.weights / self.weights.sum())
        order = np.resize(order, len(self) * self.parts)  # every process gets as many, else they would wait for ever
        seen = Counter[int]()
        draws = []
        for i in order.tolist():
            draws.append((self.epoch, i, seen[i]))
            seen[i] += 1
        return iter(draws[self.part :: self.parts])


def look(
    chips: ChipFolder, names: Sequence[str], ignored: Sequence[int] = ()
) -> tuple[NDArray[np.int64], list[NDArray[np.float32]]]:
    """(chips, classes + 1) objects, labels, or pixels of each class index in each chip; and the boxes of each."""
    size, wanted = len(chips.classes) + 1, form(chips)
    found, boxes = [], []
    for name in names:
        chip = read(chips, name, wanted).without(ignored)
        indexes = chip.labels if chip.mask is None else chip.mask[chip.valid]
        found.append(np.bincount(indexes, minlength=size)[:size])
        boxes.append(chip.boxes)
    return np.array(found).reshape(-1, size), boxes


def holdings(names: Sequence[str], counted: NDArray[np.int64], ignored: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Of `look`, what each chip holds of the classes that count."""
    return dict(zip(names, _held(counted, ignored), strict=True))


def _held(counted: NDArray[np.int64], ignored: Sequence[int]) -> NDArray[np.bool_]:
    holds = counted > 0
    holds[:, [0, *ignored]] = False
    return holds[:, 1:]


def rarity(counted: NDArray[np.int64], ignored: Sequence[int] = ()) -> NDArray[np.float64]:
    """(n,) of `look`: a chip weighs what its rarest class does, the square root of how seldom chips hold that."""
    held = _held(counted, ignored)
    rare = np.sqrt(len(held) / held.sum(axis=0).clip(min=1))
    weights = np.where(held, rare, 1.0).max(axis=1)
    return np.asarray(weights.clip(max=RARE * weights.min()))


def balance(counted: NDArray[np.int64]) -> list[float]:
    """Weights of the classes, background first, of `look`: as ArcGIS weighs pixels, total / pixels (D.5), mean 1.

    A class that does not occur has no share in the mean, and 1.
    """
    pixels = counted.sum(axis=0)
    weights = (pixels.sum() / pixels.clip(min=1)) ** 0.5  # the root: one pixel in a thousand would drown the others
    weights = np.where(pixels > 0, weights / weights[pixels > 0].mean(), 1.0)
    return [float(f"{weight:.5g}") for weight in weights]


def check_classes(chips: ChipFolder, counted: NDArray[np.int64], ignored: Sequence[int]) -> None:
    """Raises LabelError when `counted`, the chips to train on, hold nothing of a class that counts."""
    found = counted.sum(axis=0)
    empty = [c for i, c in enumerate(chips.classes, start=1) if i not in ignored and not found[i]]
    if empty:
        got = [f"{label.name} (value {label.value})" for label in empty]
        do = "export more chips with it, take it out of the classes"
        do += "" if chips.format.CARRIES in OF_CHIPS else ", or name its value in ignore_classes"
        raise LabelError("no chip to train on holds a class of the definition", where=chips.path, got=got, do=do)


def check_augmentation(chips: ChipFolder, names: Sequence[str], loading: Loading) -> None:
    """Raises OptionsError for one that does not fit the chips, or leaves them in sizes that make no batch."""
    if loading.augment is None:
        return
    data = Chips(chips, names[:1], loading)
    sizes = {tuple(data[(epoch, 0, 0)][0].shape[1:]) for epoch in range(TRIED)}
    if len(sizes) > 1:
        do = "end it with a crop of one size (chip_size), or leave out the step that changes it"
        raise OptionsError("the augmentation makes chips of several sizes", got=sorted(sizes)[:3], do=do)


def _changed(steps: Any, image: NDArray[np.float32], chip: Chip, *, objects: bool) -> tuple[Any, Chip]:
    """The picture and what moves with it. An object whose box is gone takes its mask along."""
    extra: dict[str, Any] = {} if chip.mask is None else {"mask": chip.mask}
    if chip.masks is not None and len(chip.masks):
        extra = {"masks": list(chip.masks.astype(np.uint8))}
    places = np.arange(len(chip.boxes))
    boxes, labels = (chip.boxes, chip.labels) if objects else (chip.boxes[:0], chip.labels[:0])
    moved_along = {"bboxes": boxes, "labels": labels, "objects": places[: len(boxes)], **extra}
    out = augment.change(steps, chip.name, image=image.transpose(1, 2, 0), **moved_along)
    pixels = out["image"].transpose(2, 0, 1)
    if not objects:
        return pixels, chip
    kept = np.asarray(out["objects"], np.int64)
    masks = np.array(out["masks"], bool)[kept] if "masks" in extra else None
    if chip.masks is not None and masks is None:
        masks = np.zeros((0, *pixels.shape[1:]), bool)
    moved = replace(
        chip,
        valid=np.ones(pixels.shape[1:], bool),
        boxes=np.asarray(out["bboxes"], np.float32).reshape(-1, 4),
        labels=np.asarray(out["labels"], np.int64),
        mask=out.get("mask"),
        masks=masks,
        image=pixels,
        image2=None,
    )
    return pixels, moved


def _touches(box: Bounds, others: NDArray[np.float64]) -> bool:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return bool(((high - low) > ROUNDED * np.subtract(box[2:], box[:2])).all(axis=1).any())
