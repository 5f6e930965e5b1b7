"""Which rasters an inference reads, and where each result goes."""

import glob
from pathlib import Path

from registry.errors import NotFound, OptionsError

RASTERS = {".tif", ".tiff", ".vrt", ".img", ".jp2", ".png", ".jpg"}
RESULTS = {
    "detect-objects": ".gpkg",
    "classify-pixels": ".tif",
    "classify-objects": ".gpkg",
    "detect-change": ".tif",
}


def is_stream(imagery: str) -> bool:
    """Whether scenes come in there: a folder, s3:// or a STAC API; a raster or a pattern is what it is."""
    return "://" in imagery or Path(imagery).is_dir()


def scenes_of(imagery: str) -> list[Path]:
    """A raster, the rasters of a folder, or those that a pattern meets, sorted. Raises NotFound when there is none."""
    path = Path(imagery)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))
    else:
        found = [path] if path.is_file() else sorted(map(Path, glob.glob(imagery, recursive=True)))  # noqa: PTH207
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
    partner = {path.stem: path for path in second}
    if alone := sorted({path.stem for path in first} ^ set(partner)):
        do = "name the rasters of one place alike in both folders"
        raise OptionsError("rasters without a partner of the other date", where=later, got=alone, do=do)
    return [(path, partner[path.stem]) for path in first]


def result_path(tool: str, scene: Path, imagery: str, out: Path) -> Path:
    """`out` itself for a single raster, unless that is a folder; inside of it for each of several."""
    single = Path(imagery).is_file() and out.suffix and not out.is_dir()
    return out if single else out / f"{scene.stem}{RESULTS[tool]}"
