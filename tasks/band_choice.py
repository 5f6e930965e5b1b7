"""Which bands of a picture a raster function reads (`extractBands`, ArcGIS formats E.2): indexes from 0, or names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from registry.errors import ImageryError
from registry.records import few
from tasks.host import Configuration
from tasks.imagery import COLOURS

OF_ANY_PICTURE = (COLOURS, (*COLOURS, "band_4"))  # so GDAL calls three or four bands of 8 bits, whatever they are


class Banded(Protocol):
    @property
    def path(self) -> Path: ...
    @property
    def band_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Bands:
    """Of a picture that is no raster on the disk."""

    path: Path  # where it comes from
    band_names: tuple[str, ...]


def band_indexes(image: Banded, configuration: Configuration) -> tuple[int, ...] | None:
    """The bands that the function asks for, as indexes from 0; None: all. Raises ImageryError where some are missing.

    Indexes count the bands of the training imagery. A raster that has bands of the same names in another order, or
    others between them, is read by name; ArcGIS would read it by index.
    """
    wanted = _where_they_lie(configuration.extract_bands, configuration.trained_bands, image.band_names)
    if wanted is None:
        return None
    found = places(wanted, image.band_names)
    if missing := [b for b, i in zip(wanted, found, strict=True) if i < 0]:
        have = f"the raster has {len(image.band_names)} ({few(image.band_names)})"
        what = f"lacks bands of the model, which reads {len(wanted)}: no {few(missing)}, counted from 0"
        raise ImageryError(f"{what}; {have}", where=image.path, do="use imagery with the bands of the training imagery")
    return tuple(found)


def pair_indexes(first: Banded, second: Banded, configuration: Configuration) -> tuple[int, ...] | None:
    """The same of two dates, the bands of the second counted on from those of the first.

    The second half of what the function asks for is the same bands of the second date (ArcGIS formats E.9).
    Raises ImageryError when either date lacks them.
    """
    wanted = configuration.extract_bands
    if wanted is None:
        return None
    half = len(wanted) // 2
    if 2 * half != len(wanted):
        do = "use dlpk classify-pixels if it looks at one date"
        raise ImageryError("cannot be split for a model that reads an odd number of bands", where=first.path, do=do)
    before, after = wanted[:half], wanted[half:]
    offsets = [b - a for a, b in zip(before, after, strict=True) if isinstance(a, int) and isinstance(b, int)]
    shift = offsets[0] if offsets else 0  # bands of one date, when the model was trained
    again = tuple(b if isinstance(b, str) else b - shift for b in after)
    one = band_indexes(first, replace(configuration, extract_bands=before))
    two = band_indexes(second, replace(configuration, extract_bands=again))
    assert one is not None
    assert two is not None
    return one + tuple(len(first.band_names) + band for band in two)


def _where_they_lie(
    wanted: tuple[int | str, ...] | None, trained: Sequence[str], names: Sequence[str]
) -> tuple[int | str, ...] | None:
    """Indexes for this raster, where it has each of these bands of the training imagery once; else as they are."""
    if tuple(map(str.lower, names)) in OF_ANY_PICTURE:
        return wanted
    indexes = range(len(trained)) if wanted is None else wanted
    told = [trained[b] if isinstance(b, int) and 0 <= b < len(trained) else "" for b in indexes]
    found, known = places(told, names), Counter(name.lower() for name in names)
    sure = found and -1 not in found and all(known[name.lower()] == 1 for name in told) and len({*found}) == len(found)
    return tuple(found) if sure and (wanted is not None or found != [*range(len(names))]) else wanted


def places(wanted: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Of each band its index from 0, -1 where there is none; names in any case."""
    known = [name.lower() for name in names]
    found = [(known.index(b.lower()) if b.lower() in known else -1) if isinstance(b, str) else b for b in wanted]
    return [i if 0 <= i < len(known) else -1 for i in found]
