"""Publishers killed at random moments: what is seen of a version afterwards, and whether the next run completes it.

python tests/bench/bench_kills.py FOLDER [--kills 200] [--store file|s3] [--megabytes 12] [--seed 0] [--minutes 60]

Each publisher is a process of its own and dies by SIGKILL somewhere between its first and its last step; every second
one has a rival that publishes other bytes under the same name at the same moment. After each kill the catalog and the
store are read: a version is either not there, or its package, manifest and STAC item are, with the sha256 that the
catalog tells. Then the same publication is run again. A row of the table says what was found.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from tests.servers import seaweed  # noqa: E402

NAME = "roofs"
SMALLEST_PART = 5 * 2**20  # of the protocol


def package(folder: Path, number: int, megabytes: float) -> Path:
    """A package of its own content."""
    from tests.registry.conftest import make_package

    return make_package(folder / f"package-{number}", NAME, random.Random(number).randbytes(int(megabytes * 2**20)))


def publish(dlpk: Path) -> int:
    from registry import publishing

    return publishing.publish(dlpk, scores={"AP50": 0.5}, data_digest="d", git_commit="c").number


def apart(work: Callable[[], Any]) -> int:
    """Run it in a forked child; its id. The parent never opens a database or a connection, so none is shared."""
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def asked(work: Callable[[], Any]) -> Any:
    """What the work returns, done in a child."""
    reading, writing = os.pipe()

    def tell() -> None:
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)

    child = apart(tell)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "a reader failed"
    return json.loads(text)


def state() -> dict[str, Any]:
    """What anybody sees: the sha256 of every version, and what is wrong with any of them."""
    from registry import catalog
    from registry.errors import NotFound
    from registry.files import sha256
    from registry.stores import locate

    try:
        versions = catalog.versions(NAME)
    except NotFound:
        versions = []
    wrong = []
    for version in versions[:2]:  # the older ones were looked at before
        try:
            store, key = locate(version.uri, depth=3)
            place = Path(os.environ["DLPK_HOME"]) / "look" / f"{NAME}.dlpk"
            got = sha256(store.get(key, place))
            manifest = catalog.manifest_of(version)
            item = json.loads(store.get_bytes(f"{key.rpartition('/')[0]}/item.json"))
            if not got == version.sha256 == manifest["sha256"] or not item["assets"]:
                wrong.append(f"{version.ref}: {got}, {manifest.get('sha256')}")
        except Exception as error:
            wrong.append(f"{version.ref}: {error!r}")
    digests = [version.sha256 for version in versions]
    if len(set(digests)) != len(digests) or len({version.number for version in versions}) != len(versions):
        wrong.append("two versions of the same bytes, or of the same number")
    return {"digests": digests, "wrong": wrong}


def _seconds(folder: Path, number: int, megabytes: float) -> float:
    dlpk, started = package(folder, number, megabytes), time.perf_counter()
    asked(lambda: publish(dlpk))
    return time.perf_counter() - started


def drill(folder: Path, kills: int, megabytes: float, seed: int, minutes: float) -> Counter[str]:
    from registry.files import sha256

    dice, seen = random.Random(seed), Counter[str]()
    takes, number = min(_seconds(folder, i, megabytes) for i in range(3)), 2
    ends = time.monotonic() + 60 * minutes
    while seen["killed"] < kills and time.monotonic() < ends:
        number += 1
        dlpk = package(folder, number, megabytes)
        digest, rival = sha256(dlpk), 0
        if number % 2:
            other = package(folder, -number, 0.1)
            rival = apart(lambda other=other: publish(other))  # type: ignore[misc]
        child = apart(lambda dlpk=dlpk: publish(dlpk))  # type: ignore[misc]
        time.sleep(dice.uniform(0, takes))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        if rival:
            seen["rivals that failed"] += os.waitpid(rival, 0)[1] != 0
        seen["killed" if os.WIFSIGNALED(ended) else "done before the kill"] += 1
        found = asked(state)
        seen["whole version seen" if digest in found["digests"] else "nothing seen"] += 1
        seen["half shown or lost"] += len(found["wrong"])
        asked(lambda dlpk=dlpk: publish(dlpk))  # type: ignore[misc]
        found = asked(state)
        seen["completed by the next run"] += digest in found["digests"] and not found["wrong"]
        for text in found["wrong"]:
            print(text)
        shutil.rmtree(dlpk.parent)
    return seen


def left_behind(folder: Path) -> int:
    """Parts and uploads that nobody will ever finish."""
    from registry.settings import settings
    from registry.stores import open_store

    parts = sum(1 for _ in folder.rglob(".*.part"))
    store: Any = open_store(settings().store)
    if not hasattr(store, "client"):
        return parts
    return parts + len(store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", ()))


def run(folder: Path, kind: str, kills: int, megabytes: float, seed: int, minutes: float) -> Counter[str]:
    with ExitStack() as stack:
        os.environ["DLPK_HOME"] = str(folder / "home")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        os.environ["DLPK_STORE"] = (folder / "store").as_uri()
        if kind == "s3":
            server = stack.enter_context(seaweed(folder / "server", "models"))
            os.environ.update(server.environment(), DLPK_STORE="s3://models/p")
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore  # noqa: F401  (once, not in each child)

        from registry import catalog, publishing  # noqa: F401
        from registry.stores import s3

        if kind == "s3":
            s3.PART = SMALLEST_PART  # several parts in a small file
        seen = drill(folder, kills, megabytes, seed, minutes)
        seen["left behind"] += asked(lambda: left_behind(folder))
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--store", choices=["file", "s3"], default="file")
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many, however few were killed")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    how = arguments.kills, arguments.megabytes, arguments.seed, arguments.minutes
    seen = run(folder, arguments.store, *how)
    for what, count in seen.items():
        print(f"{what:28} {count:6,}")
    print(f"{'seconds':28} {time.perf_counter() - started:6.0f}")


if __name__ == "__main__":
    main()
