"""Layers of ArcGIS feature and map services: what people draw in ArcGIS Online or Enterprise.

    https://services.arcgis.com/ORG/arcgis/rest/services/roofs/FeatureServer/0
    https://gis.town.org/server/rest/services/roofs/FeatureServer      the only layer of the service
    .../FeatureServer/0?where=checked=1                                with parameters of the server's `query`

Tested against a stand-in that answers as the REST interface is described, not against ArcGIS itself.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from registry.errors import LabelError
from registry.files import atomic
from tasks.arcgis_services import address_of, told_by

SERVICE = re.compile(r"/(?:Feature|Map)Server(/\d+)?/?$", re.IGNORECASE)
ALL = {"where": "1=1", "outFields": "*", "returnGeometry": "true"}
OBJECT_ID = "esriFieldTypeOID"


def is_layer(where: str) -> bool:
    """Whether an address is of a service or of a layer in it."""
    return where.startswith("http") and bool(SERVICE.search(urlsplit(where).path))


def content_of(where: str) -> str:
    """When the layer was last edited; where its server does not tell that, the sha256 of what it holds.

    Raises LabelError where no layer of features is named, StoreError where the server does not answer or refuses.
    """
    layer = _Layer.at(where)
    edited = (layer.facts.get("editingInfo") or {}).get("lastEditDate")
    return f"edited:{edited}" if edited else f"sha256:{hashlib.sha256(layer.read()).hexdigest()}"


def fetch(where: str, file: Path) -> None:
    """All its features, as an Esri JSON file that GDAL reads."""
    with atomic(file) as part:
        part.write_bytes(_Layer.at(where).read())


@dataclass(frozen=True)
class _Layer:
    url: str
    query: Mapping[str, str]
    facts: Mapping[str, Any]  # that its server tells of it

    @classmethod
    def at(cls, where: str) -> "_Layer":
        url, given = address_of(where)
        facts = told_by(url, {})
        if not SERVICE.search(url).group(1):  # type: ignore[union-attr]  # `is_layer` was asked
            layers = {f"{url}/{layer.get('id')}": layer.get("name") for layer in facts.get("layers") or ()}
            if len(layers) != 1:
                do = f"name one: {url}/NUMBER"
                raise LabelError("expected one layer in the service", where=url, got=layers, do=do)
            url = next(iter(layers))
            facts = told_by(url, {})
        if facts.get("type") != "Feature Layer":
            raise LabelError("is no feature layer", where=url, got=facts.get("type"), do="name one that has features")
        return cls(url, given, facts)

    def read(self) -> bytes:
        """A feature set in JSON: all pages of it, in the order of the object ids."""
        named = (field["name"] for field in self.facts.get("fields") or () if field.get("type") == OBJECT_ID)
        identity = self.facts.get("objectIdField") or next(named, "")
        form = {**ALL, **({"orderByFields": identity} if identity else {}), **self.query}
        page = whole = told_by(f"{self.url}/query", form)
        features = list(whole.get("features") or ())
        while page.get("exceededTransferLimit") and page.get("features"):
            page = told_by(f"{self.url}/query", {**form, "resultOffset": str(len(features))})
            features += page.get("features") or ()
        kept = {key: value for key, value in whole.items() if key != "exceededTransferLimit"}
        return json.dumps({**kept, "features": features}).encode()
