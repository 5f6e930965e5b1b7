"""Out of memory is no end: the tool runs again with half as many tiles at once."""

import gc
import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from registry.errors import OptionsError
from tasks.inference_options import InferenceOptions

O = TypeVar("O", bound=InferenceOptions)  # noqa: E741
R = TypeVar("R")
BATCH = "batch_size"  # argument of the raster functions, ours and ArcGIS's
USUAL = 4  # where none is given
SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "MemoryError")


def shrinking(run: Callable[[O], R], options: O) -> R:
    """What `run` gives. Raises its error when that is another one, or when a single tile is too much.

    Of a function that takes no other number of tiles it raises that there was no memory.
    """
    full: Exception | None = None
    while True:
        try:
            return run(options)
        except Exception as error:
            if full and isinstance(error, OptionsError):
                raise full from error
            batch, full = int(options.arguments.get(BATCH, USUAL)), error
            if batch <= 1 or not _out_of_memory(error):
                raise
        _free()
        logging.getLogger("dlpk").warning("out of memory with %d tiles at once: going on with %d", batch, batch // 2)
        arguments = {**options.arguments, BATCH: str(batch // 2)}
        options = options.model_copy(update={"arguments": arguments})


def _out_of_memory(error: BaseException | None) -> bool:
    """It, or what caused it: raster functions' errors are told by ours."""
    while error is not None:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free() -> None:
    """What the failed try held on the GPU."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        torch.cuda.empty_cache()
