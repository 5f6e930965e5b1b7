"""What inference costs beside the network: packages against a plain loop over the same tiles, in one run.

    python tests/bench/bench_inference.py FOLDER [--model null|unet18|oracle] [--side 4096] [--rounds 3]
        [--many] [--vrt] [--imagery RASTER --labels FEATURES] [--weights FILE.pt]

Each measurement is an interpreter of its own with its libraries loaded before the clock starts; who is compared takes
turns, so a busy machine is busy for all. CPU seconds first: machines are shared. Without --imagery a scene is made.

loop      reads a tile, runs it and writes a strip, as one would by hand: no mask, statistics, overviews, nothing kept
ours      the tool, with a batch of four tiles of 512 pixels and a padding of 32, or 64 for objects
network   its passes alone, over the blocks that ours has
vrt       ours over a sparse virtual raster of 100,000 x 100,000 pixels, all but a corner empty: for the memory (--vrt)
files     ours over the same pixels in 64 files, as one mosaic (--many)
each      ours over these files, PROCESS_ITEMS_SEPARATELY (--many)

Of unet18 the pixels are counted that differ from one pass over the whole raster, of oracle the objects: found, cut,
doubled. `unet18` needs segmentation-models-pytorch.
"""

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
import bench_models  # type: ignore[import-not-found]  # noqa: E402
import bench_scene  # type: ignore[import-not-found]  # noqa: E402
from bench_models import BATCH, CLASSES, MARGIN, TILE  # noqa: E402

Run = Callable[[], None]
PARTS = 8  # files along each side, of --many


def make_loop(given: argparse.Namespace, model: Path, out: Path) -> Run:
    import numpy as np
    import rasterio
    import torch
    from rasterio.windows import Window

    network, step = _network(given, model), TILE - 2 * MARGIN

    def cuts(length: int) -> list[tuple[int, int, int]]:
        """Origin of each tile, and the part of the axis that it owns."""
        origins = [*range(0, max(length - TILE, 0), step), max(length - TILE, 0)]
        bounds = [0, *(o + TILE - MARGIN for o in origins[:-1]), length]
        return list(zip(origins, bounds[:-1], bounds[1:], strict=True))

    def run() -> None:
        with rasterio.open(given.imagery) as source:
            profile = {"driver": "GTiff", "width": source.width, "height": source.height, "count": 1, "dtype": "uint8"}
            tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "num_threads": 2}
            place = {"crs": source.crs, "transform": source.transform}
            with rasterio.open(out, "w", **profile, **tiles, **place) as target, torch.inference_mode():
                for y, top, bottom in cuts(source.height):
                    strip, columns = np.zeros((bottom - top, source.width), np.uint8), cuts(source.width)
                    for i in range(0, len(columns), BATCH):
                        some = columns[i : i + BATCH]
                        batch = np.stack([source.read(window=Window(x, y, TILE, TILE)) for x, _, _ in some])
                        found = network(torch.from_numpy(batch).float().div_(255)).max(1)[1].numpy().astype(np.uint8)
                        for (x, left, right), tile in zip(some, found, strict=True):
                            strip[:, left:right] = tile[top - y : bottom - y, left - x : right - x]
                    target.write(strip, 1, window=Window(0, top, source.width, bottom - top))

    return run


def make_network(given: argparse.Namespace, model: Path, _: Path) -> Run:
    import rasterio
    import torch

    from registry.dlpk import ModelFolder
    from tasks.host import RasterFunction
    from tasks.tiling import Window, block_windows

    c = RasterFunction.load(ModelFolder(model), arguments=_options(given).arguments).configuration
    network = _network(given, model)  # after torch was told what it is told for ours
    with rasterio.open(given.imagery) as raster:
        size = raster.width, raster.height

    def run() -> None:
        with torch.inference_mode():
            for w in block_windows(Window(0, 0, *size), size, (c.tx, c.ty), False):
                ends = min(w.col + w.width + c.padding, size[0]), min(w.row + w.height + c.padding, size[1])
                cols, rows = ends[0] - max(w.col - c.padding, 0), ends[1] - max(w.row - c.padding, 0)
                network(torch.zeros(1, 3, -(-rows // 32) * 32, -(-cols // 32) * 32))

    return run


def make_ours(given: argparse.Namespace, model: Path, out: Path) -> Run:
    return _tool(given, model, given.imagery, out)


def make_vrt(given: argparse.Namespace, model: Path, out: Path) -> Run:
    return _tool(given, model, bench_scene.sparse(given.folder, given.imagery, 100_000), out)


def make_files(given: argparse.Namespace, model: Path, out: Path) -> Run:
    return _tool(given, model, bench_scene.split(given.folder / "parts", given.imagery, PARTS), out)


def make_each(given: argparse.Namespace, model: Path, out: Path) -> Run:
    files = bench_scene.split(given.folder / "parts", given.imagery, PARTS)
    if given.model != "oracle":
        out = given.folder / "each"
        shutil.rmtree(out, ignore_errors=True)  # results that are there would be left as they are
    return _tool(given, model, files, out, processing_mode="PROCESS_ITEMS_SEPARATELY")


def _tool(given: argparse.Namespace, model: Path, imagery: Path, out: Path, **mode: str) -> Run:
    import torch  # noqa: F401

    if given.model == "unet18":
        importlib.import_module("segmentation_models_pytorch")
    from registry.dlpk import ModelFolder
    from tasks.classify_pixels import classify_pixels
    from tasks.detect_objects import detect_objects

    tool: Any = detect_objects if given.model == "oracle" else classify_pixels

    def run() -> None:
        tool(ModelFolder(model), imagery, out, _options(given).model_copy(update=mode))

    return run


def _options(given: argparse.Namespace) -> Any:
    from tasks.inference_options import ClassifyOptions, DetectOptions

    kind = DetectOptions if given.model == "oracle" else ClassifyOptions
    padding = 2 * MARGIN if given.model == "oracle" else MARGIN
    return kind(arguments={"padding": str(padding), "batch_size": str(BATCH)})


def _network(given: argparse.Namespace, model: Path) -> Any:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = bench_models.builder(given.model)(bands=3, classes=CLASSES)
    network.load_state_dict(torch.load(model / f"{given.model}.pth", weights_only=True))
    return network


def quality(given: argparse.Namespace, model: Path, out: Path) -> str:
    """What the loop's result is worth, and ours; of small rasters, as the truth is one pass over the whole."""
    import numpy as np
    import rasterio
    import torch

    with rasterio.open(given.imagery) as raster:
        whole = torch.from_numpy(raster.read()).float()[None] / 255
    with torch.inference_mode():
        truth = _network(given, model)(whole).argmax(1)[0].numpy()
    told = []
    for who in ("loop", "ours"):
        with rasterio.open(out.with_stem(who)) as raster:
            told.append(f"{who} {1e6 * float(np.mean(truth != raster.read(1))):.1f} ppm")
    return "differs from one pass over the whole raster: " + ", ".join(told)


def objects(given: argparse.Namespace, out: Path) -> str:
    """What of the true boxes is found: by ours, and by the oracle where it sees the raster without a seam."""
    import geopandas
    import numpy as np
    import rasterio
    import shapely

    with rasterio.open(given.imagery) as raster:
        boxes = bench_models.builder("oracle")(3, CLASSES).look(raster.read().astype(np.float32) / 255)["boxes"].numpy()
        x, y = raster.transform @ (boxes[:, ::2].T, boxes[:, 1::2].T)
    whole, ours = shapely.box(x[0], y[1], x[1], y[0]), geopandas.read_file(out.with_stem("ours")).geometry.values
    true = shapely.box(*shapely.bounds(geopandas.read_file(given.labels).geometry.values).T)
    return f"ours: {_right(ours, true)}; one pass over the whole raster: {_right(whole, true)}"


def _right(found: Any, true: Any) -> str:
    """At an intersection over union of 0.7."""
    import numpy as np
    import shapely

    one, other = shapely.STRtree(true).query(found)
    shared = shapely.area(shapely.intersection(found[one], true[other]))
    good = shared / (shapely.area(found[one]) + shapely.area(true[other]) - shared) >= 0.7
    times = np.bincount(other[good], minlength=len(true))
    return (
        f"{(times > 0).sum()} of {len(true)} found, {(times > 1).sum()} doubled, {len(found) - good.sum()} cut or false"
    )


def measure(who: str, given: argparse.Namespace, model: Path, out: Path) -> None:
    """In an interpreter of its own: prints one JSON object."""
    run: Run = globals()[f"make_{who}"](given, model, out.with_stem(who))
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - wall
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "wall": wall, "growth": (after.ru_maxrss - before.ru_maxrss) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=bench_models.SOURCES, default="null")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--imagery", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--vrt", action="store_true")
    parser.add_argument("--who", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.imagery:
        given.imagery, given.labels = bench_scene.write(given.folder, given.side, given.side**2 * 5000 // 8192**2)
    model, out = given.folder / given.model, given.folder / ("out.gpkg" if given.model == "oracle" else "out.tif")
    if given.who:
        measure(given.who, given, model, out)
        return
    bench_models.make_model(model, given.model, given.weights)
    compare(given, model, out)


def compare(given: argparse.Namespace, model: Path, out: Path) -> None:
    import rasterio

    several = [*(["files", "each"] if given.many else []), *(["vrt"] if given.vrt else [])]
    found: dict[str, list[dict[str, float]]] = {
        who: [] for who in ([] if given.model == "oracle" else ["loop", "network"]) + ["ours", *several]
    }
    environment = {"GOMP_SPINCOUNT": "3000", **os.environ, "DLPK_TRUSTED": str(given.folder)}  # as the commands have it
    for _ in range(given.rounds):
        for who, figures in found.items():
            command = [sys.executable, *sys.argv, "--who", who]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    with rasterio.open(given.imagery) as raster:
        megapixels = raster.width * raster.height / 1e6
    for who, figures in found.items():
        cpu, wall, growth = (statistics.median(f[key] for f in figures) for key in ("cpu", "wall", "growth"))
        print(f"{who}: {cpu / megapixels:.4f} CPU-s per Mpx, {megapixels / wall:.1f} Mpx/s, grew by {growth:.0f} MB")
    if given.model == "oracle":
        print(objects(given, out))
    elif megapixels < 5:
        print(quality(given, model, out))


if __name__ == "__main__":
    main()
