"""Which files of a folder belong to a model's definition that lies among other things.

Those that the definition names, whatever the key; those that its Python files import or name, and so on from there;
the report. Nothing is run. A name that is put together while the code runs is not seen.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from registry.rules import NO_PYTHON, named_files, python_in

REPORT = ("ModelCharacteristics", "model_metrics.html", "training_validation_loss.json")
PICTURES = ("loss_graph.png", "show_results.png")
BESIDE = (".data", "_data")  # ends of files in which ONNX keeps what is too large for one
ELSEWHERE = ("Classes",)  # keys whose texts name things of the world


@dataclass
class _Named:
    """Places in the folder, as Windows sees them: without upper letters."""

    whole: set[str] = field(default_factory=set)  # with all that lies below
    alone: set[str] = field(default_factory=set)  # files, and Python files below: a text in code may mean anything

    def has(self, member: str) -> bool:
        name = member.casefold()
        own = {name, name.removesuffix(".py")}
        above = {str(folder) for folder in PurePosixPath(name).parents}
        return bool(
            own & (self.whole | self.alone) or above & self.whole or (name.endswith(".py") and above & self.alone)
        )


def belonging(members: Mapping[str, Path], own: Iterable[str], document: Mapping[str, Any]) -> dict[str, Path]:
    """Of the members its own and what these and the definition bring along."""
    if document.get("ModelFile") == "." and not document.get("ModelFiles"):  # all of it is the model
        return dict(members)
    weights = [name for key, name in named_files(document).items() if key.startswith("ModelFile")]
    texts = _texts({key: value for key, value in document.items() if key not in ELSEWHERE})
    named = _Named({name.casefold() for name in (*own, *REPORT, *PICTURES)})
    named.whole |= {place for text in texts for place in _places(text)}
    named.whole |= {f"{name.casefold()}{end}" for name in weights for end in BESIDE}
    kept = set[str]()
    while more := {name for name in members if name not in kept and named.has(name)}:
        kept |= more
        for name in more:
            if name.lower().endswith(".py"):
                _read(name, members[name], named)
    return {name: path for name, path in members.items() if name in kept}


def _read(name: str, path: Path, named: _Named) -> None:
    """What a Python file imports or names lies at the root, beside it or in a folder above it."""
    folders = ["" if str(one) == "." else f"{one}/".casefold() for one in PurePosixPath(name).parents]
    imports, texts = _of_code(path)
    named.whole |= {f"{folder}{one}" for folder in folders for one in imports}
    named.alone |= {f"{folder}{one}" for folder in folders for one in texts}


def _of_code(path: Path) -> tuple[set[str], set[str]]:
    """What it imports, and what its texts may name."""
    try:
        tree = python_in(path)
    except NO_PYTHON:
        return set(), set()
    imports, texts = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {node.module.partition(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts |= set(_places(node.value))
    return {name.casefold() for name in imports}, texts


def _texts(value: Any) -> Iterator[str]:
    """All of a document, however deep."""
    waiting = [value]
    while waiting:
        if isinstance(one := waiting.pop(), str):
            yield one
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _places(text: str) -> Iterator[str]:
    """A path with / between folders; a dotted name of a module may be one, too."""
    place = text.casefold().replace("\\", "/").lstrip("./").rstrip("/")
    if place:
        yield place
        yield place.replace(".", "/")
