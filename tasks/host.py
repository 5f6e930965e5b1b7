"""Run the Python raster function of a model as ArcGIS does, without ArcGIS (ArcGIS formats E).

The function is taken out of the model's own folder: what is evaluated and what runs at night is what was packed.

    function = RasterFunction.load(model, device=-1, arguments={"padding": "32"})
    function.configuration            how to cut blocks: tx, ty, padding, bands
    function.vectorize(pixels, valid) a padded block in, detections out
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import OptionsError, RasterFunctionError
from tasks.feature_sets import Detection, Labelling, read_detections, read_labellings
from tasks.isolation import Room

NUMBERS = {"numeric", "gplong", "gpdouble"}
BOOLEANS = {"boolean", "gpboolean"}
NOT_ASKED = {"raster", "rasters", "model", "device"}  # the host gives these itself
TRUE, FALSE = {"true", "1", "t", "y", "yes"}, {"false", "0", "f", "n", "no"}


@dataclass(frozen=True)
class Parameter:
    """One row of the function's arguments table (ArcGIS formats E.4)."""

    name: str
    data_type: str
    value: Any
    required: bool
    domain: tuple[Any, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class Configuration:
    """How the function wants its blocks (ArcGIS formats E.5), defaults filled in; `answer` is all that it said."""

    tx: int  # width and height of a block without its padding, pixels
    ty: int
    padding: int = 0  # pixels on each side
    extract_bands: tuple[int | str, ...] | None = None  # indexes from 0 or names; None = all
    data_range: tuple[float, float] | None = None  # the host rescales pixels into it
    answer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, answer: Mapping[str, Any], emd: Emd) -> "Configuration":
        bands, limits = answer.get("extractBands"), answer.get("dataRange")
        tx, ty = int(answer.get("tx") or emd.tile_size), int(answer.get("ty") or emd.tile_size)
        bands = None if bands is None else tuple(b if isinstance(b, str) else int(b) for b in bands)
        limits = None if limits is None else (float(limits[0]), float(limits[1]))
        return cls(tx, ty, int(answer.get("padding") or 0), bands, limits, dict(answer))


@dataclass(frozen=True)
class RasterInfo:
    """What a pixel function says of its output (ArcGIS formats E.8)."""

    bands: int
    pixel_type: str  # numpy code: u1, i4, f4
    answer: Mapping[str, Any] = field(default_factory=dict)


class RasterFunction:
    """A raster function, loaded, initialised and configured. For one thread; its network loads at the first block."""

    def __init__(
        self, model: ModelFolder, function: Any, room: Room, device: int, arguments: Mapping[str, object]
    ) -> None:
        self.model_name, self.emd, self.emd_path = model.name, model.emd, model.emd_path
        self.name, self._function, self._room = type(function).__name__, function, room
        definition = str(self.emd_path)
        self._call("initialize", model=definition, device=device)
        self.parameters = tuple(filter(None, map(_parameter, self._call("getParameterInfo"))))
        self.scalars = {**self._scalars(arguments), "model": definition, "device": device}
        self.configuration = Configuration.parse(self._call("getConfiguration", **self.scalars) or {}, self.emd)
        self.raster_info: RasterInfo | None = None
        self._classes = self.emd.classes

    @classmethod
    def load(
        cls, model: ModelFolder, *, device: int = -1, arguments: Mapping[str, object] | None = None
    ) -> "RasterFunction":
        """Import the function out of the model folder and ask it how it wants to be fed.

        `device`: -1 CPU, -2 any free GPU, else the GPU's number. `arguments`: values for rows of its arguments table.
        Raises RasterFunctionError when it cannot run here, OptionsError when an argument does not fit.
        """
        use_all_cores()
        file = model.path / _file_name(model)
        if not file.is_file():
            raise RasterFunctionError("is not in the model's folder", where=file, do="restore or repack the model")
        room = Room(model.path, device)
        try:
            module = room.load(file)
            with room.entered():
                function = _class_of(module, file)()
        except RasterFunctionError:
            raise
        except Exception as error:  # a stranger's code may raise anything
            raise RasterFunctionError(f"cannot be imported ({_told(error)})", where=file, do=_remedy(error)) from error
        return cls(model, function, room, device, arguments or {})

    def vectorize(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0)
    ) -> list[Detection]:
        """Objects in a block of (bands, ty + 2 padding, tx + 2 padding); `valid` is (rows, cols); `at` names the tile.

        Coordinates are pixels from the upper left corner of the unpadded block.
        """
        with self._telling("vectorize", at):
            answer = self._function.vectorize(**self._blocks(pixels, valid))
            return read_detections(answer["output_vectors"], self._classes)

    def classify(self, images: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> list[Labelling]:
        """The class of each object, given its image (bands, rows, cols) and where that is valid (rows, cols).

        Images are of the model's tile size where `CropSizeFixed` is 1, else at most that (ArcGIS formats E.6, E.7).
        """
        size = int(self.configuration.answer.get("batch_size") or 1)
        found: list[Labelling] = []
        for i in range(0, len(images), size):
            blocks = [self._blocks(pixels, valid) for pixels, valid in images[i : i + size]]
            stacks = {f"rasters_{part}": tuple(b[f"raster_{part}"] for b in blocks) for part in ("pixels", "mask")}
            with self._telling("vectorize"):
                answers = read_labellings(self._function.vectorize(**stacks)["output_vectors"])
                if len(answers) != len(blocks):
                    raise ValueError(f"output_vectors: expected {len(blocks)} features, one for each image")
            found += answers
        return found

    def update_pixels(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0)
    ) -> NDArray[Any]:
        """Output pixels (bands, ty, tx) of a padded block, as `update_block` without the mask."""
        return self.update_block(pixels, valid, at=at)[0]

    def update_block(
        self, pixels: NDArray[Any], valid: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0)
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Output pixels (bands, ty, tx) in the type of `raster_info`, and where they are valid (ty, tx).

        The input's validity is inherited where the function gives no mask (ArcGIS formats E.8).
        """
        info = self.raster_info or self.update_raster_info(pixels.dtype.str[1:], len(pixels))
        padding = self.configuration.padding
        rows, cols = (length - 2 * padding for length in pixels.shape[1:])
        props = {"pixelType": info.pixel_type, "width": cols, "height": rows, "cellSize": (1, 1), "noData": None}
        with self._telling("updatePixels", at):
            answer = self._function.updatePixels(at, (info.bands, rows, cols), props, **self._blocks(pixels, valid))
            result = np.asarray(answer["output_pixels"])
            result = result[None] if result.ndim == 2 else result
            if result.shape != (info.bands, rows, cols):
                expected = (info.bands, rows, cols)
                raise ValueError(f"output_pixels: expected {expected} without the padding, got {result.shape}")
            mask = answer.get("output_mask")
            inherited = valid[padding : padding + rows, padding : padding + cols]
            whole = inherited if mask is None else np.asarray(mask).reshape(-1, rows, cols).astype(bool).min(axis=0)
            return result.astype(info.pixel_type, copy=False), whole

    def update_raster_info(self, pixel_type: str, bands: int) -> RasterInfo:
        """Ask the function what its output looks like, given the input's numpy pixel type ("u1") and band count."""
        source = {"bandCount": bands, "pixelType": pixel_type, "noData": None, "cellSize": (1, 1)}
        output: dict[str, Any] = dict(source)
        if hasattr(self._function, "updateRasterInfo"):
            output = self._call("updateRasterInfo", raster_info=source, output_info=output, **self.scalars)[
                "output_info"
            ]
        self.raster_info = RasterInfo(int(output["bandCount"]), str(output["pixelType"]), output)
        return self.raster_info

    def _blocks(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Writable copies in C order; the mask has the shape of the pixels (ArcGIS formats E.6)."""
        if pixels.ndim != 3 or pixels.shape[1:] != valid.shape:
            shapes = f"{pixels.shape} and {valid.shape}"
            raise ValueError(f"expected pixels (bands, rows, cols) and valid (rows, cols), got {shapes}")
        limits = self.configuration.data_range
        pixels = np.array(pixels, order="C") if limits is None else _rescaled(pixels, limits)
        mask = np.repeat(valid[None].astype(np.uint8), len(pixels), axis=0)
        return {"raster_pixels": pixels, "raster_mask": mask}

    def _call(self, method: str, **values: Any) -> Any:
        with self._telling(method):
            return getattr(self._function, method)(**values)

    @contextmanager
    def _telling(self, method: str, at: tuple[int, int] | None = None) -> Iterator[None]:
        """Enter the function's room; whatever is raised there is told with function, method and tile."""
        tile = "" if at is None else f", tile at column {at[0]}, row {at[1]}"
        try:
            with self._room.entered():
                yield
        except Exception as error:  # a stranger's code may raise anything
            where = f"{self.model_name}: {self.name}.{method}{tile}"
            raise RasterFunctionError(_told(error), where=where, do=_remedy(error)) from error

    def _scalars(self, arguments: Mapping[str, object]) -> dict[str, Any]:
        known = {p.name: p for p in self.parameters if p.name not in NOT_ASKED}
        if unknown := sorted(set(arguments) - set(known)):
            do = f"it knows {', '.join(known) or 'none'}"
            raise OptionsError(f"no argument {', '.join(unknown)}", where=f"{self.model_name}: {self.name}", do=do)
        given = {name: _fitting(known[name], value) for name, value in arguments.items()}
        missing = [p.name for p in known.values() if p.required and p.value is None and p.name not in given]
        if missing:
            do = f"give it as an argument: {missing[0]} VALUE"
            raise OptionsError(f"{', '.join(missing)} is required", where=f"{self.model_name}: {self.name}", do=do)
        return {name: p.value for name, p in known.items()} | given


def use_all_cores() -> None:
    """torch on every core that this process may use: its own guess counts those of the machine."""
    with suppress(ImportError):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _file_name(model: ModelFolder) -> str:
    name = model.emd.inference_function
    if name and not name.startswith("[Functions]"):
        return name
    got = name or model.emd.document.get("ModelConfiguration")
    do = "run it in ArcGIS, or repack the model with a raster function of its own"
    raise RasterFunctionError(
        "needs ArcGIS: its function is a part of the installation", where=model.name, got=got, do=do
    )


def _class_of(module: ModuleType, file: Path) -> Any:
    """The class named like the file, else the only one that has getParameterInfo (ArcGIS formats E.1)."""
    if isinstance(strict := getattr(module, file.stem, None), type):
        return strict
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    able = [c for c in classes if hasattr(c, "getParameterInfo")]
    if len(able) == 1:
        return able[0]
    got = [c.__name__ for c in able]
    raise RasterFunctionError("has no class of its own name", where=file, got=got, do=f"name its class {file.stem}")


def _parameter(row: Any) -> Parameter | None:
    if not isinstance(row, Mapping) or str(row.get("dataType", "")).lower() in {"raster", "rasters"}:
        return None  # unfilled templates put an explanatory text into the list (ArcGIS formats E.4)
    kind, required = str(row.get("dataType", "string")), str(row.get("required")).lower() in TRUE
    domain, description = tuple(row.get("domain") or ()), str(row.get("description", ""))
    return Parameter(str(row["name"]), kind, row.get("value"), required, domain, description)


def _fitting(parameter: Parameter, value: object) -> Any:
    """The value as ArcGIS would hand it over: numbers as numbers, booleans and texts as texts (ArcGIS formats E.5)."""
    kind, text = parameter.data_type.lower(), str(value).strip()
    if kind in BOOLEANS:
        if text.lower() not in TRUE | FALSE:
            raise OptionsError("expected True or False", where=parameter.name, got=text)
        return str(text.lower() in TRUE)
    if kind not in NUMBERS:
        if parameter.domain and text not in map(str, parameter.domain):
            raise OptionsError(
                f"expected one of {', '.join(map(str, parameter.domain))}", where=parameter.name, got=text
            )
        return text
    try:
        number = float(text.replace(",", "."))
    except ValueError as error:
        raise OptionsError("expected a number", where=parameter.name, got=text) from error
    if len(parameter.domain) == 2 and not float(parameter.domain[0]) <= number <= float(parameter.domain[1]):
        low, high = parameter.domain
        raise OptionsError(f"expected {low} to {high}", where=parameter.name, got=number)
    return int(number) if number.is_integer() and kind != "gpdouble" else number


def _rescaled(pixels: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """From the whole range of an integer pixel type into `limits` (EMD DataRange, ArcGIS formats A.2)."""
    if pixels.dtype.kind not in "ui":
        raise ValueError(f"DataRange {limits} needs integer pixels, whose range is known, got {pixels.dtype}")
    span = np.iinfo(pixels.dtype)
    low, high = limits
    share = (pixels.astype(np.float32) - span.min) / (float(span.max) - span.min)
    return (low + share * (high - low)).astype(np.float32)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _remedy(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install the library that has {error.name}, e.g. pip install {error.name.partition('.')[0]}"
    return "look at the raster function and at the weights of the model"
