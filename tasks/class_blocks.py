"""What the tools share that write a raster of class values: block by block through the function, into a GeoTIFF."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from registry.dlpk import ModelFolder
from registry.errors import RasterFunctionError
from tasks.class_units import Tally, Unit, Units, packed
from tasks.cog import Description, Layer
from tasks.host import RasterInfo
from tasks.inference import AnyFunction, blocks, place_of
from tasks.inference_options import ModelSource
from tasks.overviews import Floor
from tasks.parts import Readable
from tasks.progress import OnProgress, Progress
from tasks.results import check_raster, pixel_type, workshop, write_class_raster
from tasks.run_folder import RunFolder, Share, run_folder
from tasks.tiling import Plan, Window, block_windows


@dataclass(frozen=True)
class Classifying:
    """A class raster in the making: what a process needs to do a unit of it."""

    function: AnyFunction
    model: ModelFolder
    image: Readable
    bands: tuple[int, ...] | None
    plan: Plan
    kind: tuple[str, float]  # numpy type and nodata value of the result
    layers: int  # bands of the result
    info: RasterInfo  # what the function said of this image
    place: tuple[CRS | None, Affine]  # of the result; the image may be closed when it is put together

    @classmethod
    def of(
        cls, function: AnyFunction, model: ModelFolder, image: Readable, bands: tuple[int, ...] | None
    ) -> "Classifying":
        info = function.update_raster_info(np.dtype(image.dtype).str[1:], image.bands, place_of(image))
        plan = Plan.of(image.width, image.height, function.configuration.tx, function.configuration.ty)
        kind = pixel_type(info.pixel_type, model.emd.classes)
        place = image.crs, image.transform
        return cls(function, model, image, bands, plan, kind, info.bands, info, place)

    def windows(self, number: int) -> Iterator[Window]:
        """The blocks of a unit."""
        c = self.function.configuration
        whole = self.image.width, self.image.height
        return block_windows(self.plan.window(number), whole, (c.tx, c.ty), c.fixed_tile_size)


def write_classes(
    function: AnyFunction,
    model: ModelFolder,
    image: Readable,
    bands: tuple[int, ...] | None,
    out: Path,
    source: ModelSource,
    tell: tuple[OnProgress, str],
    facts: dict[str, object],
    share: Share | None,
    second_look: Callable[[], object],
) -> Callable[[Callable[[Path], object]], None]:
    """The class of every pixel of the image, in units of a run folder. `tell`: whom, and the name of the tool.

    `facts`: what else makes the run what it is; a killed run with the same facts goes on at its finished units.
    `second_look`: what else the model is asked, before `out` takes its name.
    Returns what is left to do, for any thread, with the image or without: to put the units together, as a cloud
    optimised GeoTIFF, and to call what makes more of that file, before it takes the name `out`. With a `share` that is
    nothing.
    """
    check_raster(out)
    work = Classifying.of(function, model, image, bands)
    with ExitStack() as stack:
        facts = {**facts, "plan": vars(work.plan), "kind": work.kind, "bands": bands}
        run = stack.enter_context(run_folder(out, facts, share))
        units = share.range(len(work.plan)) if share else range(len(work.plan))
        _do_units(work, run, units, tell)
        second_look()
        if share:
            return lambda _: None
        held = stack.pop_all()

    def put_together(then: Callable[[Path], object]) -> None:
        with held, workshop(out) as folder:
            _finish(work, run, folder / out.name, source)
            then(folder / out.name)

    return put_together


def _do_units(work: Classifying, run: RunFolder, units: range, tell: tuple[OnProgress, str]) -> None:
    """A thread encodes and writes a unit while the next one is on its way."""
    on_progress, tool = tell
    todo = [number for number in units if not run.has(name_of(number))]
    total = sum(1 for number in units for _ in work.windows(number))
    done = total - sum(1 for number in todo for _ in work.windows(number))

    def tick() -> None:
        nonlocal done
        done += 1
        on_progress(Progress(tool, done, total, "tiles"))

    with ThreadPoolExecutor(1, "writer") as writer, closing(_classified(work, todo, tick)) as classified:
        before: Future[None] | None = None
        try:
            for number, pixels in classified:
                if before:
                    before.result()  # no more than one waits, so memory stays flat
                before = writer.submit(_keep, run, number, pixels, work)
            if before:
                before.result()
        finally:
            writer.shutdown(cancel_futures=True)


def name_of(number: int) -> str:
    return f"{number:06d}.unit"


def _keep(run: RunFolder, number: int, pixels: NDArray[np.generic], work: Classifying) -> None:
    run.write(name_of(number), *packed(pixels, work.plan.tile, work.kind[1]))


def _classified(
    work: Classifying, units: list[int], tick: Callable[[], None]
) -> Generator[tuple[int, NDArray[np.generic]], None, None]:
    """Units, one after the other, whole: (bands, rows, cols) in the type of the result."""
    windows = (window for number in units for window in work.windows(number))
    with closing(blocks(work.image, work.function.configuration, work.bands, windows)) as ahead:
        for number in units:
            within = work.plan.window(number)
            pixels = np.full((work.layers, within.height, within.width), work.kind[1], work.kind[0])
            for _ in work.windows(number):
                col, row, block = next(ahead)
                if block.valid.any():
                    found, valid = work.function.update_block(block.pixels, block.valid, at=(col, row))
                    if (wanted := work.image.wanted(col, row, valid.shape[1], valid.shape[0])) is not None:
                        valid = valid & wanted
                    _store(pixels[:, row - within.row :, col - within.col :], found, valid, work)
                tick()
            yield number, pixels


def _store(room: NDArray[np.generic], found: NDArray[np.generic], valid: NDArray[np.bool_], work: Classifying) -> None:
    """What has room, and is valid. Raises RasterFunctionError when the file's type cannot hold the values."""
    place = room[:, : found.shape[1], : found.shape[2]]
    found, valid = found[:, : place.shape[1], : place.shape[2]], valid[: place.shape[1], : place.shape[2]]
    dtype, _ = work.kind
    if dtype != "float32" and not np.can_cast(found.dtype, dtype):
        limits, told = np.iinfo(dtype), found[:, valid]  # what stands where nothing is valid is no matter
        if told.size and (told.min() < limits.min or told.max() > limits.max):
            raise RasterFunctionError(f"gave values that no class has and {dtype} cannot hold", where=work.model.name)
    if valid.all():
        place[...] = found
    else:
        np.copyto(place, found.astype(dtype, copy=False), where=valid)


def _finish(work: Classifying, run: RunFolder, file: Path, source: ModelSource) -> None:
    """Tiles as they are, overviews out of the units' halves, statistics: nothing is computed twice."""
    units = [Unit.open(run.file(name_of(number))) for number in range(len(work.plan))]
    counts, tally = Counter[int](), Tally()
    for unit in units:
        counts.update(unit.counts)
        tally.add(unit.tally)
    whole = Units(work.plan, units)
    layers = [Layer(work.plan.width, work.plan.height, whole.sizes, whole.tiles())]
    floors = _overviews(work, units, run)
    layers += [floor.layer for floor in floors]
    told = {str(key): str(value) for key, value in work.info.key_metadata.items()}
    profile = {"crs": work.place[0], "transform": work.place[1], "count": work.layers}
    profile |= {"dtype": work.kind[0], "nodata": work.kind[1]}
    tags = {**told, **source.tags()}
    classes, names = work.model.emd.classes, work.info.band_names
    description = Description(profile, tags, tally.tags, classes, work.plan.tile, names)
    write_class_raster(file, layers, description, counts)
    for floor in floors:
        with suppress(FileNotFoundError):
            floor.file.unlink()


def _overviews(work: Classifying, units: list[Unit], run: RunFolder) -> list[Floor]:
    plan = work.plan
    if max(plan.width, plan.height) <= max(plan.tile):
        return []
    size = -(-plan.width // 2), -(-plan.height // 2)
    ground = Floor(size, plan.tile, work.layers, work.kind, run.file(".floor"))
    for top in range(plan.rows):
        row = units[top * plan.columns : (top + 1) * plan.columns]
        if all(unit.is_empty for unit in row):
            ground.add_empty(row[0].shape[1])
        else:
            ground.add(_side_by_side(row, size[0], work))
    return ground.floors


def _side_by_side(row: Sequence[Unit], width: int, work: Classifying) -> NDArray[np.generic]:
    """The halves of units, one after the other in the room that they share: a wide raster's row is no small thing."""
    dtype, nodata = work.kind
    room = np.full((work.layers, row[0].shape[1], width), nodata, dtype)
    left = 0
    for unit in row:
        if not unit.is_empty:
            room[:, :, left : left + unit.shape[2]] = unit.half(dtype)
        left += unit.shape[2]
    return room
