"""A message between two processes: a JSON document and arrays as plain bytes. Nothing in it can be run."""

import json
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = "biuf"  # of numpy: plain numbers only


def send(pipe: Connection, document: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> None:
    shapes = [[array.dtype.str, *array.shape] for array in arrays]
    pipe.send_bytes(json.dumps({"document": document, "arrays": shapes}, default=_plain).encode())
    for array in arrays:
        if array.size:
            pipe.send_bytes(np.ascontiguousarray(array).data.cast("B"))


def receive(pipe: Connection) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Raises EOFError or OSError when the other side is gone, ValueError when it sends what is no message."""
    message = json.loads(pipe.recv_bytes())
    arrays = []
    for kind, *shape in message["arrays"]:
        dtype = np.dtype(str(kind))
        if dtype.kind not in KINDS:
            raise ValueError(f"expected plain numbers, got {dtype}")
        array = np.empty(tuple(int(n) for n in shape), dtype)
        if array.size and pipe.recv_bytes_into(array.data.cast("B")) != array.nbytes:
            raise ValueError(f"expected {array.nbytes} bytes of an array")
        arrays.append(array)
    return message["document"], arrays


def _plain(value: Any) -> Any:
    """Of what raster functions answer beside JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, set | frozenset | range) else str(value)
