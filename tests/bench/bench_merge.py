"""How long the copies of boxes at seams take to be merged: twice as many must take twice as long.

python tests/bench/bench_merge.py [--most 1000000]
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import shapely

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tasks.overlap import keep_best


def boxes(count: int) -> shapely.Polygon:
    """Half of them on a grid, the others copies that are a little aside and less sure."""
    side = int((count / 2) ** 0.5)
    x, y = np.mgrid[:side, :side] * 12.0
    corners = np.stack([x.ravel(), y.ravel()], axis=1)
    twice = np.concatenate([corners, corners + 0.5])
    return shapely.box(twice[:, 0], twice[:, 1], twice[:, 0] + 10, twice[:, 1] + 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000)
    count = parser.parse_args().most
    for some in (count // 10, count // 2, count):
        found = boxes(some)
        sure = np.repeat([0.9, 0.8], len(found) // 2)
        wall, cpu = time.perf_counter(), time.process_time()
        kept = keep_best(found, sure, np.zeros(len(found)), 0.3)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{len(found):,} boxes, {kept.sum():,} stay: {cpu:.2f} CPU-s, {wall:.2f} s")


if __name__ == "__main__":
    main()
