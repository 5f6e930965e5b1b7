"""The verbs by name, for the help page, and where each lies: it is imported when it is called."""

from collections.abc import Mapping

ALIASES = {  # names of ArcGIS, and a short one
    "export-training-data": "export",
    "nms": "non-maximum-suppression",
    "compute-accuracy-for-object-detection": "compute-object-accuracy",
    "compute-accuracy-for-pixel-classification": "compute-pixel-accuracy",
}
LAZY: Mapping[str, tuple[str, str]] = {
    "export": ("tasks.cli:export", "Cut imagery into labelled chips."),
    "train": ("tasks.cli:train", "Train a network on chips."),
    "evaluate": ("tasks.cli:evaluate", "Score a model on held-out chips."),
    "compare": ("tasks.cli:compare", "Tell which of two models is better on the same chips."),
    "package": ("tasks.cli:package", "Make a deep learning package (.dlpk) of a model folder."),
    "composite-bands": ("tasks.raster_cli:composite_bands", "Make one raster of bands that lie in files of their own."),
    "convert": ("tasks.cli:convert", "Write a model that ArcGIS trained so that it runs without ArcGIS."),
    "export-onnx": ("tasks.cli:export_onnx", "Write the network of a model as ONNX, for QGIS and others."),
    "detect-objects": ("tasks.cli:detect_objects", "Find the objects in a raster."),
    "classify-pixels": ("tasks.cli:classify_pixels", "Classify every pixel of a raster."),
    "classify-objects": ("tasks.cli:classify_objects", "Tell the class of every feature, or of every raster."),
    "detect-change": ("tasks.cli:detect_change", "Find what changed between two rasters of one place."),
    "non-maximum-suppression": (
        "tasks.accuracy_cli:non_maximum_suppression",
        "Remove the copies of objects from features.",
    ),
    "compute-object-accuracy": ("tasks.accuracy_cli:object_accuracy", "Compare detected features with true ones."),
    "compute-pixel-accuracy": ("tasks.accuracy_cli:pixel_accuracy", "Compare a class raster with the truth."),
}
INNER: Mapping[str, tuple[str, str]] = {"run-scenes": ("tasks.cli:run_scenes", "")}  # for flows
