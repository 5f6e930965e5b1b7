"""Several folders of chips are one to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.emd import Emd
from registry.errors import LabelError
from tasks.chip_folders import open_chips
from tasks.chips import DEFINITION, Chip, ChipFolder
from tasks.loading import divide
from tasks.train import TrainOptions, train_model
from tests.chips_by_hand import chip, write_chips

ROOF = {"Value": 1, "Name": "Roof", "Color": [230, 60, 40]}
POND = {"Value": 5, "Name": "Pond", "Color": [0, 90, 200]}
BOX = (4, 6, 20, 22)


def grey(value: int, side: int = 32, bands: int = 1) -> Chip:
    one = chip(np.full((side, side), value, np.uint8), [BOX])
    return Chip("", one.image.repeat(bands, axis=0), one.valid, one.boxes, one.labels)


def folder(path: Path, values: Any, classes: Any = (ROOF,), **form: Any) -> ChipFolder:
    return write_chips(path, [grey(value, **form) for value in values], classes)


def measured(chips: ChipFolder, key: str = "AllTilesStats", **numbers: float) -> ChipFolder:
    """The same folder, whose definition says what was measured."""
    band = {"BandName": "Grey", "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1, **numbers}
    return saying(chips, **{key: [band]})


def saying(chips: ChipFolder, **keys: Any) -> ChipFolder:
    Emd({**chips.definition.document, **keys}).write(chips.path / DEFINITION)
    return ChipFolder.open(chips.path)


def test_chips_of_all_folders_are_read_by_the_classes_of_all(tmp_path: Path) -> None:
    folder(tmp_path / "a", [10], [POND]), folder(tmp_path / "b", [20, 30], [ROOF])
    both = open_chips([tmp_path / "a", tmp_path / "b"])
    assert ("0/000000000", "1/000000000", "1/000000001") == both.names
    assert ["Roof", "Pond"] == [label.name for label in both.classes]
    chips = [both.read(name) for name in both.names]
    assert list(both.names) == [one.name for one in chips]
    assert [10, 20, 30] == [one.image.max() for one in chips]
    assert [[2], [1], [1]] == [one.labels.tolist() for one in chips]
    assert ["Roof", "Pond"] == [label.name for label in both.definition.classes]
    with pytest.raises(LabelError, match=r"has no such chip, got '2/000000000'"):
        both.read("2/000000000")


def test_each_folder_counts_by_its_chips(tmp_path: Path) -> None:
    measured(folder(tmp_path / "a", [10]), Min=3, Max=60, Mean=10, StdDev=2)
    measured(folder(tmp_path / "b", [20] * 3), Min=5, Max=70, Mean=20, StdDev=4)
    (band,) = open_chips([tmp_path / "a", tmp_path / "b"]).band_statistics
    values = np.array([8, 12, *[16, 24] * 3])  # of that mean and deviation
    assert (3, 70) == (band.min, band.max)
    assert (values.mean(), values.std()) == pytest.approx((band.mean, band.std))


def test_a_folder_that_measured_one_date_alone_counts_with_it_for_the_other(tmp_path: Path) -> None:
    measured(folder(tmp_path / "a", [10]), "AllTilesStats2", Mean=30)
    measured(folder(tmp_path / "b", [20]), Mean=10)
    (band,) = open_chips([tmp_path / "a", tmp_path / "b"]).definition.second_band_statistics
    assert 20 == band.mean


def test_bands_in_another_order_are_told_and_other_names_are_not(tmp_path: Path) -> None:
    for name, bands in (("a", "RGB"), ("b", "BGR"), ("c", "123")):
        statistics = [{"BandName": band, "Min": 0, "Max": 255, "Mean": 0, "StdDev": 1} for band in bands]
        saying(folder(tmp_path / name, [10], bands=3), AllTilesStats=statistics)
    told = r"b: .*a has the bands \['R', 'G', 'B'\] in this order, got \['B', 'G', 'R'\]; export the others again"
    with pytest.raises(LabelError, match=told):
        open_chips([tmp_path / "a", tmp_path / "b"])
    assert list("RGB") == [band.name for band in open_chips([tmp_path / "a", tmp_path / "c"]).band_statistics]


def test_yolo_without_names_counts_the_classes_of_its_own_folder(tmp_path: Path) -> None:
    for name, classes in (("a", [ROOF]), ("b", [POND])):
        write_chips(tmp_path / name, [grey(10)], classes, "YOLO_rectangles")
    both = open_chips([tmp_path / "a", tmp_path / "b"])
    assert [[1], [2]] == [both.read(name).labels.tolist() for name in both.names]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, [value]).path for name, value in (("a", 10), ("b", 20)))
    assert open_chips([a, b]).digest == open_chips([a, b]).digest
    assert (open_chips([a]).digest, open_chips([b]).digest) == open_chips([a, b]).digests
    assert 3 == len({open_chips(paths).digest for paths in ([a], [a, b], [b, a])})


def test_folders_that_were_split_stay_so(tmp_path: Path) -> None:
    folder(tmp_path / "a", [10] * 3), folder(tmp_path / "b", [20])
    (tmp_path / "a/splits.json").write_text('{"train": ["000000000"], "validation": ["000000002"]}')
    both = open_chips([tmp_path / "a", tmp_path / "b"])
    assert (["0/000000000", "1/000000000"], ["0/000000002"]) == divide(both, 0.1)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"side": 64}, r"b: tile_shape of .*a is \(32, 32\), got \(64, 64\); train on folders of one kind"),
        ({"bands": 3}, r"b: .*a has the bands \['Grey'\], got \['Grey', 'Grey', 'Grey'\]"),
        ({"classes": [{**ROOF, "Name": "Dach"}]}, r"b: class 1 is 'Roof' in the folders before, got \"1 'Dach'\""),
        ({"classes": [{**ROOF, "Value": 2}]}, r"b: class 1 is 'Roof' in the folders before, got \"2 'Roof'\""),
    ],
)
def test_folders_that_do_not_fit_are_told(other: dict[str, Any], told: str, tmp_path: Path) -> None:
    folder(tmp_path / "a", [10])
    folder(tmp_path / "b", [10], **other)
    with pytest.raises(LabelError, match=told):
        open_chips([tmp_path / "a", tmp_path / "b"])


@pytest.mark.slow
def test_a_model_is_trained_on_two_folders(tmp_path: Path) -> None:
    folder(tmp_path / "a", range(40, 120, 10), [ROOF, POND]), folder(tmp_path / "b", range(60, 140, 10), [ROOF])
    chips = open_chips([tmp_path / "a", tmp_path / "b"])
    options = TrainOptions(network="SSD", backbone_model="mobilenet_v2", pretrained_weights="none", max_epochs=1)
    with pytest.raises(
        LabelError, match=r"no chip to train on holds a class of the definition, got \['Pond \(value 5\)'\]"
    ):
        train_model(chips, tmp_path / "none", options)
    folder(tmp_path / "c", range(40, 120, 10), [ROOF])
    model = train_model(open_chips([tmp_path / "b", tmp_path / "c"]), tmp_path / "roofs", options)
    assert [] == model.emd.problems(model.path)
    assert ("ssd", 32) == (model.emd.document["ModelConfiguration"], model.emd.tile_size)
