"""A package of 1 GB: built and hashed beside `cp` and `sha256sum`, put on an S3 server beside boto3's own upload.

python tests/bench/bench_publish.py FOLDER [--megabytes 1024]
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from tests.servers import seaweed  # noqa: E402


def build(weights: Path, packed: Path) -> None:
    """Seconds of packing and hashing, ours and the tools'."""
    from registry.dlpk import survey, write_archive

    definition = weights.with_suffix(".emd")
    definition.write_text('{"ModelFile": "big.pth"}')
    started = time.perf_counter()
    survey(write_archive({definition.name: definition, weights.name: weights}, packed))
    ours, copy = time.perf_counter() - started, packed.with_suffix(".copy")
    started = time.perf_counter()
    subprocess.run(["cp", str(weights), str(copy)], check=True)
    subprocess.run(["sha256sum", str(copy)], check=True, stdout=subprocess.DEVNULL)
    print(f"build and hash {ours:.2f} s, cp and sha256sum {time.perf_counter() - started:.2f} s")


def upload(packed: Path, folder: Path) -> None:
    """Seconds of hashing and putting, and the peak of memory; then those of boto3."""
    from registry.dlpk import survey
    from registry.stores import open_store

    with seaweed(folder / "server", "models") as server:
        os.environ.update(server.environment())
        started = time.perf_counter()
        package, _ = survey(packed)
        hashed = time.perf_counter()
        open_store("s3://models/p").put(f"{packed.stem}/{packed.name}", packed, package.sha256)
        done, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"hash {hashed - started:.2f} s, put {done - hashed:.2f} s, peak {peak:.0f} MB")
        started = time.perf_counter()
        server.client().upload_file(str(packed), "models", "boto3")
        print(f"boto3 {time.perf_counter() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    weights = arguments.folder / "big.pth"
    with weights.open("wb") as file:
        for _ in range(arguments.megabytes):
            file.write(os.urandom(2**20))
    build(weights, arguments.folder / "big.dlpk")
    upload(arguments.folder / "big.dlpk", arguments.folder)


if __name__ == "__main__":
    main()
