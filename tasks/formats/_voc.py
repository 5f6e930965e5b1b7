"""The XML file of PASCAL VOC, which three formats speak: <annotation> <filename> <source> <size> <object> ..."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from defusedxml.ElementTree import fromstring

from registry.errors import LabelError
from tasks.chips import Chip
from tasks.formats._labels import text_of, write_label

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Made as text: a tree of elements takes longer than all else that is done for a chip. The source is that of every real
# file that was seen
ANNOTATION = """<?xml version="1.0"?>
<annotation>
    <filename>{}</filename>
    <source>
        <annotation>ArcGIS Pro 2.1</annotation>
    </source>
    <size>
        <width>{}</width>
        <height>{}</height>
        <depth>{}</depth>
    </size>
{}</annotation>
"""
OBJECT = """    <object>
        <name>{}</name>
        <bndbox>
            <xmin>{:.2f}</xmin>
            <ymin>{:.2f}</ymin>
            <xmax>{:.2f}</xmax>
            <ymax>{:.2f}</ymax>
        </bndbox>
    </object>
"""


def write_voc(path: Path, chip: Chip, suffix: str, objects: Sequence[tuple[str, Sequence[float]]]) -> Path:
    """`objects`: what stands in <name>, and the box. Coordinates have two decimals, as ArcGIS writes them."""
    bands, rows, cols = chip.image.shape
    found = "".join(OBJECT.format(escape(name), *box) for name, box in objects)
    return write_label(path, ANNOTATION.format(escape(chip.name + suffix), cols, rows, bands, found))


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
