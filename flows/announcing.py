"""A new champion is told to the Prefect server, whoever made it one: a flow, `dlpk promote`, the page."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.catalog import Version


def announce(version: "Version", why: str) -> None:
    """Nothing happens, and Prefect is not imported, where no server is set."""
    if "prefect" in sys.modules or os.environ.get("PREFECT_API_URL"):
        from flows.happenings import tell_of

        tell_of("dlpk.model.promoted", version, why=why)
