"""The flow `export`: the tool as a form, with a page that tells what came out."""

from pathlib import Path
from typing import Any

import pytest

from flows import steps
from flows.export import export
from flows.pages import chips_page
from flows.recipe import ClassEntry
from flows.steps import Cut
from registry.errors import LabelError
from tasks.chips import ChipFolder
from tasks.exporting.options import ExportOptions
from tests.scenes import roofs

OPTIONS = ExportOptions(tile_size=48, stride=48)
RECORD: dict[str, Any] = {
    "chips": 1200,
    "classes": {"roof": {"chips": 1200, "objects": 4000}},
    "split": {"train": 1000, "test": 200},
    "left_out": {"nodata": 7},
    "warnings": ["class 'pond' is in 3 chips"],
    "folder": "/data/chips",
    "preview": "/data/chips/preview.png",
    "report": "/data/chips/export_report.html",
    "digest": "abc",
}


def test_the_form_shows_every_option_with_its_description() -> None:
    schema = export.parameters.model_dump()
    form = schema["definitions"]["ExportOptions"]["properties"]
    assert set(ExportOptions.model_fields) == set(form)
    assert all(field.get("description") for field in form.values())


@pytest.mark.slow
def test_an_export_needs_no_server(tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    classes = (ClassEntry(value=1, name="house"),)
    out = export.fn(str(imagery), str(labels), str(tmp_path / "chips"), OPTIONS, classes, workers=1)
    chips = ChipFolder.open(Path(out))
    assert (4, ["house"]) == (len(chips.names), [label.name for label in chips.classes])


@pytest.mark.slow
def test_the_record_of_a_step_is_that_of_the_command(tmp_path: Path) -> None:
    imagery, labels = roofs(tmp_path / "town", columns=2, rows=2)
    record = steps.cut(Cut(str(imagery), str(labels), str(tmp_path / "chips"), OPTIONS))
    chips = ChipFolder.open(tmp_path / "chips")
    assert (4, chips.digest) == (record["chips"], record["digest"])
    assert {"chips": 4, "objects": 4} == record["classes"]["roof"]
    assert Path(record["preview"]).is_file()
    assert Path(record["report"]).is_file()


@pytest.mark.slow
def test_an_error_of_the_verb_is_the_error_of_the_flow(tmp_path: Path) -> None:
    imagery, _ = roofs(tmp_path / "town", columns=2, rows=2)
    with pytest.raises(LabelError, match=r"nowhere.gpkg: does not exist"):
        export.fn(str(imagery), str(tmp_path / "nowhere.gpkg"), str(tmp_path / "chips"), OPTIONS)


def test_the_page_tells_counts_warnings_and_places() -> None:
    markdown, rows = chips_page(RECORD)
    assert [{"class": "roof", "chips": 1200, "objects": 4000}] == rows
    for expected in ("# 1,200 chips", "1000 train, 200 test", "7 nodata", "class 'pond' is in 3 chips", "preview.png"):
        assert expected in markdown
