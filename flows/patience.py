"""A store or server that is away for minutes comes back: what talks to it in a long run waits that long."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from registry.errors import StoreError

T = TypeVar("T")
LONGEST = 900.0  # seconds
PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


def patiently(do: Callable[[], T], longest: float = LONGEST) -> T:
    """What `do` gives, which may be asked again. Raises its StoreError after `longest` seconds of trying."""
    end, tries = time.monotonic() + longest, 0
    while True:
        try:
            return do()
        except (StoreError, ConnectionError) as error:
            pause = PAUSES[min(tries, len(PAUSES) - 1)]
            if time.monotonic() + pause > end:
                raise
            logging.getLogger("dlpk").warning("tries again in %.0f s: %s", pause, error)
            tries += 1
            time.sleep(pause)
