"""A model is warned of imagery that is nothing like what it was trained on, and of no other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.emd import Emd
from registry.errors import ImageryError
from tasks.detect_objects import detect_objects
from tasks.host import Configuration
from tasks.imagery import Imagery, open_imagery
from tasks.inference_options import DetectOptions
from tasks.likeness import tell_unlike

READ = Configuration(64, 64)


def trained(*bands: tuple[float, float], **keys: Any) -> Emd:
    """On bands of such means and maxima."""
    rows = [{"BandName": f"B{i}", "Min": 0, "Max": m, "Mean": mean, "StdDev": 9} for i, (mean, m) in enumerate(bands)]
    return Emd({"ExtractBands": [*range(len(bands))], "AllTilesStats": rows, **keys})


def told(caplog: pytest.LogCaptureFixture, raster: Path, emd: Emd, configuration: Configuration = READ) -> str:
    caplog.clear()
    with open_imagery(raster) as image:
        tell_unlike(image, configuration, emd, None)
    return caplog.text


@pytest.fixture
def bright(make_raster: Any) -> Path:
    """100 to 200 in two bands, and no data where a corner is."""
    pixels = np.random.default_rng(1).integers(100, 200, (2, 90, 120)).astype(np.uint16)
    pixels[:, :30, :30] = 0
    return Path(make_raster(pixels, nodata=0))


def test_a_raster_far_below_or_above_the_training_is_told(bright: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "town.tif: its pixels (about 1" in told(caplog, bright, trained((1500, 9000), (2500, 9000)))
    assert "far below those that the model was trained on (B1: mean 2500, at most 9000)" in caplog.text
    assert "far above" in told(caplog, bright, trained((0.2, 1), (0.3, 1)))


@pytest.mark.parametrize(
    ("emd", "configuration"),
    [
        (trained((120, 255), (130, 255)), READ),
        (trained((1500, 9000), (130, 255)), READ),  # one band is as it was
        (trained((500, 9000), (500, 9000)), READ),  # a dark scene
        (trained((50, 180), (50, 180)), READ),
        (trained((1500, 9000)), READ),  # of one band more than the raster has, or less
        (trained((1500, 9000), (1500, 9000), AllTilesStats=[]), READ),
        (trained((1500, 9000), ("", ""), ExtractBands=[0, 1]), READ),  # type: ignore[arg-type]
        (trained((1500, 9000), (2500, 9000)), Configuration(64, 64, data_range=(0.0, 1.0))),
    ],
)
def test_of_any_other_nothing_is_said(
    emd: Emd, configuration: Configuration, bright: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "" == told(caplog, bright, emd, configuration)


def test_a_raster_that_cannot_be_read_is_for_the_run_to_tell_of(
    bright: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ImageryError("cannot be read")

    monkeypatch.setattr(Imagery, "read", broken)
    assert "" == told(caplog, bright, trained((1500, 9000), (2500, 9000)))


def test_a_tool_warns_before_it_runs(
    make_model: Any, make_raster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = [{"BandName": "NIR", "Min": 1, "Max": 9000, "Mean": 2500, "StdDev": 700}]
    scene = make_raster(np.full((64, 64), 90, np.uint8))
    detect_objects(make_model(AllTilesStats=statistics), scene, tmp_path / "found.gpkg", DetectOptions())
    assert "town.tif: its pixels (about 90) are far below those that the model was trained on (NIR: mean" in caplog.text
