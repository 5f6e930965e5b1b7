"""The dials of the inference tools, and what names their model.

Apart from the tools themselves, so that a flow's form can be made where no GDAL and no torch are installed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from registry.dlpk import ModelFolder
from registry.emd import Emd, ModelType
from registry.errors import OptionsError
from tasks.options import Options

TOOLS = {
    ModelType.OBJECT_DETECTION: "detect-objects",
    ModelType.INSTANCE_DETECTION: "detect-objects",
    ModelType.IMAGE_CLASSIFICATION: "classify-pixels",  # or detect-change, see `tool_of`
    ModelType.OBJECT_CLASSIFICATION: "classify-objects",
}
CHANGE = {"ChangeDetector", "change_detector", "change_detection", "DetectChange"}  # names of models for two dates


def tool_of(emd: Emd) -> str | None:
    """The command that runs a model, by its type; None when there is none here.

    Models for Classify Pixels and for Detect Change are of one type (ArcGIS formats A.2): those of two dates are known
    by a name, or by a class of value 0 that says that nothing changed (A.3).
    """
    try:
        tool = TOOLS.get(emd.model_type)
    except ValueError:  # unknown or missing
        return None
    return "detect-change" if tool == "classify-pixels" and _is_of_two_dates(emd) else tool


def _is_of_two_dates(emd: Emd) -> bool:
    configuration = emd.document.get("ModelConfiguration")
    name = configuration.get("Name") if isinstance(configuration, dict) else configuration
    names = {emd.document.get("ModelName"), name, PureWindowsPath(emd.inference_function).stem}
    return bool(CHANGE & names) or any(c.value == 0 and c.name == "NoChange" for c in emd.classes)


def _keyword(value: object) -> object:
    """ArcGIS's keywords stand for true and false: NMS and NO_NMS, PIXELSPACE and NO_PIXELSPACE."""
    word = value.strip().upper() if isinstance(value, str) else ""
    known = {"NMS", "PIXELSPACE", "OVERWRITE"}
    return word in known if word.removeprefix("NO_") in known else value


Switch = Annotated[bool, BeforeValidator(_keyword)]
Extent = tuple[float, float, float, float]


class InferenceOptions(Options):
    """The dials of every inference tool: the model's arguments, and ArcGIS's environments."""

    arguments: dict[str, str] = Field(
        default_factory=dict, description='arguments of the raster function, as in ArcGIS: "padding 64; batch_size 16"'
    )
    cell_size: float | None = Field(
        None, gt=0, description="cell size to work at, in units of the raster; none = the one the model was trained at"
    )
    extent: Extent | None = Field(
        None, description="work inside of xmin ymin xmax ymax only, in map units of the raster"
    )
    mask: str | None = Field(None, description="features; outside of them nothing is told and nothing is read")
    output_coordinate_system: str | None = Field(
        None, description="coordinate system of the result, e.g. EPSG:4326; none = that of the raster"
    )
    processor_type: Literal["CPU", "GPU"] | None = Field(None, description="short for device: CPU is -1, GPU -2")
    gpu_id: int | None = Field(None, ge=-2, description="which GPU, unless processor_type is CPU; -2 any free one")
    device: int = Field(-1, ge=-2, description="-1 CPU, -2 any free GPU or else the CPU, 0 and above: that GPU")

    trust: bool = Field(
        False, description="run a package whose code this registry did not publish, in a confined process of its own"
    )
    memory_limit: float = Field(8.0, ge=0, description="GB that such a process may take beside its libraries; 0 = any")
    tile_seconds: float = Field(300.0, gt=0, description="seconds that such a process may take for a tile")

    @field_validator("arguments", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return parse_arguments(value) if isinstance(value, str) else value

    @field_validator("extent")
    @classmethod
    def _in_order(cls, extent: Extent | None) -> Extent | None:
        if extent and not (extent[0] < extent[2] and extent[1] < extent[3]):
            raise ValueError("expected xmin ymin xmax ymax, the smaller ones first")
        return extent

    @model_validator(mode="before")
    @classmethod
    def _place(cls, given: Any) -> Any:
        """ArcGIS's two environments are one number here; who names a GPU means it."""
        if not isinstance(given, Mapping):
            return given
        kind, number = given.get("processor_type"), given.get("gpu_id")
        if not kind and number is None:
            return given
        return {**given, "device": -1 if kind == "CPU" else -2 if number is None else number}


class SceneOptions(InferenceOptions):
    """Of the tools that read one date."""

    use_pixelspace: Switch = Field(
        False,
        description="work on the raster's own pixels and bring the result to the map: for rasters that are rotated, or "
        "that control points or RPCs place (PIXELSPACE)",
    )


class ItemsOptions(SceneOptions):
    """Of the tools that work on many rasters at once or one by one; Classify Objects takes each for itself anyway."""

    processing_mode: Literal["PROCESS_AS_MOSAICKED_IMAGE", "PROCESS_ITEMS_SEPARATELY"] = Field(
        "PROCESS_AS_MOSAICKED_IMAGE", description="several rasters: as one mosaic, the later above, or one by one"
    )


class DetectOptions(ItemsOptions):
    """The dials of Detect Objects."""

    run_nms: Switch = Field(
        True, description="remove copies of an object, e.g. those that two neighbouring tiles found"
    )
    confidence_score_field: str = Field("Confidence", min_length=1, description="run_nms: field that ranks the copies")
    class_value_field: str = Field(
        "", description="run_nms: field of the class, copies are of one; empty: Value, else Class"
    )
    max_overlap_ratio: float = Field(
        0.5, ge=0, le=1, description="shared by united area of two features of a class above which the weaker one goes"
    )  # ArcGIS's own default 0 removes every crown or house that touches a likelier one
    in_objects_of_interest: tuple[str, ...] = Field((), description="classes to keep, by name; none = all")
    append: bool = Field(False, description="add to the features that OUT already has; else OUT is replaced")


class PixelOptions(InferenceOptions):
    """Of the tools that write a raster of classes."""

    probabilities: str | None = Field(
        None,
        description="GeoTIFF to write besides, by a second look: probabilities, a band for background and each class",
    )
    polygons: str | None = Field(None, description="features to write besides: the areas of one class as polygons")
    simplify: float = Field(0.0, ge=0, description="polygons: how far an outline may move, in map units")
    minimum_area: float = Field(0.0, ge=0, description="polygons: leave out smaller ones, in square map units")

    def for_probabilities(self) -> Self:
        """Of the second look, whose result is `probabilities`."""
        arguments = {**self.arguments, "probabilities": "True"}
        return self.model_copy(update={"arguments": arguments, "probabilities": None, "polygons": None})


class ClassifyOptions(ItemsOptions, PixelOptions):
    """The dials of Classify Pixels."""

    out_featureclass: str | None = Field(
        None, description="PROCESS_ITEMS_SEPARATELY: features of the rasters' outlines and their results"
    )
    overwrite_attachments: Switch = Field(
        False, description="PROCESS_ITEMS_SEPARATELY: make results anew that are there; else they are left as they are"
    )


class ClassifyObjectsOptions(SceneOptions):
    """The dials of Classify Objects."""

    in_features: str | None = Field(
        None, description="features to classify, e.g. buildings.gpkg; none = every raster is one object"
    )
    class_label_field: str = Field("ClassLabel", min_length=1, description="field of the result that tells the class")

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, given: Any) -> Any:
        """The tool's own name of the arguments."""
        if not isinstance(given, Mapping) or "model_arguments" not in given:
            return given
        return {"arguments": given["model_arguments"], **{k: v for k, v in given.items() if k != "model_arguments"}}


class ChangeOptions(PixelOptions):
    """The dials of Detect Change."""


@dataclass(frozen=True)
class ModelSource:
    """Which model made a result: registered name, version number or "", sha256 of the .dlpk or ""."""

    name: str
    version: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, model: ModelFolder) -> "ModelSource":
        """For a model out of no registry: its name, the Version of its definition, the digest of an opened .dlpk."""
        folder = model.path.name  # open_model unpacks a .dlpk into a folder named by its sha256
        sha256 = folder if re.fullmatch("[0-9a-f]{64}", folder) else ""
        return cls(model.name, str(model.emd.document.get("Version", "")), sha256)

    def columns(self, rows: int) -> dict[str, list[str]]:
        """What a table of results says of the model, in each of its rows."""
        told = {"Model": self.name, "ModelVersion": self.version, "ModelSHA256": self.sha256[:12]}
        return {name: [text] * rows for name, text in told.items()}

    def tags(self) -> dict[str, str]:
        return {"MODEL_NAME": self.name, "MODEL_VERSION": self.version, "MODEL_SHA256": self.sha256}


def parse_arguments(text: str) -> dict[str, str]:
    """`"padding 0; batch_size 16"`, or the server's JSON `{"padding": "0"}` (ArcGIS formats F.4)."""
    if text.strip().startswith("{"):
        try:
            return {str(name): str(value) for name, value in json.loads(text).items()}
        except ValueError as error:
            raise OptionsError("is no valid JSON", where="arguments", got=text) from error
    pairs = [part.split(maxsplit=1) for part in text.split(";") if part.strip()]
    if bad := [pair for pair in pairs if len(pair) != 2]:
        raise OptionsError(
            "expected NAME VALUE", where="arguments", got=bad[0][0], do='write "padding 0; batch_size 16"'
        )
    return {name: value.strip() for name, value in pairs}
