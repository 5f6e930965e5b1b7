"""Which assets of a STAC item are imagery."""

from typing import Any

import pytest

from registry.scenes.assets import data_assets

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def asset(*roles: str, kind: str | None = COG, href: str = "https://host/a.tif?signature=1") -> dict[str, Any]:
    return {"href": href, "roles": [*roles], **({"type": kind} if kind else {})}


@pytest.mark.parametrize(
    ("expected", "assets"),
    [
        (["nir", "red"], {"nir": asset("data", "x"), "red": asset("data"), "scl": asset(), "v": asset("visual")}),
        (["a", "b"], {"a": asset(), "b": asset("reflectance"), "v": asset("visual"), "m": asset("data-mask")}),
        (["v"], {"v": asset("visual"), "m": asset("cloud"), "o": asset("overview", "visual"), "t": asset("thumbnail")}),
        (["a"], {"a": asset(kind=None), "b": asset(kind=None, href="a.json"), "c": asset(kind="text/html")}),
        (["a"], {"a": {"href": "a.jp2", "type": "image/jp2", "roles": None}, "b": asset(kind="image/png")}),
        (["a"], {"a": {"href": "A.TIF"}}),
        ([], {"t": asset("thumbnail")}),
    ],
)  # fmt: skip
def test_the_imagery_among_assets(expected: list[str], assets: dict[str, Any]) -> None:
    assert expected == data_assets(assets)
