"""Which rasters an inference reads, and where each result goes.

A raster is called by its path below the folder or the plain part of the pattern, without suffix: `2026/t1` of
scenes/*/t1.tif. Its result has that name, and the raster of the other date the same one.
"""

import glob
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from registry.errors import NotFound, OptionsError
from registry.scenes.assets import RASTERS
from tasks.image_services import is_image_service
from tasks.layers import OF_ITEM, address, file_within
from tasks.sources import STORE

RESULTS = {
    "detect-objects": ".gpkg",
    "classify-pixels": ".tif",
    "classify-objects": ".gpkg",
    "detect-change": ".tif",
}


def is_stream(imagery: str) -> bool:
    """Whether scenes come in there: a folder, s3:// or a STAC API; a raster or a pattern is what it is."""
    return not is_raster(imagery) and ("://" in imagery or Path(imagery).is_dir())


def is_raster(imagery: str) -> bool:
    """A file here, one of several rasters in it as GDAL names it, a Zarr store; elsewhere what can be but one: an image
    service of ArcGIS, assets that are named behind a STAC item.
    """
    path = Path(imagery)
    if where := address(imagery):
        return is_image_service(where) or bool(OF_ITEM.match(where))
    return path.is_file() or path.suffix.lower() == STORE or bool(file_within(imagery))


def scenes_of(imagery: str) -> list[Path]:
    """A raster, the rasters of a folder, or those that a pattern meets, sorted. Raises NotFound when there is none."""
    path = Path(imagery)
    if is_raster(imagery):
        found = [path]
    elif path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))
    else:
        found = sorted(map(Path, glob.glob(imagery, recursive=True)))  # noqa: PTH207
    if not found:
        do = f"give a raster, a folder of rasters ({', '.join(sorted(RASTERS))}) or a pattern such as scenes/*.tif"
        raise NotFound("there is no imagery", where=imagery, do=do)
    return found


def pairs_of(imagery: str, later: str) -> list[tuple[Path, Path]]:
    """Each raster with that of the other date: two rasters, or those of equal names in two folders or patterns.

    Raises OptionsError where one has no partner.
    """
    first, second = scenes_of(imagery), scenes_of(later)
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    names, partners = _names(first, imagery), _names(second, later)
    if alone := sorted(str(name) for name in names.keys() ^ partners.keys()):
        do = "name the rasters of one place alike in both folders"
        raise OptionsError("rasters without a partner of the other date", where=later, got=alone, do=do)
    return [(path, partners[name]) for name, path in names.items()]


def result_paths(tool: str, scenes: Sequence[Path], imagery: str, out: Path) -> list[Path]:
    """`out` itself for a single raster, unless that is a folder; inside of it for each of several.

    Raises OptionsError where two would have the same.
    """
    if is_raster(imagery) and out.suffix and not out.is_dir():
        return [out]
    return [out / name.with_name(f"{name.name}{RESULTS[tool]}") for name in _names(scenes, imagery)]


def _names(scenes: Sequence[Path], imagery: str) -> dict[Path, Path]:
    """Each raster by its name, in their order."""
    path = Path(imagery)
    plain = takewhile(lambda part: not glob.has_magic(part), path.parts)
    top = path.parent if is_raster(imagery) else path if path.is_dir() else Path(*plain)
    names = {scene.relative_to(top).with_suffix(""): scene for scene in scenes}
    if twins := sorted({str(scene) for scene in scenes} - {str(scene) for scene in names.values()}):
        do = "give a pattern that meets one of them, such as scenes/*.tif"
        raise OptionsError("two rasters have one name", where=imagery, got=twins, do=do)
    return names
