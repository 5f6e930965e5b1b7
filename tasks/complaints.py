"""What is told of a stranger's raster function that fails: the error in one line, and what to do about it."""

MOST_TOLD = 400  # characters of what a function raises
CONVERT = "write it again by dlpk convert MODEL OUT.dlpk,"
PIP = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"} | {
    "yaml": "pyyaml",
    "torch": "'dlpk-flows[train]'",
    "torchvision": "'dlpk-flows[train]'",
    "onnx": "'dlpk-flows[onnx]'",
    "onnxruntime": "'dlpk-flows[onnx]'",
    "tensorflow": "'dlpk-flows[tensorflow]'",
    "keras": "'dlpk-flows[tensorflow]'",
}


def told(error: BaseException) -> str:
    """In one line; a network that does not fit its weights would fill pages."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    more = len(text) - MOST_TOLD
    return text if more <= 0 else f"{text[:MOST_TOLD].rstrip()} ... and {more:,} more characters"


def remedy(error: BaseException) -> str:
    if missing := _missing_library(error):
        if missing == "arcgis":
            return f"{CONVERT} where that is possible, or install ArcGIS's library: pip install arcgis"
        return f"install the library that has {missing}, e.g. pip install {PIP.get(missing, missing)}"
    if isinstance(error, MemoryError):
        return "give it more memory, or a smaller batch_size"
    if "state_dict" in str(error):
        return "the weights are those of another network: repack the model with the files that belong together"
    return "look at the raster function and at the weights of the model"


def _missing_library(error: BaseException | None) -> str:
    """Also where the function has caught the ImportError and raised another."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return ""
