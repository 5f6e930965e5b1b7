"""The page of an export: all that matters is in it, nothing is loaded from elsewhere, equal input gives equal bytes."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tasks import preview
from tasks.chips import ChipFolder
from tasks.exporting.chip_split import FEW_CHIPS
from tasks.exporting.report import NO_PART, ExportFacts, summary, write_export_report
from tests.exports import chip, written

NAMES = [f"{i:09d}" for i in range(10)]
SPLITS = {"train": NAMES[:6], "validation": NAMES[7:9], "test": NAMES[9:]}  # 6 overlaps another part
FACTS = ExportFacts(
    sources={"imagery": ["s3://bucket/town.tif"], "labels": ["roofs.gpkg"]},
    options={"tile_size_x": 64, "class_value_field": "Klasse"},
    left_out={"nodata": 12, "no feature": 3456},
    warnings=["3 invalid geometries <b>were</b> repaired"],
)


class Page(HTMLParser):
    """Text, addresses and drawn paths of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.addresses, self.paths = "", list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.paths += [value or "" for name, value in attributes if name == "d"]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    chips = [chip(i, things=(1, 2) if i < 4 else (1,)) for i in range(10)]
    folder = written(tmp_path / "town", chips, splits=SPLITS).path
    preview.write_preview(folder)
    return folder


@pytest.mark.slow
def test_the_page_tells_what_the_export_knows(town: Path) -> None:
    page = Page(write_export_report(town, FACTS))
    for expected in ("s3://bucket/town.tif", "roofs.gpkg", "Klasse", "3,456", "pond & moat", "EPSG:32633"):
        assert expected in page.text
    assert "3 invalid geometries <b>were</b> repaired" in page.text


@pytest.mark.slow
def test_the_digest_is_that_of_the_finished_export(town: Path) -> None:
    """Also while the definition is not written yet."""
    chips = ChipFolder.open(town)
    definition = chips.definition
    (town / "esri_model_definition.emd").unlink()
    page = Page(write_export_report(town, FACTS, definition))
    definition.write(town / "esri_model_definition.emd")
    assert ChipFolder.open(town).digest in page.text
    assert ChipFolder.open(town).digest == summary(town)["digest"]


@pytest.mark.slow
def test_the_page_loads_nothing(town: Path) -> None:
    page = Page(write_export_report(town, FACTS))
    assert ["data"] == [address.partition(":")[0] for address in page.addresses]
    assert "http" not in (town / "export_report.html").read_text().replace("http-equiv", "")


@pytest.mark.slow
def test_equal_input_gives_equal_bytes(town: Path) -> None:
    assert write_export_report(town, FACTS).read_bytes() == write_export_report(town, FACTS).read_bytes()


def test_classes_are_counted_by_part(town: Path) -> None:
    write_export_report(town, FACTS)
    record = summary(town)
    assert {"train": 6, "validation": 2, "test": 1, NO_PART: 1} == record["split"]
    assert {"chips": 10, "objects": 10} == record["classes"]["roof"]
    assert {"chips": 4, "objects": 4} == record["classes"]["pond & moat"]
    assert {"nodata": 12, "no feature": 3456} == record["left_out"]


def test_counts_that_the_export_knows_are_taken_over(town: Path) -> None:
    holds = np.tile([7, 0], (10, 1))
    write_export_report(town, ExportFacts(holds=holds))
    assert {"chips": 10, "objects": 70} == summary(town)["classes"]["roof"]


@pytest.mark.slow
def test_rare_and_missing_classes_are_warned_of(town: Path) -> None:
    write_export_report(town, FACTS)
    told = summary(town)["warnings"]
    assert FACTS.warnings[0] == told[0]
    assert any(f"'roof' is in 6 chips to train on; below {FEW_CHIPS}" in line for line in told)
    assert "no validation chip holds pond & moat: nothing can be said of how well it is found" in told
    assert not any(NO_PART in line for line in told)


@pytest.mark.slow
def test_each_part_is_drawn_where_its_chips_lie(town: Path) -> None:
    page = Page(write_export_report(town, FACTS))
    assert [6, 2, 1, 1] == [path.count("M") for path in page.paths[:4]]
    assert page.paths[0].startswith("M0 0h56v56h-56z")  # ten chips in a row on a map 560 wide
    assert "M392 0h56" in page.paths[1]


@pytest.mark.slow
def test_the_scale_bar_is_a_round_length(town: Path) -> None:
    assert "50 map units, EPSG:32633" in Page(write_export_report(town, FACTS)).text  # of 320


def test_any_folder_of_chips_has_a_page(tmp_path: Path) -> None:
    folder = written(tmp_path, [chip(i) for i in range(3)], "Classified_Tiles").path
    page = Page(write_export_report(folder))
    assert "33.3 %" in page.text  # roof: 16 x 24 of 16 x 24 + 32 x 24 labelled pixels
    assert "pixels" in page.text


def test_without_a_page_there_is_no_summary(tmp_path: Path) -> None:
    assert {} == summary(tmp_path)


def test_a_hundred_thousand_chips_are_a_page_that_opens(tmp_path: Path) -> None:
    from tasks.exporting.report import _path

    corners = np.random.default_rng(1).uniform(0, 500, (100_000, 2))
    assert 2_000_000 > len(_path(np.hstack([corners, np.full((100_000, 2), 4.0)])))
