"""The rules for the definition of a trained model (ArcGIS formats A.7): `Emd.problems` asks them."""

import ast
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.emd import Emd, ModelType, are_bands, is_int, is_number, is_size
from registry.errors import EmdError

PREDEFINED = {  # Framework -> ModelConfiguration that ArcGIS runs without an InferenceFunction (A.2)
    "TensorFlow": {"ObjectDetectionAPI", "DeepLab"},
    "Keras": {"MaskRCNN", "KerasClassifier"},
    "PyTorch": {"FastaiSSD", "FeatureClassifier"},
    "CNTK": {"FasterRCNN", "AzurePixelLevelLandClassification"},
}
METHODS = ("initialize", "getParameterInfo", "getConfiguration")  # of a raster function, with one of the next two
WORKERS = ("updatePixels", "vectorize")
NO_PYTHON = (ValueError, SyntaxError, RecursionError, MemoryError)  # what a file that is none makes its parser raise
DEEPEST = 20  # levels of a document that are looked into
REMEDIES = {
    "ModelType": "write what the model does, such as ObjectDetection: it decides which tool takes it",
    "ImageHeight": "write the side of the model's input tile in pixels",
    "ImageWidth": "write the same number as ImageHeight",
    "Classes": 'write {"Value": 1, "Name": "Roof", "Color": [230, 60, 40]} for each class',
    "ExtractBands": "write the bands in the order that the model takes them, such as [0, 1, 2]",
    "NormalizationStats": "copy the statistics of the training, or set IsMultispectral to false",
    "ModelFile": "put the weights beside the .emd and write the name of the file",
    "ModelFiles": "put the weights beside the .emd and list the names of the files",
    "InferenceFunction": "put the raster function beside the .emd, with a class that is named like its file",
    "ModelConfigurationFile": "put it beside the .emd and write the name of the file",
    "ImageSpaceUsed": "write MAP_SPACE, unless the chips were cut in the space of the image",
    "DataRange": "write two numbers such as [0, 1], or take it out where the function scales by itself",
    "CropSizeFixed": "write 1 to crop a whole tile, 0 for the box of the feature",
    "BlackenAroundFeature": "write 1 to blacken what lies outside the feature, else 0",
    "text": "any `dlpk edit` writes it in ASCII",
}
IMAGE_SPACES = ("MAP_SPACE", "PIXEL_SPACE", "IMAGE_SPACE")


def problems(emd: Emd, folder: Path | None) -> Iterator[tuple[str, str]]:
    """The path of a field and what is wrong with it; the files it names are looked for when `folder` is given."""
    document = emd.document
    try:
        emd.model_type  # noqa: B018  (the property checks)
    except EmdError as error:
        yield "ModelType", f"{error.what}, got {error.got!r}"
    yield from _tile_problems(emd)
    yield from _class_problems(emd)
    yield from _band_problems(emd)
    yield from _file_problems(emd, folder)
    space = document.get("ImageSpaceUsed", "MAP_SPACE")
    if space not in IMAGE_SPACES:
        yield "ImageSpaceUsed", f"expected one of {', '.join(IMAGE_SPACES)}, got {space!r}"
    if not _is_range(limits := document.get("DataRange", [0, 1])):
        yield "DataRange", f"expected [min, max] with min < max, got {limits!r}"
    if document.get("ModelType") == ModelType.OBJECT_CLASSIFICATION:
        for key in ("CropSizeFixed", "BlackenAroundFeature"):
            if document.get(key) not in (0, 1):
                yield key, f"expected 0 or 1, got {document.get(key)!r}"
    yield from ((path, f"placeholder text is left, got {text!r:.80}") for path, text in _placeholders(document))
    if not emd.ascii:
        yield "text", "expected ASCII, as ArcGIS reads it with the platform's encoding, got other letters"


def remedy(path: str) -> str:
    """What to do about a problem with the field of that path."""
    return REMEDIES.get(path.partition("[")[0].partition(".")[0], "write a value, or take the key out")


def _placeholders(value: Any, path: str = "", deep: int = 0) -> Iterator[tuple[str, str]]:
    """Texts that the export left for somebody to fill in, and where."""
    if isinstance(value, str) and value.startswith("e.g."):
        yield path, value
    if deep < DEEPEST and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _placeholders(inner, f"{path}.{key}".lstrip("."), deep + 1)
    elif deep < DEEPEST and isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _placeholders(inner, f"{path}[{i}]", deep + 1)


def _tile_problems(emd: Emd) -> Iterator[tuple[str, str]]:
    sizes = [emd.document.get(key) for key in ("ImageHeight", "ImageWidth")]
    for key, size in zip(("ImageHeight", "ImageWidth"), sizes, strict=True):
        if not is_size(size):
            yield key, f"expected a positive whole number, got {size!r}"
    if str(sizes[0]) != str(sizes[1]):
        yield "ImageWidth", f"expected a square tile of {sizes[0]}, got {sizes[1]!r}"


def _class_problems(emd: Emd) -> Iterator[tuple[str, str]]:
    try:
        classes = emd.classes
    except EmdError as error:
        yield str(error.where).rsplit(" ", 1)[-1] or "Classes", f"{error.what}, got {error.got!r}"
        return
    if not classes:
        yield "Classes", "expected at least one class, got []"
    for key, values in (("Value", [str(c.value) for c in classes]), ("Name", [c.name for c in classes])):
        if twice := sorted(value for value, times in Counter(values).items() if times > 1):
            yield "Classes", f"expected every {key} once, got {', '.join(twice)} again"
    for i, label in enumerate(classes):
        if not label.name.strip():
            yield f"Classes[{i}].Name", f"expected a name, got {label.name!r}"
        if not all(0 <= c <= 255 for c in label.color):
            yield f"Classes[{i}].Color", f"expected 3 numbers 0-255, got {list(label.color)}"


def _band_problems(emd: Emd) -> Iterator[tuple[str, str]]:
    bands = emd.document.get("ExtractBands")
    if not isinstance(bands, list) or not bands or len(set(map(str, bands))) != len(bands) or not are_bands(bands):
        yield "ExtractBands", f"expected distinct band indexes from 0, or band names, got {bands!r}"
    elif emd.document.get("IsMultispectral") and is_int(bands[0]):
        statistics = emd.document.get("NormalizationStats")
        if not isinstance(statistics, dict) or not statistics:
            yield "NormalizationStats", f"expected statistics of every band, got {statistics!r}"
            return
        for key, values in statistics.items():
            if values is not None and not (isinstance(values, list) and len(values) > max(bands)):
                yield f"NormalizationStats.{key}", f"expected a value for every band of {bands!r}, got {values!r}"


def _file_problems(emd: Emd, folder: Path | None) -> Iterator[tuple[str, str]]:
    document = emd.document
    predefined = PREDEFINED.get(str(document.get("Framework")), set())
    if not emd.inference_function and emd.model_configuration not in predefined:
        yield "InferenceFunction", "expected a .py file, or a predefined Framework and ModelConfiguration, got ''"
    if not document.get("ModelFile"):
        yield "ModelFile", "expected the name of the weights file, got nothing"
    if document.get("ModelFile") == "." and not document.get("ModelFiles"):
        yield "ModelFiles", "expected the names of the weights files, as ModelFile is '.', got nothing"
    if folder is not None:
        for key, name in named_files(document).items():
            yield from _member_problems(key, folder, name)


def named_files(document: Mapping[str, Any]) -> dict[str, str]:
    """Key -> the file of the model folder that a definition names there, with / between folders."""
    several = document.get("ModelFiles") if document.get("ModelFile") == "." else None
    named = {key: document.get(key) for key in ("ModelFile", "InferenceFunction", "ModelConfigurationFile")}
    named |= {f"ModelFiles[{i}]": name for i, name in enumerate(several if isinstance(several, list) else ())}
    names = {key: str(value or ".").replace("\\", "/").removeprefix("./") for key, value in named.items()}
    return {key: name for key, name in names.items() if name not in (".", "") and not name.startswith("[Functions]")}


def python_in(file: Path) -> ast.Module:
    """Its syntax tree; nothing of it is run. Raises one of NO_PYTHON, OSError."""
    with warnings.catch_warnings(action="ignore"):  # of the compiler, about escapes in somebody else's text
        return ast.parse(file.read_bytes())


def is_alike(name: str, other: str) -> bool:
    """Whether Windows takes both for one name."""
    return name.casefold() == other.casefold()


def _member_problems(key: str, folder: Path, name: str) -> Iterator[tuple[str, str]]:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not _exists(folder / name):
        yield key, f"expected a file of the model folder, got {name!r}, which is not there"
    elif key == "InferenceFunction":
        yield from ((key, problem) for problem in _function_problems(folder / name))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _function_problems(file: Path) -> Iterator[str]:
    """Of the class that ArcGIS makes an object of; inherited methods cannot be seen from here.

    Upper and lower letters are one: unpacking gives the file those of the definition, and the class keeps its own.
    """
    try:
        tree = python_in(file)
    except (OSError, *NO_PYTHON) as error:
        yield f"expected Python source in {file.name}, got {type(error).__name__}"
        return
    alike = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and is_alike(node.name, file.stem)}
    names = [file.stem] if file.stem in alike else list(alike)
    if len(names) != 1:
        yield f"expected a class named {file.stem} in {file.name}, got {' and '.join(names) or 'none'}"
    elif not alike[names[0]].bases:
        own = {node.name for node in alike[names[0]].body if isinstance(node, ast.FunctionDef)}
        if missing := [name for name in METHODS if name not in own]:
            yield f"expected the methods {', '.join(METHODS)} in {file.name}, {', '.join(missing)} is missing"
        if own.isdisjoint(WORKERS):
            yield f"expected updatePixels or vectorize in {file.name}, got neither"


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]
