"""A cloud optimised GeoTIFF out of tiles that are encoded already.

GDAL's own driver would decode every tile and encode it again. GDAL still says what the file is: a picture of one tile
with the place, colours, nodata and tags of the result is made in memory, and its TIFF tags are taken over. Layout:
header, directories, the smallest overview's tiles, ..., the full picture's tiles row by row, each with its length
before and its last four bytes repeated behind, as GDAL promises its readers (https://gdal.org/drivers/raster/cog.html).
"""

import struct
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from registry.emd import ClassLabel

LEVEL = 1  # of deflate: class rasters become hardly smaller by more, but take six times as long
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}  # bytes, by TIFF type
SHORT, LONG, LONG8 = 3, 4, 16
SUBFILE, WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS = 254, 256, 257, 322, 323, 324, 325
OF_THE_PICTURE = {33550, 33922, 34264, 34735, 34736, 34737, 42112}  # place and tags: not of overviews
PROMISE = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
Tags = dict[int, tuple[int, bytes]]  # tag -> TIFF type, values


@dataclass(frozen=True)
class Layer:
    """A picture in the file: the full one, or an overview."""

    width: int
    height: int
    sizes: Sequence[int]  # bytes of each tile, row by row; 0 = nothing but nodata, not stored
    tiles: Iterable[bytes]  # of those that are stored, in order


@dataclass(frozen=True)
class Description:
    """What the file says beside its pixels."""

    profile: Mapping[str, Any]  # crs, transform, dtype, count, nodata
    tags: Mapping[str, str]
    band_tags: Mapping[str, str]  # of the first band
    classes: Sequence[ClassLabel]  # for the colours
    tile: tuple[int, int]  # columns, rows
    band_names: Sequence[str] = ()


def encode(pixels: NDArray[np.generic], tile: tuple[int, int], nodata: float) -> bytes:
    """(bands, rows, cols) of a tile, filled up to its whole size; empty where everything is nodata."""
    empty = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    if empty.all():
        return b""
    bands, rows, cols = pixels.shape
    if (cols, rows) != tile:
        whole = np.full((bands, tile[1], tile[0]), nodata, pixels.dtype)
        whole[:, :rows, :cols] = pixels
        pixels = whole
    return zlib.compress(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).data, LEVEL)


def write_cog(path: Path, layers: Sequence[Layer], description: Description, *, big: bool = False) -> None:
    """`layers`: the full picture, then its overviews, each half as large. `big`: a BigTIFF also where none is needed.

    Tiles may be made while they are written; their sizes are told before.
    """
    common = _tags_of(description)
    stored = sum(sum(size + 8 for size in layer.sizes if size) for layer in layers)
    tables = sum(16 * len(layer.sizes) + 4096 + sum(len(v) for _, v in common.values()) for layer in layers)
    big = big or stored + tables > 4_000_000_000
    head = _head(layers, common, description.tile, big)
    with path.open("wb") as file:
        file.write(head)
        for layer in reversed(layers):
            for tile in layer.tiles:
                file.write(struct.pack("<I", len(tile)))
                file.write(tile)
                file.write(tile[-4:])


def _head(layers: Sequence[Layer], common: Tags, tile: tuple[int, int], big: bool) -> bytes:
    """Header and directories. Where the tiles begin depends on how long it is, so it is made twice."""
    promise = f"GDAL_STRUCTURAL_METADATA_SIZE={len(PROMISE):06d} bytes\n{PROMISE}".encode("ascii")
    first = (16 if big else 8) + len(promise)
    first += first % 2
    start = 0
    for _ in range(2):
        head = _magic(big, first) + promise
        head += b"\0" * (first - len(head))
        offsets = _offsets(layers, start)
        for number, (layer, places) in enumerate(zip(layers, offsets, strict=True)):
            tags = _of_layer(layer, places, common, tile, number > 0, big)
            head += _directory(tags, len(head), big, last=number == len(layers) - 1)
        start = len(head)
    return head


def _magic(big: bool, first: int) -> bytes:
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if big else struct.pack("<2sHI", b"II", 42, first)


def _offsets(layers: Sequence[Layer], start: int) -> list[NDArray[np.uint64]]:
    """Where each tile's bytes begin, behind the four that tell their number; the smallest overview comes first."""
    found = []
    for layer in reversed(layers):
        sizes = np.asarray(layer.sizes, np.uint64)
        steps = np.where(sizes > 0, sizes + 8, 0).astype(np.uint64)
        ends = np.cumsum(steps)
        found.append(np.where(sizes > 0, start + ends - steps + 4, 0).astype(np.uint64))
        start += int(ends[-1])
    return found[::-1]


def _of_layer(
    layer: Layer, places: NDArray[np.uint64], common: Tags, tile: tuple[int, int], overview: bool, big: bool
) -> Tags:
    tags = {tag: value for tag, value in common.items() if not (overview and tag in OF_THE_PICTURE)}
    numbers = {WIDTH: layer.width, HEIGHT: layer.height, TILE_WIDTH: tile[0], TILE_HEIGHT: tile[1]}
    numbers |= {SUBFILE: 1} if overview else {}
    tags |= {tag: (LONG, struct.pack("<I", number)) for tag, number in numbers.items()}
    tags[OFFSETS] = (LONG8, places.tobytes()) if big else (LONG, places.astype("<u4").tobytes())
    tags[COUNTS] = (LONG, np.asarray(layer.sizes, "<u4").tobytes())
    return tags


def _directory(tags: Tags, at: int, big: bool, *, last: bool) -> bytes:
    """A TIFF directory that lies at `at`, and behind it the values that do not fit into it."""
    room, entry = (8, 20) if big else (4, 12)
    size = (8 if big else 2) + entry * len(tags) + room
    rows, values = b"", b""
    for tag, (kind, value) in sorted(tags.items()):
        count = len(value) // WIDTHS[kind]
        if len(value) <= room:
            place = value.ljust(room, b"\0")
        else:
            place = struct.pack("<Q" if big else "<I", at + size + len(values))
            values += value + b"\0" * (-len(value) % 8)
        rows += struct.pack("<HHQ" if big else "<HHI", tag, kind, count) + place
    values += b"\0" * (-(at + size + len(values)) % 8)
    following = 0 if last else at + size + len(values)
    number = struct.pack("<Q" if big else "<H", len(tags))
    return number + rows + struct.pack("<Q" if big else "<I", following) + values


def _tags_of(description: Description) -> Tags:
    """What GDAL writes into a file of this description, but of a single tile."""
    cols, rows = description.tile
    layout = {"driver": "GTiff", "width": cols, "height": rows, "tiled": True, "blockxsize": cols, "blockysize": rows}
    settings = {"compress": "deflate", "interleave": "pixel", "sparse_ok": True, "bigtiff": "no"}
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(memory.name, "w", **layout, **settings, **description.profile) as file:
                file.update_tags(**description.tags)
                for band, name in enumerate(description.band_names, 1):
                    file.set_band_description(band, name)
                if file.count == 1:
                    file.update_tags(1, **description.band_tags)
                    if file.dtypes[0] in {"uint8", "uint16"}:
                        colours = {c.value: c.color for c in description.classes if min(c.color) >= 0}
                        if colours:
                            file.write_colormap(1, colours)
        return _read(memory.read())


def _read(content: bytes) -> Tags:
    """The tags of the first directory of a classic little-endian TIFF."""
    assert content[:4] == b"II*\0", "GDAL writes little-endian classic TIFF"
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    tags = {}
    for i in range(count):
        entry = directory + 2 + 12 * i
        tag, kind, number, value = struct.unpack_from("<HHII", content, entry)
        width = WIDTHS[kind] * number
        at = value if width > 4 else entry + 8
        tags[tag] = (kind, content[at : at + width])
    return tags
