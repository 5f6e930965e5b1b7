"""The receipt of a step: what went in, so that a rerun knows finished work, work to resume, and work of another kind.

Written as a hidden file before a step begins; the step's `.emd`, written last, says that it is finished. A folder that
is added to keeps a receipt with several parts, in the order in which they came.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.emd import Emd
from registry.errors import Conflict
from registry.files import write_text
from registry.locks import locked
from registry.scenes.beside import TOLD, told_beside
from tasks.layers import OF_SHAPEFILE, address, file_of, layer_of
from tasks.nearby import contents_of

NAME = ".receipt.json"
# Files of the same name that belong to a shapefile or a raster
BESIDE = (*OF_SHAPEFILE, ".tfw", ".pgw", ".jgw", ".j2w", ".wld", ".hdr")
OF_MAPINFO = {".tab": (".dat", ".map", ".id", ".ind"), ".mif": (".mid",)}
AFTER = ("-wal", ".msk", TOLD)  # of a name that goes on like this
Facts = dict[str, Any]


def claim(folder: Path, verb: str, facts: Facts) -> None:
    """Take a folder for a step. Raises Conflict when it holds something else than an earlier try of the same step."""
    check(folder, verb, facts)
    if not (folder / NAME).is_file():
        write(folder, verb, [facts])


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder meanwhile; a kill lets go of it. Raises Conflict."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not locked(handle, optional=True):
            raise Conflict("is being written by another process", where=folder, do="wait until that has ended")
        yield
    finally:
        os.close(handle)


def check(folder: Path, verb: str, facts: Facts) -> None:
    """Raises the Conflict of `claim`, and takes nothing."""
    if (folder / NAME).is_file():
        if read(folder, verb) != [plain(facts)]:
            do = "choose another folder, or delete this one to do it anew"
            raise Conflict(f"holds the result of another {verb}, made from other data or options", where=folder, do=do)
    elif folder.is_dir() and any(NAME not in path.name for path in folder.iterdir()):  # half a receipt is nobody's
        raise Conflict("is not empty", where=folder, do="choose an empty or new folder")


def read(folder: Path, verb: str) -> list[Facts]:
    """The facts of each part, none where there is no receipt of this verb."""
    if not (folder / NAME).is_file():
        return []
    document = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return list(document["parts"]) if document.get("verb") == verb and "parts" in document else []


def write(folder: Path, verb: str, parts: list[Facts]) -> Path:
    text = json.dumps({"verb": verb, "parts": parts}, indent=2, sort_keys=True, default=str)
    return write_text(folder / NAME, text)


def holds(folder: Path, verb: str, facts: Facts) -> bool:
    """Whether one of its parts was made of just this."""
    return plain(facts) in read(folder, verb)


def stamp(path: Path) -> Facts:
    """What tells a changed input file from the same: path, size and time of change, of what belongs to it, too.

    Of labels in a bucket or on the web their ETags. Raises NotFound or StoreError where these cannot be had.
    """
    if where := address(path):
        return {"path": where, "contents": contents_of(where)}
    if layer := layer_of(path):
        return {**stamp(file_of(path)), "layer": layer}
    if not path.exists():  # somewhere else than on this machine
        return {"path": str(path)}
    if path.is_dir():
        return {"path": str(path.resolve()), "files": [stamp(p) for p in files_in(path)]}
    if path.name.endswith(TOLD):
        return {"path": str(path.resolve()), "told": told_beside(path)}
    facts = path.stat()
    own = {"path": str(path.resolve()), "size": facts.st_size, "modified_ns": facts.st_mtime_ns}
    others = [stamp(other) for other in belonging(path)]
    return {**own, "beside": others} if others else own


def files_in(folder: Path) -> list[Path]:
    """All files below it, sorted, without the locks of a geodatabase in use."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]


def belonging(path: Path) -> list[Path]:
    """The other files that a file is read with, where they are there and not empty.

    Those of a shapefile or a MapInfo table, a raster's world file, header and mask, what is told beside it, what a VRT
    is made of, the weights of a definition, and what was written to a GeoPackage that still lies open, in QGIS or
    elsewhere.
    """
    suffix = path.suffix.lower()
    ends = () if suffix in BESIDE else (*BESIDE, *OF_MAPINFO.get(suffix, ()))
    others = [path.with_suffix(end.upper() if path.suffix.isupper() else end) for end in ends]
    others += [path.with_name(path.name + end) for end in AFTER]
    if suffix == ".emd":
        others.append(path.parent / Emd.read(path).model_file)
    if suffix == ".vrt":
        from tasks.sources import files_behind

        others += map(Path, files_behind(path))
    return [other for other in others if other.is_file() and _tells(other)]


def _tells(path: Path) -> bool:
    return bool(told_beside(path) if path.name.endswith(TOLD) else path.stat().st_size)


def plain(value: Any) -> Any:
    """As it comes back from the disk."""
    return json.loads(json.dumps(value, default=str))
