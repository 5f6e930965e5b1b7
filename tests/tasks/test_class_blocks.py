"""Class rasters in the making: units that survive a kill, tiles encoded once, a file as GDAL would write it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import OptionsError, StoreError
from tasks import class_products, cog, tiling
from tasks.classify_pixels import classify_pixels
from tasks.inference_options import ClassifyOptions
from tasks.overviews import halved
from tasks.progress import Progress
from tasks.run_folder import Share, run_folder
from tasks.tiling import Plan, block_windows, sides

SCRIPT = """
import os, signal, sys
from pathlib import Path
from registry.dlpk import ModelFolder
from tasks import tiling
from tasks.classify_pixels import classify_pixels
from tasks.inference_options import ClassifyOptions

tiling.LARGEST_UNIT = 64

def tick(progress):
    if progress.done == 7:
        os.kill(os.getpid(), signal.SIGKILL)

model, image, out = map(Path, sys.argv[1:])
classify_pixels(ModelFolder(model), image, out, ClassifyOptions(), on_progress=tick)
"""


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "LARGEST_UNIT", 64)


def noise(rows: int, cols: int) -> Any:
    return np.random.default_rng(5).integers(0, 250, (rows, cols), np.uint8)


BLOCKS = ClassifyOptions(arguments={"batch_size": "1"})  # of 32 pixels, four in a unit


class Stopped(Exception):
    pass


def stopped_after(done: int) -> Any:
    def tick(progress: Progress) -> None:
        if progress.done == done:
            raise Stopped

    return tick


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 4, 17, 29, 30])  # in a unit, at its end, ..., after the last block
def test_a_run_that_was_stopped_goes_on_at_its_units_and_ends_in_the_same_bytes(
    make_model: Any, make_raster: Any, tmp_path: Path, done: int
) -> None:
    model, image = make_model("levels"), make_raster(noise(150, 170))
    whole = classify_pixels(model, image, tmp_path / "whole.tif", BLOCKS)
    out, ticks = tmp_path / "out" / "classes.tif", list[Progress]()
    with pytest.raises(Stopped):
        classify_pixels(model, image, out, BLOCKS, on_progress=stopped_after(done))
    assert not out.exists()
    classify_pixels(model, image, out, BLOCKS, on_progress=ticks.append)
    assert whole.read_bytes() == out.read_bytes()
    assert done == 30 or 30 == ticks[-1].total == ticks[-1].done  # then all that was left is the file
    tables = [f"classes.tif.{end}" for end in ("aux.xml", "vat.cpg", "vat.dbf")]
    assert ["classes.tif", *tables] == sorted(path.name for path in out.parent.iterdir())


@pytest.mark.slow
def test_after_a_kill_only_what_was_not_finished_is_done(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, image, out = make_model("levels"), make_raster(noise(150, 170)), tmp_path / "out" / "classes.tif"
    whole = classify_pixels(model, image, tmp_path / "whole.tif", ClassifyOptions())
    command = [sys.executable, "-c", SCRIPT, str(model.path), str(image), str(out)]
    assert -signal.SIGKILL == subprocess.run(command, check=False, env=dict(os.environ)).returncode
    assert not out.exists()
    ticks = list[Progress]()
    classify_pixels(model, image, out, ClassifyOptions(), on_progress=ticks.append)
    assert 0 < len(ticks) < ticks[-1].total
    assert whole.read_bytes() == out.read_bytes()


MARKING = """

class Marking(ClassifyPixels):
    def updateRasterInfo(self, **kwargs):
        answer = super().updateRasterInfo(**kwargs)
        answer["output_info"]["pixelType"] = "i4"
        return answer

    def updatePixels(self, *place, **blocks):
        answer = super().updatePixels(*place, **blocks)
        answer["output_pixels"][answer["output_mask"] == 0] = -1
        return answer

ClassifyPixels = Marking
"""


def test_what_a_function_gives_where_nothing_is_valid_may_be_no_class(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, pixels = make_model("levels"), np.full((60, 70), 100, np.uint8)
    pixels[:20] = 0
    function = model.path / "ClassifyPixels.py"
    function.write_text(function.read_text() + MARKING)
    out = classify_pixels(model, make_raster(pixels, nodata=0), tmp_path / "classes.tif", ClassifyOptions())
    with rasterio.open(out) as raster:
        assert ("uint8", [255, 1]) == (raster.dtypes[0], raster.read(1)[[5, 50], 35].tolist())


def test_what_another_run_left_is_not_taken_for_this_one(make_model: Any, make_raster: Any, tmp_path: Path) -> None:
    model, out, ticks = make_model("levels"), tmp_path / "classes.tif", list[Progress]()
    with pytest.raises(Stopped):
        classify_pixels(model, make_raster(noise(150, 170)), out, ClassifyOptions(), on_progress=stopped_after(7))
    image = make_raster(255 - noise(150, 170), "other.tif")
    classify_pixels(model, image, out, ClassifyOptions(), on_progress=ticks.append)
    other = classify_pixels(model, image, tmp_path / "other_classes.tif", ClassifyOptions())
    assert (ticks[-1].total, other.read_bytes()) == (len(ticks), out.read_bytes())


@pytest.mark.parametrize("cell_size", [None, 0.4], ids=["as they are", "resampled"])
def test_a_run_over_a_mosaic_begins_anew_when_a_raster_of_it_has_changed(
    make_model: Any, make_raster: Any, tmp_path: Path, cell_size: float | None
) -> None:
    def image(name: str, pixels: Any, **where: Any) -> Path:
        return Path(make_raster(np.stack([pixels, pixels]), name, nodata=0, **where))

    model, out, ticks = make_model("levels"), tmp_path / "classes.tif", list[Progress]()
    options = ClassifyOptions(cell_size=cell_size)
    beside = Affine(0.5, 0, 500085, 0, -0.5, 4600000)
    both = [image("a.tif", noise(150, 170)), image("b.tif", noise(9, 9), transform=beside)]
    with pytest.raises(Stopped):
        classify_pixels(model, both, out, options, on_progress=stopped_after(5))
    image("a.tif", 250 - noise(150, 170))
    classify_pixels(model, both, out, options, on_progress=ticks.append)
    other = classify_pixels(model, both, tmp_path / "other.tif", options)
    assert (ticks[-1].total, other.read_bytes()) == (len(ticks), out.read_bytes())


def test_a_raster_that_was_not_brought_to_its_coordinate_system_yet_is_not_taken_for_finished(
    make_model: Any, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Stopped

    model, image, out, ticks = make_model("levels"), make_raster(noise(60, 70)), tmp_path / "out", list[Progress]()
    options = ClassifyOptions(processing_mode="PROCESS_ITEMS_SEPARATELY", output_coordinate_system="EPSG:4326")
    with monkeypatch.context() as patched:
        patched.setattr(class_products, "warp_result", stop)
        with pytest.raises(Stopped):
            classify_pixels(model, image, out, options)
    classify_pixels(model, image, out, options, on_progress=ticks.append)
    with rasterio.open(out / "town.tif") as raster:
        assert (4326, []) == (raster.crs.to_epsg(), ticks)
    assert ["town.tif", *(f"town.tif.{end}" for end in ("aux.xml", "vat.cpg", "vat.dbf"))] == sorted(
        path.name for path in out.iterdir()
    )


def test_a_result_that_is_being_written_is_not_written_by_a_second_run(tmp_path: Path) -> None:
    with run_folder(tmp_path / "a.tif", {}) as first:
        first.write("unit", b"1")
        with (
            pytest.raises(StoreError, match="is being written by another run"),
            run_folder(tmp_path / "a.tif", {}),
        ):
            pytest.fail("both got it")
        assert first.has("unit")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_shares_that_work_at_the_same_time_end_in_the_same_bytes(
    make_model: Any, make_raster: Any, tmp_path: Path
) -> None:
    model, image, out = make_model("levels"), make_raster(noise(150, 170)), tmp_path / "classes.tif"
    whole = classify_pixels(model, image, tmp_path / "whole.tif", BLOCKS)
    ticks = list[Progress]()

    def with_another(progress: Progress) -> None:
        if progress.done == 1:
            classify_pixels(model, image, out, BLOCKS, share=Share(0, 2))
            other = ClassifyOptions(arguments={"batch_size": "4"})
            for share in (None, Share(0, 2)):  # another run, and a whole one beside its shares
                with pytest.raises(StoreError, match="is being written by another run"):
                    classify_pixels(model, image, out, other if share else BLOCKS, share=share)

    classify_pixels(model, image, out, BLOCKS, share=Share(1, 2), on_progress=with_another)
    classify_pixels(model, image, out, BLOCKS, on_progress=ticks.append)
    assert ([], whole.read_bytes()) == (ticks, out.read_bytes())
    assert not out.with_name(".classes.tif.run").exists()
    with pytest.raises(OptionsError, match="expected a part from 0 to 1"):
        Share(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(300, 330), (257, 64), (1, 500), (64, 65)])
def test_gdal_finds_a_cloud_optimised_geotiff_in_the_file(
    make_model: Any, make_raster: Any, tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = noise(*shape)
    pixels[:64, 1:128], pixels[128:256] = 251, 251  # holes, of whole units and of whole rows of units
    out = classify_pixels(make_model("levels"), make_raster(pixels, nodata=251), tmp_path / "c.tif", ClassifyOptions())
    with rasterio.open(out) as raster:
        told, levels = raster.tags(ns="IMAGE_STRUCTURE"), raster.overviews(1)
        assert ("COG", "DEFLATE") == (told["LAYOUT"], told["COMPRESSION"])
        values = raster.read(1)
        assert pixels.shape == values.shape
        assert [2, 4, 8][: len(levels)] == levels
        assert max(-(-side // 2 ** len(levels)) for side in shape) <= 64
        valid = values[values != raster.nodata]
        told = raster.tags(1)
        assert valid.mean() == pytest.approx(float(told["STATISTICS_MEAN"]))
        assert valid.max() == float(told["STATISTICS_MAXIMUM"])
        for level in levels:
            values = halved(values[None], 255)[0]
            with rasterio.open(out, overview_level=levels.index(level)) as small:
                assert values.tolist() == small.read(1).tolist()
        assert _places(raster) == sorted(_places(raster))


def _places(raster: Any) -> list[int]:
    """Where the directories and tiles lie in the file, in the order in which a reader wants them."""
    ifd = [int(raster.get_tag_item("IFD_OFFSET", "TIFF", bidx=1, ovr=ovr)) for ovr in [None, *range(_levels(raster))]]
    tiles = []
    for ovr in [*reversed(range(_levels(raster))), None]:
        rows, cols = (-(-side // 64 // (1 if ovr is None else 2 ** (ovr + 1))) for side in raster.shape)
        names = [f"BLOCK_OFFSET_{x}_{y}" for y in range(rows) for x in range(cols)]
        tiles += [int(at) for n in names if (at := raster.get_tag_item(n, "TIFF", bidx=1, ovr=ovr))]
    return ifd + [at for at in tiles if at]


def _levels(raster: Any) -> int:
    return len(raster.overviews(1))


def test_a_file_beyond_four_gigabytes_is_a_big_tiff(make_raster: Any, tmp_path: Path) -> None:
    tile = cog.encode(np.ones((1, 16, 16), np.uint8), (16, 16), 255)
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 0, 0, -1, 0), "count": 1, "dtype": "uint8"}
    description = cog.Description({**profile, "nodata": 255}, {"a": "b"}, {}, [], (16, 16))
    layer = cog.Layer(32, 32, [len(tile), 0, len(tile), len(tile)], [tile] * 3)
    cog.write_cog(tmp_path / "small.tif", [layer], description)
    cog.write_cog(tmp_path / "big.tif", [layer], description, big=True)
    assert (b"II*\0", b"II+\0") == tuple((tmp_path / f"{n}.tif").read_bytes()[:4] for n in ("small", "big"))
    for name in ("small", "big"):
        with rasterio.open(tmp_path / f"{name}.tif") as raster:
            values = raster.read(1)
            assert ([1, 255, 1, 1], "b") == (values[::16, ::16].ravel().tolist(), raster.tags()["a"])


@given(st.integers(8, 70), st.integers(8, 70), st.integers(1, 200), st.integers(1, 200), st.booleans())
def test_blocks_of_all_units_cover_each_pixel_once(tx: int, ty: int, width: int, height: int, fixed: bool) -> None:
    plan = Plan.of(width, height, tx, ty)
    seen = np.zeros((height, width), int)
    for number in range(len(plan)):
        for w in block_windows(plan.window(number), (width, height), (tx, ty), fixed):
            assert (0, 0) == (w.col % tx, w.row % ty)
            seen[w.row : w.row + w.height, w.col : w.col + w.width] += 1
    assert (seen == 1).all()


@given(st.integers(1, 3000))
def test_units_are_whole_blocks_and_whole_tiles(step: int) -> None:
    unit, tile = sides(step)
    assert (0, 0, 0) == (unit % step, unit % tile, tile % 16)


def test_an_overview_shows_what_is_most_and_a_hole_only_where_nothing_else_is() -> None:
    square = np.array([[[1, 2, 9, 9], [2, 1, 9, 4], [9, 9, 3, 3], [9, 9, 5, 3]]], np.uint8)
    assert [[1, 4], [9, 3]] == halved(square, 9)[0].tolist()
    assert [[1.5]] == halved(np.array([[[1, np.nan], [2, np.nan]]], np.float32), np.nan)[0].tolist()
