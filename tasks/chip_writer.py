"""Writes an exported folder: chips one by one, then what ArcGIS keeps about all of them (ArcGIS formats D)."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel, Emd
from registry.errors import ImageryError, LabelError, OptionsError
from registry.files import write_text
from tasks.chip_statistics import ChipStatistics
from tasks.chips import DEFINITION, FILE_TYPES, Chip
from tasks.imagery import ImageryFacts
from tasks.rasters import write_raster

if TYPE_CHECKING:
    from tasks.export import ExportOptions
    from tasks.scene import Scene

WELL_KNOWN_BANDS = [  # ArcGIS formats A.8
    "Red",
    "Green",
    "Blue",
    "Infrared",
    "CoastalBlue",
    "Yellow",
    "RedEdge",
    "ShortWaveInfrared",
    "NearInfrared",
    "NearInfrared_1",
    "NearInfrared_2",
    "MidInfrared",
    "MidInfrared_1",
    "MidInfrared_2",
    "Thermal",
    "Thermal_1",
    "Thermal_2",
    "Panchromatic",
    "PseudoRed",
    "PseudoGreen",
    "PseudoBlue",
]


class ChipWriter:
    """Chips in, folder out. `finish` writes the definition last, which makes the folder an export."""

    def __init__(self, out: Path, classes: tuple[ClassLabel, ...], options: "ExportOptions") -> None:
        self.out, self.classes, self.options = out, classes, options
        self.format = plugins.load(tasks.formats, options.metadata_format)
        self.suffix = FILE_TYPES[options.image_chip_format]
        self.statistics = ChipStatistics(classes, carries=self.format.CARRIES)
        self.left_out: Counter[str] = Counter()
        self.count = 0
        self.lines: list[str] = []
        self.imagery: list[ImageryFacts] = []

    def add(self, chip: Chip, scene: "Scene") -> None:
        """Write one chip under the next running number."""
        self._same_kind(scene.imagery.facts)
        chip = replace(chip, name=f"{self.count:09d}")
        image = self._path("images", chip.name + self.suffix)
        label = self._path("labels", chip.name + (self.format.SUFFIX or ".tif"))
        write_raster(image, chip.image, chip.grid, nodata=_nodata(chip))
        self.format.write(chip, self.classes, label)
        self.statistics.add(chip)
        self.lines.append(f"images\\{image.name}  labels\\{label.name} \r\n")  # two spaces, CRLF: D.2
        self.count += 1

    def finish(self) -> None:
        """Raises LabelError with the reasons when no chip was left."""
        if not self.imagery:
            reasons = ", ".join(f"{number} left out for {why}" for why, number in self.left_out.items())
            do = "check that labels and imagery overlap, or change stride, extent or max_nodata_share"
            raise LabelError(
                f"no chip is left: {reasons or 'the extent is smaller than a pixel'}", where=self.out, do=do
            )
        size = self.options.tile_size
        write_text(self.out / "map.txt", "".join(self.lines))
        write_text(self.out / "stats.txt", self.statistics.text(size))
        stats = self.statistics.document(size, self.options.metadata_format)
        write_text(self.out / "esri_accumulated_stats.json", json.dumps(stats))
        self._definition().write(self.out / DEFINITION)

    def _definition(self) -> Emd:
        """D.4: the keys of old exports first, then those that readers have used since Pro 2.7."""
        names = self.imagery[0].band_names
        size = self.options.tile_size
        return Emd(
            {
                "Framework": "e.g. PyTorch",
                "ModelConfiguration": "some description",
                "ModelType": "e.g. ObjectDetection or ImageClassification",
                "ModelFile": "e.g. trained.pth",
                "ImageHeight": size,
                "ImageWidth": size,
                "ExtractBands": list(range(len(names))),
                "Classes": [c.document() for c in self.classes],
                "WellKnownBandNames (FYI, these band names can be used in ExtractBands)": WELL_KNOWN_BANDS,
                "MetaDataMode": self.options.metadata_format,
                "ImageSpaceUsed": "MAP_SPACE",
                "InputRastersProps": {"RasterCount": len(self.imagery), "SensorName": "", "BandNames": list(names)},
                "AllTilesStats": [s.document() for s in self.statistics.bands(names)],
                "MinCellSize": _cell_size(min(self.imagery, key=lambda facts: facts.cell)),
                "MaxCellSize": _cell_size(max(self.imagery, key=lambda facts: facts.cell)),
            }
        )

    def _same_kind(self, facts: ImageryFacts) -> None:
        if facts in self.imagery:
            return
        first = (self.imagery or [facts])[0]
        if (len(first.band_names), first.dtype) != (len(facts.band_names), facts.dtype):
            what = f"expected {len(first.band_names)} bands of {first.dtype} as in {first.path.name}"
            got = f"{len(facts.band_names)} of {facts.dtype}"
            raise ImageryError(what, where=facts.path, got=got, do="export scenes of one sensor together, others apart")
        kind = self.options.image_chip_format
        if kind != "TIFF" and (facts.dtype != "uint8" or len(facts.band_names) not in (1, 3)):
            got = f"{len(facts.band_names)} bands of {facts.dtype}"
            raise OptionsError(f"image_chip_format {kind} holds 1 or 3 bands of uint8", got=got, do="choose TIFF")
        self.imagery.append(facts)

    def _path(self, folder: str, name: str) -> Path:
        (self.out / folder).mkdir(parents=True, exist_ok=True)
        return self.out / folder / name


def _cell_size(facts: ImageryFacts) -> dict[str, object]:
    reference = {"wkid": facts.epsg, "latestWkid": facts.epsg} if facts.epsg else None
    return {"x": facts.cell[0], "y": facts.cell[1], "spatialReference": reference}


def _nodata(chip: Chip) -> float | None:
    """Invalid pixels are 0 already; say so in the file only where there are some and 0 is no value of valid ones."""
    if chip.valid.all():
        return None
    return None if (np.asarray(chip.image)[:, chip.valid] == 0).all(axis=0).any() else 0
