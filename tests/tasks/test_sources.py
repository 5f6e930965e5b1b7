"""Imagery may be a file, a folder, a list, a STAC document, near or far."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.session import AWSSession
from rasterio.shutil import copy

from registry.errors import ImageryError, StoreError
from tasks import imagery, receipt, town
from tasks.classify_pixels import classify_pixels
from tasks.export import export_training_data
from tasks.exporting import finish, run, units
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene import open_scenes
from tasks.host import Configuration
from tasks.imagery import open_imagery
from tasks.inference import blocks
from tasks.inference_options import ClassifyOptions
from tasks.sources import files_read, find_rasters, gdal_name, remote_settings
from tasks.tiling import Window
from tests import ranges
from tests.servers import seaweed

WHOLE: dict[str, Any] = {"tile_size": 96, "stride": 96}
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two towns and something else."""
    town.write(tmp_path / "towns")
    (tmp_path / "towns/b.TIF").write_bytes((tmp_path / "towns/town.tif").read_bytes())
    (tmp_path / "towns/notes.md").write_text("not a raster")
    return tmp_path / "towns"


def item(name: str, assets: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "properties": {"datetime": "2020-01-01T00:00:00Z"},
        "geometry": None, "links": [], "assets": assets,
    }  # fmt: skip


def data(href: str) -> dict[str, Any]:
    return {"data": {"href": href, "type": TIFF, "roles": ["data"]}, "small": {"href": "t.png", "roles": ["thumbnail"]}}


def test_a_folder_is_its_rasters_by_name(folder: Path) -> None:
    assert (str(folder / "b.TIF"), str(folder / "town.tif")) == find_rasters(folder)


def test_a_list_names_rasters_beside_it_and_far_away(folder: Path) -> None:
    (folder / "list.txt").write_text("town.tif\n\ns3://bucket/a.tif\n", encoding="utf-8")
    assert (str(folder / "town.tif"), "/vsis3/bucket/a.tif") == find_rasters(folder / "list.txt")


def test_a_list_may_begin_as_windows_marks_utf_8_and_is_refused_in_other_letters(folder: Path) -> None:
    (folder / "list.txt").write_text("town.tif\n", encoding="utf-8-sig")
    assert (str(folder / "town.tif"),) == find_rasters(folder / "list.txt")
    for encoding in ("cp1252", "utf-16"):
        (folder / "list.txt").write_text("häuser.tif\n", encoding=encoding)
        with pytest.raises(ImageryError, match=r"list.txt: is no list of rasters .*; save it as text in UTF-8"):
            find_rasters(folder / "list.txt")


def test_one_of_several_rasters_in_a_file_has_its_name_of_gdal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(folder / "town.tif", folder / "town.nc", driver="netCDF", FORMAT="NC4")
    band = f'NETCDF:"{folder / "town.nc"}":Band2'
    with open_imagery(folder / "town.tif") as whole, open_imagery(find_rasters(band)[0]) as one:
        assert (1, whole.width, whole.height, whole.crs) == (one.bands, one.width, one.height, one.crs)
        assert (whole.read(0, 0, 9, 9).pixels[1] == one.read(0, 0, 9, 9).pixels[0]).all()
    (folder / "list.txt").write_text('NETCDF:"town.nc":Band2\n', encoding="utf-8")
    assert (band,) == find_rasters(folder / "list.txt")
    assert {**receipt.stamp(folder / "town.nc"), "layer": band} == receipt.stamp(Path(band))
    hdf5 = f'HDF5:"{folder / "town.nc"}"://Band2'
    assert (hdf5,) == find_rasters(Path(hdf5))  # pathlib has eaten a slash
    assert [hdf5, str(folder / "town.nc")] == files_read(hdf5)
    monkeypatch.chdir(folder)
    assert ("netcdf:town.nc:Band2",) == find_rasters("netcdf:town.nc:Band2")
    with pytest.raises(ImageryError, match=r"nix.nc.*: does not exist"):
        find_rasters("NETCDF:nix.nc:Band1")


def test_a_file_of_several_rasters_tells_their_names(folder: Path) -> None:
    copy(folder / "town.tif", folder / "town.nc", driver="netCDF")
    with (
        pytest.raises(ImageryError, match=r"town.nc: holds several rasters, got .*netcdf:.*town.nc:Band1.*; name one"),
        open_imagery(folder / "town.nc"),
    ):
        pass


def test_an_envi_file_that_was_copied_in_part_is_told(folder: Path) -> None:
    copy(folder / "town.tif", folder / "town.dat", driver="ENVI")
    with open_imagery(folder / "town.dat") as image:
        assert image.read(0, 0, 96, 96).valid.all()
    (folder / "town.dat").write_bytes((folder / "town.dat").read_bytes()[:-1])
    with (
        pytest.raises(ImageryError, match=r"town.dat: is cut off: its header tells of 36864 bytes, got 36863; copy it"),
        open_imagery(folder / "town.dat"),
    ):
        pass


def test_products_and_stores_are_folders_that_gdal_knows(folder: Path) -> None:
    (folder / "S2A.SAFE").mkdir()
    (folder / "S2A.SAFE" / "MTD_MSIL2A.xml").touch()
    assert (str(folder / "S2A.SAFE" / "MTD_MSIL2A.xml"),) == find_rasters(folder / "S2A.SAFE")
    copy(folder / "town.tif", folder / "town.zarr", driver="Zarr")
    with open_imagery(find_rasters(folder / "town.zarr")[0]) as store:
        assert 3 == store.bands


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("https://host/a.tif?key=1", "/vsicurl/https://host/a.tif?key=1"),
        (str(Path("https://host/a.tif")), "/vsicurl/https://host/a.tif"),  # pathlib has eaten a slash
        ("/vsizip/a.zip/a.tif", "/vsizip/a.zip/a.tif"),
        ("a.tif", "a.tif"),
    ],
)
def test_far_rasters_have_the_names_that_gdal_knows(text: str, name: str) -> None:
    assert name == gdal_name(text)


def collection(*items: str) -> dict[str, Any]:
    return {
        "type": "Collection", "stac_version": "1.0.0", "id": "towns", "description": "two", "license": "other",
        "extent": {"spatial": {"bbox": [[0, 0, 1, 1]]}, "temporal": {"interval": [["2020-01-01T00:00:00Z", None]]}},
        "links": [{"rel": "item", "href": href} for href in items],
    }  # fmt: skip


def test_a_stac_item_is_its_data_asset(folder: Path) -> None:
    (folder / "item.json").write_text(json.dumps(item("one", data("./town.tif"))), encoding="utf-8")
    assert (str(folder / "town.tif"),) == find_rasters(folder / "item.json")


@pytest.mark.parametrize("href", ["file://{folder}/a%20b.tif", "file://{folder}/a b.tif", "./a%20b.tif", "./a b.tif"])
def test_a_stac_item_names_files_by_paths_or_addresses(folder: Path, href: str) -> None:
    (folder / "town.tif").rename(folder / "a b.tif")
    (folder / "item.json").write_text(json.dumps(item("one", data(href.format(folder=folder)))))
    assert (str(folder / "a b.tif"),) == find_rasters(folder / "item.json")


def test_a_stac_collection_is_all_its_items(folder: Path) -> None:
    for name, href in (("two", "./town.tif"), ("one", "./b.TIF")):
        (folder / f"{name}.json").write_text(json.dumps(item(name, data(href))), encoding="utf-8")
    (folder / "collection.json").write_text(json.dumps(collection("./one.json", "./two.json")), encoding="utf-8")
    assert [str(folder / "b.TIF"), str(folder / "town.tif")] == list(find_rasters(folder / "collection.json"))


def test_a_search_result_is_all_its_features(folder: Path) -> None:
    features = [item(name, data(str(folder / "town.tif"))) for name in ("one", "two")]
    (folder / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert (str(folder / "town.tif"),) * 2 == find_rasters(folder / "search.json")


def bands_of(folder: Path, name: str, **places: str) -> Path:
    """A STAC item with a raster for each band."""
    assets = {band: data(href)["data"] for band, href in places.items()}
    (folder / f"{name}.json").write_text(json.dumps(item(name, assets)), encoding="utf-8")
    return folder / f"{name}.json"


def test_assets_named_behind_an_item_are_the_bands_of_one_raster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bands_of(folder, "one", red="./town.tif", nir="./b.TIF")
    assert (str(folder / "b.TIF"),) == find_rasters(f"{one}#nir")
    [made] = find_rasters(f"{one}#nir, red")
    with open_imagery(made) as image:
        assert ("one.vrt", 8) == (Path(made).name, image.bands)
    assert {made, str(folder / "town.tif"), str(folder / "b.TIF")} == set(files_read(f"{one}#nir,red"))
    monkeypatch.chdir(folder)
    (folder / "list.txt").write_text("one.json#nir,red\n", encoding="utf-8")
    assert (made,) == find_rasters("one.json#nir,red") == find_rasters("list.txt")
    with pytest.raises(ImageryError, match=r"one.json: the item has no asset 'green', got \['nir', 'red'\]; name one"):
        find_rasters("one.json#red,green")


def test_assets_are_taken_of_every_item_of_a_collection(folder: Path) -> None:
    for name in ("one", "two"):
        bands_of(folder, name, red="./town.tif", nir="./b.TIF")
    (folder / "collection.json").write_text(json.dumps(collection("./one.json", "./two.json")), encoding="utf-8")
    found = find_rasters(f"{folder / 'collection.json'}#red,nir")
    assert ["one.vrt", "two.vrt"] == [Path(name).name for name in found]


def test_an_item_that_changed_is_noticed_whatever_is_named_behind_it(folder: Path) -> None:
    named = Path(f"{bands_of(folder, 'one', red='./town.tif')}#red")
    before = receipt.stamp(named)
    bands_of(folder, "one", red="./b.TIF", nir="./b.TIF")
    assert before != receipt.stamp(named)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (item("one", {b: data(f"{b}.tif")["data"] for b in ("b2", "b3")}), r"one asset .*\['b2', 'b3'\]; name .*#red"),
        (item("one", {}), r"role data, got \[\]"),
        ({"type": "Feature"}, "cannot be read as STAC"),
        ([1], "cannot be read as STAC"),
    ],
)
def test_a_stac_document_that_does_not_say_which_raster_is_refused(tmp_path: Path, document: Any, told: str) -> None:
    (tmp_path / "item.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ImageryError, match=told):
        find_rasters(tmp_path / "item.json")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A web server of the test's folder: its address and its process, which tells the bytes of each answer."""
    with subprocess.Popen([sys.executable, ranges.__file__, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}", child
        child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["town.tif", "town.vrt"])
def test_a_server_that_is_busy_for_a_moment_gives_no_black_ground(
    name: str, tmp_path: Path, web: tuple[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    monkeypatch.setenv("GDAL_NUM_THREADS", "2")
    near, _ = town.write(tmp_path / "busy", repeat=4)
    [far] = find_rasters(f"{web[0]}/busy/town.tif")
    copy(near, tmp_path / "town.vrt", driver="VRT")
    text = (tmp_path / "town.vrt").read_text().replace(str(near), far).replace("busy/town.tif", far)
    (tmp_path / "town.vrt").write_text(text.replace('relativeToVRT="1"', 'relativeToVRT="0"'))
    raster = far if name == "town.tif" else tmp_path / name
    windows = [Window(x, y, 192, 192) for y in (0, 192) for x in (0, 192)]
    with open_imagery(near) as image, open_imagery(raster) as found:
        for x, y, block in blocks(found, Configuration(192, 192), None, windows):  # by a thread of its own
            assert (image.read(x, y, 192, 192).pixels == block.pixels).all()
        assert (image.read(0, 0, 384, 384).pixels == found.read(0, 0, 384, 384).pixels).all()


def test_a_server_that_does_not_answer_is_told_apart_from_a_raster_that_is_not_there(
    tmp_path: Path, web: tuple[str, subprocess.Popen[str]]
) -> None:
    missing = pytest.raises(ImageryError, match=rf"^{web[0]}/nix.tif: cannot be opened as a raster \(.*code: 404\)")
    with missing, open_imagery(find_rasters(f"{web[0]}/nix.tif")[0]):
        pass
    web[1].kill()
    web[1].wait()
    silent = pytest.raises(StoreError, match=rf"^{web[0]}/a.tif: cannot be opened \(.*; check that its server runs")
    with silent, open_imagery(find_rasters(f"{web[0]}/a.tif")[0]):
        pass


def test_imagery_on_the_web_is_read_where_it_is(tmp_path: Path, web: tuple[str, subprocess.Popen[str]]) -> None:
    url, server = web
    imagery, labels = town.write(tmp_path, repeat=12)
    with open_scenes(f"{url}/town.tif", labels, ExportOptions(**WHOLE)) as scenes:
        chip = scenes[0].cut((0, 0, 96, 96))
    assert [*map(list, town.ROOFS), list(town.POND_BOX)] == chip.boxes.tolist()
    assert (chip.image == town.pixels()).all()
    server.kill()
    served = sum(map(int, server.communicate()[0].split()))
    assert 0 < served < imagery.stat().st_size / 2


def test_a_stac_document_on_the_web_is_read_or_told(web: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "item.json").write_text(json.dumps(item("one", data("./town.tif"))))
    assert (f"/vsicurl/{web[0]}/town.tif",) == find_rasters(f"{web[0]}/item.json")
    with pytest.raises(ImageryError, match="none.json: cannot be read as STAC"):
        find_rasters(f"{web[0]}/none.json")
    with pytest.raises(ImageryError, match="item.json: cannot be read as STAC .*refused"):
        find_rasters("http://127.0.0.1:9/item.json")


def test_what_the_web_does_not_have_is_told(web: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    labels = town.write(tmp_path / "town")[1]
    with (
        pytest.raises(ImageryError, match="cannot be opened as a raster"),
        open_scenes(f"{web[0]}/none.tif", labels, ExportOptions(**WHOLE)),
    ):
        pass


def test_the_s3_server_is_the_one_that_boto3_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")
    expected = {"AWS_S3_ENDPOINT": "127.0.0.1:9000", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    assert expected == remote_settings()


def test_all_blocks_use_one_session_of_the_same_keys(
    make_model: Any, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Counted(AWSSession):  # type: ignore[misc]  # rasterio has no types
        def __init__(self) -> None:
            made.append(os.environ["AWS_ACCESS_KEY_ID"])
            super().__init__()

    monkeypatch.setattr(imagery, "AWSSession", Counted)
    model, image = make_model("levels"), make_raster(np.full((200, 300), 150, np.uint8))
    for key in ("one", "one", "two"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of " + key)
        classify_pixels(model, image, tmp_path / "classes.tif", ClassifyOptions())
    assert ["one", "two"] == made


@pytest.mark.slow
def test_imagery_in_a_bucket_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagery, labels = town.write(tmp_path / "town")
    with seaweed(tmp_path / "weed", "towns") as server:
        server.client().upload_file(str(imagery), "towns", "near/town.tif")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        (tmp_path / "item.json").write_text(json.dumps(item("one", data("./town.tif"))))
        (tmp_path / "all.json").write_text(json.dumps(collection("./item.json")))
        for name in ("item.json", "all.json"):
            server.client().upload_file(str(tmp_path / name), "towns", f"near/{name}")
            assert ("/vsis3/towns/near/town.tif",) == find_rasters(f"s3://towns/near/{name}")
        with open_scenes("s3://towns/near/town.tif", labels, ExportOptions(**WHOLE)) as scenes:
            assert (scenes[0].cut((0, 0, 96, 96)).image == town.pixels()).all()


def test_pages_that_cannot_be_drawn_cost_no_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, labels = town.write(tmp_path, repeat=2, noise=5)
    options, write, tried = ExportOptions(tile_size=32, stride=16), units.write_unit, []

    def counted(job: Any, unit: Any) -> int:
        tried.append(unit.number)
        return write(job, unit)

    monkeypatch.setattr(run, "write_unit", counted)
    with monkeypatch.context() as broken:
        broken.setattr(finish, "write_preview", _no_font)
        with pytest.raises(OSError, match="no font"):
            export_training_data(scene, labels, tmp_path / "chips", options, workers=1)
    before = len(tried)
    assert 121 == len(export_training_data(scene, labels, tmp_path / "chips", options, workers=1).names)
    assert 0 < before == len(tried)
    assert (tmp_path / "chips" / "preview.png").is_file()


def _no_font(*_: Any) -> None:
    raise OSError("no font")


@pytest.mark.parametrize("far", [True, False])
def test_a_connection_lost_on_the_way_costs_no_chip(
    tmp_path: Path, web: tuple[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, far: bool
) -> None:
    """What is far is asked again by a rerun; a file at hand must be repaired, and is another one then."""
    scene, labels = town.write(tmp_path, repeat=2, noise=5)
    where = f"{web[0]}/town.tif" if far else scene
    options, write, tried = ExportOptions(tile_size=32, stride=16), units.write_unit, []

    def lost(job: Any, unit: Any) -> int:
        tried.append(unit.number)
        if len(tried) == 3:
            raise ImageryError("cannot be read (connection closed)", where=where)
        return write(job, unit)

    monkeypatch.setattr(run, "write_unit", lost)
    with pytest.raises(ImageryError, match="connection closed"):
        export_training_data(where, labels, tmp_path / "chips", options, workers=1)
    assert far == (tmp_path / "chips").exists()
    whole = len(export_training_data(where, labels, tmp_path / "chips", options, workers=1).names)
    assert whole == 121
    assert tried == [0, 1, 2, *([2] if far else [0, 1, 2])]
