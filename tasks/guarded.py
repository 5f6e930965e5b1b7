"""A stranger's raster function in a process of its own, called like one in ours (tasks/host.py).

It sees no secrets of the environment, has a limit of memory and of time for each tile, and on Linux writes nowhere but
into a folder that is thrown away. When it crashes, hangs or leaks, the process ends and the tile is named; we go on.
"""

import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry import errors
from registry.dlpk import ModelFolder
from registry.errors import DlpkError, RasterFunctionError
from tasks.feature_sets import Detection, Field, Labelling
from tasks.host import Configuration, Place, RasterInfo
from tasks.wire import receive, send

KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")  # of the environment
KEPT_FAMILIES = ("CUDA_", "NVIDIA_", "OMP_", "GOMP_", "MKL_")
PIXEL_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")
FIELD_KINDS: dict[str, type[str] | type[int] | type[float]] = {"str": str, "int": int, "float": float}
SAID, LAST_LINES = "said.txt", 5
GPU_MAPS = 0  # CUDA maps the whole machine's memory, so address space says nothing there: no limit


class GuardedFunction:
    """The public face of RasterFunction. Its process ends with it."""

    def __init__(self, model: ModelFolder, *, memory: float, seconds: float) -> None:
        """`memory`: GB on top of what the libraries map, 0 for no limit; `seconds`: longest time of one call."""
        self.model_name, self.emd, self.name, self._seconds = model.name, model.emd, "raster function", seconds
        self.raster_info: RasterInfo | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="dlpk-"))
        self._process, self._pipe = _started(self._scratch, int(memory * 2**30), seconds)
        weakref.finalize(self, _end, self._process, self._pipe, self._scratch)

    @classmethod
    def load(
        cls, model: ModelFolder, *, device: int, arguments: Mapping[str, object], memory: float, seconds: float
    ) -> "GuardedFunction":
        """As RasterFunction.load; raises what that raises."""
        function = cls(model, memory=memory if device == -1 else GPU_MAPS, seconds=seconds)
        given = {name: str(value) for name, value in arguments.items()}
        told, _ = function._ask("load", {"folder": str(model.path.resolve()), "device": device, "arguments": given})
        function.name = str(told["name"])
        function.configuration = Configuration.parse(told["configuration"], model.emd)
        function.fields = tuple(Field(str(name), FIELD_KINDS[kind]) for name, kind in told["fields"])
        return function

    configuration: Configuration
    fields: tuple[Field, ...]

    def vectorize(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0)
    ) -> list[Detection]:
        found, _ = self._ask("vectorize", {"at": at}, [pixels, valid], at)
        return [_detection(told) for told in found]

    def classify(self, images: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> list[Labelling]:
        told, _ = self._ask("classify", {}, [array for image in images for array in image])
        return [Labelling(tuple(map(str, t["names"])), tuple(map(float, t["confidences"]))) for t in told]

    def update_block(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0)
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        _, arrays = self._ask("update", {"at": at}, [pixels, valid], at)
        return arrays[0], arrays[1]

    def update_raster_info(self, pixel_type: str, bands: int, place: Place | None = None) -> RasterInfo:
        told, _ = self._ask("info", {"pixel_type": pixel_type, "bands": bands, "place": asdict(place or Place())})
        kind = str(told["pixel_type"]).lstrip("<|>=")
        if kind not in PIXEL_TYPES:
            raise RasterFunctionError(
                f"expected a pixel type of {', '.join(PIXEL_TYPES)}", where=self._where(), got=kind
            )
        names = tuple(str(name) for name in told["band_names"])
        self.raster_info = RasterInfo(int(told["bands"]), kind, key_metadata=told["key_metadata"], band_names=names)
        return self.raster_info

    def _ask(
        self,
        call: str,
        values: Mapping[str, Any],
        arrays: Sequence[NDArray[Any]] = (),
        at: tuple[int, int] | None = None,
    ) -> tuple[Any, list[NDArray[Any]]]:
        """Raises what the function's host raised there, or RasterFunctionError when the process did not answer."""
        try:
            send(self._pipe, {"call": call, "with": values}, arrays)
            if not self._pipe.poll(self._seconds):
                self._process.kill()
                do = "give it more time with --tile-seconds, or a smaller batch_size"
                raise RasterFunctionError(f"took longer than {self._seconds:g} s", where=self._where(at), do=do)
            told, answers = receive(self._pipe)
        except (EOFError, OSError, ValueError) as error:
            if isinstance(error, DlpkError):
                raise
            raise self._ended(at) from error
        if "error" in told:
            raise getattr(errors, str(told["error"]), RasterFunctionError)(str(told["told"]))
        return told["answer"], answers

    def _ended(self, at: tuple[int, int] | None) -> RasterFunctionError:
        self._process.kill()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = (self._scratch / SAID).read_text(encoding="utf-8", errors="replace").split("\n")
        said = " / ".join(lines[-LAST_LINES:]).strip(" /")
        do = f"it said: {said[-400:]}" if said else "look at the raster function and at the libraries that it uses"
        return RasterFunctionError(f"its process ended ({how})", where=self._where(at), do=do)

    def _where(self, at: tuple[int, int] | None = None) -> str:
        tile = "" if at is None else f", tile at column {at[0]}, row {at[1]}"
        return f"{self.model_name}: {self.name}{tile}"


def clean_environment(scratch: Path) -> dict[str, str]:
    """What the process needs to run; no credentials, no addresses of servers, no home."""
    kept = {name: text for name, text in os.environ.items() if name in KEPT or name.startswith(KEPT_FAMILIES)}
    checkout = str(Path(__file__).resolve().parent.parent)
    return {
        **kept,
        "PYTHONPATH": checkout,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _started(scratch: Path, memory: int, seconds: float) -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    for limit in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # it may stop in the midst of a message
        ours.setsockopt(socket.SOL_SOCKET, limit, struct.pack("ll", math.ceil(seconds), 0))
    with theirs, (scratch / SAID).open("wb") as said:
        arguments = [theirs.fileno(), os.getpid(), memory, scratch]
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.guarded_child", *map(str, arguments)],
            cwd=scratch,
            env=clean_environment(scratch),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    return process, Connection(ours.detach())


def _end(process: subprocess.Popen[bytes], pipe: Connection, scratch: Path) -> None:
    pipe.close()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(scratch, ignore_errors=True)


def _detection(told: Mapping[str, Any]) -> Detection:
    value = None if told["value"] is None else int(told["value"])
    rings = tuple(tuple((float(x), float(y)) for x, y in ring) for ring in told["rings"])
    return Detection(str(told["class_name"]), value, float(told["confidence"]), rings, dict(told["extra"]))
