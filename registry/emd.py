"""The Esri model definition: the shared vocabulary of the whole system.

A definition is a JSON object of which many programs each know a part, so `Emd` is a typed view on the document as it
was read: unknown keys, their order and their nesting survive. Keys, types and rules: ArcGIS formats A.

    {"Framework": "PyTorch", "ModelConfiguration": "unet", "ModelType": "ImageClassification", "ModelFile": "roofs.pth",
     "InferenceFunction": "ClassifyPixels.py", "ImageHeight": 256, "ImageWidth": 256, "ExtractBands": [0, 1, 2],
     "Classes": [{"Value": 1, "Name": "roof", "Color": [230, 60, 40]}]}
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from registry.errors import EmdError
from registry.files import write_text

PREDEFINED = {  # Framework -> ModelConfiguration that ArcGIS runs without an InferenceFunction (A.2)
    "TensorFlow": {"ObjectDetectionAPI", "DeepLab"},
    "Keras": {"MaskRCNN", "KerasClassifier"},
    "PyTorch": {"FastaiSSD", "FeatureClassifier"},
    "CNTK": {"FasterRCNN", "AzurePixelLevelLandClassification"},
}
IMAGE_SPACES = ("MAP_SPACE", "PIXEL_SPACE", "IMAGE_SPACE")


class ModelType(StrEnum):
    """What a model does; it decides which ArcGIS tool accepts it (A.2)."""

    OBJECT_DETECTION = "ObjectDetection"
    INSTANCE_DETECTION = "InstanceDetection"
    IMAGE_CLASSIFICATION = "ImageClassification"
    OBJECT_CLASSIFICATION = "ObjectClassification"
    PIX2PIX = "Pix2Pix"
    PIX2PIX_HD = "Pix2PixHD"
    CYCLE_GAN = "CycleGAN"
    SUPER_RESOLUTION = "SuperResolution"
    IMAGE_CAPTIONER = "ImageCaptioner"
    PANOPTIC_SEGMENTER = "PanopticSegmenter"
    POINT_CLOUD_CLASSIFICATION = "PointCloudClassification"
    POINT_CLOUD_DETECTION = "PointCloudDetection"
    OBJECT_TRACKING = "ObjectTracking"
    TIME_SERIES = "TimeSeriesModel"
    FULLY_CONNECTED = "FullyConnectedNetwork"
    LLM = "llm"

    @classmethod
    def _missing_(cls, value: object) -> "ModelType | None":
        return cls.OBJECT_DETECTION if value == "ObjectionDetection" else None  # Esri's own misspelling (A.2)


@dataclass(frozen=True)
class ClassLabel:
    """One class: the Value on disk, the Name for people, the Color (r, g, b), each 0-255."""

    value: int
    name: str
    color: tuple[int, int, int] = (-1, -1, -1)  # -1: no colour, as in export definitions (A.3)

    def document(self) -> dict[str, Any]:
        return {"Value": self.value, "Name": self.name, "Color": list(self.color)}


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of one band over all training tiles, in raw sensor values."""

    name: str
    min: float
    max: float
    mean: float
    std: float

    def document(self) -> dict[str, Any]:
        return {"BandName": self.name, "Min": self.min, "Max": self.max, "Mean": self.mean, "StdDev": self.std}


@dataclass(frozen=True)
class Emd:
    """A typed view on a definition. Equal when the documents are equal, whatever file they came from."""

    document: Mapping[str, Any]
    where: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Emd":
        """Raises EmdError when the text is no JSON object."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise EmdError(f"is no valid JSON ({error})", where=where, do="repair or re-export the file") from error
        if not isinstance(document, dict):
            raise EmdError("expected a JSON object", where=where, got=type(document).__name__)
        return cls(document, where)

    @classmethod
    def read(cls, path: Path) -> "Emd":
        try:
            return cls.parse(path.read_text(encoding="utf-8-sig"), where=str(path))
        except UnicodeDecodeError as error:
            raise EmdError("is no UTF-8 text", where=path, do="save it as UTF-8") from error

    def text(self) -> str:
        """ASCII only: ArcGIS opens the file with the platform's encoding (A.1)."""
        return json.dumps(self.document, indent=4, ensure_ascii=True)

    def write(self, path: Path) -> Path:
        return write_text(path, self.text())

    def replace(self, **keys: Any) -> "Emd":
        """A copy with some keys set; None removes a key."""
        document = {**self.document, **keys}
        return Emd({k: v for k, v in document.items() if v is not None}, self.where)

    # -- typed values ------------------------------------------------------------------------------------------------
    @property
    def model_type(self) -> ModelType:
        return ModelType(self._need("ModelType"))

    @property
    def model_file(self) -> str:
        return str(self._need("ModelFile")).replace("\\", "/").removeprefix("./")

    @property
    def inference_function(self) -> str:
        """File name of the Python raster function, "" when the configuration is a predefined one."""
        value = str(self.document.get("InferenceFunction", ""))
        return value if value.startswith("[Functions]") else value.replace("\\", "/").removeprefix("./")

    @property
    def tile_size(self) -> int:
        """Side of the model's square input tile, in pixels."""
        return int(self._need("ImageHeight"))

    @property
    def extract_bands(self) -> tuple[int | str, ...]:
        return tuple(self.document.get("ExtractBands", ()))

    @property
    def metadata_format(self) -> str:
        return str(self.document.get("MetaDataMode", ""))

    @property
    def classes(self) -> tuple[ClassLabel, ...]:
        """In the order of the file, which is the order that detectors count in (A.3)."""
        entries = self._need("Classes")
        if not isinstance(entries, list):
            raise EmdError("expected a list", where=self._at("Classes"), got=entries)
        return tuple(self._class(i, entry) for i, entry in enumerate(entries))

    @property
    def band_statistics(self) -> tuple[BandStatistics, ...]:
        """Of every band of the training imagery; () when the definition has none."""
        return self._statistics("AllTilesStats")

    @property
    def second_band_statistics(self) -> tuple[BandStatistics, ...]:
        """Of the second raster: the later date, the translation (D.4)."""
        return self._statistics("AllTilesStats2")

    @property
    def cell_size(self) -> tuple[float, float, int | None] | None:
        """Smallest training cell (x, y, EPSG code), in units of that spatial reference; None when unknown."""
        cell = self.document.get("MinCellSize")
        if not isinstance(cell, dict):
            return None
        return float(cell["x"]), float(cell["y"]), (cell.get("spatialReference") or {}).get("wkid")

    @property
    def is_export_definition(self) -> bool:
        """True for the `esri_model_definition.emd` of exported chips, which describes no trained model (A.1)."""
        return str(self.document.get("ModelFile", "e.g.")).startswith("e.g.")

    # -- rules -------------------------------------------------------------------------------------------------------
    def problems(self, folder: Path | None = None) -> list[str]:
        """Every broken rule of A.7, each with the path of its field; files are looked for when `folder` is given."""
        return [f"{field_path}: {problem}" for field_path, problem in self._problems(folder)]

    def validate(self, folder: Path | None = None) -> "Emd":
        """Self when every rule holds. Raises EmdError with all that do not."""
        if found := self.problems(folder):
            raise EmdError("\n  ".join(found), where=self.where or "model definition", do="fix it in the .emd file")
        return self

    def _problems(self, folder: Path | None) -> Iterator[tuple[str, str]]:
        document = self.document
        try:
            self.model_type  # noqa: B018  (the property checks)
        except (ValueError, EmdError):
            known = ", ".join(ModelType)
            yield "ModelType", f"expected one of {known}, got {document.get('ModelType')!r}"
        yield from self._tile_problems()
        yield from self._class_problems()
        yield from self._band_problems()
        yield from self._file_problems(folder)
        space = document.get("ImageSpaceUsed", "MAP_SPACE")
        if space not in IMAGE_SPACES:
            yield "ImageSpaceUsed", f"expected one of {', '.join(IMAGE_SPACES)}, got {space!r}"
        if not _is_range(limits := document.get("DataRange", [0, 1])):
            yield "DataRange", f"expected [min, max] with min < max, got {limits!r}"
        if document.get("ModelType") == ModelType.OBJECT_CLASSIFICATION:
            for key in ("CropSizeFixed", "BlackenAroundFeature"):
                if document.get(key) not in (0, 1):
                    yield key, f"expected 0 or 1, got {document.get(key)!r}"
        for key, value in document.items():
            if isinstance(value, str) and value.startswith("e.g."):
                yield key, f"placeholder text is left, got {value!r}"

    def _tile_problems(self) -> Iterator[tuple[str, str]]:
        sizes = [self.document.get(key) for key in ("ImageHeight", "ImageWidth")]
        for key, size in zip(("ImageHeight", "ImageWidth"), sizes, strict=True):
            if not _is_size(size):
                yield key, f"expected a positive whole number, got {size!r}"
        if str(sizes[0]) != str(sizes[1]):
            yield "ImageWidth", f"expected a square tile of {sizes[0]}, got {sizes[1]!r}"

    def _class_problems(self) -> Iterator[tuple[str, str]]:
        try:
            classes = self.classes
        except EmdError as error:
            yield str(error.where).rsplit(" ", 1)[-1] or "Classes", f"{error.what}, got {error.got!r}"
            return
        if not classes:
            yield "Classes", "expected at least one class, got []"
        seen: dict[str, list[int | str]] = {"Value": [c.value for c in classes], "Name": [c.name for c in classes]}
        for key, values in seen.items():
            if twice := {value for value in values if values.count(value) > 1}:
                yield "Classes", f"expected every {key} once, got {sorted(twice, key=str)} again"
        for i, label in enumerate(classes):
            if not label.name.strip():
                yield f"Classes[{i}].Name", f"expected a name, got {label.name!r}"
            if not all(0 <= c <= 255 for c in label.color):
                yield f"Classes[{i}].Color", f"expected 3 numbers 0-255, got {list(label.color)}"

    def _band_problems(self) -> Iterator[tuple[str, str]]:
        bands = self.document.get("ExtractBands")
        if not isinstance(bands, list) or not bands or len(set(map(str, bands))) != len(bands) or not _are_bands(bands):
            yield "ExtractBands", f"expected distinct band indexes from 0, or band names, got {bands!r}"
        elif self.document.get("IsMultispectral") and _is_int(bands[0]):
            statistics = self.document.get("NormalizationStats")
            if not isinstance(statistics, dict) or not statistics:
                yield "NormalizationStats", f"expected statistics of every band, got {statistics!r}"
                return
            for key, values in statistics.items():
                if values is not None and not (isinstance(values, list) and len(values) > max(bands)):
                    yield f"NormalizationStats.{key}", f"expected a value for every band of {bands!r}, got {values!r}"

    def _file_problems(self, folder: Path | None) -> Iterator[tuple[str, str]]:
        document = self.document
        predefined = PREDEFINED.get(str(document.get("Framework")), set())
        if not self.inference_function and str(document.get("ModelConfiguration")) not in predefined:
            yield "InferenceFunction", "expected a .py file, or a predefined Framework and ModelConfiguration, got ''"
        if not document.get("ModelFile"):
            yield "ModelFile", "expected the name of the weights file, got nothing"
        for key in ("ModelFile", "InferenceFunction", "ModelConfigurationFile"):
            name = str(document.get(key) or ".").replace("\\", "/").removeprefix("./")
            if folder is not None and name not in (".", "") and not name.startswith("[Functions]"):
                yield from _member_problems(key, folder, name)

    def _class(self, i: int, entry: Any) -> ClassLabel:
        if not isinstance(entry, dict):
            raise EmdError("expected an object", where=self._at(f"Classes[{i}]"), got=entry)
        value, name = entry.get("Value", entry.get("ClassValue")), entry.get("Name", entry.get("ClassName"))
        color = entry.get("Color", [-1, -1, -1])
        if not isinstance(value, int) or isinstance(value, bool):
            raise EmdError("expected a whole number", where=self._at(f"Classes[{i}].Value"), got=value)
        if not isinstance(name, str):
            raise EmdError("expected a text", where=self._at(f"Classes[{i}].Name"), got=name)
        if not (isinstance(color, list) and len(color) == 3 and all(map(_is_int, color))):
            raise EmdError("expected 3 numbers 0-255", where=self._at(f"Classes[{i}].Color"), got=color)
        return ClassLabel(value, name, (color[0], color[1], color[2]))

    def _statistics(self, key: str) -> tuple[BandStatistics, ...]:
        keys = ("BandName", "Min", "Max", "Mean", "StdDev")
        return tuple(BandStatistics(*(entry.get(k, "") for k in keys)) for entry in self.document.get(key, ()))

    def _need(self, key: str) -> Any:
        if key not in self.document:
            raise EmdError("is missing", where=self._at(key), do="a model definition needs it")
        return self.document[key]

    def _at(self, key: str) -> str:
        return f"{self.where} {key}".strip()


def _member_problems(key: str, folder: Path, name: str) -> Iterator[tuple[str, str]]:
    if Path(name).is_absolute() or ".." in Path(name).parts or not (folder / name).exists():
        yield key, f"expected a file of the model folder, got {name!r}, which is not there"
    elif key == "InferenceFunction":
        text, stem = (folder / name).read_text(encoding="utf-8", errors="replace"), Path(name).stem
        if not re.search(rf"^class {re.escape(stem)}\b", text, re.MULTILINE):
            yield key, f"expected a class named {stem} in {name}, got none"


def _are_bands(bands: list[Any]) -> bool:
    return all(_is_int(band) and band >= 0 for band in bands) or all(isinstance(band, str) for band in bands)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _is_size(value: Any) -> bool:
    return isinstance(value, int | str) and re.fullmatch("0*[1-9][0-9]{0,8}", str(value)) is not None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
