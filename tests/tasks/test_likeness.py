"""A model is warned of imagery that is nothing like what it was trained on, and of no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.emd import Emd
from tasks.detect_objects import detect_objects
from tasks.host import Configuration
from tasks.imagery import Block
from tasks.inference_options import DetectOptions
from tasks.likeness import Likeness

Told = Callable[..., str]
RANGED = {"tx": 64, "dataRange": (0, 1)}


def trained(*bands: tuple[Any, Any], **keys: Any) -> Emd:
    """On bands of such means and maxima."""
    rows = [{"BandName": f"B{i}", "Min": 0, "Max": m, "Mean": mean, "StdDev": 9} for i, (mean, m) in enumerate(bands)]
    return Emd(
        {"ImageHeight": 64, "ImageWidth": 64, "ExtractBands": [*range(len(bands))], "AllTilesStats": rows, **keys}
    )


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """told(emd, blocks=1) -> what is said when so many of 32 x 32 pixels were seen, of 100 to 200 in two bands."""
    pixels = np.random.default_rng(1).integers(100, 200, (2, 32, 32)).astype(np.uint16)
    valid = np.ones((32, 32), bool)
    valid[:, :8] = False
    pixels[:, ~valid] = 0

    def said(emd: Emd, blocks: int = 1, **answer: Any) -> str:
        caplog.clear()
        likeness = Likeness(Path("town.tif"), Configuration.parse(answer or {"tx": 64}, emd).trained)
        for _ in range(blocks):
            likeness.see(Block(pixels, valid))
        likeness.judge()
        return caplog.text

    return said


def test_imagery_far_below_or_above_the_training_is_told_once(told: Told) -> None:
    faint = told(trained((1500, 9000), (2500, 9000)), 1000)
    assert 1 == faint.count("town.tif: its pixels (about 1")
    assert "far below those that the model was trained on (B1: mean 2500, at most 9000)" in faint
    assert "far above" in told(trained((0.2, 1), (0.3, 1)))


@pytest.mark.parametrize(
    ("emd", "how"),
    [
        (trained((120, 255), (130, 255)), {}),
        (trained((1500, 9000), (130, 255)), {}),  # one band is as it was
        (trained((500, 9000), (500, 9000)), {}),  # a dark scene
        (trained((50, 180), (50, 180)), {}),
        (trained((1500, 9000)), {}),  # of one band less than are read
        (trained((1500, 9000), (1500, 9000), AllTilesStats=[]), {}),
        (trained((1500, 9000), ("", "")), {}),
        (trained((1500, 9000), (2500, 9000)), RANGED),
        (trained((1500, 9000), (2500, 9000)), {"tx": 64, "blocks": 0}),
    ],
)
def test_of_any_other_nothing_is_said(emd: Emd, how: dict[str, Any], told: Told) -> None:
    assert "" == told(emd, **how)


def test_a_tool_warns_of_what_it_reads(
    make_model: Any, make_raster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = [{"BandName": "NIR", "Min": 1, "Max": 9000, "Mean": 2500, "StdDev": 700}]
    scene = make_raster(np.full((64, 64), 90, np.uint8))
    detect_objects(make_model(AllTilesStats=statistics), scene, tmp_path / "found.gpkg", DetectOptions())
    assert "town.tif: its pixels (about 90) are far below those that the model was trained on (NIR: mean" in caplog.text
