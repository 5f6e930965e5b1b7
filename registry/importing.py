"""Take in a model that was made elsewhere: look at what it is, what it needs to run, and register it with its origin.

Nothing of it is run or imported. Kinds: trained by ArcGIS, a function of ArcGIS with foreign weights, an extension
package for arcgis.learn (ArcGIS formats B.5), a custom raster function, and our own.
"""

import ast
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from registry import pickles
from registry.belongings import belonging
from registry.catalog import Version, check_name
from registry.dlpk import ModelFolder, inspect, unpack, write_archive
from registry.editing import renamed
from registry.emd import Emd, ModelType, is_number
from registry.errors import NotFound, PackageError, Pruned
from registry.files import sha256
from registry.pruning import removed
from registry.publishing import publish
from registry.records import few
from registry.rules import NO_PYTHON, named_files, python_in

RUNS_ON = {  # verb -> the model types that it runs
    "detect-objects": (ModelType.OBJECT_DETECTION, ModelType.INSTANCE_DETECTION),
    "classify-pixels": (ModelType.IMAGE_CLASSIFICATION,),  # of two dates: detect-change
    "classify-objects": (ModelType.OBJECT_CLASSIFICATION,),
}
ONLY_ARCGIS = {"arcgis"}
STOOD_IN = {"arcpy"}  # functions touch little of it, and the host has that
OWN = "_tiles"  # the module beside the raster functions of this system
log = logging.getLogger("dlpk.import")


@dataclass(frozen=True)
class Needs:
    """What a model asks of the machine that runs it."""

    kind: str
    framework: str
    modules: tuple[str, ...]  # that its Python files import, without the standard library and its own files
    only_in_arcgis: bool
    runs_with: str  # the verb, "" when no verb here runs it
    why_not: str = ""
    problems: tuple[str, ...] = ()  # rules that its definition breaks
    code_in_weights: tuple[str, ...] = ()  # names that its pickles would import
    versions: dict[str, str] = field(default_factory=dict)  # that it tells of itself

    def document(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in ("", (), {})}


def import_model(
    file: Path, name: str = "", *, note: str = "", trust: bool = False, again: bool = True
) -> tuple[Version, Needs]:
    """Publish a .dlpk, .emd or model folder from elsewhere under a name; by default that of its definition.

    Of an .emd comes along what belongs to it (registry/belongings.py): it may lie among other things.
    Raises PackageError for weights that would run code when they are loaded, unless `trust`; and for a definition
    that the registry cannot describe. Raises Pruned, unless it may come `again`, for a package that a prune removed.
    """
    with tempfile.TemporaryDirectory() as work:
        packed = _packed(file, Path(work))
        package = inspect(packed)
        needs = look_at(unpack(packed, Path(work) / "model"))
        if needs.code_in_weights and not trust:
            do = "ask its maker for a plain state dict, or import it with --trust if you know who made it"
            got = ", ".join(needs.code_in_weights[:3])
            raise PackageError("its weights would run code when they are loaded", where=file, got=got, do=do)
        name = check_name(name or package.name)
        ready = packed
        if (package.name, packed.stem) != (name, name):
            ready = renamed(packed, name, Path(work) / "renamed" / f"{name}.dlpk")
        if not again and (ref := removed(name, sha256(ready))):
            raise Pruned(f"was pruned as {ref}", where=file, do="import it by its own path to have it again")
        origin = {"file": file.name, "sha256": sha256(packed), "name": package.name, "note": note, **needs.document()}
        scores = _scores(package.emd)
        return publish(ready, scores=scores, data_digest="", git_commit="", made={"origin": origin}), needs


def look_at(folder: ModelFolder) -> Needs:
    """What an unpacked model needs to run; reads its files, runs none."""
    emd, files = folder.emd, folder.members()
    imported = _imported(files)
    only = bool(ONLY_ARCGIS & imported.keys()) or not folder.raster_function
    tool = next((tool for tool, types in RUNS_ON.items() if str(emd.document.get("ModelType")) in types), "")
    why = _why_not(folder, imported, tool)
    named = folder.weights if emd.document.get("ModelFile") else None
    weights = {n: p for n, p in files.items() if p.suffix.lower() in pickles.SUFFIXES or p == named}
    found = {f"{place} in {name}" for name, path in weights.items() for place in pickles.suspicious(path)}
    return Needs(
        kind=_kind(folder, files),
        framework=str(emd.document.get("Framework", "")),
        modules=tuple(sorted(imported)),
        only_in_arcgis=only,
        runs_with="" if why else tool,
        why_not=why,
        problems=tuple(emd.problems(folder.path)),
        code_in_weights=tuple(sorted(found)),
        versions={k: str(emd.document[k]) for k in ("ArcGISLearnVersion", "Version") if emd.document.get(k)},
    )


def _packed(file: Path, work: Path) -> Path:
    if not file.exists():
        raise NotFound("no such model", where=file, do="give a .dlpk, an .emd or a model folder")
    if file.is_file() and file.suffix.lower() == ".dlpk":
        return file
    if file.is_file() and file.suffix.lower() != ".emd":
        raise PackageError("expected a .dlpk, an .emd or a model folder", where=file, got=file.suffix)
    folder = ModelFolder(file if file.is_dir() else file.parent)
    members = _travelling(folder)
    return write_archive(members if file.is_dir() else _of_model(members, folder), work / f"{folder.name}.dlpk")


def _travelling(folder: ModelFolder) -> dict[str, Path]:
    """What travels, and what the definition names though it would stay, as weights among the checkpoints."""
    files, named = folder.files(), [f"{name.casefold()}/" for name in named_files(folder.emd.document).values()]
    return {
        name: path
        for name, path in folder.members().items()
        if name in files or any(f"{name.casefold()}/".startswith(start) for start in named)
    }


def _of_model(members: Mapping[str, Path], folder: ModelFolder) -> dict[str, Path]:
    """Those that belong to its definition. Which others are left behind is told."""
    kept = belonging(members, (folder.emd_path.name, folder.raster_function), folder.emd.document)
    if others := [name for name in members if name not in kept]:
        told = "left behind, as neither it nor its code names them"
        log.warning("%s: %s: %s; a folder comes whole", folder.emd_path, told, few(others))
    return kept


def _kind(folder: ModelFolder, files: dict[str, Path]) -> str:
    emd = folder.emd
    if emd.model_configuration == "_model_extension_inferencing":
        return "extension of arcgis.learn"
    if "ArcGISLearnVersion" in emd.document or emd.document.get("Framework") == "arcgis.learn.models._inferencing":
        return "trained by ArcGIS"
    if not folder.raster_function:
        return "function of ArcGIS"
    return "ours" if any(Path(name).stem == OWN for name in files) else "custom raster function"


def _why_not(folder: ModelFolder, imported: Mapping[str, bool], tool: str) -> str:
    if not tool:
        return f"no verb here runs the model type {folder.emd.document.get('ModelType')!r}"
    if not folder.raster_function:
        return "its raster function is part of ArcGIS and not in the package; dlpk convert may write it again"
    if found := sorted(ONLY_ARCGIS & imported.keys()):
        return f"its raster function imports {', '.join(found)}"
    needed = sorted(name for name, must in imported.items() if must and name not in STOOD_IN)
    missing = [name for name in needed if not _is_there(name)]
    return f"these Python modules are not installed here: {', '.join(missing)}" if missing else ""


def _is_there(module: str) -> bool:
    """Looked for, not imported."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _imported(files: dict[str, Path]) -> dict[str, bool]:
    """Libraries that the code names, and whether it needs them: what it only tries to import it can do without."""
    own = {Path(name).stem for name in files} | {part for name in files for part in Path(name).parts[:-1]}
    found: dict[str, bool] = {}
    for path in files.values():
        for name, must in _imports(path) if path.suffix == ".py" else ():
            if name not in own and name not in sys.stdlib_module_names:
                found[name] = found.get(name, False) or must
    return found


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """A library, and whether its import is not one that a `try` catches."""
    try:
        tree = python_in(path)
    except NO_PYTHON:
        return  # told under problems
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
    tried = {id(inner) for node in tries for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        yield from ((name.partition(".")[0], id(node) not in tried) for name in names)


def _scores(emd: Emd) -> dict[str, float]:
    """The single figures that the maker wrote down; nobody here has checked them."""
    return {f"told_{key}": float(value) for key, value in emd.scores.items() if is_number(value)}
