"""New scenes, found in a folder, below an S3 prefix and by a STAC API that answers over HTTP."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from moto import mock_aws

from registry import scenes
from registry.errors import Denied, NotFound, OptionsError, StoreError
from registry.scenes import Scene, Search
from registry.stores import open_store
from registry.stores.s3 import S3Store
from tests.servers import Seaweed

READY = Search(settle=0)
PIXELS = b"II*\x00 pixels"


def ids(place: str, search: Search = READY) -> list[str]:
    return [scene.id for scene in scenes.find(place, search)]


def write(path: Path, content: bytes = PIXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# -- a folder ----------------------------------------------------------------------------------------------------------
def test_the_rasters_below_a_folder_are_its_scenes(tmp_path: Path) -> None:
    for name in ("b.tif", "2026/a.jp2", "notes.txt", ".part.tif", "empty.tif"):
        write(tmp_path / name, b"" if name == "empty.tif" else PIXELS)
    assert ["2026/a.jp2", "b.tif"] == ids(str(tmp_path)) == ids(tmp_path.as_uri())


def test_a_link_to_nowhere_is_no_scene(tmp_path: Path) -> None:
    write(tmp_path / "a.tif")
    (tmp_path / "b.tif").symlink_to(tmp_path / "nowhere.tif")
    assert ["a.tif"] == ids(str(tmp_path))


def test_a_name_in_another_encoding_is_told_as_text(tmp_path: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6n.tif")))
    [found] = scenes.find(str(tmp_path), READY)
    assert ("gr\N{REPLACEMENT CHARACTER}n.tif", found.content) == (found.id, scenes.content(found))
    assert 16 == len(found.key)
    assert PIXELS == scenes.fetch(found, tmp_path).read_bytes()


def test_a_file_that_may_still_grow_is_left_for_the_next_look(tmp_path: Path) -> None:
    write(tmp_path / "new.tif")
    os.utime(write(tmp_path / "old.tif"), (1, 1))
    assert ["old.tif"] == ids(str(tmp_path), Search(settle=60))


def test_a_file_whose_time_of_change_lies_in_the_future_is_found(tmp_path: Path) -> None:
    file = tmp_path / "ahead.tif"
    file.write_bytes(b"pixels")
    os.utime(file, (4e9, 4e9))
    assert ["ahead.tif"] == ids(str(tmp_path), READY)


def test_a_replaced_file_is_another_scene(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    [before] = scenes.find(str(tmp_path), READY)
    write(path, b"other pixels")
    [after] = scenes.find(str(tmp_path), READY)
    assert before.id == after.id
    assert before.key != after.key
    assert after.content == scenes.content(before)


@pytest.mark.parametrize("beside", ["a.tif.msk", "a.tif.aux.xml", "a.tfw", "a.wld", "a.prj", "a.hdr"])
def test_a_replaced_file_beside_it_makes_another_scene(tmp_path: Path, beside: str) -> None:
    plain = f"{len(PIXELS)}-{write(tmp_path / 'a.tif').stat().st_mtime_ns}"
    contents = [plain]
    write(tmp_path / "b.tfw")
    for told in (b"one", b"another"):
        write(tmp_path / beside, told)
        [found] = scenes.find(str(tmp_path), READY)
        assert found.content == scenes.content(found)
        contents.append(found.content)
    assert 3 == len(set(contents))
    (tmp_path / beside).unlink()
    assert [plain] == [found.content for found in scenes.find(str(tmp_path), READY)]


def test_statistics_beside_it_make_no_other_scene(tmp_path: Path) -> None:
    write(tmp_path / "a.tif")
    [before] = scenes.find(str(tmp_path), READY)
    statistics = b'<Metadata>\n <MDI key="STATISTICS_MEAN">9</MDI>\n</Metadata>'
    write(
        tmp_path / "a.tif.aux.xml",
        b'<PAMDataset>\n<PAMRasterBand band="1">' + statistics + b"</PAMRasterBand></PAMDataset>",
    )
    assert [before] == list(scenes.find(str(tmp_path), READY))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder of scenes"):
        ids(str(tmp_path / "missing"))


def test_a_scene_that_went_meanwhile_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    [scene] = scenes.find(str(tmp_path), READY)
    path.unlink()
    with pytest.raises(NotFound, match="is gone"):
        scenes.content(scene)


def test_an_unknown_kind_of_address_is_told() -> None:
    with pytest.raises(OptionsError, match="STAC API"):
        ids("ftp://host/scenes")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("2026/05/S2 A.tif", "2026-05-S2-A"), ("s2/item.1", "s2-item"), ("ünï.tif", "n"), ("...", "scene")],
)
def test_the_name_of_a_scene_fits_files_and_keys(name: str, expected: str) -> None:
    assert expected == Scene(name, "", "", "file").name


def test_a_scene_without_a_date_is_done_again_by_any_policy() -> None:
    day = datetime(2026, 5, 1, tzinfo=UTC)
    moments = ("", "2026-05-02T00:00:00Z", "2026-04-30T00:00:00Z", "2026-05-01T00:00:00")
    assert [True, True, False, True] == [Scene("a", "", "", "s3", when).since(day) for when in moments]


# -- bands in files of their own ---------------------------------------------------------------------------------------
BANDS = ("*_B02.tif", "*_B08.tif")


def test_files_of_which_each_is_a_band_are_one_scene_once_all_are_there(tmp_path: Path) -> None:
    for name in ("2026/a_B02.tif", "2026/a_B08.tif", "2026/a_B8A.tif", "b_B02.tif", "c_B02.tif", "d/c_B08.tif"):
        write(tmp_path / name, name.encode())
    [found] = scenes.find(str(tmp_path), Search(settle=0, bands=BANDS[::-1]))
    assert ("2026/a", ["B08", "B02"]) == (found.id, [band.id for band in found.bands])
    assert [b"2026/a_B08.tif", b"2026/a_B02.tif"] == [
        path.read_bytes() for path in scenes.fetch_all(found, tmp_path / "copies")
    ]
    assert found.content == scenes.content(found)
    write(tmp_path / "2026/a_B02.tif", b"another")
    assert found.content != scenes.content(found)


@pytest.mark.parametrize(
    ("patterns", "names", "expected"),
    [
        (("*_B1.TIF", "*_B10.TIF"), ("L8_B1.TIF", "L8_B10.TIF", "L8_B11.TIF"), ("L8", ["B1", "B10"])),
        (("B02*.jp2", "B05*.jp2"), ("x/B02.jp2", "x/B05.jp2"), ("x", ["B02", "B05"])),
        (("B02*.jp2", "B05*.jp2"), ("B02.jp2", "B05.jp2"), ("scene", ["B02", "B05"])),
        (
            ("R10m/*_B02_10m.jp2", "R20m/*_B05_20m.jp2"),
            ("S.SAFE/R10m/T_B02_10m.jp2", "S.SAFE/R20m/T_B02_20m.jp2", "S.SAFE/R20m/T_B05_20m.jp2"),
            ("S.SAFE/T", ["B02_10m", "B05_20m"]),
        ),
    ],
)
def test_patterns_find_the_bands_of_the_usual_products(
    patterns: tuple[str, ...], names: tuple[str, ...], expected: tuple[str, list[str]], tmp_path: Path
) -> None:
    for name in names:
        write(tmp_path / name)
    [found] = scenes.find(str(tmp_path), Search(settle=0, bands=patterns))
    assert expected == (found.id, [band.id for band in found.bands])


def test_patterns_of_files_are_refused_where_items_have_assets() -> None:
    with pytest.raises(OptionsError, match=r"bands: are of files; name the assets of an item as asset: red,green,nir"):
        scenes.find("https://host/stac", Search(bands=BANDS))


# -- a prefix ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_rasters_below_a_prefix_are_its_scenes(weed: Seaweed, tmp_path: Path, use: Callable[[str], str]) -> None:
    place = use(weed.endpoint)
    store = cast("S3Store", open_store(place))
    for name in ("b.tif", "2026/a.tif", "notes.txt"):
        store.put_bytes(name, name.encode())
    found = list(scenes.find(place, READY))
    assert ["2026/a.tif", "b.tif"] == [scene.id for scene in found]
    assert [scene.content for scene in found] == list(map(scenes.content, found))
    assert b"b.tif" == scenes.fetch(found[1], tmp_path).read_bytes()
    for key in ("area#1/what?/a b+ü.tif", "50%/a.tif"):
        store.client.put_object(Bucket=store.bucket, Key=f"{store.prefix}{key}", Body=key.encode())
        [odd] = [scene for scene in scenes.find(place, READY) if scene.id == key]
        assert odd.content == scenes.content(odd)
        assert key.encode() == scenes.fetch(odd, tmp_path / "odd").read_bytes()
    store.replace("b.tif", b"other pixels")
    assert found[1].content != scenes.content(found[1])
    store.delete("b.tif")
    with pytest.raises(NotFound, match="is gone"):
        scenes.content(found[1])


@pytest.fixture
def prefix() -> Iterator[S3Store]:
    """On a server that takes every key as it is."""
    with mock_aws():
        store = cast("S3Store", open_store("s3://models/scenes"))
        store.client.create_bucket(Bucket="models")
        yield store


def test_a_key_that_we_would_never_put_is_read(prefix: S3Store, tmp_path: Path) -> None:
    for key in (keys := ["/a.tif", "2026//a.tif", "back\\slash.tif"]):
        prefix.client.put_object(Bucket=prefix.bucket, Key=f"{prefix.prefix}{key}", Body=PIXELS)
    found = list(scenes.find(prefix.uri, READY))
    assert keys == [scene.id for scene in found]
    assert found[1].content == scenes.content(found[1])
    assert PIXELS == scenes.fetch(found[1], tmp_path).read_bytes()


def test_the_mark_of_a_folder_is_no_scene(prefix: S3Store) -> None:
    prefix.put_bytes("2026/a.tif", PIXELS)
    for key in ("2026/folder.tif/", "2026/empty.tif"):
        prefix.client.put_object(Bucket=prefix.bucket, Key=f"{prefix.prefix}{key}", Body=b"")
    assert ["2026/a.tif"] == ids(prefix.uri)
    assert [] == ids(f"{prefix.uri}/2026/empty.tif")


def test_a_raster_of_its_own_is_a_scene(prefix: S3Store, tmp_path: Path) -> None:
    for key in ("2026/a.tif", "2026/a.tif.ovr.tif"):
        prefix.put_bytes(key, PIXELS)
    [found] = scenes.find(f"{prefix.uri}/2026/a.tif", READY)
    assert ("a.tif", scenes.content(found)) == (found.id, found.content)
    assert PIXELS == scenes.fetch(found, tmp_path).read_bytes()
    assert [] == ids(f"{prefix.uri}/2026/b.tif")


@pytest.mark.parametrize("place", ["", "/2026/A.TIF"])
def test_a_raster_comes_with_what_lies_beside_it(prefix: S3Store, tmp_path: Path, place: str) -> None:
    prefix.put_bytes("2026/A.TIF", PIXELS)
    [plain] = scenes.find(prefix.uri + place, READY)
    beside = ("A.TIF.aux.xml", "A.TIF.msk", "A.prj", "A.tfw")
    for name in (*beside, "A.TIF.ovr", "B.tfw"):
        prefix.put_bytes(f"2026/{name}", name.encode())
    [found] = scenes.find(prefix.uri + place, READY)
    assert plain.content == scenes.content(plain) == found.content.split()[0]
    assert found.content == scenes.content(found)
    scenes.fetch(found, tmp_path)
    assert ["A.TIF", *beside] == sorted(path.name for path in tmp_path.iterdir())
    assert b"A.tfw" == (tmp_path / "A.tfw").read_bytes()
    prefix.replace("2026/A.tfw", b"another place")
    assert [scenes.content(found)] == [scene.content for scene in scenes.find(prefix.uri + place, READY)]
    assert found.content != scenes.content(found)
    prefix.delete("2026/A.tfw")
    assert found.content != scenes.content(found)


# -- a STAC API --------------------------------------------------------------------------------------------------------
class Catalogue:
    """The few answers of a STAC API that a search needs: a landing page, and items in pages of two."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        catalogue = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                catalogue.answer(self)

            do_POST = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, name: str, asset: dict[str, Any], **properties: Any) -> None:
        item = {"type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "s2", "geometry": None}
        facts = {"datetime": "2026-05-01T10:00:00Z", **properties}
        data = {"type": "image/tiff; application=geotiff", "href": f"{self.url}/{name}.tif", **asset}
        picture = {"type": "image/tiff", "roles": ["overview"], "href": f"{self.url}/small.tif"}
        self.items.append({**item, "properties": facts, "links": [], "assets": {"small": picture, "visual": data}})

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        if path.endswith("gone.tif"):
            request.send_error(404)
        elif path.endswith("closed.tif") or ("signature" in query and request.command == "HEAD"):
            request.send_error(403)
        elif path.endswith(".tif"):
            self._send(request, PIXELS, "image/tiff", {"ETag": '"e1"'})
        elif path == "/search":
            self._search(request, int(query.get("page", ["0"])[0]))
        else:
            self._landing(request)

    def _landing(self, request: BaseHTTPRequestHandler) -> None:
        conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
        links = [
            {"rel": "self", "href": self.url},
            {"rel": "root", "href": self.url},
            {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json", "method": "POST"},
        ]
        page = {"type": "Catalog", "id": "c", "description": "c", "stac_version": "1.0.0", "links": links}
        self._send(request, json.dumps({**page, "conformsTo": conforms}).encode(), "application/json")

    def _search(self, request: BaseHTTPRequestHandler, page: int) -> None:
        self.asked.append(json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or b"{}"))
        part, links = self.items[2 * page : 2 * page + 2], []
        if len(self.items) > 2 * page + 2:
            href = f"{self.url}/search?page={page + 1}"
            links = [{"rel": "next", "href": href, "method": "POST", "body": self.asked[-1]}]
        found = {"type": "FeatureCollection", "features": part, "links": links}
        self._send(request, json.dumps(found).encode(), "application/geo+json")

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, kind: str, headers: Any = ()) -> None:
        request.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **dict(headers)}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@pytest.fixture
def catalogue() -> Iterator[Catalogue]:
    made = Catalogue()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.slow
def test_every_page_of_a_search_is_read_and_what_was_asked_arrives(catalogue: Catalogue) -> None:
    for name in "abc":
        catalogue.add(name, {})
    search = Search(collections=("s2",), bbox=(13, 52, 14, 53), dates="2026-05")
    assert ["s2/a", "s2/b", "s2/c"] == ids(catalogue.url, search)
    asked = catalogue.asked[0]
    assert (["s2"], [13, 52, 14, 53]) == (asked["collections"], asked["bbox"])
    assert "2026-05-01T00:00:00Z/2026-05-31T23:59:59Z" == asked["datetime"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asset", "properties", "content"),
    [
        ({"file:checksum": "1220ab"}, {"updated": "2026-05-03T00:00:00Z"}, "checksum:1220ab"),
        ({}, {"updated": "2026-05-03T00:00:00Z"}, "updated:2026-05-03T00:00:00Z"),
        ({}, {}, 'etag:"e1"'),
    ],
)
def test_the_content_of_an_item_is_called_by_what_is_surest(
    catalogue: Catalogue, asset: dict[str, Any], properties: dict[str, Any], content: str
) -> None:
    catalogue.add("a", asset, **properties)
    [scene] = scenes.find(catalogue.url, READY)
    assert content == scene.content == scenes.content(scene)


@pytest.mark.slow
def test_the_data_of_an_item_are_fetched_and_not_its_overview(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.add("a", {})
    [scene] = scenes.find(catalogue.url, READY)
    assert f"{catalogue.url}/a.tif" == scene.place
    assert PIXELS == scenes.fetch(scene, tmp_path).read_bytes()


@pytest.mark.slow
def test_an_asset_that_is_gone_or_not_named_is_told(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.add("gone", {"file:checksum": "1"})
    [scene] = scenes.find(catalogue.url, READY)
    with pytest.raises(NotFound, match="is gone"):
        scenes.fetch(scene, tmp_path)
    catalogue.add("closed", {"file:checksum": "1"})
    with pytest.raises(Denied, match="answered 403"):
        scenes.fetch(next(s for s in scenes.find(catalogue.url, READY) if s.id == "s2/closed"), tmp_path)
    with pytest.raises(OptionsError, match="no asset 'B04'"):
        ids(catalogue.url, Search(asset="B04"))


@pytest.mark.slow
def test_assets_may_be_the_bands_of_a_scene(catalogue: Catalogue, tmp_path: Path) -> None:
    catalogue.add("a", {}, updated="2026-05-03T00:00:00Z")
    [scene] = scenes.find(catalogue.url, Search(asset="visual,small"))
    assert ("s2/a", ["visual", "small"]) == (scene.id, [band.id for band in scene.bands])
    assert scene.content == scenes.content(scene)
    assert [PIXELS, PIXELS] == [path.read_bytes() for path in scenes.fetch_all(scene, tmp_path)]
    with pytest.raises(OptionsError, match="no asset 'nir'"):
        ids(catalogue.url, Search(asset="visual,nir"))


@pytest.mark.slow
def test_another_asset_of_an_item_is_another_scene(catalogue: Catalogue) -> None:
    catalogue.add("a", {}, updated="2026-05-03T00:00:00Z")
    asked = ("", "visual", "small", "visual,small", "small,visual")
    found = [scene for asset in asked for scene in scenes.find(catalogue.url, Search(asset=asset))]
    assert 5 == len({scene.key for scene in found})
    updated = "updated:2026-05-03T00:00:00Z"
    assert [updated, f"{updated}#visual", f"{updated}#small"] == [scene.content for scene in found[:3]]
    assert [scene.content for scene in found] == list(map(scenes.content, found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "told"), [("image/tiff", r"has several rasters, got \['nir', 'red'\]"), ("image/png", "has no raster")]
)
def test_of_several_rasters_or_none_the_asset_has_to_be_named(catalogue: Catalogue, kind: str, told: str) -> None:
    catalogue.add("a", {})
    catalogue.items[0]["assets"] = {name: {"type": kind, "href": f"{catalogue.url}/a.tif"} for name in ("red", "nir")}
    with pytest.raises(OptionsError, match=rf"a: the item {told}.*name one as asset, or several that are the bands"):
        ids(catalogue.url)


@pytest.mark.slow
def test_an_item_without_its_data_keeps_no_other_one_from_being_found(catalogue: Catalogue, tmp_path: Path) -> None:
    for name in ("a", "closed", "gone"):
        catalogue.add(name, {})
    found = list(scenes.find(catalogue.url, READY))
    assert ['etag:"e1"', "unknown", "unknown"] == [scene.content for scene in found]
    assert [scene.content for scene in found] == list(map(scenes.content, found))
    with pytest.raises(NotFound, match="is gone"):
        scenes.fetch(found[2], tmp_path)


def test_an_address_that_is_signed_for_get_alone_tells_its_content(catalogue: Catalogue) -> None:
    assert 'etag:"e1"' == scenes.content_of(f"{catalogue.url}/a.tif?signature=1")


@pytest.mark.slow
def test_what_is_no_stac_api_is_told(catalogue: Catalogue) -> None:
    with pytest.raises(StoreError, match="STAC"):
        ids(f"{catalogue.url}/a.tif")
