"""A published version as a STAC item with the Machine Learning Model extension, so that catalogues of imagery find it.

Its geometry is the ground of the training chips, where the publisher told it. Links and assets are those of the store.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from registry.emd import ClassLabel, Emd, ModelType
from registry.errors import PackageError

TASKS = {  # ModelType -> task of the extension; others are regression
    ModelType.OBJECT_DETECTION: "object-detection",
    ModelType.INSTANCE_DETECTION: "instance-segmentation",
    ModelType.IMAGE_CLASSIFICATION: "semantic-segmentation",
    ModelType.OBJECT_CLASSIFICATION: "scene-classification",
    ModelType.PANOPTIC_SEGMENTER: "panoptic-segmentation",
    ModelType.SUPER_RESOLUTION: "super-resolution",
    ModelType.IMAGE_CAPTIONER: "image-captioning",
    **dict.fromkeys((ModelType.PIX2PIX, ModelType.PIX2PIX_HD, ModelType.CYCLE_GAN), "generative"),
}
ARCGIS = "arcgis.learn.models._inferencing"  # the Framework of models that ArcGIS trained: they are PyTorch (A.2)
MEDIA_TYPE = "application/zip; application=deep-learning-package"


def item(emd: Emd, manifest: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """The item of a package; `manifest` is that of `registry.publishing`, `uri` where the .dlpk lies.

    Raises PackageError when STAC's own schema refuses it, which only a broken extent can do.
    """
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.mlm import MLMExtension, TaskType

    ground = manifest.get("extent") or {}
    made = pystac.Item(
        id=f"{manifest['name']}-{manifest['sha256'][:12]}",
        geometry=ground.get("geometry"),
        bbox=ground.get("bbox"),
        datetime=datetime.fromisoformat(manifest["created"]),
        properties=_told(emd, manifest),
    )
    task = TaskType(TASKS.get(emd.model_type, "regression"))
    MLMExtension.ext(made, add_if_missing=True).apply(
        name=_name(manifest["name"]),
        architecture=emd.model_configuration or "unknown",
        tasks=[task],
        input=[_input(emd)],
        output=[_output(emd, task)],
        framework=_framework(manifest["framework"]),
        pretrained=True,
        batch_size_suggestion=_batch(emd),
    )
    made.add_asset("model", _package(uri, manifest, emd))
    FileExtension.ext(made.assets["model"], add_if_missing=True)
    made.add_link(pystac.Link("describedby", f"{uri.rpartition('/')[0]}/manifest.json", "application/json", "Manifest"))
    return _checked(dict(made.to_dict(include_self_link=False)))


def _checked(document: dict[str, Any]) -> dict[str, Any]:
    """By the schema of STAC 1.1, which pystac brings along; those of extensions lie on a server."""
    import pystac
    from pystac.errors import STACValidationError
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    try:
        JsonSchemaSTACValidator().validate_core(document, pystac.STACObjectType.ITEM, "1.1.0")
    except STACValidationError as error:
        do = 'give the extent as {"bbox": [west, south, east, north], "geometry": GeoJSON}, in degrees'
        why = " ".join(str(error).split())
        raise PackageError(f"its STAC item is not valid ({why[:300]})", where=document["id"], do=do) from error
    return document


def _framework(name: str) -> str:
    """As the extension wants it: no blank or dot at its ends."""
    known = "PyTorch" if name == ARCGIS else name
    return known if re.fullmatch(r"[^\s._-](.*[^\s._-])?", known) else "unknown"


def _name(name: str) -> str:
    """As the extension wants it: a letter first, a letter or digit last, three signs or more."""
    return name if re.fullmatch("[A-Za-z][A-Za-z0-9_.-]+[A-Za-z0-9]", name) else f"model-{name}".rstrip("-_.")


def _told(emd: Emd, manifest: Mapping[str, Any]) -> dict[str, Any]:
    texts: dict[str, Any] = {"description": str(emd.document.get("Description") or "")}
    texts |= {"title": manifest["name"], "keywords": manifest["tags"]}
    texts["bands"] = _described(emd)  # what the extension's own `bands` refer to
    own = {f"dlpk:{key}": manifest.get(key) for key in ("model_type", "scores", "data_digest", "parent", "cell_size")}
    return {key: value for key, value in {**texts, **own}.items() if value not in (None, "", [], {})}


def _input(emd: Emd) -> Any:
    from pystac.extensions.mlm import InputStructure, ModelInput
    from pystac.extensions.raster import DataType

    bands = _bands(emd)
    shape = InputStructure.create([-1, len(bands), emd.tile_size, emd.tile_size], _DIMENSIONS, DataType.FLOAT32)
    return ModelInput.create("imagery", bands, shape, value_scaling=None, resize_type=None)


def _bands(emd: Emd) -> list[str]:
    """The names of the bands that the model takes, in its order."""
    names = emd.band_names
    picked = [names[b] if isinstance(b, int) and b < len(names) else b for b in emd.extract_bands or names]
    return [str(band) or "unknown" for band in picked]


def _described(emd: Emd) -> list[dict[str, str]]:
    return [{"name": band} for band in _bands(emd)]


_DIMENSIONS = ["batch", "bands", "height", "width"]


def _output(emd: Emd, task: Any) -> Any:
    from pystac.extensions.classification import Classification
    from pystac.extensions.mlm import ModelOutput, ResultStructure
    from pystac.extensions.raster import DataType

    classes = [
        Classification.create(one.value, name=_slug(one), description=one.name or _slug(one), color_hint=_hint(one))
        for one in emd.classes
    ]
    if emd.model_type == ModelType.IMAGE_CLASSIFICATION:
        shape, dimensions, kind = [-1, emd.tile_size, emd.tile_size], ["batch", "height", "width"], DataType.UINT8
    else:
        shape, dimensions, kind = [-1, -1], ["batch", "features"], DataType.FLOAT32
    return ModelOutput.create("results", [task], ResultStructure.create(shape, dimensions, kind), classes=classes)


def _slug(label: ClassLabel) -> str:
    """A name for machines: letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", label.name).strip("-") or f"class-{label.value}"


def _hint(label: ClassLabel) -> str | None:
    return "".join(f"{part:02X}" for part in label.color) if all(0 <= part <= 255 for part in label.color) else None


def _batch(emd: Emd) -> int | None:
    value = emd.document.get("BatchSize")
    return value if isinstance(value, int) and value > 0 else None


def _package(uri: str, manifest: Mapping[str, Any], emd: Emd) -> Any:
    import pystac

    bands = {"bands": _described(emd)} if _bands(emd) else {}  # those of the item must stand at an asset, too
    facts = {
        **bands,
        "mlm:artifact_type": "torch.save" if manifest["framework"] in ("PyTorch", ARCGIS) else "dlpk",
        "file:size": manifest["size"],
        "file:checksum": f"1220{manifest['sha256']}",  # a multihash: 12 says sha256, 20 its length
    }
    return pystac.Asset(uri, "Deep learning package", None, MEDIA_TYPE, ["mlm:model"], facts)
