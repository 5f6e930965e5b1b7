"""What is different between two packages: their files, byte for byte, and their definitions, key by key."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.dlpk import digests, inspect
from registry.emd import Emd


def differences(a: Path, b: Path) -> dict[str, Any]:
    """Of two .dlpk, or two .emd: {"same", "members": {name: what}, "definition": {path of a key: [in a, in b]}}."""
    return between(_emd(a).document, _emd(b).document, _files(a), _files(b))


def between(
    a: Mapping[str, Any], b: Mapping[str, Any], files_a: Mapping[str, str], files_b: Mapping[str, str]
) -> dict[str, Any]:
    """The same of what is known already: two definitions, and the digests of the members by name."""
    definition = dict(_changed(a, b))
    members = {name: _what(files_a, files_b, name) for name in sorted({*files_a, *files_b})}
    members = {name: what for name, what in members.items() if what}
    return {"same": not definition and not members, "members": members, "definition": definition}


def _emd(path: Path) -> Emd:
    return Emd.read(path) if path.suffix.lower() == ".emd" else inspect(path).emd


def _files(path: Path) -> dict[str, str]:
    return {} if path.suffix.lower() == ".emd" else digests(path)


def _what(a: Mapping[str, str], b: Mapping[str, str], name: str) -> str:
    if name not in a:
        return "only in b"
    if name not in b:
        return "only in a"
    return "" if a[name] == b[name] else "other content"


def _changed(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, list[Any]]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _changed(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _changed(left, right, f"{path}[{i}]")
    elif a != b or type(a) is not type(b):
        yield path, [a, b]
