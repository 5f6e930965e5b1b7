"""The engine of the export: any number of workers, kills, reruns and additions give the same bytes."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine

from registry.errors import Conflict, DlpkError, ImageryError, LabelError, StoreError
from tasks import export as verb
from tasks import town
from tasks.chips import DEFINITION, ChipFolder
from tasks.export import ExportOptions, dry_run, export_training_data
from tasks.exporting import crew as crews
from tasks.progress import Progress

SMALL = {"tile_size": 32, "stride": 16}  # of the small scene: 121 windows in four units
FORMATS = ("PASCAL_VOC_rectangles", "COCO_rectangles", "Classified_Tiles")
Scene = tuple[Path, Path]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return town.write(tmp_path / "town", repeat=2, noise=5)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started however small the scene is."""
    monkeypatch.setattr(verb, "PIXELS_PER_INTERPRETER", 1)
    monkeypatch.setattr(verb, "PIXELS_PER_FORK", 1)


def export(scene: Scene, out: Path, workers: int = 1, **options: Any) -> ChipFolder:
    return export_training_data(*scene, out, ExportOptions(**(SMALL | options)), workers=workers)


def content(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".receipt.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def chips_of(folder: Path) -> dict[str, bytes]:
    """Without the page that tells options, whose start_index differs between ways that lead to the same chips."""
    return {name: data for name, data in content(folder).items() if name != "export_report.html"}


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("metadata_format", FORMATS)
def test_the_number_of_workers_changes_no_byte(scene: Scene, tmp_path: Path, metadata_format: str) -> None:
    one, three = (export(scene, tmp_path / f"{n}/chips", n, metadata_format=metadata_format) for n in (1, 3))
    assert content(one.path) == content(three.path)
    assert one.digest == three.digest


KILLED = """
import sys, time
from pathlib import Path
from tasks import export as verb

def tell(progress):
    if (progress.step, progress.done >= 64) == ("export", True):
        print("begun", flush=True)
        time.sleep(60)

verb.PIXELS_PER_FORK = 1
imagery, labels, out, workers = sys.argv[1:]
options = verb.ExportOptions(tile_size=32, stride=16)
verb.export_training_data(Path(imagery), Path(labels), Path(out), options, workers=int(workers), on_progress=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_export_goes_on_where_it_was(scene: Scene, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "killed/chips"
    command = [sys.executable, "-c", KILLED, *map(str, scene), str(out), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert b"begun\n" == child.stdout.readline()
        child.kill()
    with pytest.raises(LabelError, match="no finished export"):
        ChipFolder.open(out)
    first = json.loads(min((out / ".parts").glob("00*.json")).read_text())["notes"]
    pictures = [out / f"images/{name}.tif" for name in first]
    before = [picture.stat().st_mtime_ns for picture in pictures]
    export(scene, out, workers)
    assert before == [picture.stat().st_mtime_ns for picture in pictures]
    assert content(export(scene, tmp_path / "fresh/chips").path) == content(out)


@pytest.mark.slow
def test_a_unit_whose_files_were_lost_is_written_again(scene: Scene, tmp_path: Path) -> None:
    whole = content(export(scene, tmp_path / "whole/chips").path)
    out = tmp_path / "torn/chips"
    with pytest.raises(KeyboardInterrupt):
        export_training_data(*scene, out, ExportOptions(**SMALL), workers=1, on_progress=stopped_after(64))
    (out / "images/000000000.tif").write_bytes(b"")  # as a power cut leaves it
    assert whole == content(export(scene, out).path)


def stopped_after(chips: int) -> Any:
    def tell(progress: Progress) -> None:
        if progress.step == "export" and progress.done >= chips:
            raise KeyboardInterrupt

    return tell


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_dead_worker_is_named_and_a_rerun_goes_on(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(crews, "_Interpreter", Mortal)
        with pytest.raises(
            DlpkError, match=r"worker 2 \(process \d+\) was ended by SIGKILL; run the same command again"
        ):
            export(scene, tmp_path / "dead/chips", 2)
    assert content(export(scene, tmp_path / "whole/chips").path) == content(export(scene, tmp_path / "dead/chips").path)


class Mortal(crews._Interpreter):
    def call(self, do: Any, unit: Any) -> tuple[bool, Any]:
        if do.func.__name__ == "write_unit":
            self.kill()
        return super().call(do, unit)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "fork"), [(1, False), (2, False), (3, True)])
def test_a_crew_gives_every_result_and_the_error_of_any_worker(size: int, fork: bool) -> None:
    with crews.crew(size, fork=fork) as run:
        assert [i**2 for i in range(40)] == sorted(run(partial(pow_of, 2), range(40)))
        with pytest.raises(LabelError, match="seven"):
            list(run(refuse_seven, range(20)))


def pow_of(exponent: int, number: int) -> int:
    return int(number**exponent)


def refuse_seven(number: int) -> int:
    if number == 7:
        raise LabelError("seven")
    return number


@pytest.mark.slow
@pytest.mark.parametrize("metadata_format", FORMATS)
def test_two_sides_added_up_are_the_whole(scene: Scene, tmp_path: Path, metadata_format: str) -> None:
    west, east = verb.split_extent(scene[0], "east", 1 / 3)
    options: dict[str, Any] = {"metadata_format": metadata_format, "stride": 32}
    first = export(scene, tmp_path / "chips", extent=west, **options)
    number = len(first.names)
    both = export(scene, tmp_path / "chips", extent=east, start_index=number, **options)
    alone = export(scene, tmp_path / "alone", extent=east, start_index=number, **options)
    assert number + len(alone.names) == len(both.names) == both.accumulated["NumTiles"]
    whole = export(scene, tmp_path / "whole", **options)
    assert whole.accumulated["BandStatsState"][0]["Num"] == both.accumulated["BandStatsState"][0]["Num"]
    assert [s.mean for s in whole.band_statistics] == pytest.approx([s.mean for s in both.band_statistics])
    assert [s.std for s in whole.band_statistics] == pytest.approx([s.std for s in both.band_statistics])
    assert np.array_equal(alone.read(alone.names[-1]).image, both.read(both.names[-1]).image)
    assert len((both.path / "map.txt").read_text().splitlines()) == len(both.names)
    assert not (both.path / ".adding").exists()


@pytest.mark.slow
def test_adding_again_adds_nothing(scene: Scene, tmp_path: Path) -> None:
    export(scene, tmp_path / "chips", stride=32)
    export(scene, tmp_path / "chips", start_index=5000, stride=32)
    before = content(tmp_path / "chips")
    export(scene, tmp_path / "chips", start_index=5000, stride=32)
    export(scene, tmp_path / "chips", stride=32)
    assert before == content(tmp_path / "chips")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"start_index": 3}, "numbers that are taken.*start_index from 121 on"),
        ({"start_index": 5000, "metadata_format": "Classified_Tiles"}, "have MetaDataMode 'PASCAL_VOC_rectangles'"),
        ({"start_index": 5000, "tile_size": 64}, "have ImageHeight 32, got 64"),
    ],
)
def test_what_does_not_fit_is_not_added(scene: Scene, tmp_path: Path, options: dict[str, Any], told: str) -> None:
    export(scene, tmp_path / "chips", output_nofeature_tiles=True)
    before = content(tmp_path / "chips")
    with pytest.raises(Conflict, match=told):
        export(scene, tmp_path / "chips", **options)
    assert before == content(tmp_path / "chips")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"dtype": "uint16"}, "have pixel type 'uint8', got 'uint16'"),
        ({"names": ("Blue", "Green", "Red", "NearInfrared")}, r"have BandNames \['red', 'green', .* got \['blue'"),
        ({"in_raster2": "town.tif"}, "have pictures in each chip 1, got 2"),
    ],
)
def test_chips_of_another_kind_of_raster_are_not_added(
    scene: Scene, tmp_path: Path, other: dict[str, Any], told: str
) -> None:
    export(scene, tmp_path / "chips", stride=32)
    before = content(tmp_path / "chips")
    imagery, labels = town.write(tmp_path / "other", repeat=2, dtype=other.get("dtype", "uint8"))
    with rasterio.open(imagery, "r+") as raster:
        raster.descriptions = other.get("names", town.BANDS)
    second: dict[str, Any] = {"in_raster2": str(imagery)} if "in_raster2" in other else {}
    with pytest.raises(Conflict, match=told):
        export((imagery, labels), tmp_path / "chips", start_index=5000, stride=32, **second)
    assert before == content(tmp_path / "chips")


@pytest.mark.slow
def test_an_addition_killed_while_it_is_deleted_blocks_no_other(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(scene, tmp_path / "chips", stride=32)
    killed_adding(scene, tmp_path / "chips", monkeypatch, "_delete")
    (tmp_path / "chips/.added/images").mkdir(parents=True)  # of a kill in the midst of it
    all_three = export(scene, tmp_path / "chips", start_index=2000, stride=32)
    assert {"000000000", "000001000", "000002000"} <= set(all_three.names)
    assert [] == [path for path in all_three.path.iterdir() if path.name.startswith(".add")]


@pytest.mark.slow
def test_an_addition_that_was_begun_is_never_taken_for_another(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(scene, tmp_path / "chips", stride=32)
    killed_adding(scene, tmp_path / "chips", monkeypatch, "_write_joined")
    with pytest.raises(Conflict, match=r"\.adding: holds the result of another export"):
        export(scene, tmp_path / "chips", start_index=2000, stride=32)
    assert "000001000" in export(scene, tmp_path / "chips", start_index=1000, stride=32).names


@pytest.mark.slow
def test_an_addition_killed_while_it_joins_is_ended_by_a_rerun(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("killed", "whole"):
        export(scene, tmp_path / name / "chips", stride=32)
    killed_adding(scene, tmp_path / "killed/chips", monkeypatch, "write_pages")
    with pytest.raises(LabelError, match="no finished export"):
        ChipFolder.open(tmp_path / "killed/chips")
    with pytest.raises(Conflict, match="being added to by another export"):
        export(scene, tmp_path / "killed/chips", start_index=2000, stride=32)
    joined = export(scene, tmp_path / "killed/chips", start_index=1000, stride=32)
    assert content(export(scene, tmp_path / "whole/chips", start_index=1000, stride=32).path) == content(joined.path)


def killed_adding(scene: Scene, chips: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """From number 1000 on; `step`: of tasks/exporting/append.py, where it is killed."""
    from tasks.exporting import append

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(append, step, dies)
        with pytest.raises(KeyboardInterrupt):
            export(scene, chips, start_index=1000, stride=32)


@pytest.mark.slow
def test_a_full_disk_is_told_and_a_rerun_goes_on(scene: Scene, tmp_path: Path) -> None:
    with files_up_to(2000), pytest.raises(StoreError, match="cannot write .*free some space"):
        export(scene, tmp_path / "full/chips")
    with pytest.raises(LabelError, match="no finished export"):
        ChipFolder.open(tmp_path / "full/chips")
    assert content(export(scene, tmp_path / "whole/chips").path) == content(export(scene, tmp_path / "full/chips").path)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def damaged(tmp_path: Path) -> Scene:
    """A tiled raster one of whose blocks (columns and rows 128 to 256) is no deflate stream."""
    imagery, labels = town.write(tmp_path / "town", repeat=4, noise=5)
    path = tmp_path / "damaged.tif"
    with rasterio.open(imagery) as source:
        profile = {**source.profile, "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(source.read())
    with rasterio.open(path) as raster:
        offset = int(raster.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    return path, labels


def test_an_unreadable_tile_is_named(damaged: Scene, tmp_path: Path) -> None:
    with pytest.raises(ImageryError, match=r"damaged.tif columns \d+-\d+, rows \d+-\d+: cannot be read"):
        export(damaged, tmp_path / "chips", stride=32)
    assert not (tmp_path / "chips").exists() or {} == content(tmp_path / "chips")


@pytest.mark.slow
def test_unreadable_chips_are_left_out_and_counted_on_request(damaged: Scene, tmp_path: Path) -> None:
    options = {"stride": 32, "output_nofeature_tiles": True}
    folder = export(damaged, tmp_path / "chips", **options, skip_unreadable=True)
    assert 144 - 16 == len(folder.names)
    assert "unreadable" in (tmp_path / "chips/export_report.html").read_text()


def test_no_chip_left_tells_every_reason(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "town")
    geopandas.read_file(labels)[:1].to_file(tmp_path / "one.gpkg")  # the roof in the upper left chip
    with rasterio.open(imagery, "r+") as raster:
        raster.write(np.zeros((4, 96, 96), np.uint8))
        raster.nodata = 0
    with pytest.raises(LabelError, match=r"no chip is left: 8 left out for no feature, 1 left out for nodata"):
        export((imagery, tmp_path / "one.gpkg"), tmp_path / "chips", stride=32)
    assert not (tmp_path / "chips").exists()


def test_a_scene_without_a_feature_has_no_chip_around_one(tmp_path: Path) -> None:
    imagery, labels = town.write(tmp_path / "town")
    (tmp_path / "far.tif").write_bytes(imagery.read_bytes())
    with rasterio.open(tmp_path / "far.tif", "r+") as raster:
        raster.transform = town.TRANSFORM @ Affine.translation(1000, 0)
    options = ExportOptions(metadata_format="Labeled_Tiles", tile_size=32)
    chips = export_training_data([imagery, tmp_path / "far.tif"], labels, tmp_path / "chips", options, workers=1)
    assert 4 == len(chips.names)
    nowhere = options.model_copy(update={"extent": (town.WEST, town.NORTH - 1, town.WEST + 1, town.NORTH)})
    with pytest.raises(LabelError, match="no chip is left: no feature lies there to cut one around"):
        export_training_data(imagery, labels, tmp_path / "none", nowhere, workers=1)


def test_a_mistake_leaves_the_folder_free_for_the_next_try(scene: Scene, tmp_path: Path) -> None:
    with suppress(LabelError):
        export(scene, tmp_path / "chips", class_value_field="kind")
    assert export(scene, tmp_path / "chips").names


def test_a_dry_run_tells_what_the_export_will_be(scene: Scene, tmp_path: Path) -> None:
    options: dict[str, Any] = {"min_polygon_overlap_ratio": 0.9}
    told = dry_run(*scene, ExportOptions(**SMALL, **options), workers=1)
    folder = export(scene, tmp_path / "chips", **options)
    sizes = sum(p.stat().st_size for name in ("images", "labels") for p in (folder.path / name).iterdir())
    assert len(folder.names) == told.chips
    assert sizes == pytest.approx(told.bytes, rel=0.1)
    assert 0 < told.minutes < 1
    assert {"no feature"} == set(told.left_out)
    assert {"roof", "pond"} == set(told.classes)
    assert folder.accumulated["FeatureStats"]["NumImagesPerClass"] == [told.classes["roof"], told.classes["pond"]]


def test_parts_of_a_split_share_no_ground(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "chips", split=(0.6, 0.2, 0.2), split_block_size=96)
    assert ["train", "validation", "test"] == list(folder.splits)
    boxes = {part: [folder.bounds(name) for name in names] for part, names in folder.splits.items()}
    for a in boxes["train"]:
        for b in boxes["validation"] + boxes["test"]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("split_by", ["scenes", "blocks"])
def test_pictures_in_pixels_are_split_by_the_ground_they_show(tmp_path: Path, placed: bool, split_by: str) -> None:
    size: dict[str, Any] = {"driver": "GTiff", "count": 1, "width": 32, "height": 32, "dtype": "uint8"}
    for i in range(12):  # on the map two dates of each ground
        place = {"crs": "EPSG:32633", "transform": town.TRANSFORM @ Affine.translation(i // 2 * 9000, 0)}
        with rasterio.open(tmp_path / f"{i:02}.tif", "w", **size, **(place if placed else {})) as file:
            file.write(np.full((1, 32, 32), i, np.uint8))
    options: dict[str, Any] = {"metadata_format": "Export_Tiles", "tile_size": 32, "stride": 32}
    split: dict[str, Any] = {"split": (0.5, 0.25, 0.25), "split_by": split_by, "reference_system": "PIXEL_SPACE"}
    asked, imagery = ExportOptions(**options, **split), sorted(tmp_path.glob("*.tif"))
    parts = export_training_data(imagery, None, tmp_path / "chips", asked, workers=1).splits
    assert 12 == sum(map(len, parts.values()))
    assert all(parts.values())
    if placed:
        assert all(len({int(n) // 2 for n in names}) * 2 == len(names) for names in parts.values())


def test_the_definition_is_the_last_file(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "chips").path
    last = (folder / DEFINITION).stat().st_mtime_ns
    assert last >= max(p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file())
