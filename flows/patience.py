"""A store or server that is away for minutes comes back: what talks to it in a long run waits that long."""

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_chain, wait_fixed

from registry.errors import Denied, StoreError

T = TypeVar("T")
LONGEST = 900.0  # seconds
PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


def patiently(do: Callable[[], T], longest: float = LONGEST) -> T:
    """What `do` gives, which may be asked again.

    Raises its StoreError after `longest` seconds of trying, Denied at once.
    """
    again = Retrying(
        retry=retry_if_exception(may_heal),
        wait=wait_chain(*(wait_fixed(pause) for pause in PAUSES)),
        stop=stop_before_delay(longest),
        before_sleep=_tell,
        reraise=True,
    )
    return again(do)


def may_heal(error: object) -> bool:
    """Whether waiting may help: not where a server refuses."""
    return isinstance(error, (StoreError, ConnectionError)) and not isinstance(error, Denied)


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logging.getLogger("dlpk").warning("tries again in %.0f s: %s", state.upcoming_sleep, error)
