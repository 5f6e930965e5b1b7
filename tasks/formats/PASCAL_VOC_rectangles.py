"""PASCAL_VOC_rectangles: one XML file a chip, boxes in chip pixels (ArcGIS formats D.6).

    images/000000000.tif
    labels/000000000.xml    <annotation> <filename> <source> <size> <object> <name>1</name> <bndbox> ...

`<name>` holds the class *Value*: ArcGIS drops every object that is named by its class name, without a word.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from defusedxml.ElementTree import parse

from registry.emd import ClassLabel
from registry.errors import LabelError
from tasks.chips import Chip, class_index, no_boxes, no_labels

CARRIES = "boxes"
SUFFIX = ".xml"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write(chip: Chip, classes: Sequence[ClassLabel], path: Path) -> None:
    """Coordinates with two decimals, clipped to the chip, as ArcGIS writes them."""
    bands, rows, cols = chip.image.shape
    root = ElementTree.Element("annotation")
    _add(root, "filename", path.stem + ".tif")
    _add(_add(root, "source"), "annotation", "ArcGIS Pro 2.1")  # the text in every real file that was seen
    size = _add(root, "size")
    for key, value in (("width", cols), ("height", rows), ("depth", bands)):
        _add(size, key, str(value))
    for box, label in zip(chip.boxes, chip.labels, strict=True):
        item = _add(root, "object")
        _add(item, "name", str(classes[int(label) - 1].value))
        corners = _add(item, "bndbox")
        for key, value in zip(CORNERS, box, strict=True):
            _add(corners, key, f"{float(value):.2f}")
    ElementTree.indent(root, "    ")
    path.write_text('<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def read(chip: Chip, classes: Sequence[ClassLabel], path: Path) -> Chip:
    """A class is found by its Value, or by its name for files of other tools."""
    try:
        objects = parse(path).getroot().findall("object")
        boxes = [[float(item.findtext(f"bndbox/{key}")) for key in CORNERS] for item in objects]
    except (ElementTree.ParseError, TypeError, ValueError, OSError) as error:
        raise LabelError(f"is no PASCAL VOC file ({error})", where=path, do="export the chips again") from error
    if not boxes:
        return replace(chip, boxes=no_boxes(), labels=no_labels())
    known = {**{c.name: i for i, c in enumerate(classes, 1)}, **{str(v): i for v, i in class_index(classes).items()}}
    names = [item.findtext("name", "").strip() for item in objects]
    if unknown := sorted(set(names) - set(known)):
        raise LabelError("names classes that the definition does not have", where=path, got=unknown)
    return replace(chip, boxes=np.array(boxes, np.float32), labels=np.array([known[n] for n in names], np.int64))


def _add(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    return element
