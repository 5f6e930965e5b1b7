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
from registry.emd import BandStatistics, Emd
from registry.errors import RasterFunctionError
from registry.rules import is_alike
from tasks.arguments import raster_name, read_parameters, scalars, truth
from tasks.complaints import CONVERT, remedy, told
from tasks.feature_sets import Detection, Field, Labelling, read_detections, read_fields, read_labellings
from tasks.isolation import Room
from tasks.likeness import statistics_of

POLYGON = 4  # of getGeometryType


@dataclass(frozen=True)
class Configuration:
    """How the function wants its blocks (ArcGIS formats E.5), defaults filled in; `answer` is all that it said."""

    tx: int  # width and height of a block without its padding, pixels
    ty: int
    padding: int = 0  # pixels on each side
    extract_bands: tuple[int | str, ...] | None = None  # indexes from 0 or names; None = all
    trained_bands: tuple[str, ...] = ()  # names of the bands that the indexes count; () where they are not told
    trained: tuple[BandStatistics, ...] = ()  # what the bands that are read were; () where pixels do not compare
    data_range: tuple[float, float] | None = None  # the host rescales pixels into it
    fixed_tile_size: bool = True  # False: blocks at the right and lower edge may be smaller
    input_mask: bool = True  # False: the function gets no mask
    batch_size: int = 1  # objects in one call (Classify Objects)
    crop_size_fixed: bool = True  # a tile around each object; False: its bounding box
    blacken_around_feature: bool = False  # what is outside of the object is 0
    answer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, answer: Mapping[str, Any], emd: Emd) -> "Configuration":
        bands, limits = answer.get("extractBands"), answer.get("dataRange")
        tx, ty = int(answer.get("tx") or emd.tile_size), int(answer.get("ty") or emd.tile_size)
        bands = None if bands is None else tuple(b if isinstance(b, str) else int(b) for b in bands)
        limits = None if limits is None else (float(limits[0]), float(limits[1]))
        return cls(
            tx,
            ty,
            int(answer.get("padding") or 0),
            bands,
            trained_bands=emd.trained_bands,
            trained=() if limits else statistics_of(emd),  # the host brings pixels into these
            data_range=limits,
            fixed_tile_size=truth(answer.get("fixedTileSize", 1)),
            input_mask=truth(answer.get("inputMask", True)),
            batch_size=max(1, int(answer.get("batch_size") or 1)),
            crop_size_fixed=truth(answer.get("CropSizeFixed", emd.document.get("CropSizeFixed", 1))),
            blacken_around_feature=truth(
                answer.get("BlackenAroundFeature", emd.document.get("BlackenAroundFeature", 0))
            ),
            answer=dict(answer),
        )


@dataclass(frozen=True)
class RasterInfo:
    """What a pixel function says of its output (ArcGIS formats E.8)."""

    bands: int
    pixel_type: str  # numpy code: u1, i4, f4
    answer: Mapping[str, Any] = field(default_factory=dict)
    key_metadata: Mapping[str, Any] = field(default_factory=dict)
    band_names: tuple[str, ...] = ()  # of its output, where it tells them


@dataclass(frozen=True)
class Place:
    """Where the raster lies, as a function is told; without any other word in columns and rows."""

    transform: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # a b c d e f: x = a * column + b * row + c
    size: tuple[int, int] = (0, 0)  # columns, rows
    epsg: int = 0
    nodata: float | None = None

    def facts(self, column: int, row: int, columns: int, rows: int) -> dict[str, Any]:
        """Of a window: what info dicts and `props` have in common (ArcGIS formats E.8)."""
        a, b, c, d, e, f = self.transform
        xs = [a * x + b * y + c for x in (column, column + columns) for y in (row, row + rows)]
        ys = [d * x + e * y + f for x in (column, column + columns) for y in (row, row + rows)]
        extent = (min(xs), min(ys), max(xs), max(ys))
        cell = (float(np.hypot(a, d)), float(np.hypot(b, e)))
        nodata = None if self.nodata is None else np.array([self.nodata])
        return {"extent": extent, "cellSize": cell, "spatialReference": self.epsg, "noData": nodata}


class RasterFunction:
    """A raster function, loaded, initialised and configured. For one thread; its network loads at the first block."""

    def __init__(
        self, model: ModelFolder, function: Any, room: Room, device: int, arguments: Mapping[str, object]
    ) -> None:
        self.model_name, self.emd, self.emd_path = model.name, model.emd, model.emd_path
        self.name, self._function, self._room = type(function).__name__, function, room
        definition = room.definition(self.emd, self.emd_path)
        self._call("initialize", model=definition, device=device)
        table = self._call("getParameterInfo")
        self._raster = raster_name(table, f"{self.model_name}: {self.name}")
        self.parameters = read_parameters(table)
        given = scalars(self.parameters, arguments, f"{self.model_name}: {self.name}")
        self.scalars = {**given, "model": definition, "device": device}
        self.configuration = Configuration.parse(self._call("getConfiguration", **self.scalars) or {}, self.emd)
        self.fields = self._fields()
        self.raster_info: RasterInfo | None = None
        self.place = Place()
        self._classes = self.emd.classes

    @classmethod
    def load(
        cls, model: ModelFolder, *, device: int = -1, arguments: Mapping[str, object] | None = None
    ) -> "RasterFunction":
        """Import the function out of the model folder and ask it how it wants to be fed.

        `device`: -1 CPU, -2 any free GPU, else the GPU's number. `arguments`: values for rows of its arguments table.
        Raises RasterFunctionError when it cannot run here, OptionsError when an argument does not fit, PackageError
        when it lies in another folder: what is trusted is this one.
        """
        if speaks_of("torch", model.path):
            use_all_cores()
        file = model.file(_file_name(model))
        if not file.is_file():
            raise RasterFunctionError("is not in the model's folder", where=file, do="restore or repack the model")
        room = Room(model.path, device)
        try:
            module = room.load(file)
            with room.entered():
                function = _class_of(module, file)()
        except RasterFunctionError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            raise RasterFunctionError(f"cannot be imported ({told(error)})", where=file, do=remedy(error)) from error
        return cls(model, function, room, device, arguments or {})

    @contextmanager
    def inside(self) -> Iterator[Any]:
        """The object itself, as ArcGIS holds it, while the modules of its folder are in place."""
        with self._room.entered():
            yield self._function

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
        size = self.configuration.batch_size
        found: list[Labelling] = []
        for i in range(0, len(images), size):
            some = images[i : i + size]
            with self._telling("vectorize"):
                answers = self._labellings(some)
                if len(answers) != len(some) < size:
                    answers = self._labellings([*some, *[some[-1]] * (size - len(some))])[: len(some)]
                if len(answers) != len(some):
                    raise ValueError(f"output_vectors: expected {len(some)} features, one for each image")
            found += answers
        return found

    def _labellings(self, images: Sequence[tuple[NDArray[Any], NDArray[np.bool_]]]) -> list[Labelling]:
        """Of one call; none where it stumbles over fewer images than a batch, as Esri's published function does."""
        blocks = [self._blocks(pixels, valid) for pixels, valid in images]
        stacks = {f"rasters_{part}": tuple(b[f"{self._raster}_{part}"] for b in blocks) for part in self._parts}
        try:
            return read_labellings(self._function.vectorize(**stacks)["output_vectors"])
        except IndexError:
            if len(images) == self.configuration.batch_size:
                raise
            return []

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("pixels", "mask") if self.configuration.input_mask else ("pixels",)

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
        props = {"pixelType": info.pixel_type, "width": cols, "height": rows, **self.place.facts(*at, cols, rows)}
        shape = (info.bands, rows, cols)
        with self._telling("updatePixels", at):
            blocks = self._selected(self._blocks(pixels, valid), at, shape, props)
            answer = self._function.updatePixels(at, shape, props, **blocks)
            result = self._without_filling(np.asarray(answer["output_pixels"]), rows, cols)
            if result.shape != shape:
                raise ValueError(f"output_pixels: expected {shape} without the padding, got {result.shape}")
            mask = answer.get("output_mask")
            inherited = valid[padding : padding + rows, padding : padding + cols]
            mask = inherited if mask is None else self._without_filling(np.asarray(mask), rows, cols)
            whole = mask.reshape(-1, rows, cols).astype(bool).min(axis=0)
            return result.astype(info.pixel_type, copy=False), whole

    def _without_filling(self, result: NDArray[Any], rows: int, cols: int) -> NDArray[Any]:
        """Functions that fill a smaller block at the edge answer a whole one: the upper left of it is meant."""
        result = result[None] if result.ndim == 2 else result
        whole = (self.configuration.ty, self.configuration.tx)
        return result[:, :rows, :cols] if result.ndim == 3 and result.shape[1:] == whole else result

    def update_raster_info(self, pixel_type: str, bands: int, place: Place | None = None) -> RasterInfo:
        """Ask the function what its output looks like, given the input's numpy pixel type ("u1") and band count."""
        self.place = place or self.place
        source = {"bandCount": bands, "pixelType": pixel_type, **self.place.facts(0, 0, *self.place.size)}
        source |= {"nativeExtent": source["extent"], "nativeSpatialReference": source["spatialReference"]}
        output: dict[str, Any] = dict(source)
        if hasattr(self._function, "updateRasterInfo"):
            given = {f"{self._raster}_info": source, "output_info": output, **self.scalars}
            output = self._call("updateRasterInfo", **given)["output_info"]
        count = int(output["bandCount"])
        names = tuple(str(self._key_metadata(band).get("bandname") or "") for band in range(count))
        self.raster_info = RasterInfo(
            count, str(output["pixelType"]), output, self._key_metadata(-1), names if any(names) else ()
        )
        return self.raster_info

    def _key_metadata(self, band: int) -> Mapping[str, Any]:
        """What the function tells of a band of its output, or with -1 of the whole."""
        if not hasattr(self._function, "updateKeyMetadata"):
            return {}
        return self._call("updateKeyMetadata", names=(), bandIndex=band) or {}

    def _selected(
        self, blocks: dict[str, NDArray[Any]], at: tuple[int, int], shape: tuple[int, ...], props: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """A function may say for each tile that it does not need the raster."""
        if not hasattr(self._function, "selectRasters"):
            return blocks
        chosen = self._function.selectRasters(at, shape, props)
        return blocks if chosen is None or self._raster in chosen else {}  # Esri's draft templates answer None

    def _fields(self) -> tuple[Field, ...]:
        """Of the features that it finds; none of a function for pixels. Raises RasterFunctionError for no polygons."""
        if not hasattr(self._function, "vectorize") or not hasattr(self._function, "getFields"):
            return ()
        if hasattr(self._function, "getGeometryType") and (kind := self._call("getGeometryType")) != POLYGON:
            where = f"{self.model_name}: {self.name}.getGeometryType"
            raise RasterFunctionError("expected 4, polygons", where=where, got=kind, do="let it answer outlines")
        with self._telling("getFields"):
            return read_fields(self._function.getFields())

    def _blocks(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Writable copies in C order; the mask has the shape of the pixels (ArcGIS formats E.6)."""
        if pixels.ndim != 3 or pixels.shape[1:] != valid.shape:
            shapes = f"{pixels.shape} and {valid.shape}"
            raise ValueError(f"expected pixels (bands, rows, cols) and valid (rows, cols), got {shapes}")
        limits = self.configuration.data_range
        pixels = np.array(pixels, order="C") if limits is None else _rescaled(pixels, limits)
        if not self.configuration.input_mask:
            return {f"{self._raster}_pixels": pixels}
        mask = np.repeat(valid[None].view(np.uint8), len(pixels), axis=0)
        return {f"{self._raster}_pixels": pixels, f"{self._raster}_mask": mask}

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
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            where = f"{self.model_name}: {self.name}.{method}{tile}"
            raise RasterFunctionError(told(error), where=where, do=remedy(error)) from error


def speaks_of(word: str, folder: Path) -> bool:
    """Whether any module of a package holds a word, such as the name of a library that takes seconds to import."""
    return any(word.encode() in file.read_bytes() for file in folder.rglob("*.py"))


def use_all_cores() -> None:
    """torch on every core that this process may use, for its own guess counts those of the machine, and in huge pages.

    Tensors come and go by the megabyte: in pages of 4 KB a third of a small network's CPU time is the kernel's. Where
    torch is not loaded yet, threads that wait let others work (docs/decisions/0002-threads.md). GPUs are numbered as
    nvidia-ml does.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when torch makes its first tensor
    with suppress(ImportError):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _file_name(model: ModelFolder) -> str:
    if name := model.raster_function:
        return name
    got = model.emd.inference_function or model.emd.document.get("ModelConfiguration")
    do = f"{CONVERT} where that is possible, or run it in ArcGIS"
    if name := model.open_function:
        do = f"run it in ArcGIS, or put {name} of Esri's open raster-deep-learning and its helpers into the package"
    raise RasterFunctionError(
        "needs ArcGIS: its function is a part of the installation", where=model.name, got=got, do=do
    )


def _class_of(module: ModuleType, file: Path) -> Any:
    """The class named like the file, else the only one that has getParameterInfo (ArcGIS formats E.1).

    Among several of those, the only one whose name differs from the file's in upper and lower letters alone.
    """
    if isinstance(strict := getattr(module, file.stem, None), type):
        return strict
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    able = [c for c in classes if hasattr(c, "getParameterInfo")]
    for some in (able, [c for c in able if is_alike(c.__name__, file.stem)]):
        if len(some) == 1:
            return some[0]
    got = [c.__name__ for c in able]
    raise RasterFunctionError("has no class of its own name", where=file, got=got, do=f"name its class {file.stem}")


def _rescaled(pixels: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """From the whole range of an integer pixel type into `limits` (EMD DataRange, ArcGIS formats A.2)."""
    if pixels.dtype.kind not in "ui":
        raise ValueError(f"DataRange {limits} needs integer pixels, whose range is known, got {pixels.dtype}")
    span = np.iinfo(pixels.dtype)
    low, high = limits
    share = (pixels.astype(np.float32) - span.min) / (float(span.max) - span.min)
    return (low + share * (high - low)).astype(np.float32)
