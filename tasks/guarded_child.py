"""The other side of tasks/guarded.py: a confined process that runs one raster function until the pipe ends.

    python -m tasks.guarded_child DESCRIPTOR PARENT MEMORY SCRATCH

Questions and answers are JSON and the plain bytes of arrays, never pickles: the parent must not run what we send.
"""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasks.confinement import confine_writing, limit_memory
from tasks.lifeline import die_with
from tasks.wire import receive, send


def main() -> None:
    descriptor, parent, memory, scratch = sys.argv[1:]
    die_with(int(parent))
    confine_writing(Path(scratch))
    pipe = Connection(int(descriptor))
    answers: dict[str, Any] = {"memory": int(memory)}
    while True:
        try:
            question, arrays = receive(pipe)
        except EOFError:
            os._exit(0)  # a stranger's threads must not hold us
        send(pipe, *_answered(answers, question, arrays))


def _answered(
    known: dict[str, Any], question: Mapping[str, Any], arrays: list[Any]
) -> tuple[dict[str, Any], list[Any]]:
    from registry.errors import DlpkError

    try:
        calls: dict[str, Callable[..., tuple[Any, list[Any]]]] = {
            "load": _load,
            "info": _info,
            "vectorize": _vectorize,
            "classify": _classify,
            "update": _update,
        }
        answer, pixels = calls[question["call"]](known, arrays, **question["with"])
    except DlpkError as error:
        return {"error": type(error).__name__, "told": str(error)}, []
    return {"answer": answer}, pixels


def _load(known: dict[str, Any], _: list[Any], folder: str, device: int, arguments: dict[str, str]) -> Any:
    from registry.dlpk import ModelFolder
    from tasks.host import RasterFunction, speaks_of

    with suppress(ImportError):
        if speaks_of("torch", Path(folder)):
            import torch  # noqa: F401  (before the limit: libraries map much and use little)
    if known["memory"]:
        limit_memory(known["memory"])
    function = known["function"] = RasterFunction.load(ModelFolder(Path(folder)), device=device, arguments=arguments)
    fields = [[field.name, field.kind.__name__] for field in function.fields]
    return {"name": function.name, "configuration": dict(function.configuration.answer), "fields": fields}, []


def _info(known: dict[str, Any], _: list[Any], pixel_type: str, bands: int, place: dict[str, Any]) -> Any:
    from tasks.host import Place

    info = known["function"].update_raster_info(pixel_type, bands, Place(**place))
    told = {"bands": info.bands, "pixel_type": info.pixel_type, "key_metadata": dict(info.key_metadata)}
    return told | {"band_names": info.band_names}, []


def _vectorize(known: dict[str, Any], arrays: list[Any], at: list[int]) -> Any:
    found = known["function"].vectorize(arrays[0], arrays[1], at=tuple(at))
    return [asdict(detection) for detection in found], []


def _classify(known: dict[str, Any], arrays: list[Any]) -> Any:
    images = list(zip(arrays[::2], arrays[1::2], strict=True))
    return [asdict(labelling) for labelling in known["function"].classify(images)], []


def _update(known: dict[str, Any], arrays: list[Any], at: list[int]) -> Any:
    return {}, list(known["function"].update_block(arrays[0], arrays[1], at=tuple(at)))


if __name__ == "__main__":
    main()
