"""What a person wants to know of a model, as the Properties window of a package tells it (ArcGIS formats B.3)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.archive import is_root_emd
from registry.dlpk import Package, inspect
from registry.emd import SCORES, Emd
from registry.errors import EmdError
from registry.keys import oddities, typed, unknown
from registry.rules import is_alike

SHOWN = {  # keys that the other rows tell
    *(
        "Framework",
        "ModelConfiguration",
        "ModelType",
        "ModelFile",
        "InferenceFunction",
        "Description",
        "Summary",
        "Tags",
    ),
    *("Classes", "ExtractBands", "BandNames", "InputRastersProps", "ImageHeight", "ImageWidth", "MinCellSize"),
    *("MetaDataMode", *SCORES),
}


def properties(path: Path) -> dict[str, Any]:
    """Of a .dlpk or an .emd. Raises PackageError and EmdError for what cannot be read."""
    if path.suffix.lower() == ".emd":
        return {"name": path.stem, "path": str(path), **described(Emd.read(path), ())}
    return {"path": str(path), **of_package(inspect(path))}


def of_package(package: Package) -> dict[str, Any]:
    """With the members, the size and the sha256 of the file."""
    file = {"size": package.size, "sha256": package.sha256, "members": dict(package.members)}
    return {"name": package.name, **described(package.emd, package.members), **file}


def described(emd: Emd, members: Iterable[str]) -> dict[str, Any]:
    """The definition in the order of the window; what is broken stands under `problems`, nothing raises."""
    document, cell = emd.document, emd.cell_size
    facts = {
        "input": _input(emd, list(members)),
        "framework": _text(document.get("Framework")),
        "model_configuration": emd.model_configuration,
        "model_type": _text(document.get("ModelType")),
        "description": _text(document.get("Description")),
        "summary": _text(document.get("Summary")),
        "tags": list(emd.tags),
        "classes": _classes(emd),
        "bands": list(emd.band_names),
        "extract_bands": list(emd.extract_bands),
        "sensor": emd.sensor,
        "tile_size": [document.get("ImageHeight"), document.get("ImageWidth")],
        "cell_size": {"x": cell[0], "y": cell[1], "wkid": str(cell[2] or "")} if cell else None,
        "metadata_format": _text(document.get("MetaDataMode")),
        "scores": emd.scores,
        "settings": _settings(emd),
        "other_keys": unknown(emd.document),
        "problems": emd.problems(),
        "notes": oddities(emd.document),
    }
    return {key: value for key, value in facts.items() if value not in ("", None, [], {})}


def _settings(emd: Emd) -> dict[str, Any]:
    """All other known keys, as what they are."""
    return {key: value for key, value in typed(emd.document).items() if key not in SHOWN and not key.startswith("All")}


def _input(emd: Emd, members: list[str]) -> dict[str, Any]:
    weights = str(emd.document.get("ModelFile", "")).replace("\\", "/").removeprefix("./")
    named = {"definition": [name for name in members if is_root_emd(name)]}
    named["model_file"] = [name for name in members if is_alike(name, weights)] or [weights]
    named["other_files"] = [name for name in members if name not in (*named["definition"], *named["model_file"])]
    facts = {key: value if key == "other_files" else ", ".join(value) for key, value in named.items()}
    return {key: value for key, value in facts.items() if value} | (
        {"inference_function": emd.inference_function} if emd.inference_function else {}
    )


def _classes(emd: Emd) -> list[dict[str, Any]]:
    try:
        return [{"value": label.value, "name": label.name, "color": list(label.color)} for label in emd.classes]
    except EmdError:
        return []  # told under problems


def _text(value: Any) -> str:
    return "" if value is None else str(value)
