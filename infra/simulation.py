"""The queue of inference over new scenes, simulated: `python -m infra.simulation --scenes 1000 --workers 4`.

Scenes come in over some hours of a day; each free worker takes the oldest; a worker that dies gives its scene back
after the lease, and is there again after its restart. Times are in seconds. The model knows no network and no shared
disk: what these cost goes into `seconds`, measured on one scene.
"""

import argparse
import heapq
import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Load:
    """What is asked of the workers, and what these are like."""

    scenes: int = 1000  # a day
    hours: float = 4.0  # within which they come in
    km2: float = 100.0  # of a scene
    seconds: float = 180.0  # that a worker needs for one, on average
    spread: float = 0.3  # standard deviation of its logarithm
    workers: int = 4
    deaths: float = 0.0  # of a worker, a day
    lease: float = 300.0  # after which a dead worker's scene is taken over
    restart: float = 60.0  # until it is there again
    price: float = 1.0  # of a worker's hour; it is paid until the last scene is done


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    finished_hours: float  # after the first scene came in
    wait_median: float  # seconds from coming in to being taken
    wait_p95: float
    busy: float  # share of the workers' time
    repeated: int  # scenes begun more than once
    km2_per_hour: float
    price_per_1000_km2: float


def simulate(load: Load, seed: int = 0) -> Outcome:
    """One day; the same seed gives the same day."""
    dice = random.Random(seed)
    waiting = [(dice.uniform(0, load.hours * 3600), scene) for scene in range(load.scenes)]  # (ready at, scene)
    heapq.heapify(waiting)
    free = [(0.0, worker) for worker in range(load.workers)]
    waits, busy, end, repeated = [], 0.0, 0.0, 0
    while waiting:
        ready, scene = heapq.heappop(waiting)
        idle, worker = heapq.heappop(free)
        start = max(ready, idle)
        took = load.seconds * dice.lognormvariate(-(load.spread**2) / 2, load.spread)
        death = dice.expovariate(load.deaths / 86_400) if load.deaths else float("inf")
        busy += min(took, death)
        if death < took:
            repeated += 1
            heapq.heappush(waiting, (start + death + load.lease, scene))
            heapq.heappush(free, (start + death + load.restart, worker))
            continue
        waits.append(start - ready)
        end = max(end, start + took)
        heapq.heappush(free, (start + took, worker))
    area = load.scenes * load.km2
    return Outcome(
        finished_hours=round(end / 3600, 2),
        wait_median=round(statistics.median(waits), 1),
        wait_p95=round(statistics.quantiles(waits, n=20)[-1], 1) if len(waits) > 1 else round(waits[0], 1),
        busy=round(busy / (end * load.workers), 3),
        repeated=repeated,
        km2_per_hour=round(area / (end / 3600), 1),
        price_per_1000_km2=round(load.price * load.workers * end / 3600 / area * 1000, 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Load()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    seed = given.pop("seed")
    sys.stdout.write(json.dumps(asdict(simulate(Load(**given), seed)), indent=2) + "\n")


if __name__ == "__main__":
    main()
