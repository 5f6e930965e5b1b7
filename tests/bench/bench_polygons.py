"""Polygons out of class rasters: seconds and growth of memory by the raster's size, each in an interpreter of its own.

python tests/bench/bench_polygons.py FOLDER [--suffix .parquet]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pyogrio
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from registry.emd import ClassLabel
from tasks.class_products import write_polygons
from tasks.imagery import gdal_settings
from tasks.inference_options import ModelSource, PixelOptions

TILE = 2048
CLASSES = [ClassLabel(value, f"class {value}", (0, 0, 0)) for value in range(1, 5)]


def write(folder: Path, side: int) -> Path:
    """`classes_<side>.tif`, 1 m, of background and four classes: areas of about 500 pixels, other ones in each tile."""
    path = folder / f"classes_{side}.tif"
    random = np.random.default_rng(0)
    fields = [gaussian_filter(random.standard_normal((TILE, TILE)), 8, mode="wrap") for _ in range(5)]
    values = np.argmax(fields, axis=0).astype(np.uint8)
    grid = {"width": side, "height": side, "count": 1, "transform": Affine(1, 0, 400_000, 0, -1, 5_000_000)}
    kept = {"tiled": True, "compress": "deflate", "nodata": 255, "crs": "EPSG:32633"}
    with rasterio.open(path, "w", "GTiff", dtype="uint8", **grid, **kept) as raster:
        for row in range(0, side, TILE):
            for col in range(0, side, TILE):
                rows, cols = min(TILE, side - row), min(TILE, side - col)
                window = ((row, row + rows), (col, col + cols))
                raster.write(np.roll(values, (row // 7, col // 5), (0, 1))[:rows, :cols], 1, window=window)
    return path


def peak() -> float:
    """Most MB that this interpreter has had; `ru_maxrss` would count those of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(raster: Path, simplify: float, suffix: str) -> None:
    out = raster.with_suffix(suffix)
    with gdal_settings():
        start, before = peak(), resource.getrusage(resource.RUSAGE_SELF)
        started = time.perf_counter()
        write_polygons(raster, out, CLASSES, PixelOptions(simplify=simplify), ModelSource("bench"))
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = pyarrow.parquet.read_metadata(out).num_rows if suffix == ".parquet" else pyogrio.read_info(out)["features"]
    print(json.dumps({"cpu": cpu, "wall": wall, "mb": peak() - start, "found": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", type=int, nargs="*", default=[8192, 16384])
    parser.add_argument("--suffix", default=".gpkg", help="of the features")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.folder, given.measure, given.suffix)
        return
    print(f"{'side':>6}{'simplify':>10}{'polygons':>10}{'CPU s':>8}{'wall s':>8}{'growth MB':>11}")
    for side in given.sides:
        raster = write(given.folder, side)
        for simplify in (0.0, 2.0):
            command = [sys.executable, __file__, str(raster), "--measure", str(simplify), "--suffix", given.suffix]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = f"{told['found']:>10}{told['cpu']:>8.1f}{told['wall']:>8.1f}{told['mb']:>11.0f}"
            print(f"{side:>6}{simplify:>10}{row}", flush=True)


if __name__ == "__main__":
    main()
