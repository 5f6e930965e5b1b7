"""The XML file of PASCAL VOC, which three formats speak: <annotation> <filename> <source> <size> <object> ..."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from defusedxml.ElementTree import fromstring

from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import text_of, write_label

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write_voc(path: Path, chip: Chip, suffix: str, objects: Sequence[tuple[str, Sequence[float]]]) -> Path:
    """`objects`: what stands in <name>, and the box. Coordinates have two decimals, as ArcGIS writes them."""
    bands, rows, cols = chip.image.shape
    root = ElementTree.Element("annotation")
    _add(root, "filename", chip.name + suffix)
    _add(_add(root, "source"), "annotation", "ArcGIS Pro 2.1")  # the text in every real file that was seen
    size = _add(root, "size")
    for key, value in (("width", cols), ("height", rows), ("depth", bands)):
        _add(size, key, str(value))
    for name, box in objects:
        item = _add(root, "object")
        _add(item, "name", name)
        corners = _add(item, "bndbox")
        for key, corner in zip(CORNERS, box, strict=True):
            _add(corners, key, f"{corner:.2f}")
    ElementTree.indent(root, "    ")
    text = '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    return write_label(path, text)


def read_voc(path: Path) -> tuple[list[str], list[list[float]]]:
    """What stands in <name>, and the box, of each object. Raises LabelError when it is no such file."""
    try:
        items = fromstring(text_of(path).strip().lstrip("\ufeff")).findall("object")
        boxes = [[float(item.findtext(f"bndbox/{key}")) for key in CORNERS] for item in items]
    except (ElementTree.ParseError, TypeError, ValueError, OSError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"is no PASCAL VOC file ({error})", where=path, do="export the chips again") from error
    return [(item.findtext("name") or "").strip() for item in items], boxes


def _add(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    return element
