"""Several folders of chips seen as one, as Train Deep Learning Model takes them (ArcGIS formats F.2).

Chip 000000007 of the second folder is called `1/000000007`; nothing on the disk is touched.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from registry.emd import BandStatistics, ClassLabel, Emd
from registry.errors import LabelError
from tasks.chips import Chip, ChipFolder

SAME = ("metadata_format", "tile_shape", "paired")  # what folders that are read together have in common


def open_chips(paths: Sequence[Path]) -> ChipFolder:
    """One folder, or several as one. Raises LabelError for an unfinished export, or folders that do not fit."""
    folders = [ChipFolder.open(path) for path in paths]
    if len(folders) == 1:
        return folders[0]
    first = folders[0]
    for folder in folders[1:]:
        for what in SAME:
            mine, its = getattr(first, what), getattr(folder, what)
            if mine != its:
                do = "train on folders of one kind: export the others again in the same way"
                raise LabelError(f"{what} of {first.path} is {mine!r}", where=folder.path, got=its, do=do)
        mine, its = ([band.name for band in f.band_statistics] for f in (first, folder))
        if len(mine) != len(its):
            raise LabelError(f"{first.path} has the bands {mine}", where=folder.path, got=its)
        if mine != its and sorted(mine) == sorted(its):
            do = "export the others again with the bands in this order"
            raise LabelError(f"{first.path} has the bands {mine} in this order", where=folder.path, got=its, do=do)
    classes = _classes(folders)
    return ChipFolders(first.path, classes, tuple(replace(folder, together=classes) for folder in folders))


@dataclass(frozen=True)
class ChipFolders(ChipFolder):
    """`folders` in the order given; `path` is that of the first."""

    folders: tuple[ChipFolder, ...] = ()

    @cached_property
    def definition(self) -> Emd:
        """Of the first folder, with the classes of all, and what was measured over all of them."""
        documents = [folder.definition.document for folder in self.folders]
        document: dict[str, Any] = {**documents[0], "Classes": [label.document() for label in self.together]}
        document["AllTilesStats"] = self._pooled([folder.band_statistics for folder in self.folders])
        seconds = [folder.definition.second_band_statistics for folder in self.folders]
        if any(seconds):
            each = [own or folder.band_statistics for own, folder in zip(seconds, self.folders, strict=True)]
            document["AllTilesStats2"] = self._pooled(each)
        for key, choose in (("MinCellSize", min), ("MaxCellSize", max)):
            if known := [d[key] for d in documents if isinstance(d.get(key), dict)]:
                document[key] = choose(known, key=lambda cell: float(cell["x"]))
        return Emd(document, self.folders[0].definition.where)

    @property
    def accumulated(self) -> dict[str, Any]:
        """Of no folder: each has its own."""
        return {}

    @property
    def metadata_format(self) -> str:
        return self.folders[0].metadata_format

    @cached_property
    def pictures(self) -> dict[str, Path]:
        return self._named(folder.pictures for folder in self.folders)

    @cached_property
    def files(self) -> dict[str, Path]:
        return self._named(folder.files for folder in self.folders)

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Of all; where some folders were split, all chips of the others are to train on."""
        if not any(folder.splits for folder in self.folders):
            return {}
        parts: dict[str, tuple[str, ...]] = {}
        for i, folder in enumerate(self.folders):
            for part, names in (folder.splits or {"train": folder.names}).items():
                parts[part] = (*parts.get(part, ()), *(f"{i}/{name}" for name in names))
        return parts

    def read(self, name: str) -> Chip:
        self._picture(name)  # raises LabelError where there is none
        number, _, own = name.partition("/")
        return replace(self.folders[int(number)].read(own), name=name)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("".join(folder.digest for folder in self.folders).encode()).hexdigest()

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(folder.digest for folder in self.folders)

    @cached_property
    def seconds(self) -> dict[str, Path]:
        return self._named(folder.seconds for folder in self.folders)

    @staticmethod
    def _named(files: Iterable[Mapping[str, Path]]) -> dict[str, Path]:
        return {f"{i}/{name}": path for i, own in enumerate(files) for name, path in own.items()}

    def _pooled(self, measured: Sequence[Sequence[BandStatistics]]) -> list[dict[str, Any]]:
        """Each folder counts by its chips."""
        return [_pool(bands, [len(folder.files) for folder in self.folders]) for bands in zip(*measured, strict=True)]


def _pool(bands: Sequence[BandStatistics], counts: Sequence[int]) -> dict[str, Any]:
    shares = [count / sum(counts) for count in counts]
    mean = sum(share * band.mean for share, band in zip(shares, bands, strict=True))
    square = sum(share * (band.std**2 + band.mean**2) for share, band in zip(shares, bands, strict=True))
    low, high = min(band.min for band in bands), max(band.max for band in bands)
    return BandStatistics(bands[0].name, low, high, mean, max(0.0, square - mean**2) ** 0.5).document()


def _classes(folders: Sequence[ChipFolder]) -> tuple[ClassLabel, ...]:
    """All that occur, by Value. Raises LabelError where one Value, or one name, means two things."""
    known: dict[int, ClassLabel] = {}
    for folder in folders:
        for label in folder.listed:
            mine = known.setdefault(label.value, label)
            twins = [k for k in known.values() if k.name == label.name and k.value != label.value]
            if mine.name != label.name or twins:
                told = mine if mine.name != label.name else twins[0]
                what = f"class {told.value} is {told.name!r} in the folders before"
                do = "give the classes the same values in all folders"
                raise LabelError(what, where=folder.path, got=f"{label.value} {label.name!r}", do=do)
    return tuple(known[value] for value in sorted(known))
