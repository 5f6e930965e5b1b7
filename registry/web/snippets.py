"""How a version is used: in ArcGIS Pro, on the command line, in Python; to be copied as it is."""

from dataclasses import dataclass

from registry.catalog import Version
from registry.emd import ModelType

TOOLS = {  # ModelType -> ArcGIS tool, its function in arcpy.ia, our command and what it writes
    ModelType.OBJECT_DETECTION: ("Detect Objects", "DetectObjectsUsingDeepLearning", "detect-objects", "found.gpkg"),
    ModelType.INSTANCE_DETECTION: ("Detect Objects", "DetectObjectsUsingDeepLearning", "detect-objects", "found.gpkg"),
    ModelType.IMAGE_CLASSIFICATION: (
        "Classify Pixels",
        "ClassifyPixelsUsingDeepLearning",
        "classify-pixels",
        "classes.tif",
    ),
    ModelType.OBJECT_CLASSIFICATION: (
        "Classify Objects",
        "ClassifyObjectsUsingDeepLearning",
        "classify-objects",
        "told.gpkg",
    ),
}
CHANGE = ("Detect Change", "DetectChangeUsingDeepLearning", "detect-change", "change.tif")


@dataclass(frozen=True)
class Snippet:
    """Steps to follow, a text to copy, or both."""

    title: str
    text: str = ""
    steps: tuple[str, ...] = ()


def snippets(version: Version) -> list[Snippet]:
    """For what the model does; where no command runs it, how to get it."""
    tool = _tool(version)
    return [_pro(version, tool), _commands(version, tool), _python(version, tool)]


def _tool(version: Version) -> tuple[str, str, str, str] | None:
    if any(word in version.model_configuration.lower() for word in ("change_detect", "changedetect")):
        return CHANGE
    try:
        return TOOLS.get(ModelType(version.model_type))
    except ValueError:
        return None


def _pro(version: Version, tool: tuple[str, str, str, str] | None) -> Snippet:
    title = f"{tool[0]} Using Deep Learning" if tool else "the deep learning tool for this kind of model"
    steps = (
        f"Download {version.name}.dlpk and keep its name: ArcGIS opens the definition by it.",
        f"In ArcGIS Pro open Analysis, Tools, and {title}.",
        "Choose the raster as Input Raster and the file as Model Definition.",
        "Set the cell size in Environments to that of the training imagery, then run.",
    )
    if not tool:
        return Snippet("ArcGIS Pro", "", steps)
    rasters = '"2020.tif", "2024.tif"' if tool is CHANGE else '"town.tif"'
    package, call = f'r"C:\\models\\{version.name}.dlpk"', f"arcpy.ia.{tool[1]}"
    text = f'import arcpy\n\n{call}(\n    {rasters}, {package}\n).save(r"C:\\out\\{tool[3]}")'
    if tool[2] in ("detect-objects", "classify-objects"):
        text = f'import arcpy\n\n{call}(\n    {rasters}, r"C:\\out.gdb\\found", {package}\n)'
    return Snippet("ArcGIS Pro", text, steps)


def _commands(version: Version, tool: tuple[str, str, str, str] | None) -> Snippet:
    lines = [f"dlpk fetch {version.ref} --into .", f"dlpk verify {version.name}.dlpk"]
    if tool:
        imagery = "2020.tif 2024.tif" if tool is CHANGE else "town.tif"
        lines.append(f"dlpk {tool[2]} {version.ref} {imagery} {tool[3]}")
    return Snippet("Command line", "\n".join(lines))


def _python(version: Version, tool: tuple[str, str, str, str] | None) -> Snippet:
    lines = ["from registry.catalog import fetch, find_version", "", f'version = find_version("{version.ref}")']
    lines += ["package = fetch(version.ref)  # checked against its sha256", "print(package, dict(version.scores))"]
    return Snippet("Python", "\n".join(lines))
