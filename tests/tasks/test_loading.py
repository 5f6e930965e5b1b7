"""Chips on their way to the network: who trains, who validates, how often, and what is told of bad ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import DlpkError, LabelError
from tasks import loading
from tasks.augment import IGNORED, pipeline
from tasks.chips import Chip, ChipFolder, Grid
from tasks.loading import Chips, Loading, Shuffled
from tasks.rasters import world_path, world_text, write_raster
from tasks.train_options import TrainOptions
from tests.chips_by_hand import chip, write_chips

SIDE = 32
CLASSES = [
    {"Value": 5, "Name": "Roof", "Color": [230, 60, 40]},
    {"Value": 9, "Name": "Pond", "Color": [0, 90, 200]},
]
ROOF, POND = 1, 2  # class indexes


def written(folder: Path, masks: list[Any], image: Any = None, **more: Any) -> ChipFolder:
    image = np.full((1, SIDE, SIDE), 100, np.uint8) if image is None else image
    valid = np.ones(image.shape[1:], bool)
    chips = [Chip("", image, valid, mask=np.asarray(mask, np.uint8), **more) for mask in masks]
    return write_chips(folder, chips, CLASSES, "Classified_Tiles")


def mask(*pixels: int) -> Any:
    """As many pixels as given of class 1, class 2, ..."""
    flat = np.zeros(SIDE * SIDE, np.uint8)
    flat[: sum(pixels)] = np.repeat(np.arange(1, len(pixels) + 1), pixels)
    return flat.reshape(SIDE, SIDE)


@pytest.fixture
def chips(tmp_path: Path) -> ChipFolder:
    """Nine chips of roofs, the last of them with a pond."""
    return written(tmp_path, [mask(100)] * 8 + [mask(100, 1)])


def test_a_split_of_the_export_is_kept(chips: ChipFolder) -> None:
    parts = {"train": chips.names[2:5], "validation": [chips.names[0], "000000099"], "test": chips.names[7:]}
    (chips.path / "splits.json").write_text(json.dumps(parts))
    training, validation = loading.divide(ChipFolder(chips.path), 0.5)
    assert (list(chips.names[2:5]), [chips.names[0]]) == (training, validation)  # a chip without labels is in no part


def test_without_validation_in_the_split_it_is_taken_from_the_training_chips(chips: ChipFolder) -> None:
    (chips.path / "splits.json").write_text(json.dumps({"train": chips.names[:6], "test": chips.names[6:]}))
    training, validation = loading.divide(ChipFolder(chips.path), 0.3)
    assert set(chips.names[:6]) == {*training, *validation}
    assert 2 == len(validation)


@pytest.mark.parametrize(
    ("masks", "ignored", "validation"),
    [
        ([mask(9), *[mask(9)] * 8], (), 0),
        ([mask(), *[mask(9)] * 8], (), 8),  # nothing to find in the first corner
        ([mask(9, 9), *[mask(9)] * 8], (), 8),  # the only pond is to learn from
        ([mask(9, 9), *[mask(9)] * 8], (POND,), 0),  # it does not count
        ([mask(9, 9), *[mask(9)] * 7, mask()], (), 8),  # it counts for more than a corner with something to find
        ([mask(), *[mask(9)] * 7, mask()], (), 0),
    ],
)
def test_the_corner_to_validate_with_has_something_to_find(
    tmp_path: Path, masks: list[Any], ignored: tuple[int, ...], validation: int
) -> None:
    chips = written(tmp_path, masks)  # side by side, from west to east
    held = loading.holdings(chips.names, loading.look(chips, chips.names)[0], ignored)
    rest = [name for i, name in enumerate(chips.names) if i != validation]
    assert (rest, [chips.names[validation]]) == loading.divide(chips, 0.1, held)


@pytest.mark.parametrize("cell", [0.5, 0.149291070851])
@pytest.mark.parametrize(("step", "training"), [(SIDE, 9), (SIDE - 1, 8)])
def test_chips_that_adjoin_those_to_validate_with_are_learned(
    tmp_path: Path, cell: float, step: int, training: int
) -> None:
    data = written(tmp_path, [mask(9)] * 10)
    for i, name in enumerate(data.names):
        grid = Grid("EPSG:3857", (cell, 0, 1_000_000 + i * step * cell, 0, -cell, 4_000_000))
        world_path(data.files[name]).write_text(world_text(grid))
    assert (training, 1) == tuple(len(part) for part in loading.split(data, 0.1))


def test_chips_of_a_rare_class_are_drawn_more_often(chips: ChipFolder) -> None:
    rarity = loading.rarity(loading.look(chips, chips.names)[0])
    assert [1] * 8 + [3] == rarity.tolist()  # one of nine holds it: the root of nine
    drawn = [i for epoch in range(200) for i in indexes(Shuffled(9, 42, rarity), epoch)]
    assert 3 / 11 == pytest.approx(drawn.count(8) / len(drawn), rel=0.15)


def test_no_chip_is_drawn_more_than_four_times_as_often() -> None:
    counted = np.zeros((100, 3), np.int64)
    counted[:, ROOF] = counted[0, POND] = 1
    assert loading.RARE == loading.rarity(counted).max()
    assert 1 == loading.rarity(counted, [POND]).max()  # it does not count


def test_classes_of_few_pixels_weigh_more() -> None:
    background, roof, pond = loading.balance(np.array([[800, 100, 0], [800, 200, 100]]))
    assert 1 == pytest.approx((background + roof + pond) / 3, abs=1e-3)
    assert 4 == pytest.approx(pond / background, rel=1e-3)  # a sixteenth of the pixels: the root of sixteen
    assert 3**0.5 == pytest.approx(pond / roof, rel=1e-3)


def test_a_class_without_pixels_takes_no_weight_from_the_others() -> None:
    found = loading.balance(np.array([[0, 3_000_000_000, 1_700_000_000, 500_000_000]]))
    assert 1 == found[0]
    assert 1 == pytest.approx(sum(found[1:]) / 3, rel=1e-4)
    assert 6**0.5 == pytest.approx(found[3] / found[1], rel=1e-4)
    rare, frequent = loading.balance(np.array([[3, 3_000_000_000]]))
    assert 1e9**0.5 == pytest.approx(rare / frequent, rel=1e-4)


def indexes(order: Shuffled, epoch: int) -> list[int]:
    order.set_epoch(epoch)
    return [i for _, i, _ in order]


def test_every_epoch_has_its_own_order_and_each_run_the_same() -> None:
    first, second = (indexes(Shuffled(20, 42), epoch) for epoch in (0, 1))
    assert list(range(20)) == sorted(first) == sorted(second)
    assert first != second
    assert second == indexes(Shuffled(20, 42), 1)  # as after a resumption
    assert first != indexes(Shuffled(20, 43), 0)


def test_processes_share_the_chips_and_get_as_many_each() -> None:
    parts = [indexes(Shuffled(9, 42, None, part, 2), 3) for part in (0, 1)]
    assert [5, 5] == [len(part) for part in parts]
    assert set(range(9)) == {*parts[0], *parts[1]}


def load(**more: Any) -> Loading:
    return Loading(2, "mask", augment=pipeline(TrainOptions()), seed=42, **more)


def test_a_chip_looks_the_same_whenever_it_is_asked_for(chips: ChipFolder) -> None:
    once, again = Chips(chips, chips.names, load()), Chips(chips, chips.names, load())
    for place in ((0, 8, 0), (3, 8, 0), (3, 8, 0)):  # read from the disk, then from memory
        assert torch.equal(once[place][0], again[place][0])
        assert torch.equal(once[place][1], again[place][1])  # type: ignore[arg-type]
    assert not torch.equal(once[(0, 8, 0)][0], once[(1, 8, 0)][0])


def test_a_chip_that_comes_twice_in_an_epoch_looks_different(chips: ChipFolder) -> None:
    order = Shuffled(9, 42, np.array([1.0] * 8 + [50.0]))
    places = [place for place in order if place[1] == 8]
    data = Chips(chips, chips.names, load())
    assert [(0, 8, turn) for turn in range(len(places))] == places
    assert not torch.equal(data[places[0]][0], data[places[1]][0])


def test_chips_stay_in_memory_as_far_as_there_is_room(chips: ChipFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "KEPT", 3 * 2 * SIDE * SIDE + 100)
    data = Chips(chips, chips.names, load())
    sizes = chips.read(chips.names[0])
    one = sum(a.nbytes for a in (sizes.image, sizes.valid, sizes.mask) if a is not None)
    for i in range(9):
        data[i]
    assert loading.KEPT // one == len(data.kept)
    assert 0 <= data.room < one


@pytest.mark.slow
def test_batches_are_the_same_with_any_number_of_workers(chips: ChipFolder) -> None:
    def batches(count: int) -> list[Any]:
        return list(loading.loader(chips, chips.names, load(workers=count), train=True))

    expected, found = batches(0), batches(1)
    assert [names for *_, names in expected] == [names for *_, names in found]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(expected, found, strict=True))
    assert [2, 2, 2, 2] == [len(names) for *_, names in found]  # the ninth is left out: no batch of one


def test_validation_sees_every_chip_as_it_is(chips: ChipFolder) -> None:
    images = torch.cat([batch[0] for batch in loading.loader(chips, chips.names, load(), train=False)])
    assert torch.equal(torch.full((9, 1, SIDE, SIDE), 100.0), images)


@pytest.mark.parametrize("shape", [(16, SIDE), (SIDE, 16)])
def test_a_whole_picture_that_is_no_square_is_seen_as_by_the_raster_function(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    data = write_chips(
        tmp_path, [chip(np.full(shape, 100, np.uint8), [(0, 0, *shape[::-1])])], CLASSES, "Labeled_Tiles"
    )
    image, *_ = Chips(data, data.names, Loading(1, "label"))[0]
    assert (1, shape[0], shape[0]) == tuple(image.shape)  # ImageHeight and ImageWidth of the model are the rows


def test_pixels_without_data_and_ignored_classes_do_not_count(tmp_path: Path) -> None:
    data = written(tmp_path, [mask(100, 50)])
    _, target, _ = Chips(data, data.names, Loading(1, "mask", ignored=(0, POND)))[0]
    assert {IGNORED: 924, ROOF: 100} == count(target)


def test_objects_of_ignored_classes_are_not_there(tmp_path: Path) -> None:
    masks = np.zeros((3, SIDE, SIDE), bool)
    for number, object_mask in enumerate(masks):
        object_mask[2 + 8 * number : 6 + 8 * number, 2:6] = True
    boxes, labels = [(2, 2, 6, 6), (2, 10, 6, 14), (2, 18, 6, 22)], np.array([ROOF, POND, ROOF])
    one = chip(np.zeros((SIDE, SIDE), np.uint8), boxes, labels=labels, masks=masks)
    data = write_chips(tmp_path, [one], CLASSES, "RCNN_Masks")
    _, target, _ = Chips(data, data.names, Loading(1, "instances", ignored=(POND,)))[0]
    assert isinstance(target, dict)
    assert [ROOF, ROOF] == target["labels"].tolist()
    assert [2, 18] == sorted(target["boxes"][:, 1].tolist())
    assert np.array_equal(masks[0] | masks[2], target["masks"].numpy().any(axis=0))
    counted, objects = loading.look(data, data.names, [POND])
    assert [0, 2, 0] == counted[0].tolist()
    assert [2] == [len(own) for own in objects]


def count(target: Any) -> dict[int, int]:
    values, counts = np.unique(target.numpy(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_a_class_without_a_chip_is_named(tmp_path: Path) -> None:
    data = written(tmp_path, [mask(100)] * 2)
    counted, _ = loading.look(data, data.names)
    with pytest.raises(LabelError, match=r"no chip to train on holds a class.*got \['Pond \(value 9\)'\]; export more"):
        loading.check_classes(data, counted, [])
    loading.check_classes(data, counted, [POND])


def test_a_chip_that_cannot_be_read_is_named(chips: ChipFolder) -> None:
    broken = chips.files[chips.names[4]]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DlpkError, match=r"000000004.tif: cannot be read.*export the chips again"):
        loading.look(chips, chips.names)


@pytest.mark.parametrize("shape", [(1, 16, SIDE), (2, SIDE, SIDE)])
def test_a_chip_of_another_form_is_named(shape: tuple[int, int, int], tmp_path: Path) -> None:
    data = written(tmp_path, [np.zeros(shape[1:])], np.zeros(shape, np.uint8))
    emd: dict[str, Any] = dict(data.definition.document) | {"ImageHeight": SIDE, "ImageWidth": SIDE}
    emd["AllTilesStats"] = emd["AllTilesStats"][:1]
    dataclasses.replace(data.definition, document=emd).write(data.path / "esri_model_definition.emd")
    told = "000000000.tif: expected 1 bands of 32 x 32 pixels as in the definition, got"
    with pytest.raises(LabelError, match=told):
        Chips(ChipFolder(tmp_path), data.names, load())[0]
    with pytest.raises(LabelError, match=told):
        loading.look(ChipFolder(tmp_path), data.names)


@pytest.mark.parametrize("shape", [(1, 16, SIDE), (2, SIDE, SIDE)])
def test_a_second_date_of_another_form_is_named(shape: tuple[int, int, int], tmp_path: Path) -> None:
    data = written(tmp_path, [mask(100)] * 2, image2=np.zeros((1, SIDE, SIDE), np.uint8))
    loading.look(data, data.names)
    grid = Grid("EPSG:32633", (0.5, 0, 500000, 0, -0.5, 4600000))
    write_raster(tmp_path / "images2/000000001.tif", np.zeros(shape, np.uint8), grid)
    with pytest.raises(LabelError, match=r"images2/000000001.tif: expected 1 bands of 32 x 32 pixels .*, got \("):
        loading.look(ChipFolder(tmp_path), data.names)
