"""Features in a bucket or on the web: a copy is read, and what changes there is noticed here."""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas
import pytest

from flows.recipe import fingerprint
from registry import scenes
from registry.errors import Conflict, NotFound, OptionsError, StoreError
from registry.settings import settings
from registry.stores import open_store
from registry.stores.s3 import S3Store
from tasks import receipt, town
from tasks.export import export_training_data
from tasks.exporting.options import ExportOptions
from tasks.exporting.report import PAGE
from tasks.feature_files import read_features
from tasks.layers import address
from tasks.nearby import COPIES, contents_of, nearby
from tests.servers import Seaweed, s3_environment, seaweed

SMALL = ExportOptions(tile_size_x=32, tile_size_y=32, stride_x=32, stride_y=32)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return town.write(tmp_path / "town")[1]


@pytest.fixture
def web(labels: Path) -> Iterator[str]:
    """Of the folder of the labels."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(labels.parent)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), "labels") as server:
        yield server


@pytest.fixture
def bucket(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in s3_environment(weed.endpoint).items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://labels")
    assert isinstance(store, S3Store)
    return store


def later(path: Path) -> None:
    """Changed, as servers tell by whole seconds."""
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 5))


def copies() -> list[Path]:
    return sorted((settings().cache / COPIES).glob("*"))


def test_what_lies_here_is_itself(labels: Path) -> None:
    for path in (labels, labels / "roofs", Path("C:/town.gpkg"), Path("https.gpkg")):
        assert path == nearby(path)
        assert "" == address(path)


def test_addresses_are_known_where_pathlib_has_eaten_a_slash() -> None:
    assert "s3://bucket/a.gpkg" == address(Path("s3://bucket/a.gpkg"))
    assert "https://host/a.gpkg?x=1" == address(Path("HTTPS://host/a.gpkg?x=1"))


def test_a_copy_is_read_and_fetched_again_when_it_has_changed(web: str, labels: Path) -> None:
    where = Path(f"{web}/{labels.name}")
    first = nearby(where)
    assert labels.read_bytes() == first.read_bytes()
    assert first == nearby(where)
    assert 1 == len(copies())
    stamped, marked = receipt.stamp(where), fingerprint(address(where))
    read_features(labels).iloc[:1].to_file(labels)
    later(labels)
    assert 1 == len(read_features(where))
    assert 2 == len(copies())
    assert stamped != receipt.stamp(where)
    assert marked != fingerprint(address(where))


def test_a_layer_is_named_behind_the_address(web: str, labels: Path) -> None:
    table = read_features(labels)
    table.to_file(labels.parent / "plan.gpkg", layer="roofs")
    table.iloc[:2].to_file(labels.parent / "plan.gpkg", layer="ponds")
    assert len(table) == len(read_features(Path(f"{web}/plan.gpkg/roofs")))
    assert 2 == len(read_features(Path(f"{web}/plan.gpkg/main.ponds")))
    assert 1 == len(copies())
    assert fingerprint(f"{web}/plan.gpkg/roofs") != fingerprint(f"{web}/plan.gpkg/ponds")
    assert receipt.stamp(Path(f"{web}/plan.gpkg/roofs")) != receipt.stamp(Path(f"{web}/plan.gpkg/ponds"))


@pytest.mark.parametrize("name", ["roofs.shp", "ROOFS.SHP"])
def test_a_shapefile_comes_with_its_other_files(name: str, web: str, labels: Path) -> None:
    read_features(labels).to_file(labels.parent / "roofs.shp")
    for path in labels.parent.glob("roofs.*"):
        path.rename(path.with_name(path.name.upper() if name.isupper() else path.name))
    where = Path(f"{web}/{name}")
    assert read_features(labels).crs == read_features(where).crs
    assert {".cpg", ".dbf", ".prj", ".shp", ".shx"} == {path.suffix.lower() for path in nearby(where).parent.iterdir()}
    before = receipt.stamp(where)
    later(next(labels.parent.glob("*.[dD][bB][fF]")))
    assert before != receipt.stamp(where)


def test_what_is_not_there_is_told_by_its_address(web: str) -> None:
    with pytest.raises(NotFound, match=rf"{web}/nowhere.gpkg: there is no such file"):
        nearby(Path(f"{web}/nowhere.gpkg/roofs"))
    assert [] == copies()


def test_what_changes_while_it_is_fetched_is_not_kept(web: str, labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = scenes.fetch

    def change(*arguments: Any) -> Path:
        later(labels)
        return fetch(*arguments)

    monkeypatch.setattr(scenes, "fetch", change)
    with pytest.raises(StoreError, match="changed while it was fetched"):
        nearby(Path(f"{web}/{labels.name}"))
    assert [] == copies()


def test_a_server_that_tells_nothing_of_a_change_is_refused(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "send_header", lambda *_: None)
    with pytest.raises(OptionsError, match="its server tells no ETag, size or time of change; copy it to this machine"):
        nearby(Path(f"{web}/town.gpkg"))


def test_a_copy_that_breaks_off_leaves_nothing(web: str, labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Path:
        raise StoreError("is away")

    monkeypatch.setattr(scenes, "fetch", broken)
    with pytest.raises(StoreError, match="is away"):
        nearby(Path(f"{web}/{labels.name}"))
    assert [] == copies()


def test_no_address_leads_out_of_the_cache(web: str, labels: Path) -> None:
    copy = nearby(Path(f"{web}/%2e%2e/%2e%2e/{labels.name}"))
    assert copy.is_relative_to(settings().cache / COPIES)


@pytest.mark.slow
def test_a_geodatabase_in_a_bucket(bucket: S3Store, labels: Path) -> None:
    how = {"driver": "OpenFileGDB", "TARGET_ARCGIS_VERSION": "ARCGIS_PRO_3_2_OR_LATER"}
    read_features(labels).to_file(labels.parent / "plan.gdb", layer="roofs", **how)
    for path in (labels.parent / "plan.gdb").iterdir():
        bucket.put(f"city/plan.gdb/{path.name}", path)
    assert read_features(labels).area.equals(read_features(Path("s3://labels/city/plan.gdb/roofs")).area)
    assert len(read_features(labels)) == len(read_features(Path("s3://labels/city/plan.gdb")))
    before = contents_of("s3://labels/city/plan.gdb/roofs")
    bucket.replace(f"city/plan.gdb/{path.name}", b"changed")
    assert before.keys() == contents_of("s3://labels/city/plan.gdb").keys()
    assert before != contents_of("s3://labels/city/plan.gdb")


@pytest.mark.slow
def test_a_key_may_hold_what_an_address_may_not(bucket: S3Store, labels: Path) -> None:
    bucket.put("a b/50%?#1.gpkg", labels)
    assert len(read_features(labels)) == len(read_features(Path("s3://labels/a b/50%?#1.gpkg")))


@pytest.mark.slow
def test_an_export_of_labels_in_a_bucket(bucket: S3Store, labels: Path, tmp_path: Path) -> None:
    image, where = labels.parent / "town.tif", Path("s3://labels/roofs.gpkg")
    read_features(labels).dissolve().assign(geometry=lambda t: t.buffer(50)).to_file(tmp_path / "mask.gpkg")
    bucket.put("roofs.gpkg", labels)
    bucket.put("mask.gpkg", tmp_path / "mask.gpkg")
    near = export_training_data(image, labels, tmp_path / "near", SMALL, workers=1)
    far = export_training_data(image, where, tmp_path / "far", SMALL, workers=1)
    assert near.digest == far.digest
    assert "s3://labels/roofs.gpkg" in (tmp_path / "far" / PAGE).read_text()
    shutil.rmtree(settings().cache)
    before = (tmp_path / "far" / receipt.NAME).stat().st_mtime_ns
    export_training_data(image, where, tmp_path / "far", SMALL, workers=1)
    assert before == (tmp_path / "far" / receipt.NAME).stat().st_mtime_ns
    masked = SMALL.model_copy(update={"in_mask_polygons": "s3://labels/mask.gpkg"})
    assert far.names == export_training_data(image, where, tmp_path / "masked", masked, workers=1).names
    geopandas.read_file(labels).iloc[:2].to_file(tmp_path / "fewer.gpkg")
    bucket.replace("roofs.gpkg", (tmp_path / "fewer.gpkg").read_bytes())
    with pytest.raises(Conflict, match="made from other data"):
        export_training_data(image, where, tmp_path / "far", SMALL, workers=1)
