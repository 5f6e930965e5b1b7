"""How often somebody may ask: a bucket for each that fills steadily, and every request takes a drop."""

import time
from collections import OrderedDict
from collections.abc import Callable

MOST = 10_000  # visitors that are remembered; the one seen longest ago is forgotten first
BURST_SECONDS = 10


class Buckets:
    """`per_minute` drops flow in; the room is what comes in ten seconds, and at least five drops."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = per_minute / 60
        self.room = max(5.0, self.rate * BURST_SECONDS)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # visitor -> drops, when

    def wait(self, visitor: str) -> float:
        """Take a drop; seconds until there is one when there is none, else 0."""
        now = self._clock()
        drops = self._drops(visitor, now)
        taken = drops >= 1
        self._left[visitor] = (drops - taken, now)
        self._left.move_to_end(visitor)
        if len(self._left) > MOST:
            self._left.popitem(last=False)
        return 0.0 if taken else (1 - drops) / self.rate

    def is_empty(self, visitor: str) -> bool:
        return self._drops(visitor, self._clock()) < 1

    def _drops(self, visitor: str, now: float) -> float:
        left, then = self._left.get(visitor, (self.room, now))
        return min(self.room, left + (now - then) * self.rate)
