"""What an export says about all of its chips (ArcGIS formats D.2 to D.5), the definition last of all."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel, Emd
from registry.files import write_text
from tasks.chip_statistics import ChipStatistics
from tasks.chips import ACCUMULATED, DEFINITION, SPLITS
from tasks.exporting.chip_writer import Part
from tasks.exporting.crew import Run
from tasks.exporting.options import ExportOptions
from tasks.exporting.report import ExportFacts, write_export_report
from tasks.imagery import ImageryFacts
from tasks.preview import unfinished, write_preview

PREPARED = ("digest", "preview")  # for the page that shows both

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


@dataclass(frozen=True)
class Export:
    """All that is known of an export when its chips are written."""

    options: ExportOptions
    classes: tuple[ClassLabel, ...]
    imagery: tuple[ImageryFacts, ...]
    second: ImageryFacts | None  # of in_raster2
    part: Part
    facts: ExportFacts
    splits: dict[str, list[str]]  # names by train, validation, test; {} = not split


def finish(out: Path, export: Export, run: Run, *, staged: bool = False) -> None:
    """Everything but the chips, so that the folder becomes an export; the definition last.

    staged: the chips will join those of another export, where what is told of all of them will be made.
    """
    part, options, definition = export.part, export.options, _definition(export)
    size = (options.tile_size_y, options.tile_size_x)
    write_text(out / "map.txt", _map(part))
    write_text(out / "stats.txt", part.statistics.text(size))
    write_text(out / ACCUMULATED, json.dumps(part.statistics.document(size, options.metadata_format)))
    if export.splits:
        write_text(out / SPLITS, json.dumps(export.splits, indent=1))
    if not staged:
        gather = getattr(plugins.load(tasks.formats, options.metadata_format), "finish", None)
        if gather:
            gather(out, part.names, export.classes)
        write_pages(out, definition, export.facts, run)
    definition.write(out / DEFINITION)


def _map(part: Part) -> str:
    """A line for each chip; arcgis.learn opens the picture of the first one, whose name it ends at a blank."""
    notes = sorted((part.notes[name] for name in part.names), key=lambda note: " " in note.files[0])
    return "".join(note.line for note in notes)


def write_pages(out: Path, definition: Emd, facts: ExportFacts | None = None, run: Run | None = None) -> None:
    """What people look at. A crew draws the preview while another of it reads all files for the digest."""
    do = partial(_prepared, out, definition, facts.holds if facts else None)
    made = dict(run(do, PREPARED) if run else map(do, PREPARED))
    write_export_report(out, facts, definition, made["digest"])


def _prepared(out: Path, definition: Emd, holds: NDArray[np.int64] | None, what: str) -> tuple[str, str]:
    if what == "digest":
        return what, unfinished(out, definition).digest
    return what, str(write_preview(out, definition, holds))


def _definition(export: Export) -> Emd:
    """D.4: the keys of old exports first, then those that readers have used since Pro 2.7."""
    options, statistics, names = export.options, export.part.statistics, _band_names(export.imagery[0])
    second = (
        {"AllTilesStats2": [s.document() for s in statistics.bands2(export.second.band_names)]} if export.second else {}
    )
    return Emd(
        {
            "Framework": "e.g. PyTorch",
            "ModelConfiguration": "some description",
            "ModelType": "e.g. ObjectDetection or ImageClassification",
            "ModelFile": "e.g. trained.pth",
            "ImageHeight": options.tile_size_y,
            "ImageWidth": options.tile_size_x,
            "ExtractBands": list(range(len(names))),
            "Classes": [c.document() for c in export.classes],
            "WellKnownBandNames (FYI, these band names can be used in ExtractBands)": WELL_KNOWN_BANDS,
            "MetaDataMode": options.metadata_format,
            "ImageSpaceUsed": options.reference_system,
            "InputRastersProps": {"RasterCount": len(export.imagery), "SensorName": "", "BandNames": list(names)},
            "AllTilesStats": [s.document() for s in statistics.bands(names)],
            **second,
            "MinCellSize": _cell_size(min(export.imagery, key=lambda facts: facts.cell)),
            "MaxCellSize": _cell_size(max(export.imagery, key=lambda facts: facts.cell)),
            **_labelled_tiles(options),
            **_panoptic(statistics),
        }
    )


def _band_names(facts: ImageryFacts) -> tuple[str, ...]:
    """Plain colours of 8 bits in lower case: only so are they known as such by a reader without GDAL (D.4)."""
    lower = tuple(name.lower() for name in facts.band_names)
    return lower if facts.dtype == "uint8" and sorted(lower) == ["blue", "green", "red"] else facts.band_names


def _labelled_tiles(options: ExportOptions) -> dict[str, object]:
    if options.metadata_format not in ("Labeled_Tiles", "MultiLabeled_Tiles", "Imagenet"):
        return {}
    mode = "Variable_Size" if options.crop_mode == "BOUNDING_BOX" else "Fixed_Size"
    return {"CropTileMode": mode, "BlackenAroundFeature": options.blacken_around_feature}


def _panoptic(statistics: ChipStatistics) -> dict[str, object]:
    if statistics.carries != "panoptic":
        return {}
    return {"Panoptic_Segmentation_Instance_Classes": [c.document() for c in statistics.instance_classes]}


def _cell_size(facts: ImageryFacts) -> dict[str, object]:
    reference = {"wkid": facts.epsg, "latestWkid": facts.epsg} if facts.epsg else None
    return {"x": facts.cell[0], "y": facts.cell[1], "spatialReference": reference}
