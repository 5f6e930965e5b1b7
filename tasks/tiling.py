"""How a raster is divided for inference: blocks for the function, units for the checkpoints, tiles in the file.

Blocks lie where ArcGIS would lay them, every tx by ty pixels from the upper left corner (ArcGIS formats E.12). A unit
is a rectangle of whole blocks, done by one process and kept as one file. Its sides are whole tiles of the result, too,
so a finished unit holds finished tiles, and nothing is encoded twice.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

LARGEST_UNIT = 4096  # pixels, side of a unit; what a kill may cost is less than a unit
BEST_TILE = 512  # pixels, side of a tile of the result
TIFF_STEP = 16  # sides of TIFF tiles are multiples of it


@dataclass(frozen=True)
class Window:
    """Whole pixels of the working grid."""

    col: int
    row: int
    width: int
    height: int


@dataclass(frozen=True)
class Plan:
    """Of a raster of width x height pixels. `unit` and `tile` are columns, rows."""

    width: int
    height: int
    unit: tuple[int, int]
    tile: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, tx: int, ty: int) -> "Plan":
        across, down = sides(tx), sides(ty)
        return cls(width, height, (across[0], down[0]), (across[1], down[1]))

    @property
    def columns(self) -> int:
        """Units beside each other."""
        return math.ceil(self.width / self.unit[0])

    @property
    def rows(self) -> int:
        return math.ceil(self.height / self.unit[1])

    def __len__(self) -> int:
        return self.columns * self.rows

    def window(self, number: int) -> Window:
        """What a unit covers, inside the raster; units are numbered row by row."""
        row, col = divmod(number, self.columns)
        left, top = col * self.unit[0], row * self.unit[1]
        return Window(left, top, min(self.unit[0], self.width - left), min(self.unit[1], self.height - top))


def sides(step: int) -> tuple[int, int]:
    """Side of a unit of blocks of `step` pixels, and of the tiles that it is whole in: near 512, else the nearest."""
    most = max(LARGEST_UNIT // step, TIFF_STEP // math.gcd(step, TIFF_STEP))
    pairs = [(unit, tile) for unit in range(step, most * step + 1, step) for tile in _tiles(unit)]
    return min(pairs, key=lambda pair: (abs(math.log(pair[1] / BEST_TILE)), -pair[0]))


def _tiles(unit: int) -> Iterator[int]:
    return (tile for tile in range(TIFF_STEP, min(unit, 2 * LARGEST_UNIT) + 1, TIFF_STEP) if unit % tile == 0)


def block_windows(within: Window, raster: tuple[int, int], step: tuple[int, int], fixed: bool) -> Iterator[Window]:
    """Blocks without their padding, row by row; of no `fixed` size they end with the raster (columns, rows)."""
    for row in range(within.row, within.row + within.height, step[1]):
        for col in range(within.col, within.col + within.width, step[0]):
            size = step if fixed else (min(step[0], raster[0] - col), min(step[1], raster[1] - row))
            yield Window(col, row, *size)
