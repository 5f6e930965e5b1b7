"""Export Training Data For Deep Learning: imagery and labels in, a folder of labelled chips out.

    chips/  images/ labels/ map.txt stats.txt esri_accumulated_stats.json   and, last of all, esri_model_definition.emd

Chips are cut row by row from the upper left corner, in whole pixels. A chip that reaches over the edge is filled with
nodata; one with more nodata than `max_nodata_share` is left out. The same input gives the same bytes.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from registry.emd import ClassLabel
from registry.errors import DlpkError, ImageryError, LabelError
from tasks.chips import DEFINITION, Chip, ChipFolder
from tasks.options import Options
from tasks.progress import OnProgress, Progress, ignore

if TYPE_CHECKING:
    from tasks.scene import Scene

Extent = tuple[float, float, float, float]


class ExportOptions(Options):
    metadata_format: Literal["PASCAL_VOC_rectangles", "Classified_Tiles"] = Field(
        "PASCAL_VOC_rectangles",
        description="form of the labels: rectangles to detect objects, tiles to classify pixels",
    )
    image_chip_format: Literal["TIFF", "PNG", "JPEG"] = Field(
        "TIFF", description="file type of the chips; PNG and JPEG hold 8 bits and at most 3 bands"
    )
    tile_size: int = Field(256, ge=32, le=4096, description="side of a chip, in pixels of the working cell size")
    stride: int = Field(128, ge=1, description="step between chips, in pixels; equal to tile_size means no overlap")
    output_nofeature_tiles: bool = Field(False, description="also write chips that hold no feature (ALL_TILES)")
    class_value_field: str = Field("", description="field of the class; empty: Classvalue, class_value or Value")
    min_polygon_overlap_ratio: float = Field(
        0.0, ge=0, le=1, description="a feature of which a smaller share lies in the chip is left out, 0-1"
    )
    cell_size: float | None = Field(None, gt=0, description="side of a pixel in map units; empty: that of the imagery")
    extent: Extent | None = Field(None, description="only cut inside xmin ymin xmax ymax, in the imagery's map units")
    max_nodata_share: float = Field(0.5, ge=0, lt=1, description="leave out chips with a larger share of nodata, 0-1")


def export_training_data(
    imagery: Path | Sequence[Path],
    labels: Path,
    out: Path,
    options: ExportOptions,
    *,
    classes: Sequence[ClassLabel] = (),
    on_progress: OnProgress = ignore,
) -> ChipFolder:
    """Cut imagery into labelled chips, as Export Training Data For Deep Learning does (ArcGIS formats D, F.1).

    Several rasters are processed one by one (PROCESS_ITEMS_SEPARATELY). A finished export of the same input is
    returned as it is; an unfinished one is done anew. Raises ImageryError, LabelError, Conflict, StoreError.
    """
    from tasks import receipt
    from tasks.chip_writer import ChipWriter
    from tasks.scene import Labels, open_scene

    scenes = [imagery] if isinstance(imagery, Path) else list(imagery)
    _check_inputs(scenes, labels)
    stamps = {"imagery": [receipt.stamp(path) for path in scenes], "labels": receipt.stamp(labels)}
    facts = {**stamps, "options": options.model_dump(mode="json"), "classes": [c.document() for c in classes]}
    receipt.claim(out, "export", facts)
    if (out / DEFINITION).is_file():
        return ChipFolder.open(out)
    _clear(out)
    known = Labels.read(labels, options.class_value_field, classes)
    writer = ChipWriter(out, known.classes, options)
    try:
        for path in scenes:
            with open_scene(path, known, options) as scene:
                for chip in _labelled(scene, options, writer.left_out, on_progress):
                    writer.add(chip, scene)
        writer.finish()
    except BaseException:
        _clear(out)  # a kill leaves the files, but never the .emd that says finished
        raise
    return ChipFolder.open(out)


def split_extent(imagery: Path, side: str, share: float) -> tuple[Extent, Extent]:
    """Two extents of a scene, in map units: what remains, and the `share` of it held out at `side`.

    `side` is north, east, south or west.
    """
    from tasks.imagery import open_imagery

    with open_imagery(imagery) as image:
        west, south, east, north = image.bounds
    x, y = (east - west) * share, (north - south) * share
    halves = {
        "west": ((west + x, south, east, north), (west, south, west + x, north)),
        "east": ((west, south, east - x, north), (east - x, south, east, north)),
        "south": ((west, south + y, east, north), (west, south, east, south + y)),
        "north": ((west, south, east, north - y), (west, north - y, east, north)),
    }
    return halves[side]


def _labelled(scene: "Scene", options: ExportOptions, left_out: Counter[str], tell: OnProgress) -> Iterator[Chip]:
    """The chips of a scene that are worth writing; what is left out is counted by reason."""
    windows = scene.windows()
    for done, window in enumerate(windows):
        tell(Progress(f"export {scene.imagery.path.name}", done, len(windows), "chips"))
        if not (options.output_nofeature_tiles or scene.may_hold_features(window)):
            left_out["no feature"] += 1
            continue
        chip = scene.cut(window)
        if 1 - chip.valid.mean() > options.max_nodata_share:
            left_out["nodata"] += 1
        elif not (options.output_nofeature_tiles or len(chip.boxes) or (chip.mask is not None and chip.mask.any())):
            left_out["no feature"] += 1
        else:
            yield chip
    tell(Progress(f"export {scene.imagery.path.name}", len(windows), len(windows), "chips"))


def _check_inputs(scenes: Sequence[Path], labels: Path) -> None:
    if not scenes:
        raise ImageryError("no imagery was given", do="name at least one raster")
    missing: list[tuple[Path, type[DlpkError]]] = [(p, ImageryError) for p in scenes if not p.exists()]
    missing += [] if labels.exists() else [(labels, LabelError)]
    for path, kind in missing:
        raise kind("does not exist", where=path, do="check the path")


def _clear(out: Path) -> None:
    for item in out.iterdir():
        if item.name in ("images", "labels"):
            shutil.rmtree(item)
        elif item.name in ("map.txt", "stats.txt", "esri_accumulated_stats.json"):
            item.unlink()
