"""Image services of ArcGIS, from a stand-in that cuts out of a raster what it is asked for."""

import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.windows import from_bounds

from flows.places import is_raster, is_stream
from flows.recipe import fingerprint
from registry.errors import ImageryError, OptionsError, StoreError
from tasks import image_services, receipt, town
from tasks.detect_objects import detect_objects
from tasks.export import export_training_data, split_extent
from tasks.exporting import run, units
from tasks.exporting.options import ExportOptions
from tasks.imagery import open_imagery
from tasks.inference_options import DetectOptions
from tasks.sources import find_rasters

TYPES = {"uint8": "U8", "uint16": "U16", "int16": "S16", "float32": "F32"}


@dataclass
class Service:
    """Of one raster; `told` replaces what is told of it."""

    raster: Path
    told: dict[str, Any] = field(default_factory=dict)
    token: str = ""
    broken: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def facts(self) -> dict[str, Any]:
        with rasterio.open(self.raster) as image:
            extent = dict(zip(("xmin", "ymin", "xmax", "ymax"), image.bounds, strict=True))
            reference = {"wkid": image.crs.to_epsg(), "latestWkid": image.crs.to_epsg()} if image.crs else {}
            cell: dict[str, Any] = {"pixelSizeX": image.transform.a, "pixelSizeY": -image.transform.e}
            cell |= {"fullExtent": {**extent, "spatialReference": reference}, "pixelType": TYPES[image.dtypes[0]]}
            names = [str(name) for name in image.descriptions if name]
            return {**cell, "bandCount": image.count, "bandNames": names, **self.told}

    def picture(self, form: dict[str, str]) -> bytes:
        assert ("image", "tiff", "false") == (form["f"], form["format"], form["adjustAspectRatio"])
        columns, rows = map(int, form["size"].split(","))
        with rasterio.open(self.raster) as image:
            assert str(image.crs.to_authority()[1]) == form["imageSR"] == form["bboxSR"]
            assert TYPES[image.dtypes[0]] == form["pixelType"]
            window = from_bounds(*map(float, form["bbox"].split(",")), image.transform)
            bands = [int(i) + 1 for i in form["bandIds"].split(",")] if "bandIds" in form else list(image.indexes)
            pixels = image.read(bands, window=window, out_shape=(len(bands), rows, columns))
        with MemoryFile() as memory:
            shape = {"width": columns, "height": rows, "count": len(bands), "dtype": pixels.dtype}
            with memory.open(driver="GTiff", transform=Affine.scale(2), **shape) as file:
                file.write(pixels)
            return bytes(memory.read())


class Handler(BaseHTTPRequestHandler):
    def __init__(self, service: Service, *given: Any) -> None:
        self.service = service
        super().__init__(*given)

    def do_GET(self) -> None:
        self.answer(dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)))

    def do_POST(self) -> None:
        self.answer(dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode())))

    def answer(self, form: dict[str, str]) -> None:
        self.service.asked.append(form)
        kind = "application/json"
        if self.service.token != form.get("token", ""):
            body = json.dumps({"error": {"code": 499, "message": "Token Required", "details": []}}).encode()
        elif not urlsplit(self.path).path.endswith("/exportImage"):
            body = json.dumps(self.service.facts()).encode()
        elif self.service.broken:
            body = json.dumps({"error": {"code": 500, "message": "Error exporting image"}}).encode()
        else:
            body, kind = self.service.picture(form), "image/tiff"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The invented town."""
    made = Service(town.write(tmp_path / "town")[0])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, made))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}/arcgis/rest/services/air/town/ImageServer"
    yield made
    server.shutdown()
    server.server_close()


def opened(where: str) -> Any:
    [name] = find_rasters(where)
    return open_imagery(name)


def test_a_service_is_read_as_the_raster_behind_it(service: Service) -> None:
    service.told = {"noDataValue": 0, "maxImageWidth": 40, "maxImageHeight": 30}
    with open_imagery(service.raster) as behind, opened(f"{service.url}/") as image:
        assert "town.imageserver" == image.path.name
        assert (behind.crs, behind.transform, behind.dtype) == (image.crs, image.transform, image.dtype)
        assert behind.band_names == image.band_names
        assert (0, (30, 40)) == (image.nodata, image.block_shape)
        for window in ((0, 0, 96, 96), (13, 7, 55, 61), (90, 90, 20, 20)):
            assert (behind.read(*window).pixels == image.read(*window).pixels).all()


def test_bands_are_those_that_are_asked_for(service: Service) -> None:
    with open_imagery(service.raster) as behind, opened(f"{service.url}?bandIds=3,0") as image:
        assert (behind.band_names[3], behind.band_names[0]) == image.band_names
        assert (behind.read(0, 0, 96, 96).pixels[[3, 0]] == image.read(0, 0, 96, 96).pixels).all()


@pytest.mark.parametrize("asked", ["4", "-1", "red", "0,"])
def test_bands_that_are_not_there_are_told(asked: str, service: Service) -> None:
    with pytest.raises(OptionsError, match=rf"bandIds: expected numbers of bands below 4, got '{asked}'"):
        find_rasters(f"{service.url}?bandIds={asked}")


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_pixels_keep_their_type(dtype: str, service: Service, make_raster: Any) -> None:
    pixels = np.arange(2 * 8 * 9).reshape(2, 8, 9).astype(dtype)
    service.raster = make_raster(pixels)
    with opened(service.url) as image:
        assert (dtype, ("Band_1", "Band_2")) == (image.dtype, image.band_names)
        assert (pixels == image.read(0, 0, 9, 8).pixels).all()


def test_a_wkid_that_is_not_of_epsg_goes_to_the_server_as_it_is(service: Service, make_raster: Any) -> None:
    service.raster = make_raster(np.ones((8, 8), np.uint8), crs="ESRI:102003")
    extent = service.facts()["fullExtent"]
    service.told = {"fullExtent": {**extent, "spatialReference": {"wkid": 102003, "latestWkid": 102003}}}
    with opened(service.url) as image:
        assert rasterio.crs.CRS.from_string("ESRI:102003") == image.crs
        assert image.read(0, 0, 8, 8).pixels.all()


def test_training_data_and_objects_come_out_of_a_service(service: Service, make_model: Any, tmp_path: Path) -> None:
    [labels] = (tmp_path / "town").glob("*.gpkg")
    options = ExportOptions(tile_size_x=48, tile_size_y=48, stride_x=48, stride_y=48)
    sides = split_extent(Path(service.url), "east", 0.25)  # pathlib eats a slash
    assert split_extent(service.raster, "east", 0.25) == sides
    made = [
        export_training_data(imagery, labels, tmp_path / name, options)
        for name, imagery in (("far", service.url), ("near", service.raster))
    ]
    for name in made[0].names:
        far, near = (chips.read(name) for chips in made)
        assert (far.image == near.image).all()
        assert far.boxes.tolist() == near.boxes.tolist()
    assert made[0].names == export_training_data(service.url, labels, tmp_path / "far", options).names  # known again
    found = detect_objects(make_model(), service.url, tmp_path / "found.gpkg", DetectOptions())
    assert found.is_file()


def test_classes_come_out_of_a_service(service: Service, make_raster: Any, tmp_path: Path) -> None:
    imagery = service.raster
    classes = np.zeros((96, 96), np.uint8)
    classes[8:40, 8:40], classes[60:90, 20:70] = 1, 2
    with rasterio.open(imagery) as image:
        service.raster = make_raster(classes, "cover.tif", transform=image.transform)
    options = ExportOptions(tile_size=48, stride=48, metadata_format="Classified_Tiles")
    made = [
        export_training_data(imagery, labels, tmp_path / name, options)
        for name, labels in (("far", Path(service.url)), ("near", service.raster))
    ]
    assert 2 == len(made[0].classes)
    for name in made[1].names:
        far, near = (chips.read(name).mask for chips in made)
        assert far is not None
        assert near is not None
        assert (far == near).all()


def test_a_flow_takes_a_service_for_one_raster(service: Service) -> None:
    assert is_raster(service.url)
    assert not is_stream(service.url)
    assert is_stream("https://host/stac")


def test_new_imagery_is_noticed(service: Service) -> None:
    before = fingerprint(service.url), receipt.stamp(Path(service.url))
    assert before == (fingerprint(service.url), receipt.stamp(Path(service.url)))
    service.told = {"timeInfo": {"timeExtent": [1483228800000, 1735689599000]}}
    assert before[0] != fingerprint(service.url)
    assert before[1] != receipt.stamp(Path(service.url))


def test_a_token_goes_to_its_host_is_for_the_owner_alone_and_changes_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.token = "s3cret"
    with pytest.raises(StoreError, match=r"refused \(Token Required\); set DLPK_ARCGIS_TOKENS=127.0.0.1=TOKEN"):
        find_rasters(service.url)
    with pytest.raises(OptionsError, match="a token in an address would be kept"):
        find_rasters(f"{service.url}?token=s3cret")
    stamps = []
    for token in ("s3cret", "another-of-more-letters"):
        service.token = token
        monkeypatch.setenv("DLPK_ARCGIS_TOKENS", f"127.0.0.1={token}")
        [name] = find_rasters(service.url)
        with open_imagery(name) as image:
            assert image.read(0, 0, 9, 9).valid.all()
        stamps.append(receipt.stamp(Path(name)))
        assert 0o600 == stat.S_IMODE(Path(name).stat().st_mode)
    assert stamps[0] == stamps[1]
    assert "s3cret" not in name


def test_a_server_that_fails_gives_no_black_ground(service: Service) -> None:
    with opened(service.url) as image:
        service.broken = True
        with pytest.raises(
            StoreError, match=r"town.imageserver columns 0-9, rows 0-9: cannot be read .*; run the same"
        ):
            image.read(0, 0, 9, 9)


def test_a_failure_of_the_server_keeps_the_chips_that_are_there(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, options = units.write_unit, ExportOptions(tile_size=32, stride=32)

    def failing(job: Any, unit: Any) -> int:
        service.broken = True
        return write(job, unit)

    labels = tmp_path / "town" / "town.gpkg"
    monkeypatch.setattr(run, "write_unit", failing)
    with pytest.raises(StoreError, match="cannot be read"):
        export_training_data(service.url, labels, tmp_path / "chips", options, workers=1)
    assert (tmp_path / "chips").exists()


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"pixelType": "C64"}, r"ImageServer: is no image service with .* one of U1, .*'pixelType': 'C64'"),
        ({"pixelSizeX": 0}, r"is no image service with"),
        ({"fullExtent": None}, r"is no image service with"),
        ({"fullExtent": {"xmin": 0, "ymin": 0, "xmax": 9, "ymax": 9}}, r"has no coordinate system with a known WKID"),
    ],
)
def test_a_service_that_cannot_be_a_raster_is_told(service: Service, told: dict[str, Any], match: str) -> None:
    service.told = told
    with pytest.raises(ImageryError, match=match):
        find_rasters(service.url)


def test_only_image_services_are_taken_for_such() -> None:
    assert image_services.is_image_service("https://host/arcgis/rest/services/a/ImageServer")
    assert not image_services.is_image_service("https://host/arcgis/rest/services/a/FeatureServer/0")
    assert not image_services.is_image_service("/data/ImageServer")
