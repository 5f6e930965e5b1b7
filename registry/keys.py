"""Every key that a definition was ever seen with, and the type of its value (ArcGIS formats A.2, A.4, A.5, C.4).

ArcGIS writes numbers as texts now and then, and objects as JSON inside a text; here they come out as what they are. The
document itself stays as it was read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from registry.emd import is_int, is_number

_TEXT = """Framework ModelType ModelFile InferenceFunction ImageSpaceUsed MetaDataMode Description Summary ModelName
    Version ModelFormat ImageryType ArcGISLearnVersion backend backbone DatasetType ModelConfigurationFile
    ModelFileConfigurationClass SingleLabelFieldFound Preprocessing tta_scales ModelArch LearningRate"""
_WHOLE = """ImageHeight ImageWidth ModelPadding Padding BatchSize CropSizeFixed BlackenAroundFeature SSDVersion
    n_intput_channel n_channel n_channel_rev n_band_a n_band_b n_band_c label_nc downsample_factor n_temporal
    NumClasses OutputStride ReceptiveField"""
_NUMBER = """Threshold PerProcessGPUMemoryFraction accuracy mIoU panoptic_quality PSNR SSIM FID FID_A FID_B score
    precision recall f1"""
_FLAG = """SupportsVariableTileSize IsMultispectral IsEdgeDetection IsMultidimensional ExpMap DoNormalize
    RoadOrientation perceptual_loss is_multispec test_time_augmentation PredictBackground"""
_OBJECT = """InputRastersProps MinCellSize MaxCellSize ModelParameters NormalizationStats NormalizationStats_b
    NormalizationStats_c MaskRCNNkwargs Kwargs DataAttributes InferConfig image_stats image_stats2 Class_mapping
    NetworkOptions average_precision_score per_class_metrics"""
_LIST = """Classes ExtractBands Bands BandNames AllTilesStats AllTilesStats2 DataRange ModelFiles Grids Zooms Ratios
    ignore_mapped_class date_positions variables lead_times mask_map"""
_ANY = "ModelConfiguration Tags resize_to"  # text or object, text or list, number or list

_WORDS = {"true": True, "1": True, "false": False, "0": False}

Read = Callable[[Any], Any]


def typed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all known keys, in the order of the document; what does not fit its type is left out."""
    return {key: value for key, (value, wanted) in _read(document).items() if not wanted}


def oddities(document: Mapping[str, Any]) -> list[str]:
    """What a reader should know that breaks no rule: values of another type, and numbers written as text."""
    found = [
        f"{key}: expected {wanted}, got {value!r:.80}" for key, (value, wanted) in _read(document).items() if wanted
    ]
    sizes = [key for key in ("ImageHeight", "ImageWidth") if isinstance(document.get(key), str)]
    found += [f"{key}: a number is written as text, got {document[key]!r:.80}" for key in sizes]
    if document.get("ModelType") == "ObjectionDetection":
        found.append("ModelType: is misspelt, ObjectDetection is meant")
    for key in ("ModelFile", "InferenceFunction", "ModelConfigurationFile"):
        value = document.get(key)
        if isinstance(value, str) and "\\" in value and not value.startswith("[Functions]"):
            found.append(f"{key}: has a backslash, which other systems do not take for a folder, got {value!r:.80}")
    return found


def unknown(document: Mapping[str, Any]) -> list[str]:
    """Keys that nobody here has met; they are kept."""
    return [key for key in document if key not in KEYS and not key.startswith("monitored_")]


def _read(document: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Key -> value and, where it does not fit, the type that was expected."""
    found: dict[str, tuple[Any, str]] = {}
    for key, value in document.items():
        wanted, read = KEYS.get(key, ("a number", _number) if key.startswith("monitored_") else ("", None))
        if read is None or value is None:
            continue
        try:
            found[key] = read(value), ""
        except (ValueError, TypeError, RecursionError):
            found[key] = value, wanted
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError
    return str(value)


def _whole(value: Any) -> int:
    if is_int(value):
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    raise TypeError


def _number(value: Any) -> float:
    found = json.loads(value) if isinstance(value, str) else value
    if not is_number(found):
        raise TypeError
    return found  # type: ignore[no-any-return]  # a whole number stays one


def _flag(value: Any) -> bool:
    word = str(value).lower()
    if word not in _WORDS:
        raise ValueError
    return _WORDS[word]


def _object(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _any(value: Any) -> Any:
    return value


def _table() -> Iterator[tuple[str, tuple[str, Read | None]]]:
    kinds: tuple[tuple[str, str, Read], ...] = (
        (_TEXT, "a text", _text),
        (_WHOLE, "a whole number", _whole),
        (_NUMBER, "a number", _number),
        (_FLAG, "true or false", _flag),
        (_OBJECT, "an object", _object),
        (_LIST, "a list", _list),
        (_ANY, "a value", _any),
    )
    for names, wanted, read in kinds:
        yield from ((name, (wanted, read)) for name in names.split())


KEYS = dict(_table())
