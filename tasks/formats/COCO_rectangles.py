"""COCO_rectangles: one JSON file for all chips, boxes as x, y, width, height in chip pixels (ArcGIS formats D.6).

    images/000000000.tif
    labels.json    images [{id, file_name, ...}]  annotations [{id, image_id, category_id, bbox, ...}]  categories

A category's `id` is the class Value. While chips are written, each leaves its share in labels/000000000.json, so that
they can be written in any order and by many; `finish` gathers them.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from registry.emd import ClassLabel
from registry.errors import LabelError
from registry.files import write_text
from tasks.chips import Chip
from tasks.formats._labels import indexes, inside, known, objects, stems, text_of, write_label

CARRIES = "boxes"
WHOLE = "labels.json"
Share = dict[str, Any]  # {"image": {...}, "annotations": [{...}, ...]}


def write(chip: Chip, classes: Sequence[ClassLabel], folder: Path, suffix: str) -> tuple[Path, ...]:
    """The chip's share. Boxes are clipped to the chip; map.txt lists the picture alone."""
    rows, cols = chip.valid.shape
    found = [
        {
            "category_id": classes[label - 1].value,
            "bbox": [round(n, 2) for n in (xmin, ymin, xmax - xmin, ymax - ymin)],
            "area": round((xmax - xmin) * (ymax - ymin), 2),
            "iscrowd": 0,
        }
        for label, (xmin, ymin, xmax, ymax) in zip(chip.labels.tolist(), inside(chip).round(2).tolist(), strict=True)
    ]
    share = {"image": {"file_name": chip.name + suffix, "width": cols, "height": rows}, "annotations": found}
    write_label(_part(folder, chip.name), json.dumps(share))
    return ()


def read(chip: Chip, classes: Sequence[ClassLabel], folder: Path) -> Chip:
    """A class is found by its name among the categories, else by its Value."""
    path = folder / WHOLE
    document = _document(folder)
    if chip.name not in document:
        raise LabelError("does not list the chip", where=path, got=chip.name, do="export the chips again")
    try:
        found = document[chip.name]["annotations"]
        ours = known(classes, named=True)
        calls = {str(i): str(classes[ours[name] - 1].value) for i, name in document[""].items() if name in ours}
        names = [calls.get(str(a["category_id"]), str(a["category_id"])) for a in found]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (map(float, a["bbox"]) for a in found)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(path, error) from error
    boxes, labels = objects(corners, indexes(names, classes, path), path)
    return replace(chip, boxes=boxes, labels=labels)


def labelled(folder: Path, classes: Sequence[ClassLabel]) -> set[str]:
    return {name for name in _document(folder) if name}


def finish(folder: Path, names: Sequence[str], classes: Sequence[ClassLabel]) -> None:
    """Gather the shares, and those of an earlier labels.json, in the order of `names`; only then drop the shares."""
    shares: dict[str, Share] = _document(folder) if (folder / WHOLE).is_file() else {}
    shares = shares | {name: _json(_part(folder, name)) for name in stems(folder / "labels", ".json")}
    if missing := [name for name in names if name not in shares]:
        do = "export the chips again"
        raise LabelError(f"{len(missing)} chips have no labels", where=folder / "labels", got=missing[:3], do=do)
    images: list[Share] = []
    annotations: list[Share] = []
    for i, name in enumerate(names):
        share = shares[name]
        images.append({"id": i, **share["image"]})
        annotations += [{"id": len(annotations) + n, "image_id": i, **a} for n, a in enumerate(share["annotations"])]
    categories = [{"id": label.value, "name": label.name, "supercategory": ""} for label in classes]
    write_text(folder / WHOLE, json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    for name in stems(folder / "labels", ".json"):
        _part(folder, name).unlink()
    if (folder / "labels").is_dir() and not any((folder / "labels").iterdir()):
        (folder / "labels").rmdir()


def _document(folder: Path) -> dict[str, Any]:
    """Shares by the name of the chip, and the names of the categories under "". Parsed once for all chips."""
    path = folder / WHOLE
    if not path.is_file():
        raise LabelError("has no labels", where=path, do="export the chips again")
    facts = path.stat()
    return _parsed(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _parsed(path: Path, modified_ns: int, size: int) -> dict[str, Any]:
    document = _json(path)
    try:
        images = {image["id"]: image for image in document["images"]}
        shares: dict[Any, Share] = {i: {"image": _without_id(image), "annotations": []} for i, image in images.items()}
        for annotation in document["annotations"]:
            shares[annotation["image_id"]]["annotations"].append(_without_id(annotation))
        categories = {c["id"]: c["name"] for c in document["categories"]}
        names = {i: Path(image["file_name"].replace("\\", "/")).stem for i, image in images.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _broken(path, error) from error
    return {"": categories, **{names[i]: share for i, share in shares.items()}}


def _without_id(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("id", "image_id")}


def _json(path: Path) -> Any:
    try:
        return json.loads(text_of(path).lstrip("\ufeff"))
    except ValueError as error:
        if isinstance(error, LabelError):
            raise
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> LabelError:
    return LabelError(f"is no COCO file ({error!r})", where=path, do="export the chips again")


def _part(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.json"
