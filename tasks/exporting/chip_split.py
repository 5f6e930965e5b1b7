"""Training, validation and test chips that never see the same ground, and more chips of what is rare.

Chips cut with overlap repeat each other, so a random split would validate on what was learned. Here whole blocks of
ground, or whole scenes, go to one part. A chip belongs to the block of its centre; along the border of two parts the
chips of one are left out of all. Blocks are given out rarest class first, so each part has its share of each class.

    splits.json   {"train": ["000000000", ...], "validation": [...], "test": [...]}
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from registry.emd import ClassLabel
from registry.errors import OptionsError
from tasks.exporting.options import ExportOptions

Window = tuple[int, int, int, int]  # xmin ymin xmax ymax in pixels, half open
Bounds = tuple[float, float, float, float]  # xmin ymin xmax ymax in map units
PARTS = ("train", "validation", "test")
BLOCKS = 36  # so many blocks are made when no size is given, as far as the next two allow
LARGEST_BLOCK = 8  # side of such a block, in chips
SMALLEST_BLOCK = 2  # where chips overlap by half; else most of them would straddle a border. Without overlap 1
SAME_GROUND = 0.1  # scenes that share more than this of the smaller one stay in one part
FEW_CHIPS = 30  # a class in fewer training chips gets a warning: a tenth of them, to validate on, would be under three
MOST_OF_ONE = 8  # extra chips around one feature: more would only repeat it
JITTER = 0.25  # of the chip's size, to either side: the feature's centre stays well inside


def assign(
    bounds: ArrayLike,
    options: ExportOptions,
    *,
    scenes: Sequence[int] = (),
    holds: ArrayLike | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """The part of each chip: train, validation or test; "" for one left out because it overlaps another part.

    bounds: (n, 4) xmin ymin xmax ymax in map units. scenes: (n,) number of the scene of each chip. holds: (n, classes)
    how much of each class is in the chip, any unit. Raises OptionsError when there are fewer blocks than parts.
    """
    boxes = np.asarray(bounds, np.float64).reshape(-1, 4)
    shares = np.array(options.split or (1.0, 0.0, 0.0))
    scene_of = np.asarray(scenes if len(scenes) else np.zeros(len(boxes)), np.int64)
    amounts = np.zeros((len(boxes), 0)) if holds is None else np.asarray(holds, np.float64)
    homes = _by_scene(boxes, scene_of) if options.split_by == "scenes" else _by_block(boxes, scene_of, options)
    _enough(homes, shares, options)
    part_of = _given_out(homes, amounts, shares, seed)[homes]
    part_of[_overlapping(boxes, part_of, homes, shares)] = -1
    _enough(part_of[part_of >= 0], shares, options)
    return tuple(PARTS[i] if i >= 0 else "" for i in part_of.tolist())


def by_part(names: Sequence[str], parts: Sequence[str]) -> dict[str, list[str]]:
    """What splits.json holds, of chip names and what `assign` said of them."""
    return {part: [n for n, p in zip(names, parts, strict=True) if p == part] for part in PARTS}


def extra_windows(
    features: ArrayLike,
    labels: ArrayLike,
    scenes: ArrayLike,
    chips_per_class: ArrayLike,
    *,
    size: tuple[int, int],
    areas: Sequence[Window],
    place: Callable[[int, Window], Bounds],
    others: ArrayLike = (),
    seed: int = 0,
) -> list[tuple[int, Window]]:
    """More windows (scene, xmin ymin xmax ymax) around features of rare classes; the same in every run of a seed.

    features: (n, 4) bounds in pixels of their scene; labels: (n,) class index from 1; scenes: (n,). chips_per_class:
    (classes,) training chips that hold each class; a class below the median is brought up to it, with at most
    MOST_OF_ONE windows around one feature. size: (width, height) of a chip. areas: what may be cut in each scene.
    place: bounds of a window on the map. others: (m, 4) bounds of validation and test chips: no window overlaps them.
    """
    boxes, classes = np.asarray(features, np.float64).reshape(-1, 4), np.asarray(labels, np.int64)
    scene_of, counts = np.asarray(scenes, np.int64), np.asarray(chips_per_class, np.int64)
    taken = shapely.STRtree(shrunk(np.asarray(others, np.float64).reshape(-1, 4)))
    found: dict[tuple[int, Window], None] = {}
    for label, missing in _shortage(counts):
        wanted = len(found) + missing
        for turn in range(MOST_OF_ONE):
            for i in np.flatnonzero(classes == label).tolist():
                scene = int(scene_of[i])
                window = _jittered(boxes[i], size, areas[scene], (seed, scene, i, turn))
                if len(found) < wanted and not taken.query(shapely.box(*place(scene, window))).size:
                    found.setdefault((scene, window))
    return list(found)


def too_few(classes: Sequence[ClassLabel], chips: ArrayLike, parts: Sequence[str] = ()) -> list[str]:
    """A warning for each class that few training chips hold, or that a part of the split lacks.

    chips: (classes,) of all chips, or (parts, classes) in the order of `parts`.
    """
    counts = np.asarray(chips, np.int64).reshape(-1, len(classes))
    lines = [
        f"class {label.name!r} is in {number} chip{'s' * (number != 1)} to train on; below {FEW_CHIPS} a network "
        "rarely learns it: label more of it, cut with a smaller stride, or oversample"
        for label, number in zip(classes, counts[0].tolist(), strict=True)
        if number < FEW_CHIPS
    ]
    for part, row in list(zip(parts, counts, strict=False))[1:]:
        absent = [label.name for label, number in zip(classes, row.tolist(), strict=True) if not number]
        lines += [f"no {part} chip holds {', '.join(absent)}: nothing can be said of how well it is found"] * bool(
            absent and row.sum()
        )
    return lines


def _by_block(boxes: NDArray[np.float64], scenes: NDArray[np.int64], options: ExportOptions) -> NDArray[np.int64]:
    """(n,) number of the block that holds each chip's centre; one grid for all scenes, from the upper left corner."""
    tile = (boxes[:, 2:] - boxes[:, :2]).min(axis=0)
    if options.split_block_size:
        side = options.split_block_size * tile / [options.tile_size_x, options.tile_size_y]
    else:
        spans = [np.ptp(boxes[scenes == s].reshape(-1, 2), axis=0) for s in np.unique(scenes)]
        tiles = np.sqrt(sum(float((span / tile).prod()) for span in spans) / BLOCKS)
        overlap = 1 - min(options.stride_x / options.tile_size_x, options.stride_y / options.tile_size_y)
        side = tile * np.clip(np.round(tiles), max(1, np.ceil(2 * SMALLEST_BLOCK * overlap)), LARGEST_BLOCK)
    west, north = boxes[:, 0].min(), boxes[:, 3].max()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = np.floor(np.stack([centres[:, 0] - west, north - centres[:, 1]], axis=1) / side)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _by_scene(boxes: NDArray[np.float64], scenes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) number of each chip's scene; scenes of the same ground, such as two dates, count as one."""
    numbers, home = np.unique(scenes, return_inverse=True)
    reach = [boxes[home == i] for i in range(len(numbers))]
    frames = shapely.box(*np.array([[*r[:, :2].min(axis=0), *r[:, 2:].max(axis=0)] for r in reach]).T)
    first, second = shapely.STRtree(frames).query(frames, predicate="intersects")
    shared = shapely.area(shapely.intersection(frames[first], frames[second]))
    same = shared > SAME_GROUND * np.minimum(shapely.area(frames[first]), shapely.area(frames[second]))
    group = np.arange(len(numbers))
    for a, b in zip(first[same].tolist(), second[same].tolist(), strict=True):
        group[group == group[b]] = group[a]
    return np.unique(group[home.reshape(-1)], return_inverse=True)[1].reshape(-1)


def _given_out(
    homes: NDArray[np.int64], amounts: NDArray[np.float64], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """(blocks,) the part of each block, after the rarest class first (stratification by Sechidis et al., 2011).

    A block goes where it overshoots the wanted share least. A part that has nothing of a class yet gets a block of it.
    """
    blocks = int(homes.max()) + 1
    held = np.zeros((blocks, amounts.shape[1] + 1))
    np.add.at(held, homes, np.hstack([amounts, np.ones((len(homes), 1))]))  # the last column counts chips
    shuffled = np.random.default_rng(seed).permutation(blocks)
    part_of = np.full(blocks, -1)
    got = np.zeros((len(shares), held.shape[1]))
    parts = sorted(np.flatnonzero(shares > 0).tolist(), key=lambda p: -shares[p])
    for column in [*np.argsort(held[:, :-1].sum(axis=0), kind="stable").tolist(), held.shape[1] - 1]:
        rest = shuffled[(part_of[shuffled] < 0) & (held[shuffled, column] > 0)]
        queue = rest[np.argsort(-held[rest, column], kind="stable")].tolist()
        lacking = [part for part in parts if not got[part, column]]
        first, last = (0, len(queue)) if len(queue) <= len(lacking) else (len(queue) - len(lacking), len(queue))
        reserved = dict(zip(queue[first:last], lacking, strict=False))
        for block in [*reserved, *(b for b in queue if b not in reserved)]:
            fill = [(got[p, column] + held[block, column]) / shares[p] for p in parts]
            part_of[block] = reserved.get(block, parts[int(np.argmin(fill))])
            got[part_of[block]] += held[block]
    return part_of


def _overlapping(
    boxes: NDArray[np.float64], part_of: NDArray[np.int64], homes: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Chips to leave out, so that those of different parts share no ground.

    Along each border between two blocks the part gives way that has more of what it should have.
    """
    first, second = _conflicts(boxes, part_of)
    borders, border_of = np.unique(homes[np.stack([first, second], axis=1)], axis=0, return_inverse=True)
    order = np.argsort(border_of.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(border_of.reshape(-1), minlength=len(borders)))
    kept, out = np.bincount(part_of, minlength=len(shares)).astype(np.float64), np.zeros(len(boxes), bool)
    for pairs in np.split(order, ends[:-1]):
        open_pairs = pairs[~out[first[pairs]] & ~out[second[pairs]]]
        if not open_pairs.size:
            continue
        sides = [np.unique(chips[open_pairs]) for chips in (first, second)]
        parts = [int(part_of[side[0]]) for side in sides]
        loser = sides[int(kept[parts[1]] / shares[parts[1]] > kept[parts[0]] / shares[parts[0]])]
        out[loser] = True
        kept[part_of[loser[0]]] -= len(loser)
    return np.flatnonzero(out)


def _conflicts(boxes: NDArray[np.float64], part_of: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of chips of different parts that share ground; the first of the earlier part."""
    small = shrunk(boxes)
    firsts, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in range(1, len(PARTS)):
        later, earlier = np.flatnonzero(part_of == part), np.flatnonzero((part_of >= 0) & (part_of < part))
        found = shapely.STRtree(small[later]).query(small[earlier], predicate="intersects")
        firsts.append(earlier[found[0]])
        seconds.append(later[found[1]])
    return np.concatenate(firsts), np.concatenate(seconds)


def _inner(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """A millionth smaller on each side: chips that only touch share no pixel."""
    inset = (boxes[:, 2:] - boxes[:, :2]) * 1e-6
    return np.hstack([boxes[:, :2] + inset, boxes[:, 2:] - inset])


def shrunk(boxes: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.asarray(shapely.box(*_inner(boxes).T))


def _enough(homes: NDArray[np.int64], shares: NDArray[np.float64], options: ExportOptions) -> None:
    there, wanted = len(np.unique(homes)), int((shares > 0).sum())
    if there < wanted:
        what = f"the chips lie in too few {options.split_by} for {wanted} parts that do not overlap"
        do = "give a smaller split_block_size or stride, more imagery, or no split"
        if options.split_by == "scenes":
            do = "give imagery of more places (dates of one ground are one scene), split_by blocks, or no split"
        raise OptionsError(what, where="split", got=there, do=do)


def _shortage(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Class index from 1 and the number of chips it lacks, rarest first."""
    present = counts[counts > 0]
    target = int(np.median(present)) if present.size else 0
    for i in np.argsort(counts, kind="stable").tolist():
        if counts[i] < target:
            yield i + 1, target - int(counts[i])


def _jittered(box: NDArray[np.float64], size: tuple[int, int], area: Window, seed: tuple[int, ...]) -> Window:
    """A window of whole pixels around a feature, moved a little, inside the area where that is large enough."""
    moved = np.random.default_rng(seed).uniform(-JITTER, JITTER, 2) * size
    x, y = np.rint((box[:2] + box[2:]) / 2 + moved - np.array(size) / 2).astype(int).tolist()
    xmin = max(area[0], min(x, area[2] - size[0]))
    ymin = max(area[1], min(y, area[3] - size[1]))
    return xmin, ymin, xmin + size[0], ymin + size[1]
