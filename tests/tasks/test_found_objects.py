"""Objects of a run that is stopped and started again, and many of them."""

from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
from affine import Affine

from tasks import found_objects
from tasks.detect_objects import detect_objects
from tasks.feature_sets import Detection
from tasks.found_objects import on_map
from tasks.inference_options import DetectOptions
from tasks.progress import Progress
from tasks.run_folder import Share


class Stopped(Exception):
    pass


def stopped_after(done: int) -> Any:
    def tick(progress: Progress) -> None:
        if progress.done == done:
            raise Stopped

    return tick


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 2, 5, 9])
def test_a_run_that_was_stopped_goes_on_and_finds_the_same(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    monkeypatch.setattr(found_objects, "MOST", 4)  # of objects in a stretch
    town = [(x, y, x + 9, y + 9) for x in range(2, 180, 30) for y in range(2, 180, 30)]
    model, image = make_model(), make_raster(roofs(190, 190, town))
    whole = geopandas.read_file(detect_objects(model, image, tmp_path / "whole.gpkg", DetectOptions()))
    out, ticks = tmp_path / "out" / "roofs.gpkg", list[Progress]()
    with pytest.raises(Stopped):
        detect_objects(model, image, out, DetectOptions(), on_progress=stopped_after(done))
    assert not out.exists()
    detect_objects(model, image, out, DetectOptions(), on_progress=ticks.append)
    assert whole.equals(geopandas.read_file(out))
    assert len(ticks) < 9 or done == 1
    assert [out] == list(out.parent.iterdir())


def test_shares_in_any_order_find_what_one_run_finds(
    make_model: Any, make_raster: Any, roofs: Any, tmp_path: Path
) -> None:
    town = [(x, y, x + 9, y + 9) for x in range(2, 180, 30) for y in range(2, 180, 30)]
    model, image, out = make_model(), make_raster(roofs(190, 190, town)), tmp_path / "roofs.gpkg"
    whole = geopandas.read_file(detect_objects(model, image, tmp_path / "whole.gpkg", DetectOptions()))
    for part in (2, 0, 1):
        detect_objects(model, image, out, DetectOptions(), share=Share(part, 4))
    assert not out.exists()
    ticks = list[Progress]()
    detect_objects(model, image, out, DetectOptions(), on_progress=ticks.append)
    assert whole.equals(geopandas.read_file(out))
    assert 3 == len(ticks)  # of nine blocks those of the share that nobody did


def test_outlines_keep_their_holes_on_the_map() -> None:
    ring, hole = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)), ((2.0, 2.0), (4.0, 2.0), (4.0, 4.0))
    two = [Detection("a", 1, 50, (ring, hole)), Detection("b", 2, 50, (hole,))]
    found = on_map(two, Affine(0.5, 0, 100, 0, -0.5, 200))
    assert [25 - 0.5, 0.5] == shapely.area(found).tolist()
    assert [(100, 195, 105, 200), (101, 198, 102, 199)] == [tuple(b) for b in shapely.bounds(found).tolist()]
    assert 0 == len(on_map([], Affine.identity()))
