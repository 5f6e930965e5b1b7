"""The Esri model definition: the shared vocabulary of the whole system.

A definition is a JSON object of which many programs each know a part, so `Emd` is a typed view on the document as it
was read: unknown keys, their order and their nesting survive. Keys, types and rules: ArcGIS formats A.

    {"Framework": "PyTorch", "ModelConfiguration": "unet", "ModelType": "ImageClassification", "ModelFile": "roofs.pth",
     "InferenceFunction": "ClassifyPixels.py", "ImageHeight": 256, "ImageWidth": 256, "ExtractBands": [0, 1, 2],
     "Classes": [{"Value": 1, "Name": "roof", "Color": [230, 60, 40]}]}
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from registry.errors import EmdError
from registry.files import write_text

SCORES = (  # keys of C.4, of every kind of model
    *("accuracy", "mIoU", "average_precision_score", "per_class_metrics", "panoptic_quality", "precision", "recall"),
    *("f1", "score", "PSNR", "SSIM", "FID", "FID_A", "FID_B"),
)


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


def background_name(classes: Iterable[str]) -> str:
    """What pixels of no class are called: background, or unlabelled where a class has that name, as in land cover."""
    taken = {name.strip().lower() for name in classes}
    return next((name for name in ("background", "unlabelled") if name not in taken), "0")


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
    ascii: bool = field(default=True, compare=False)  # what was read; what is written always is

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Emd":
        """Raises EmdError when the text is no JSON object."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EmdError(f"is no valid JSON ({error})", where=where, do="repair or re-export the file") from error
        if not isinstance(document, dict):
            raise EmdError("expected a JSON object", where=where, got=type(document).__name__)
        return cls(document, where, text.isascii())

    @classmethod
    def read(cls, path: Path) -> "Emd":
        return cls.decode(path.read_bytes(), where=str(path))

    @classmethod
    def decode(cls, content: bytes, where: str) -> "Emd":
        """Raises EmdError when it is no text in UTF-8 either."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise EmdError("is no UTF-8 text", where=where, do="save it as UTF-8") from error
        return cls.parse(text, where=where)

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
        value = self._need("ModelType")
        try:
            return ModelType(value)
        except ValueError:
            raise EmdError(f"expected one of {', '.join(ModelType)}", where=self._at("ModelType"), got=value) from None

    @property
    def model_file(self) -> str:
        return str(self._need("ModelFile")).replace("\\", "/").removeprefix("./")

    @property
    def inference_function(self) -> str:
        """File name of the Python raster function, "" when the configuration is a predefined one."""
        value = str(self.document.get("InferenceFunction") or "")
        return value if value.startswith("[Functions]") else value.replace("\\", "/").removeprefix("./")

    @property
    def model_configuration(self) -> str:
        """Its name; ArcGIS writes it as a text or as an object (A.2)."""
        value = self.document.get("ModelConfiguration")
        name = value.get("Name") if isinstance(value, dict) else value
        return "" if name is None else str(name)

    @property
    def tile_size(self) -> int:
        """Side of the model's square input tile, in pixels."""
        if not is_size(size := self._need("ImageHeight")):
            raise EmdError("expected a positive whole number", where=self._at("ImageHeight"), got=size)
        return int(size)

    @property
    def extract_bands(self) -> tuple[int | str, ...]:
        bands = self.document.get("ExtractBands")
        return tuple(bands) if isinstance(bands, list) and are_bands(bands) else ()

    @property
    def trained_bands(self) -> tuple[str, ...]:
        """Names of the bands of the training imagery, in its order; () where they are not told."""
        names = self._object("InputRastersProps").get("BandNames") or self.document.get("BandNames")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    @property
    def band_names(self) -> tuple[str, ...]:
        """The same; where they are not told, the bands that are extracted."""
        return self.trained_bands or tuple(map(str, self.extract_bands))

    @property
    def sensor(self) -> str:
        return str(self._object("InputRastersProps").get("SensorName") or "")

    @property
    def tags(self) -> tuple[str, ...]:
        """Keywords; in a file they are one text with commas, or a list."""
        value = self.document.get("Tags") or ()
        words = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
        return tuple(text for word in words if (text := str(word).strip()))

    @property
    def scores(self) -> dict[str, Any]:
        """What the training measured, under ArcGIS's keys; numbers where they are written as text (C.4)."""
        found = {key: self.document[key] for key in SCORES if self.document.get(key) is not None}
        return {key: _plain(value) for key, value in found.items()}

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
        cell = self._object("MinCellSize")
        x, y, reference = cell.get("x"), cell.get("y"), cell.get("spatialReference")
        if x is None or y is None or not (is_number(x) and is_number(y)):
            return None
        wkid = reference.get("wkid") if isinstance(reference, dict) else None
        return float(x), float(y), wkid if is_int(wkid) else None

    @property
    def is_export_definition(self) -> bool:
        """True for the `esri_model_definition.emd` of exported chips, which describes no trained model (A.1)."""
        return str(self.document.get("ModelFile", "e.g.")).startswith("e.g.")

    # -- rules -------------------------------------------------------------------------------------------------------
    def problems(self, folder: Path | None = None) -> list[str]:
        """Every broken rule of A.7: path of the field, what was got, what to do.

        Files are looked for when `folder` is given.
        """
        from registry.rules import problems, remedy

        return [f"{path}: {problem}; {remedy(path)}" for path, problem in problems(self, folder)]

    def validate(self, folder: Path | None = None) -> "Emd":
        """Self when every rule holds. Raises EmdError with all that do not."""
        if found := self.problems(folder):
            raise EmdError("; ".join(found), where=self.where or "model definition", do="fix it in the .emd file")
        return self

    def _class(self, i: int, entry: Any) -> ClassLabel:
        if not isinstance(entry, dict):
            raise EmdError("expected an object", where=self._at(f"Classes[{i}]"), got=entry)
        value, name = entry.get("Value", entry.get("ClassValue")), entry.get("Name", entry.get("ClassName"))
        color = entry.get("Color", [-1, -1, -1])
        if not isinstance(value, int) or isinstance(value, bool):
            raise EmdError("expected a whole number", where=self._at(f"Classes[{i}].Value"), got=value)
        if not isinstance(name, str):
            raise EmdError("expected a text", where=self._at(f"Classes[{i}].Name"), got=name)
        if not (isinstance(color, list) and len(color) == 3 and all(map(is_int, color))):
            raise EmdError("expected 3 numbers 0-255", where=self._at(f"Classes[{i}].Color"), got=color)
        return ClassLabel(value, name, (color[0], color[1], color[2]))

    def _statistics(self, key: str) -> tuple[BandStatistics, ...]:
        keys = ("BandName", "Min", "Max", "Mean", "StdDev")
        entries = self.document.get(key)
        rows = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        return tuple(BandStatistics(*(entry.get(k, "") for k in keys)) for entry in rows)

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self.document.get(key)
        return value if isinstance(value, dict) else {}

    def _need(self, key: str) -> Any:
        if key not in self.document:
            raise EmdError("is missing", where=self._at(key), do="a model definition needs it")
        return self.document[key]

    def _at(self, key: str) -> str:
        return f"{self.where} {key}".strip()


def are_bands(bands: list[Any]) -> bool:
    return all(is_int(band) and band >= 0 for band in bands) or all(isinstance(band, str) for band in bands)


def is_size(value: Any) -> bool:
    return isinstance(value, int | str) and re.fullmatch("0*[1-9][0-9]{0,8}", str(value)) is not None


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """A score as number or object, where ArcGIS writes it as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
