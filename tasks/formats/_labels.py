"""What formats share: which chips have labels, the text of a label file, classes by what a file calls them."""

import codecs
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.emd import ClassLabel
from registry.errors import LabelError, StoreError
from tasks.chips import PICTURES, Chip, no_boxes, no_labels

log = logging.getLogger("dlpk.chips")

BYTE_ORDER = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
SPELLINGS = [spelled for suffix in sorted(PICTURES) for spelled in (suffix, suffix.upper())]
NO_FOLDER_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]|^[. ]|[. ]$|^$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def stems(folder: Path, *suffixes: str) -> set[str]:
    """Names of the chips that have a file in a folder of labels; an empty set when there is no folder."""
    if not folder.is_dir():
        return set()
    return {p.stem for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")}


def found(path: Path) -> Path:
    """The label file of a chip. Raises LabelError when it is not there."""
    if not path.is_file():
        raise LabelError("the chip has no label file", where=path, do="export the chips again")
    return path


def write_label(path: Path, text: str) -> Path:
    """What a kill leaves half written is written again: only the part of a unit says that its chips are finished."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    except OSError as error:
        raise no_room(path, error) from error
    return path


def no_room(path: Path, error: Exception) -> StoreError:
    do = "free some space or choose another place, then run the same command again"
    return StoreError(f"cannot write ({error})", where=path, do=do)


def text_of(path: Path) -> str:
    """In whatever encoding it is written: byte order marks first, then UTF-8, then that of Windows."""
    content = found(path).read_bytes()
    for mark, encoding in (*BYTE_ORDER, (b"", "utf-8")):
        if content.startswith(mark):
            try:
                return content.decode(encoding)
            except UnicodeDecodeError:
                break
    return content.decode("cp1252", errors="replace")


def known(classes: Sequence[ClassLabel], *, named: bool = False) -> dict[str, int]:
    """Class index by its Value as text and by its name; of two alike the Value counts, or in a `named` format the name.

    The other is how files of other tools may have it.
    """
    by_name = {c.name.strip(): i for i, c in enumerate(classes, 1)}
    by_value = {str(c.value): i for i, c in enumerate(classes, 1)}
    return {**by_value, **by_name} if named else {**by_name, **by_value}


def indexes(
    names: Iterable[str], classes: Sequence[ClassLabel], path: Path, *, named: bool = False
) -> NDArray[np.int64]:
    """Class indexes of what a file calls its classes, 0 for the Value 0, which is background (ArcGIS formats D.4).

    Raises LabelError with all that no class is called.
    """
    return _looked_up(names, {"0": 0, **known(classes, named=named)}, path)


def values(
    names: Iterable[str], classes: Sequence[ClassLabel], path: Path, *, named: bool = False
) -> NDArray[np.int64]:
    """The same where every chip has a label: 0 is a class, or nothing at all."""
    return _looked_up(names, known(classes, named=named), path)


def _looked_up(names: Iterable[str], ours: dict[str, int], path: Path) -> NDArray[np.int64]:
    wanted = [name.strip() for name in names]
    wanted = [name if name in ours else name.removesuffix(".0") for name in wanted]
    if unknown := sorted(set(wanted) - set(ours)):
        do = "add them to Classes of the definition, or export the chips again"
        raise LabelError("names classes that the definition does not have", where=path, got=unknown, do=do)
    return np.array([ours[name] for name in wanted], np.int64)


def inside(chip: Chip) -> NDArray[np.float64]:
    """(n, 4) boxes clipped to the chip, so that no coordinate is negative, nor "-0.00"."""
    rows, cols = chip.valid.shape
    return np.clip(chip.boxes.astype(np.float64), 0, [cols, rows, cols, rows]) + 0.0


def tile(chip: Chip) -> tuple[float, float, float, float]:
    """The box of the whole chip."""
    rows, cols = chip.valid.shape
    return 0.0, 0.0, float(cols), float(rows)


def one_label(chip: Chip) -> int:
    """The class index of a chip that has one label. Raises LabelError when it has none, or several."""
    if len(chip.labels) != 1:
        raise LabelError("expected exactly one label", where=chip.name, got=chip.labels.tolist())
    return int(chip.labels[0])


def objects(
    boxes: Sequence[Sequence[float]], labels: NDArray[np.int64], path: Path
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes and class indexes without background, and without boxes that have no width or height.

    Raises LabelError for a box that is turned inside out.
    """
    if not len(boxes):
        return no_boxes(), no_labels()
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    wrong = ~np.isfinite(corners).all(axis=1) | (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if wrong.any():
        raise LabelError("has a box that ends before it begins", where=path, got=corners[wrong][0].tolist())
    boxed = corners.astype(np.float32)
    flat = (labels > 0) & (boxed[:, 2:] <= boxed[:, :2]).any(axis=1)
    if flat.any():  # ArcGIS clips boxes to the chip, and writes two decimals
        _warn_of_flat(path, int(flat.sum()))
    kept = (labels > 0) & ~flat
    return boxed[kept], labels[kept]


@cache
def _warn_of_flat(path: Path, count: int) -> None:
    """Once, however often the chip is read."""
    log.warning("%s: boxes without width or height are left out: %d", path, count)


def folder_names(classes: Sequence[ClassLabel]) -> tuple[str, ...]:
    """One folder a class, named by its Name (ArcGIS formats D.6).

    Raises LabelError for names that are no folder on Windows, where ArcGIS reads them, and for two in one folder.
    """
    names = [c.name for c in classes]
    if wrong := [name for name in names if NO_FOLDER_NAME.search(name)]:
        do = "rename the classes, e.g. " + ", ".join(repr(_safe(name)) for name in wrong)
        raise LabelError("class names become folders in this format, and these cannot", got=wrong, do=do)
    folded = [name.casefold() for name in names]
    if twice := [name for name in names if folded.count(name.casefold()) > 1]:
        raise LabelError("class names become folders in this format, and these are the same", got=twice, do="rename")
    return tuple(names)


def _safe(name: str) -> str:
    cleaned = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", name).strip(". ")
    return f"{cleaned}_" if NO_FOLDER_NAME.search(cleaned) else cleaned
