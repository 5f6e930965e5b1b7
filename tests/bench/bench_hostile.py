"""Broken and evil packages: each must be told in one line, write nowhere else and run nothing.

python tests/bench/bench_hostile.py [--packages 10000] [--seed 1000]

Every one of them is shown, hashed, verified and unpacked; a definition with damaged bytes is shown beside it. The first
that does anything else ends the run with its number.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from tests.registry.test_hostile import attack  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    setattr(os, "fsync", lambda _: None)  # noqa: B010  (half of the time, and not what is asked here)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        refused = attack(Path(folder), arguments.packages, arguments.seed)
    print(f"{'packages':28} {arguments.packages:7,}")
    print(f"{'looks at them, refused':28} {4 * arguments.packages:7,} {refused:7,}")
    print(f"{'tracebacks, escapes, code run':28} {0:7}")
    print(f"{'seconds':28} {time.perf_counter() - started:7.0f}")


if __name__ == "__main__":
    main()
