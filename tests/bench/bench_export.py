"""How fast, and how flat in memory, an export is: beside the plain serial loop over the same windows, in one run.

    python tests/bench/bench_export.py FOLDER [--rounds 3] [--flat | --large]

Scenes are made in FOLDER once. Every measurement is an interpreter of its own with its libraries loaded before the
clock starts; ours and the loop take turns, so a busy machine is busy for both. CPU seconds come first: they tell most.
`--flat` only compares the peak of memory on a small raster and on one of four times the area; `--large` adds a large
raster of four times the area and one with 100,000 polygons.
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

import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
import bench_scene  # type: ignore[import-not-found]  # noqa: E402

CHIP = 256
Figures = dict[str, float]


def loop(imagery: Path, labels: Path, out: Path) -> int:
    """Read a window, burn its labels, write two GeoTIFFs: no index, no statistics, no XML, no definition."""
    import geopandas
    import numpy as np
    import rasterio
    import shapely
    from rasterio.features import rasterize
    from rasterio.windows import Window

    for name in ("images", "labels"):
        (out / name).mkdir(parents=True)
    frame = geopandas.read_file(labels)
    shapes, values, number = frame.geometry.values, frame["Classvalue"].values, 0
    with rasterio.open(imagery) as source:
        profile = {"driver": "GTiff", "width": CHIP, "height": CHIP, "crs": source.crs}
        for y in range(0, source.height, CHIP):
            for x in range(0, source.width, CHIP):
                window = Window(x, y, CHIP, CHIP)
                image, place = source.read(window=window), source.window_transform(window)
                around = shapely.box(place.c, place.f + place.e * CHIP, place.c + place.a * CHIP, place.f)
                burnt = [(shapes[i], int(values[i])) for i in frame.sindex.query(around)]
                mask = np.zeros((CHIP, CHIP), np.uint8)
                if burnt:
                    mask = rasterize(burnt, (CHIP, CHIP), transform=place, dtype="uint8")
                for name, pixels, more in (("images", image, {}), ("labels", mask[None], {"compress": "deflate"})):
                    form = {**profile, **more, "count": len(pixels), "dtype": pixels.dtype, "transform": place}
                    with rasterio.open(out / name / f"{number:06d}.tif", "w", **form) as chip:
                        chip.write(pixels)
                number += 1
    return number


def ours(imagery: Path, labels: Path, out: Path, workers: int, compress: str) -> int:
    from tasks.export import ExportOptions, export_training_data

    options = ExportOptions(tile_size=CHIP, stride=CHIP, output_nofeature_tiles=True, compress=compress)
    return len(export_training_data(imagery, labels, out, options, workers=workers).names)


def measured(kind: str, imagery: Path, labels: Path, out: Path) -> Figures:
    """In this interpreter: chips, CPU and wall seconds."""
    if kind == "loop":
        import geopandas  # noqa: F401
        import rasterio.features  # noqa: F401

        do: Callable[[], int] = lambda: loop(imagery, labels, out)
    else:
        import tasks.exporting.finish
        import tasks.exporting.units  # noqa: F401

        workers, compress = kind.split("-")
        do = lambda: ours(imagery, labels, out, int(workers), compress)
    print("loaded", flush=True)
    started, before = time.perf_counter(), _cpu()
    chips = do()
    return {"chips": chips, "cpu": _cpu() - before, "wall": time.perf_counter() - started}


def _cpu() -> float:
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def run(kind: str, scene: tuple[Path, Path], folder: Path) -> Figures:
    """In an interpreter of its own, with the peak of its whole tree of processes above its loaded libraries (MB)."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    child = subprocess.Popen(
        [sys.executable, __file__, "--measure", kind, *map(str, scene), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    child.stdout.readline()
    process = psutil.Process(child.pid)
    base = peak = _memory(process)
    while child.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.05)
    figures: Figures = json.loads(child.stdout.read())
    return {**figures, "peak": peak - base}


def _memory(process: psutil.Process) -> float:
    total = 0
    for one in (process, *_children(process)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total / 2**20


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def table(title: str, kinds: list[str], scene: tuple[Path, Path], folder: Path, rounds: int) -> None:
    seen: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            seen[kind].append(run(kind, scene, folder))
    print(f"\n{title}: {seen[kinds[0]][0]['chips']} chips, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<12}{'CPU s':>8}{'wall s':>8}{'chips/s':>9}{'ratio':>7}{'ratio of CPU':>14}{'peak MB':>9}")
    first = seen[kinds[0]]
    for kind, figures in seen.items():
        cpu, wall, peak = (statistics.median(f[key] for f in figures) for key in ("cpu", "wall", "peak"))
        ratio = statistics.median(a["wall"] / b["wall"] for a, b in zip(first, figures, strict=True))
        spent = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(first, figures, strict=True))
        rate = figures[0]["chips"] / wall
        print(f"{kind:<12}{cpu:>8.2f}{wall:>8.2f}{rate:>9.0f}{ratio:>7.2f}{spent:>14.2f}{peak:>9.0f}")


def flat(folder: Path, rounds: int) -> None:
    """Peaks above the loaded libraries; they should be within a tenth of each other."""
    for side in (2048, 4096):
        scene = bench_scene.write(folder, side=side, polygons=(side // 128) ** 2)
        table(f"{side} x {side}", ["1-NONE", "2-NONE"], scene, folder, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--flat", action="store_true")
    given = parser.parse_args()
    if given.flat:
        flat(given.folder, given.rounds)
        return
    kinds = ["loop", "1-NONE", "2-NONE", "1-DEFLATE", "2-DEFLATE"]
    table("8192 x 8192, 5,000 polygons", kinds, bench_scene.write(given.folder), given.folder, given.rounds)
    if given.large:
        many = bench_scene.write(given.folder, polygons=100_000)
        table("8192 x 8192, 100,000 polygons", ["loop", "2-NONE"], many, given.folder, given.rounds)
        wide = bench_scene.write(given.folder, side=16384, polygons=20_000)
        table("16384 x 16384, 20,000 polygons", ["loop", "2-NONE"], wide, given.folder, 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        kind, *places = sys.argv[2:]
        print(json.dumps(measured(kind, *map(Path, places))))
    else:
        main()
