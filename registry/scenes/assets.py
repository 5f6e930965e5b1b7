"""Which assets of a STAC item are imagery: the one place that says it, for scenes and wherever imagery is read."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

RASTERS = (".tif", ".tiff", ".gtif", ".gtiff", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".vrt", ".mrf", ".bil", ".dat")
MEDIA_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
VISUAL = {"visual"}  # coloured to be looked at: imagery where there is no other
NOT_IMAGERY = {"thumbnail", "overview", "metadata", "data-mask", "snow-ice", "cloud"}


def data_assets(assets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of the assets of an item, as its JSON has them: the rasters with the role data, in their order; where none has
    it, every raster that is no thumbnail or mask, and of these those to look at only where there are no others.

    An asset without a media type is told by the suffix of its address.
    """
    rasters = {key: set(asset.get("roles") or ()) for key, asset in assets.items() if _is_raster(asset)}
    data = [key for key, roles in rasters.items() if "data" in roles]
    plain = [key for key, roles in rasters.items() if not (NOT_IMAGERY | VISUAL) & roles]
    return data or plain or [key for key, roles in rasters.items() if not NOT_IMAGERY & roles]


def _is_raster(asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type") or "").partition(";")[0].strip()
    if kind:
        return kind in MEDIA_TYPES
    return PurePosixPath(urlsplit(str(asset["href"])).path).suffix.lower() in RASTERS
