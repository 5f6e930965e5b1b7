"""Esri feature sets, as raster functions answer them, read into detections (ArcGIS formats E.7)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.emd import ClassLabel

Ring = tuple[tuple[float, float], ...]
NAMES = ("class", "classname", "label", "name")  # the spellings in use, most specific first
LABELS = ("label", "classlabel", "class", "classname")
VALUES = ("value", "classvalue", "class_value")
CONFIDENCES = ("confidence", "score", "scores")
KNOWN = {*NAMES, *LABELS, *VALUES, *CONFIDENCES, "oid", "fid", "objectid", "shape"}
NO_COLUMN = ("esriFieldTypeOID", "esriFieldTypeGeometry", "esriFieldTypeBlob")
FIELD_KINDS: dict[str, type[int] | type[float]] = {
    "esriFieldTypeInteger": int,
    "esriFieldTypeSmallInteger": int,
    "esriFieldTypeBigInteger": int,
    "esriFieldTypeDouble": float,
    "esriFieldTypeSingle": float,
}


@dataclass(frozen=True)
class Detection:
    """One object. Rings are not closed; x, y are pixels from the upper left corner of the unpadded block, y down."""

    class_name: str
    value: int | None  # the class Value, where the function or the definition tells
    confidence: float  # 0-100 from our functions; some foreign ones speak 0-1, it stays as given
    rings: tuple[Ring, ...]  # the first is the outline, the others are holes
    extra: Mapping[str, Any] = field(default_factory=dict)  # attributes that are none of these


@dataclass(frozen=True)
class Field:
    """What a function tells of each object beside class, value and confidence."""

    name: str
    kind: type[str] | type[int] | type[float]


@dataclass(frozen=True)
class Labelling:
    """What one object was classified as."""

    names: tuple[str, ...]  # of classes; one, or with a model of several labels any number
    confidences: tuple[float, ...]  # of that one class, or of every class in the order of the definition


def read_fields(answer: str | Mapping[str, Any]) -> tuple[Field, ...]:
    """The fields of getFields that are not understood otherwise, each once: functions repeat some (E.7)."""
    document = json.loads(answer) if isinstance(answer, str) else answer
    found: dict[str, Field] = {}
    for row in document.get("fields", ()):
        name, kind = str(row["name"]), FIELD_KINDS.get(str(row.get("type")), str)
        if name.lower() not in KNOWN and row.get("type") not in NO_COLUMN:
            found.setdefault(name.lower(), Field(name, kind))
    return tuple(found.values())


def read_labellings(answer: str | Mapping[str, Any]) -> list[Labelling]:
    """One for every feature, in order (ArcGIS formats E.7). Raises ValueError when the answer is no feature set."""
    return [_labelling(feature.get("attributes") or {}) for feature in _features(answer)]


def _labelling(attributes: Mapping[str, Any]) -> Labelling:
    spelled = {str(key).lower(): value for key, value in attributes.items()}
    names = str(_first(spelled, LABELS) or "").split(";")
    confidences = str(_first(spelled, CONFIDENCES) or "").replace(",", ".").split(";")
    return Labelling(tuple(filter(None, names)), tuple(float(c) for c in confidences if c))


def read_detections(answer: str | Mapping[str, Any], classes: Sequence[ClassLabel]) -> list[Detection]:
    """The features with an outline. Raises ValueError when the answer is no feature set."""
    found = (_detection(feature, classes) for feature in _features(answer))
    return [detection for detection in found if detection is not None]


def _features(answer: str | Mapping[str, Any]) -> list[Mapping[str, Any]]:
    document = json.loads(answer) if isinstance(answer, str) else answer
    if not isinstance(document, Mapping) or not isinstance(document.get("features"), list):
        raise ValueError("output_vectors: expected an Esri feature set with a list of features")  # noqa: TRY004
    features: list[Mapping[str, Any]] = document["features"]
    return features


def _detection(feature: Mapping[str, Any], classes: Sequence[ClassLabel]) -> Detection | None:
    rings = tuple(filter(None, map(_ring, (feature.get("geometry") or {}).get("rings", ()))))
    if not rings:
        return None
    told = feature.get("attributes") or {}
    attributes = {str(key).lower(): value for key, value in told.items()}
    name, value = _first(attributes, NAMES), _first(attributes, VALUES)
    if value is None and str(name).lstrip("-").isdecimal() and name not in {c.name for c in classes}:
        value, name = name, None  # Class holds the Value
    value = None if value is None else int(float(value))
    if value is None:
        value = next((c.value for c in classes if c.name == name), None)
    if name is None:
        name = next((c.name for c in classes if c.value == value), "" if value is None else str(value))
    confidence = float(str(_first(attributes, CONFIDENCES) or 0).replace(",", "."))
    extra = {str(key): value for key, value in told.items() if str(key).lower() not in KNOWN}
    return Detection(str(name), value, confidence, rings, extra)


def _ring(points: Sequence[Sequence[float]]) -> Ring:
    """At least three points, the closing one left out; else ()."""
    ring = tuple((float(p[0]), float(p[1])) for p in points)
    ring = ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring
    return ring if len(ring) >= 3 else ()


def _first(attributes: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)
