"""Overviews made out of what is in memory: each pixel the most frequent of the four below it, of numbers their mean.

Rows arrive from above, in pieces; a floor keeps no more than the rows of a tile, so memory follows the raster's width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.cog import Layer, encode

Pixels = NDArray[np.generic]  # (bands, rows, cols)
WIDE = 4096  # columns, an even number


def halved(pixels: Pixels, nodata: float) -> Pixels:
    """Half the rows and columns, rounded up: the most frequent value that is not nodata, or the mean of floats."""
    bands, rows, cols = pixels.shape
    half = np.empty((bands, -(-rows // 2), -(-cols // 2)), pixels.dtype)
    for left in range(0, cols, WIDE):  # a wide raster's row at once would be there several times
        half[:, :, left // 2 : (left + WIDE) // 2] = _halved(pixels[:, :, left : left + WIDE], nodata)
    return half


def _halved(pixels: Pixels, nodata: float) -> Pixels:
    if pixels.shape[1] % 2 or pixels.shape[2] % 2:
        pixels = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2)), mode="edge")
    a, b, c, d = (np.ascontiguousarray(pixels[:, i::2, j::2]) for i in (0, 1) for j in (0, 1))
    if pixels.dtype.kind == "f":
        return _mean(np.stack([a, b, c, d]))
    if (a == b).all() and (a == c).all() and (a == d).all():
        return a
    best = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    best = np.where((a == b) | (a == c) | (a == d), a, best)
    for other in (a, b, c, d):  # where nodata won, whatever is there counts more
        best = np.where(best == nodata, other, best)
    return best


def _mean(four: NDArray[np.floating]) -> Pixels:
    valid = np.isfinite(four)
    count = valid.sum(axis=0)
    total = np.where(valid, four, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(four.dtype)


class Floor:
    """An overview of width x height; its tiles go to a file as they are whole, what is above it gets the halves."""

    def __init__(
        self, size: tuple[int, int], tile: tuple[int, int], bands: int, kind: tuple[str, float], file: Path
    ) -> None:
        self.width, self.height, self.tile, self.bands = *size, tile, bands
        self.dtype, self.nodata = kind
        self.file, self.sizes, self._rows = file, list[int](), 0  # rows that have arrived
        self._room: Pixels | None = None  # rows of a tile over the whole width
        self._waiting = 0  # rows of it that are there
        self.above: Floor | None = None
        file.write_bytes(b"")
        if max(size) > max(tile):
            half = -(-self.width // 2), -(-self.height // 2)
            self.above = Floor(half, tile, bands, kind, file.with_name(f"{file.name}-"))

    @property
    def floors(self) -> list["Floor"]:
        """This one and those above."""
        return [self, *(self.above.floors if self.above else [])]

    @property
    def layer(self) -> Layer:
        return Layer(self.width, self.height, self.sizes, stored(self.file, self.sizes))

    def add(self, pixels: Pixels) -> None:
        most, done = self.tile[1], 0
        while done < pixels.shape[1]:
            rows = pixels[:, done : done + most - self._waiting]
            done += rows.shape[1]
            self._rows += rows.shape[1]
            whole = self._waiting + rows.shape[1] == most or self._rows == self.height
            if whole and not self._waiting:
                self._keep(rows)
                continue
            if self._room is None:
                self._room = np.empty((self.bands, most, self.width), self.dtype)
            self._room[:, self._waiting : self._waiting + rows.shape[1]] = rows
            self._waiting += rows.shape[1]
            if whole:
                self._keep(self._room[:, : self._waiting])
                self._waiting = 0

    def add_empty(self, rows: int) -> None:
        """Rows of nothing but nodata; whole tiles of it are not even looked at."""
        missing = -self._waiting % self.tile[1]
        first = min(rows, missing)
        if first:
            self.add(np.full((self.bands, first, self.width), self.nodata, self.dtype))
        tiles, rest = divmod(rows - first, self.tile[1])
        for _ in range(tiles):
            self._rows += self.tile[1]
            self.sizes += [0] * -(-self.width // self.tile[0])
            if self.above:
                self.above.add_empty(self.tile[1] // 2)
        if rest:
            self.add(np.full((self.bands, rest, self.width), self.nodata, self.dtype))

    def _keep(self, rows: Pixels) -> None:
        tiles = [encode(rows[:, :, x : x + self.tile[0]], self.tile, self.nodata) for x in self._starts]
        self.sizes += [len(tile) for tile in tiles]
        with self.file.open("ab") as file:
            file.writelines(tiles)
        if self.above:
            self.above.add(halved(rows, self.nodata))

    @property
    def _starts(self) -> range:
        return range(0, self.width, self.tile[0])


def stored(file: Path, sizes: list[int]) -> Iterator[bytes]:
    """The tiles of a file, one after the other."""
    with file.open("rb") as source:
        for size in sizes:
            if size:
                yield source.read(size)
