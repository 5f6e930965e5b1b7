"""What the raster functions share: the model definition, the arguments, mini tiles, the network. It travels, too.

The host hands over a super tile: several mini tiles of the model's size S at once, each S - 2 * padding further. The
core of a mini tile is what is left without its padding; the cores cover the unpadded block without gap or overlap.

    |<-padding->|<--- core 0 --->|<--- core 1 --->|<-padding->|        two mini tiles of size S = core + 2 * padding
"""

from __future__ import annotations

import importlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NamedTuple

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

TRUE = {"true", "1", "t", "y", "yes"}
INHERIT = 2 | 4 | 8  # NoData; dimensions, reference and cell size; resampling (ArcGIS formats E.5)
AS_IT_IS = ((0, False),)  # one view of a tile: no quarter turn, not mirrored
POLICIES = {"mean": "add", "max": "maximum", "min": "minimum"}  # merge_policy -> torch's function


class Spot(NamedTuple):
    """Where a mini tile lies in a padded block, and the part of the unpadded block that it answers for."""

    top: int  # corner in the padded block
    left: int
    rows: int  # size
    cols: int
    down: tuple[int, int]  # rows of the padded block that it owns, half open
    across: tuple[int, int]  # columns

    def cut(self, block: Array) -> Array:
        """What the tile covers of (..., rows, cols); less than its size at the end of the block."""
        return block[..., self.top : self.top + self.rows, self.left : self.left + self.cols]

    def own(self, tiles: Any) -> Any:
        """What it owns of (..., rows of the tile, cols of the tile)."""
        (top, bottom), (left, right) = self.down, self.across
        return tiles[..., top - self.top : bottom - self.top, left - self.left : right - self.left]

    def core(self, padding: int) -> tuple[slice, slice]:
        """The same in the unpadded block."""
        return slice(*(n - padding for n in self.down)), slice(*(n - padding for n in self.across))


class Model:
    """A model definition and the network that it names.

    `model` is the path of an .emd or its JSON text, which then lies in `home`, the folder of the raster function.
    `device`: -1 CPU, -2 the GPU with most free memory or else the CPU, 0 and above that GPU. `dates`: 2 where the bands
    are those of two rasters, one after the other; then Value 0 of `Classes` is no change, and no class of the network.
    """

    def __init__(self, model: str, device: object, home: Path, dates: int = 1) -> None:
        self.document, self.folder = _open(model, home)
        self.device = -1 if device in (None, "") else int(number(device))
        self.size = int(self.document["ImageHeight"])
        self.dates = dates
        self.classes = [c for c in self.document["Classes"] if dates == 1 or c["Value"]]
        self.statistics = list(self.document.get("AllTilesStats") or [])
        self.bands = tuple(self.document.get("ExtractBands") or range(len(self.statistics)))
        self._known_scale: tuple[Array, Array] | None = None
        self._network: Any = None
        self._torch: Any = None
        self._place: Any = None

    def normalise(self, pixels: Array, mask: Array | None) -> Array:
        """(bands, rows, cols) sensor values -> float32 (x - Mean) / StdDev; where the mask is 0, `_nothing`."""
        return self._normalised(pixels, mask, np.empty(pixels.shape, np.float32))

    def _normalised(self, pixels: Array, mask: Array | None, out: Array) -> Array:
        mean, deviation = self._scale
        if len(pixels) != len(mean):
            raise ValueError("raster_pixels: expected %d bands, got %d" % (len(mean), len(pixels)))
        np.subtract(pixels, mean, out=out, casting="unsafe", dtype=np.float32)
        np.divide(out, deviation, out=out)
        if mask is not None:
            np.copyto(out, self._nothing, where=mask == 0)
        return out

    @property
    def _nothing(self) -> Any:
        """Where there is no data: the mean; for networks that ArcGIS trained a pixel of 0, which they were shown."""
        mean, deviation = self._scale
        return -mean / deviation if self.document.get("Normalization") else np.float32(0)

    @property
    def _scale(self) -> tuple[Array, Array]:
        """Mean and deviation of the bands that are read, (bands, 1, 1) float32."""
        if self._known_scale is None:
            told = self.document.get("Normalization") or self._of_the_tiles()
            mean, deviation = (np.array(told[key], np.float32)[:, None, None] for key in ("Mean", "StdDev"))
            self._known_scale = mean, deviation
        return self._known_scale

    def _of_the_tiles(self) -> dict[str, list[float]]:
        """The same of the tiles that the network learned from."""
        if not self.statistics:
            raise ValueError("AllTilesStats: is missing in the model definition, so pixels cannot be normalised")
        names = [s.get("BandName") for s in self.statistics]
        chosen = [self.statistics[names.index(b) if isinstance(b, str) else b] for b in self.bands]
        return {"Mean": [s["Mean"] for s in chosen], "StdDev": [s["StdDev"] or 1 for s in chosen]}

    def batches(
        self, pixels: Array, mask: Array, padding: int, batch_size: int, tight: bool = False
    ) -> Iterator[tuple[list[Spot], Array]]:
        """Cut a padded block into mini tiles: yields their spots and (n, bands, S, S) float32, n <= batch_size.

        Mini tiles without one valid pixel are left out. `tight`: where a network looks no further than the definition's
        ReceptiveField, the whole block is one tile, and tiles end with the valid pixels, in whole steps of its
        OutputStride: a raster's edge looks to the network as it does in one pass over the whole raster, there are
        fewer seams, and nothing is computed twice or for nobody.
        """
        whole = bool(mask.min() > 0)
        seen: Array | None = None if whole else np.asarray(mask.any(axis=0))
        steps = self.stride if tight else 0
        spots = self._spots(pixels.shape[1:], seen, padding, steps)
        spots = spots if seen is None else [spot for spot in spots if spot.cut(seen).any()]
        for some in _alike(spots, batch_size):
            tiles = np.zeros((len(some), len(pixels), some[0].rows, some[0].cols), np.float32)
            for tile, spot in zip(tiles, some):
                part, shown = spot.cut(pixels), None if whole else spot.cut(mask)
                self._normalised(part, shown, tile[:, : part.shape[1], : part.shape[2]])
            yield some, tiles

    @property
    def stride(self) -> int:
        """By which a picture can be moved so that the answer only moves along; 0 of a network that looks everywhere."""
        return int(self.document.get("OutputStride") or 0) if self.document.get("ReceptiveField") is not None else 0

    @property
    def margin(self) -> int:
        """Pixels beside a pixel that its answer can depend on, in whole strides."""
        return -(-(int(self.document["ReceptiveField"]) // 2) // self.stride) * self.stride

    def fits(self, padding: int) -> bool:
        """Whether blocks begin at whole strides of a network that has some."""
        return self.stride > 0 and not padding % self.stride and not self.size % self.stride

    def _spots(self, shape: tuple[int, ...], seen: Array | None, padding: int, steps: int) -> list[Spot]:
        """`seen`: where there are pixels; None = everywhere."""
        sides = []
        for axis, length in enumerate(shape):
            low, high = (0, length) if seen is None else _reach(np.asarray(seen.any(axis=1 - axis)))
            size = length if steps and self.fits(padding) else self.size
            sides.append(cuts(length, low, high, padding, size, steps))
        return [Spot(r[0], c[0], r[1], c[1], r[2:], c[2:]) for r in sides[0] for c in sides[1]]

    @property
    def network(self) -> Any:
        """With its weights, where it runs; the first call loads both, and torch."""
        if self._network is None:
            self._load()
        return self._network

    def run(self, tiles: Array, finish: Callable[[Any], Any]) -> Any:
        """finish(network(tiles)) without gradients. What does not fit into a GPU's memory goes through it in halves."""
        network = self.network  # loads torch
        with self._torch.inference_mode():
            try:
                return finish(self._answer(network, tiles))
            except self._torch.cuda.OutOfMemoryError:
                if len(tiles) == 1:
                    raise
            self._torch.cuda.empty_cache()
            middle = len(tiles) // 2
            first, second = self.run(tiles[:middle], finish), self.run(tiles[middle:], finish)
            return first + second if isinstance(first, list) else self._torch.cat([first, second])

    def _answer(self, network: Any, tiles: Array) -> Any:
        """Of the network: on a GPU in half precision, fed out of pinned memory, maps with the channels last."""
        images = self._torch.from_numpy(tiles)
        if self._place.type == "cpu":
            return network(images)
        images = images.pin_memory().to(self._place, non_blocking=True)
        with self._torch.autocast("cuda"):
            return network(images.contiguous(memory_format=self._torch.channels_last))

    def look(
        self,
        tiles: Array,
        finish: Callable[[Any], Any],
        views: Iterable[tuple[int, bool]] = AS_IT_IS,
        policy: str = "mean",
    ) -> Any:
        """finish(network(view)) merged over the views, (quarter turns, mirrored); maps (n, k, S, S) are turned back."""
        merged: Any = None
        views = tuple(views)
        if views == AS_IT_IS:
            return self.run(tiles, finish)  # turning and merging one view would copy it twice for nothing
        for turns, mirrored in views:
            answer = self.run(turned(tiles, turns, mirrored), finish)
            if answer.ndim == 4:
                answer = answer.rot90(-turns, (2, 3))
                answer = answer.flip(3) if mirrored else answer
            merged = answer if merged is None else getattr(self._torch, POLICIES[policy])(merged, answer)
        return merged / len(views) if policy == "mean" else merged

    def views(self, augmented: bool) -> tuple[tuple[int, bool], ...]:
        """Of test time augmentation: eight in map space, where nothing has a right way up, else two (A.2)."""
        if not augmented:
            return AS_IT_IS
        turns = range(4) if self.document.get("ImageSpaceUsed", "MAP_SPACE") == "MAP_SPACE" else (0,)
        return tuple((turn, mirrored) for turn in turns for mirrored in (False, True))

    def _load(self) -> None:
        try:
            import torch
        except ImportError as error:
            do = "in ArcGIS install the Deep Learning Libraries, elsewhere run `pip install torch`"
            raise ImportError("this model needs PyTorch; " + do) from error
        configuration = self.document["ModelConfiguration"]
        name = configuration["Name"] if isinstance(configuration, dict) else configuration
        module = importlib.import_module("." + name, __package__)
        options = self.document.get("NetworkOptions") or {}
        network = module.build(bands=len(self.bands) // self.dates, classes=len(self.classes), **options)
        if self.document.get("resize_to"):
            resized = importlib.import_module("._resized", __package__)
            network = resized.Resized(network, int(self.document["resize_to"]))
        weights = self.folder / self.document["ModelFile"].replace("\\", "/")
        network.load_state_dict(torch.load(str(weights), map_location="cpu", weights_only=True))
        self._torch, self._place = torch, place(torch, self.device)
        self._network = network.eval().to(self._place)


def cuts(length: int, low: int, high: int, padding: int, size: int, steps: int) -> list[tuple[int, int, int, int]]:
    """Tiles along a side of a padded block: start, length, and the half-open part of the block that each owns.

    `low`, `high`: where there are pixels. `steps`: 0 for tiles of `size` that follow each other every size - 2 *
    padding pixels; else a tile may end where the pixels end, in whole steps, and owns what is there up to the end.
    """
    if not steps:
        return [
            (own - padding, size, own, min(own + size - 2 * padding, length - padding))
            for own in range(padding, length - padding, size - 2 * padding)
        ]
    begin = 0 if low < padding else padding + (low - padding) // steps * steps  # in step with the tiles elsewhere
    own, end, found = max(padding, begin), min(length - padding, high), []
    while own < end:
        start = max(own - padding, begin)
        covered = min(size, -(-(high - start) // steps) * steps)
        stop = end if start + covered >= high else min(end, start + covered - padding)
        found.append((start, covered, own, stop))
        own = stop
    return found


def _reach(line: Array) -> tuple[int, int]:
    """The first True of a line, and behind the last."""
    where = np.flatnonzero(line)
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, len(line))


def _alike(spots: list[Spot], most: int) -> Iterator[list[Spot]]:
    """In batches of one size."""
    sizes: dict[tuple[int, int], list[Spot]] = {}
    for spot in spots:
        sizes.setdefault((spot.rows, spot.cols), []).append(spot)
    for some in sizes.values():
        for i in range(0, len(some), most):
            yield some[i : i + most]


def centred(images: Array, shape: tuple[int, int]) -> Array:
    """(bands, rows, cols) in the middle of a tile of that shape, 0 around it; what is larger is scaled down."""
    sides = images.shape[1:]
    if max(side / wanted for side, wanted in zip(sides, shape)) > 1:
        import torch

        tight, wanted = max(zip(sides, shape), key=lambda pair: pair[0] / pair[1])
        sides = tuple(max(1, round(side * wanted / tight)) for side in sides)
        small = torch.nn.functional.interpolate(torch.from_numpy(images)[None], sides, mode="bilinear", antialias=True)
        images = small[0].numpy()
    top, left = ((wanted - side) // 2 for side, wanted in zip(sides, shape))
    tile = np.zeros((len(images), *shape), np.float32)
    tile[:, top : top + sides[0], left : left + sides[1]] = images
    return tile


def turned(tiles: Array, turns: int, mirrored: bool) -> Array:
    """A view of tiles (n, bands, S, S): mirrored left to right, then by quarter turns against the clock."""
    return np.ascontiguousarray(np.rot90(tiles[..., ::-1] if mirrored else tiles, turns, (2, 3)))


def turned_back(points: Array, turns: int, mirrored: bool, size: int) -> Array:
    """Points (..., 2) x y of such a view, in pixels of the tile as it was."""
    for _ in range(turns):
        points = np.stack([size - points[..., 1], points[..., 0]], axis=-1)
    return points * [-1, 1] + [size, 0] if mirrored else points


def place(torch: Any, device: int) -> Any:
    """The torch device behind ArcGIS's device number."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == -1 or (device == -2 and not count):
        return torch.device("cpu")
    if device == -2:
        device = max(range(count), key=lambda i: torch.cuda.mem_get_info(i)[0])
    if not 0 <= device < count:
        raise ValueError("device: expected -1 (CPU), -2 (any) or a GPU below %d, got %d" % (count, device))
    torch.cuda.set_device(device)
    return torch.device("cuda", device)


def number(value: object) -> float:
    """A float of a number or of a text in any locale: 0.5, "0.5" and "0,5" are equal."""
    return float(str(value).replace(",", "."))


def truth(value: object) -> bool:
    """True of True, "True", "1", "yes" ... in any case (ArcGIS formats E.5)."""
    return str(value).strip().lower() in TRUE


def policy(value: object) -> str:
    """A merge policy by its name. Raises ValueError for another."""
    name = str(value).strip().lower()
    if name not in POLICIES:
        raise ValueError("merge_policy: expected one of %s, got %s" % (", ".join(POLICIES), value))
    return name


def rectangle(batch: int) -> tuple[int, int]:
    """(rows, cols) of the mini tiles in a super tile (ArcGIS formats E.5)."""
    high = int(math.sqrt(batch) + 0.5)
    wide = int(batch / high)
    while high * wide > batch:
        high, wide = (high - 1, wide) if high > wide else (high, wide - 1)
    if (high + 1) * wide <= batch:
        high += 1
    if high * (wide + 1) <= batch:
        wide += 1
    high, wide = min(high, wide), max(high, wide)
    return (high, wide) if high * wide == batch and (high > 1 or batch < 3) else (batch, 1)  # 3 is (3, 1) there


def configuration(model: Model, padding: int, batch_size: int, joined: bool = False) -> dict[str, Any]:
    """What getConfiguration answers. Raises ValueError when a tile would be nothing but padding.

    `joined`: for `Model.batches` that are `tight`. Then a block is one tile as large as the mini tiles of a batch, and
    its padding as wide as theirs together, up to what the network can see: more context for as many pixels.
    """
    if not 0 <= 2 * padding < model.size:
        raise ValueError("padding: expected 0 to %d, got %d" % ((model.size - 1) // 2, padding))
    if batch_size < 1:
        raise ValueError("batch_size: expected 1 or more, got %d" % batch_size)
    rows, cols = rectangle(batch_size)
    step = model.size - 2 * padding
    if joined and model.fits(padding):
        padding = max(padding, min(padding * min(rows, cols), model.margin))
    return {
        "extractBands": model.bands,
        "padding": padding,
        "tx": step * cols,
        "ty": step * rows,
        "fixedTileSize": 1,
        "inputMask": True,
        "inheritProperties": INHERIT,
    }


def parameter(name: str, kind: str, value: object, title: str, description: str, **more: object) -> dict[str, Any]:
    """One row of the arguments table."""
    row: dict[str, Any] = {"name": name, "dataType": kind, "value": value, "required": False, "displayName": title}
    return dict(row, description=description, **more)


def switch(name: str, value: object, title: str, description: str) -> dict[str, Any]:
    """A row that is True or False, in texts (ArcGIS formats E.5)."""
    return parameter(name, "string", str(truth(value)), title, description, domain=("True", "False"))


def probabilities() -> dict[str, Any]:
    """The row of functions for pixels that asks for shares instead of classes."""
    told = "True gives a band of probabilities for the background and each class, in place of the class"
    return switch("probabilities", False, "Probabilities", told)


def augmentation(model: Model | None) -> list[dict[str, Any]]:
    """The rows of test time augmentation (ArcGIS formats E.4)."""
    default = model.document.get("test_time_augmentation", False) if model else False
    return [
        switch("test_time_augmentation", default, "Test time augmentation", "Look at tiles turned and mirrored, too"),
        parameter(
            "merge_policy",
            "string",
            "mean",
            "Merge policy",
            "How the probabilities of these looks become one",
            domain=tuple(POLICIES),
        ),
    ]


def parameters(model: Model | None) -> list[dict[str, Any]]:
    """The rows that every function of ours has, in ArcGIS's order (ArcGIS formats E.4)."""
    tile = model.size if model else 256
    border = min(tile // 4, model.margin) if model and model.stride else tile // 4
    return [
        parameter("raster", "raster", None, "Raster", "Raster to run the model on", required=True),
        parameter("model", "string", None, "Model definition", "Path of the .emd, or its text", required=True),
        parameter("device", "numeric", -1, "Device", "-1 CPU, -2 any free GPU, else the number of the GPU"),
        parameter("padding", "numeric", border, "Padding", "Border of a tile whose result is discarded, in pixels"),
        parameter("batch_size", "numeric", 4, "Batch size", "Tiles that go through the network at once"),
    ]


def answered(rows: list[dict[str, Any]], scalars: dict[str, Any]) -> dict[str, Any]:
    """The value of every argument: the given one, or the default where none or a blank was given."""
    values = {row["name"]: row["value"] for row in rows}
    values.update((name, value) for name, value in scalars.items() if value not in (None, ""))
    return values


def keep_best(boxes: Array, scores: Array, labels: Array, overlap: float) -> Array:
    """Indexes of the boxes that stay: per label, greedy by score, no IoU with a better one above `overlap`."""
    order = np.lexsort((boxes[:, 1], boxes[:, 0], -scores)) if len(boxes) else np.zeros(0, int)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[(overlaps(boxes[rest], boxes[best, None])[:, 0] <= overlap) | (labels[rest] != labels[best])]
    return np.array(kept, int)


def overlaps(one: Array, two: Array) -> Array:
    """(n, m) intersection over union of (n, 4) and (m, 4) boxes; 0 where both are nothing."""
    low, high = np.maximum(one[:, None, :2], two[:, :2]), np.minimum(one[:, None, 2:], two[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, two)]
    ratios: Array = shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9)
    return ratios


def _open(model: str, home: Path) -> tuple[dict[str, Any], Path]:
    try:
        return dict(json.loads(Path(model).read_text(encoding="utf-8-sig"))), Path(model).resolve().parent
    except OSError:
        pass  # no file, or a name that no system allows: then it is the text itself
    try:
        return dict(json.loads(model)), home
    except ValueError as error:
        raise ValueError("Invalid model argument: neither the path of an .emd nor its text") from error
