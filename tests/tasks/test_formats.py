"""Every metadata format gets these tests by being there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import DlpkError
from tasks.chips import Chip, Grid

CLASSES = (ClassLabel(1, "roof", (230, 60, 40)), ClassLabel(20, "pond", (0, 90, 200)))
GRID = Grid("", (0.5, 0, 100, 0, -0.5, 200))
FORMATS = plugins.names(tasks.formats)


def label_path(name: str, folder: Path) -> Path:
    return folder / ("000000000" + (plugins.load(tasks.formats, name).SUFFIX or ".tif"))


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    """Labelled in every way at once; a format takes what it carries."""
    count = draw(st.integers(0, 5))
    corners = draw(arrays(np.float32, (count, 2), elements=st.integers(0, 40).map(float)))
    sizes = draw(arrays(np.float32, (count, 2), elements=st.integers(1, 24).map(float)))
    labels = draw(arrays(np.int64, count, elements=st.integers(1, 2)))
    mask = draw(arrays(np.uint8, (64, 64), elements=st.integers(0, 2), fill=st.just(0)))
    image = np.zeros((3, 64, 64), np.uint8)
    return Chip("000000000", image, np.ones((64, 64), bool), np.hstack([corners, corners + sizes]), labels, mask, GRID)


@pytest.mark.parametrize("name", FORMATS)
@given(chip=chips())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_survive_the_disk(name: str, chip: Chip, tmp_path: Path) -> None:
    module = plugins.load(tasks.formats, name)
    path = label_path(name, tmp_path)
    module.write(chip, CLASSES, path)
    back = module.read(Chip(chip.name, chip.image, chip.valid, grid=GRID), CLASSES, path)
    if module.CARRIES == "boxes":
        assert chip.boxes.tolist() == back.boxes.tolist()
        assert chip.labels.tolist() == back.labels.tolist()
    else:
        assert chip.mask is not None
        assert chip.mask.tolist() == back.mask.tolist()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "junk", [b"", b"\x00" * 64, b"<annotation><object><name>1</name></object></annotation>", b"\xff\xfe<"]
)
def test_a_damaged_label_file_is_an_error_that_names_it(name: str, junk: bytes, tmp_path: Path) -> None:
    path = label_path(name, tmp_path)
    path.write_bytes(junk)
    chip = Chip("000000000", np.zeros((3, 64, 64), np.uint8), np.ones((64, 64), bool), grid=GRID)
    with pytest.raises(DlpkError, match="000000000"):
        plugins.load(tasks.formats, name).read(chip, CLASSES, path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_class_value_that_nobody_has_is_refused(name: str, tmp_path: Path) -> None:
    module = plugins.load(tasks.formats, name)
    path = label_path(name, tmp_path)
    mask = np.full((64, 64), 2, np.uint8)
    chip = Chip(
        "000000000", np.zeros((3, 64, 64), np.uint8), mask > 0, np.ones((1, 4), np.float32), np.array([2]), mask, GRID
    )
    module.write(chip, CLASSES, path)
    with pytest.raises(DlpkError, match="20"):
        module.read(replace(chip, mask=None), CLASSES[:1], path)


def test_voc_of_other_tools_names_its_classes(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    (tmp_path / "a.xml").write_text(f"<annotation><object><name>pond</name>{box}</object></annotation>")
    chip = Chip("a", np.zeros((3, 64, 64), np.uint8), np.ones((64, 64), bool))
    read = plugins.load(tasks.formats, "PASCAL_VOC_rectangles").read(chip, CLASSES, tmp_path / "a.xml")
    assert ([[1, 2, 3, 4]], [2]) == (read.boxes.tolist(), read.labels.tolist())
