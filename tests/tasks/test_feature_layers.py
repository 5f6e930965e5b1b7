"""Layers of ArcGIS services, from a stand-in that hands out three features at a time and refuses what ArcGIS would."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import geopandas
import pytest

from flows.recipe import fingerprint
from registry.errors import LabelError, OptionsError, StoreError
from registry.settings import settings
from tasks import feature_layers, receipt, town
from tasks.export import export_training_data
from tasks.exporting.options import ExportOptions
from tasks.feature_files import read_features
from tasks.layers import address
from tasks.nearby import COPIES, nearby

MOST = 3  # features of an answer
KINDS = {"OBJECTID": "OID", "Classname": "String", "Classvalue": "Integer"}
FIELDS = [{"name": name, "type": f"esriFieldType{kind}"} for name, kind in KINDS.items()]
SMALL = ExportOptions(tile_size_x=32, tile_size_y=32, stride_x=32, stride_y=32)


@dataclass
class Service:
    """`layers`: by number, what is told of each; `features` are those of every one."""

    table: geopandas.GeoDataFrame
    layers: dict[int, dict[str, Any]]
    token: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        self.asked.append(form)
        if form.get("f") != "json":
            return {"error": {"code": 400, "message": "expected f=json"}}
        if self.token != form.get("token", ""):
            return {"error": {"code": 498 if form.get("token") else 499, "message": "Token Required", "details": []}}
        _, _, place = path.partition("/FeatureServer")
        number, _, query = place.strip("/").partition("/")
        if not number:
            return {"layers": [{"id": i, "name": told["name"]} for i, told in self.layers.items()], "tables": []}
        if int(number) not in self.layers:
            return {"error": {"code": 400, "message": "Invalid URL", "details": ["Invalid URL"]}}
        return self.page(form) if query == "query" else self.layers[int(number)]

    def page(self, form: dict[str, str]) -> dict[str, Any]:
        assert "OBJECTID" == form["orderByFields"]
        assert "*" == form["outFields"]
        table = self.table if form["where"] == "1=1" else self.table.query(form["where"])
        at = int(form.get("resultOffset", 0))
        features = [
            {
                "attributes": {"OBJECTID": i + 1, "Classname": row.Classname, "Classvalue": row.Classvalue},
                "geometry": {"rings": [[*map(list, ring.coords)] for ring in rings(row.geometry)]},
            }
            for i, row in enumerate(table.itertuples())
        ]
        told: dict[str, Any] = {"geometryType": "esriGeometryPolygon", "features": features[at : at + MOST]}
        told |= {"spatialReference": {"wkid": self.table.crs.to_epsg()}, "fields": FIELDS}
        return told | ({"exceededTransferLimit": True} if at + MOST < len(table) else {})


def rings(polygon: Any) -> list[Any]:
    return [polygon.exterior.reverse() if polygon.exterior.is_ccw else polygon.exterior, *polygon.interiors]


class Handler(BaseHTTPRequestHandler):
    def __init__(self, service: Service, *given: Any) -> None:
        self.service = service
        super().__init__(*given)

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        told = json.dumps(self.service.answer(self.path, form)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def layer(name: str = "roofs", edited: int = 1740960545820) -> dict[str, Any]:
    """As a server tells of it; `edited` 0: it does not say when."""
    told: dict[str, Any] = {"id": 0, "name": name, "type": "Feature Layer", "objectIdField": "OBJECTID"}
    return told | ({"editingInfo": {"lastEditDate": edited}} if edited else {})


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return town.write(tmp_path / "town")


@pytest.fixture
def service(scene: tuple[Path, Path]) -> Iterator[Service]:
    made = Service(read_features(scene[1]), {0: layer()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, made))
    made.url = f"http://127.0.0.1:{server.server_port}/arcgis/rest/services/town/roofs/FeatureServer"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def copies() -> int:
    return len(list((settings().cache / COPIES).glob("*")))


def test_addresses_of_services_are_known() -> None:
    for tail in (
        "FeatureServer",
        "FeatureServer/0",
        "featureserver/12/",
        "MapServer/3",
        "FeatureServer/0?where=a=1",
    ):
        assert feature_layers.is_layer(f"https://host/arcgis/rest/services/roofs/{tail}")
    for other in ("https://host/FeatureServer/0/query", "https://host/roofs.geojson", "s3://bucket/FeatureServer/0"):
        assert not feature_layers.is_layer(other)


def test_all_pages_are_read_with_their_places_and_fields(service: Service) -> None:
    found = read_features(Path(f"{service.url}/0"))
    assert len(service.table) == len(found) > MOST
    assert service.table.crs == found.crs
    assert list(service.table["Classvalue"]) == list(found["Classvalue"])
    assert service.table.geometry.geom_equals(found.geometry).all()


def test_the_only_layer_of_a_service_needs_no_number(service: Service) -> None:
    assert len(service.table) == len(read_features(Path(f"{service.url}/")))
    service.layers[4] = layer("ponds")
    with pytest.raises(LabelError, match=r"expected one layer in the service, got .*FeatureServer/4': 'ponds'"):
        nearby(Path(service.url))


def test_it_is_read_again_when_it_was_edited(service: Service) -> None:
    where = Path(f"{service.url}/0")
    read_features(where)
    stamped, marked = receipt.stamp(where), fingerprint(address(where))
    service.table = service.table.iloc[:2]
    assert len(read_features(where)) > 2
    assert (stamped, marked) == (receipt.stamp(where), fingerprint(address(where)))
    service.layers[0] = layer(edited=1740960545999)
    assert 2 == len(read_features(where))
    assert stamped != receipt.stamp(where)
    assert marked != fingerprint(address(where))
    assert 2 == copies()


def test_a_server_that_tells_of_no_edits_is_asked_for_all(service: Service) -> None:
    service.layers[0] = layer(edited=0)
    where = Path(f"{service.url}/0")
    assert len(service.table) == len(read_features(where)) == len(read_features(where))
    assert 1 == copies()
    service.table = service.table.assign(Classvalue=1)
    assert {1} == set(read_features(where)["Classvalue"])


def test_a_layer_edited_while_it_is_read_is_not_taken_for_either(service: Service) -> None:
    answer = service.page

    def edited(form: dict[str, str]) -> dict[str, Any]:
        service.layers[0] = layer(edited=1740960545999)
        return answer(form)

    service.page = edited  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="changed while it was fetched"):
        nearby(Path(f"{service.url}/0"))
    assert 0 == copies()


def test_parameters_of_the_query_choose_among_the_features(service: Service) -> None:
    some = read_features(Path(f"{service.url}/0?where=Classvalue==2"))
    assert {2} == set(some["Classvalue"])
    assert 0 < len(some) < len(read_features(Path(f"{service.url}/0")))


def test_a_token_goes_to_its_host_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.token = "sesame"
    where = Path(f"{service.url}/0")
    with pytest.raises(StoreError, match=r"refused \(Token Required\); set DLPK_ARCGIS_TOKENS=127\.0\.0\.1=TOKEN"):
        nearby(where)
    monkeypatch.setenv("DLPK_ARCGIS_TOKENS", "localhost=sesame")
    with pytest.raises(StoreError, match="Token Required"):
        nearby(where)
    assert all("token" not in form for form in service.asked)
    monkeypatch.setenv("DLPK_ARCGIS_TOKENS", "localhost=other, 127.0.0.1=sesame")
    assert len(service.table) == len(read_features(where))
    assert "sesame" not in f"{settings()} {receipt.stamp(where)}"
    with pytest.raises(OptionsError, match="a token in an address would be kept") as caught:
        nearby(Path(f"{where}?token=sesame"))
    assert "sesame" not in str(caught.value)
    monkeypatch.setenv("DLPK_ARCGIS_TOKENS", "sesame")
    with pytest.raises(OptionsError, match="DLPK_ARCGIS_TOKENS: expected HOST=TOKEN"):
        settings()


def test_what_has_no_features_is_refused(service: Service) -> None:
    service.layers[1] = layer() | {"type": "Table"}
    with pytest.raises(LabelError, match="is no feature layer, got 'Table'"):
        nearby(Path(f"{service.url}/1"))
    with pytest.raises(StoreError, match=r"the server refused \(Invalid URL Invalid URL\)"):
        nearby(Path(f"{service.url}/7"))


def test_labels_of_an_export_come_from_a_service(service: Service, scene: tuple[Path, Path], tmp_path: Path) -> None:
    image, labels = scene
    here = export_training_data(image, labels, tmp_path / "here", SMALL)
    there = export_training_data(image, Path(f"{service.url}/0"), tmp_path / "there", SMALL)
    assert here.digest == there.digest
