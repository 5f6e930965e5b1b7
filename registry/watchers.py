"""Who is told when a model gets a new champion, by whichever way; the layers above put themselves in."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.catalog import Version

champions: set[Callable[["Version", str], None]] = set()  # each takes the version and why


def tell(version: "Version", why: str) -> None:
    """A watcher that fails is written to the log: the promotion has happened."""
    for watcher in champions:
        try:
            watcher(version, why)
        except Exception as error:  # noqa: BLE001  (theirs, whatever it is)
            logging.getLogger("dlpk").warning("%s: nobody was told that it is champion: %s", version.ref, error)
