"""Which source files go into a package: the raster function, the network, and what these import of their folders."""

import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
RELATIVE = re.compile(r"^ *from \.(\w*) import (.*)$", re.MULTILINE)


def travelling(function: str, network: str, *, resized: bool = False) -> list[Path]:
    """Sources of a raster function ("DetectObjects") and of a network ("faster_rcnn"), each file once."""
    files = [HERE / "raster_functions" / f"{function}.py", HERE / "networks" / f"{network}.py"]
    files += [HERE / "networks/_resized.py"] if resized else []
    return [source for file in files for source in with_siblings(file)]


def with_siblings(file: Path) -> list[Path]:
    """A file and everything of its folder that it, or what it imports, imports relatively; sorted."""
    found: set[Path] = set()
    todo = {file}
    while todo:
        found.add(source := todo.pop())
        todo |= set(_siblings(source)) - found
    return sorted(found)


def _siblings(file: Path) -> Iterator[Path]:
    """Of `from ._tiles import number` and of `from . import _outlines, _tiles`."""
    for module, names in RELATIVE.findall(file.read_text(encoding="utf-8")):
        yield from (file.with_name(f"{name}.py") for name in ([module] if module else re.findall(r"\w+", names)))
