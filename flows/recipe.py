"""A recipe: everything that makes a model again. The same document is `dlpk retrain recipe.yaml`, the form on Prefect's
page and the parameters in prefect.yaml.

    name: roofs
    imagery: town.tif
    labels: roofs.gpkg
    hold_out: {side: east, share: 0.25}
    export: {metadata_format: PASCAL_VOC_rectangles, tile_size: 256}
    train: {network: fcos, max_epochs: 20}
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from registry.catalog import is_reference
from registry.emd import ClassLabel
from registry.errors import NotFound, OptionsError
from registry.scenes import content_of
from registry.scenes.beside import TOLD, told_beside
from tasks.cli_options import parse
from tasks.export import ExportOptions
from tasks.layers import OF_ITEM, address, file_of, layer_of, named_from
from tasks.nearby import contents_of
from tasks.options import Options
from tasks.receipt import belonging, files_in
from tasks.train import TrainOptions

IN_SCENE = ("imagery", "labels", "in_raster2")  # keys that hold paths
IN_EXPORT = ("in_raster2", "in_mask_polygons", "in_instance_data")
MODEL = "pretrained_model"
IN_TRAIN = ("augmentation_file", MODEL, "pretrained_weights")
FOLDERS = (".gdb", ".zarr")  # of which each is one file to people
NO_PATHS = ("auto", "none")  # of pretrained_weights
WITHIN = ("evaluation", "export", "train")
LABELS = (
    "features (GeoPackage, GeoJSON, Shapefile; a layer as town.gpkg/roofs) or a class raster, also s3:// or https://"
)
Imagery = str | tuple[str, ...]


class ClassEntry(Options):
    """One class to learn."""

    value: int = Field(ge=1, description="class Value on disk; 0 is background")
    name: str = Field(min_length=1, description="what people call it")
    color: tuple[int, int, int] = Field((-1, -1, -1), description="red, green, blue, each 0-255; -1 picks one")

    def label(self) -> ClassLabel:
        return ClassLabel(self.value, self.name, self.color)


class HoldOut(Options):
    """The part of a scene that is never trained on."""

    side: Literal["north", "east", "south", "west"] = Field("east", description="side of the raster that is held out")
    share: float = Field(0.25, gt=0, lt=1, description="held out share of the raster's width or height, 0 to 1")


class LabelledScene(Options):
    """Imagery with its labels."""

    imagery: Imagery = Field(description="raster file or several, any format that GDAL reads")
    labels: str = Field(description=LABELS)
    in_raster2: str = Field("", description="second raster of the place: the later date, to detect change")


class Recipe(Options):
    """Imagery and labels in, a published model version out."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$", description="name of the model and of all its files")
    imagery: Imagery = Field(description="raster file or several to learn from, any format that GDAL reads")
    labels: str = Field(description=LABELS)
    in_raster2: str = Field("", description="second raster of the place: the later date, to detect change")
    also: tuple[LabelledScene, ...] = Field((), description="further scenes to learn from, with labels of their own")
    classes: tuple[ClassEntry, ...] = Field((), description="the classes; none given: those found in the labels")
    hold_out: HoldOut = Field(HoldOut(), description="part of each scene to score on; unused with evaluation")
    evaluation: LabelledScene | None = Field(None, description="another labelled scene to score on, never trained on")
    export: ExportOptions = Field(ExportOptions(), description="how chips are cut")
    train: TrainOptions = Field(TrainOptions(), description="how the network is trained")
    experiment: str = Field("", description="MLflow experiment; empty: the model's name")
    summary: str = Field("", description="one line for the package's item page")
    description: str = Field("", description="longer text for the package's item page")
    tags: tuple[str, ...] = Field((), description="keywords for the package's item page")

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """From a YAML or JSON file; its relative paths start at the file's folder. Raises OptionsError, NotFound."""
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise NotFound("there is no such recipe", where=path) from error
        except IsADirectoryError as error:
            raise OptionsError("expected a recipe", where=path, got="a folder", do="name the file in it") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OptionsError(f"is no valid YAML ({error})", where=path) from error
        if not isinstance(document, dict):
            raise OptionsError("expected `key: value` lines", where=path, got=document)
        return parse(cls, _from_here(document, path.parent), where=path)

    def digest(self) -> str:
        """Names the work: 12 hex digits over the recipe and its input files. Raises as `fingerprint`."""
        total = hashlib.sha256(self.model_dump_json().encode())
        for part in self._inputs():
            total.update(json.dumps(fingerprint(part)).encode())
        return total.hexdigest()[:12]

    @property
    def scenes(self) -> tuple[LabelledScene, ...]:
        """What is trained on."""
        return LabelledScene(imagery=self.imagery, labels=self.labels, in_raster2=self.in_raster2), *self.also

    @property
    def goes_on_from(self) -> str:
        """The model of the registry that the training begins with, such as roofs@champion; "" where it is none."""
        model = self.train.pretrained_model
        return model if _of_registry(model) else ""

    @model_validator(mode="after")
    def _hold_out_of_one(self) -> Self:
        if any(len(rasters(scene.imagery)) != 1 for scene in self.scenes) and not self.evaluation:
            raise ValueError("several rasters need an evaluation scene: hold_out divides a single raster")
        return self

    def _inputs(self) -> Iterator[str]:
        for scene in filter(None, (*self.scenes, self.evaluation)):
            yield from inputs_of(scene)
        for key in IN_EXPORT:
            if path := getattr(self.export, key):
                yield from (path, *(_named_in(path) if key in IN_SCENE else ()))
        known = (str(getattr(self.train, key) or "") for key in IN_TRAIN)
        yield from (path for path in known if path and path not in (*NO_PATHS, self.goes_on_from))


def rasters(imagery: Imagery) -> tuple[str, ...]:
    """One or several, always as a tuple."""
    return (imagery,) if isinstance(imagery, str) else imagery


def inputs_of(scene: LabelledScene) -> Iterator[str]:
    """What is read of a scene, with the rasters here that a list or a STAC document names."""
    for path in filter(None, (*rasters(scene.imagery), scene.labels, scene.in_raster2)):
        yield path
        if path != scene.labels or OF_ITEM.match(path) or path.lower().endswith(".txt"):
            yield from _named_in(path)


def _named_in(imagery: str) -> Iterator[str]:
    file, _, assets = imagery.partition("#")
    if _is_elsewhere(imagery) or not file.lower().endswith((".txt", ".json")):
        return
    from tasks.sources import find_rasters, is_far

    for asset in assets.split(","):  # one by one: a composite of them would have to be made
        found = find_rasters(f"{file}#{asset.strip()}" if asset else file)
        yield from (name for name in found if not (_is_elsewhere(name) or is_far(name)))


def _is_elsewhere(path: str) -> bool:
    """Whether it is an address, or a name that only GDAL knows."""
    return "://" in path or path.startswith("/vsi")


def _from_here(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The document with the paths in it made absolute."""
    paths = {key: _absolute(document[key], folder) for key in (*IN_SCENE, *IN_EXPORT, *IN_TRAIN) if document.get(key)}
    if _of_registry(document.get(MODEL), folder):
        paths.pop(MODEL, None)
    within: dict[str, Any] = {
        key: _from_here(document[key], folder) for key in WITHIN if isinstance(document.get(key), Mapping)
    }
    if isinstance(document.get("also"), list):
        within["also"] = [_from_here(one, folder) if isinstance(one, Mapping) else one for one in document["also"]]
    return {**document, **paths, **within}


def _of_registry(model: object, folder: Path = Path()) -> bool:
    """Whether it is a model of the registry, such as roofs@champion, and no folder here."""
    return isinstance(model, str) and is_reference(model) and not (folder / model).exists()


def _absolute(path: Any, folder: Path) -> Any:
    if isinstance(path, list):
        return [_absolute(p, folder) for p in path]
    if isinstance(path, str) and (name := named_from(path, folder)):
        return name
    local = isinstance(path, str) and path not in NO_PATHS and not _is_elsewhere(path)
    return str((folder / Path(path).expanduser()).resolve()) if local else path


def fingerprint(path: str) -> list[tuple[str, str]]:
    """Name and content of a file and of those that belong to it: size and time of change, of a remote one its ETag.

    Raises NotFound for one that is not there, OptionsError for a folder that is no geodatabase.
    """
    if path.startswith("/vsi"):
        return [(path, "")]  # only GDAL can ask
    if address(path):
        return list({path: "", **contents_of(path)}.items())
    file = Path(path)
    if layer_of(file):
        return [(path, ""), *fingerprint(str(file_of(file)))]
    if "://" in path:
        return [(path, content_of(path))]
    if file.is_dir():
        if file.suffix.lower() not in FOLDERS:
            raise OptionsError("expected a file", where=path, got="a folder", do="name the files in it, one by one")
        return [(path, ""), *(fact for part in files_in(file) for fact in fingerprint(str(part)))]
    if not file.is_file():
        raise NotFound("there is no such file", where=path, do="correct the path in the recipe")
    facts = file.stat()
    own = (path, told_beside(file) if path.endswith(TOLD) else f"{facts.st_size}-{facts.st_mtime_ns}")
    return [own, *(part for other in belonging(file) for part in fingerprint(str(other)))]
