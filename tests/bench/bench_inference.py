"""What Classify Pixels costs beside the network: a null model against the plain strip loop, in one run.

    python tests/bench/bench_inference.py FOLDER [--side 4096] [--rounds 3]

The null model is a 1 x 1 convolution, so what is timed is the framework: reading, masks, statistics, writing. The loop
reads a tile, runs it and writes a strip, as one would by hand. Ours and the loop take turns in interpreters of their
own with the libraries loaded before the clock starts. CPU seconds first: machines are shared.
"""

import argparse
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

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
import bench_scene  # type: ignore[import-not-found]  # noqa: E402

TILE, MARGIN, BATCH, CLASSES = 512, 32, 4, 2
NULL = """
import torch


def build(bands, classes):
    torch.manual_seed(0)
    return torch.nn.Conv2d(bands, classes + 1, 1)
"""


def make_model(folder: Path) -> Path:
    """The null network in a model folder, beside the raster function that we ship."""
    import torch

    from registry.emd import Emd
    from tasks import raster_functions
    from tasks.travelling import with_siblings

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in with_siblings(Path(str(raster_functions.__file__)).parent / "ClassifyPixels.py"):
        shutil.copy(file, folder)
    (folder / "null.py").write_text(NULL)
    torch.manual_seed(0)
    torch.save(torch.nn.Conv2d(3, CLASSES + 1, 1).state_dict(), folder / "null.pth")
    classes = [{"Value": i, "Name": f"kind {i}", "Color": [i, 0, 0]} for i in range(1, CLASSES + 1)]
    statistics = [{"BandName": f"Band_{i}", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 255} for i in (1, 2, 3)]
    document = {"Framework": "PyTorch", "ModelConfiguration": "null", "ModelType": "ImageClassification"}
    files = {"ModelFile": "null.pth", "InferenceFunction": "ClassifyPixels.py", "ExtractBands": [0, 1, 2]}
    size = {"ImageHeight": TILE, "ImageWidth": TILE, "Classes": classes, "AllTilesStats": statistics}
    Emd({**document, **files, **size}).write(folder / "null.emd")
    return folder


def loop(imagery: Path, _: Path, out: Path) -> Callable[[], None]:
    import numpy as np
    import rasterio
    import torch
    from rasterio.windows import Window

    torch.manual_seed(0)
    torch.set_num_threads(2)
    network, step = torch.nn.Conv2d(3, CLASSES + 1, 1).eval(), TILE - 2 * MARGIN

    def cuts(length: int) -> list[tuple[int, int, int]]:
        """Origin of each tile, and the part of the axis that it owns."""
        origins = [*range(0, max(length - TILE, 0), step), max(length - TILE, 0)]
        bounds = [0, *(o + TILE - MARGIN for o in origins[:-1]), length]
        return list(zip(origins, bounds[:-1], bounds[1:], strict=True))

    def run() -> None:
        with rasterio.open(imagery) as source:
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


def ours(imagery: Path, model: Path, out: Path) -> Callable[[], None]:
    import torch  # noqa: F401

    from registry.dlpk import ModelFolder
    from tasks.classify_pixels import classify_pixels
    from tasks.inference_options import ClassifyOptions

    options = ClassifyOptions(arguments={"padding": str(MARGIN), "batch_size": str(BATCH)})

    def run() -> None:
        classify_pixels(ModelFolder(model), imagery, out, options)

    return run


def measure(who: str, imagery: Path, model: Path, out: Path) -> None:
    """In an interpreter of its own: prints one JSON object."""
    run = {"ours": ours, "loop": loop}[who](imagery, model, out)
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    run()
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - wall
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu": cpu, "wall": wall, "growth": (after.ru_maxrss - before.ru_maxrss) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--who", help=argparse.SUPPRESS)
    given = parser.parse_args()
    imagery, _ = bench_scene.write(given.folder, given.side, 1250)
    model, out = given.folder / "null", given.folder / "out.tif"
    if given.who:
        measure(given.who, imagery, model, out)
        return
    make_model(model)
    found: dict[str, list[dict[str, float]]] = {"loop": [], "ours": []}
    for _ in range(given.rounds):
        for who, figures in found.items():
            command = [sys.executable, __file__, str(given.folder), "--side", str(given.side), "--who", who]
            done = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "DLPK_TRUSTED": str(given.folder)},
            )
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    megapixels = given.side**2 / 1e6
    for who, figures in found.items():
        cpu, wall, growth = (statistics.median(f[key] for f in figures) for key in ("cpu", "wall", "growth"))
        print(f"{who}: {cpu / megapixels:.4f} CPU-s per Mpx, {megapixels / wall:.1f} Mpx/s, grew by {growth:.0f} MB")


if __name__ == "__main__":
    main()
