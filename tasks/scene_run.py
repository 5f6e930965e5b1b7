"""One model over several scenes in one interpreter, which loads its libraries once.

Each scene has a folder: its result, the preview, and `record.json`, written last, which tells of both or of the error.
What goes wrong with a scene is written down there, and the next one is tried.
"""

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio

from registry.dlpk import ModelFolder, open_model
from registry.errors import OptionsError, StoreError
from registry.files import write_text
from tasks.composite import composite_bands
from tasks.counts import count_features, count_pixels
from tasks.inference_options import (
    ClassifyObjectsOptions,
    ClassifyOptions,
    DetectOptions,
    InferenceOptions,
    ModelSource,
)
from tasks.progress import OnProgress, Progress, ignore
from tasks.result_preview import make_preview
from tasks.shrinking import shrinking

RECORD = "record.json"
KINDS: Mapping[str, tuple[str, type[InferenceOptions]]] = {  # tool -> suffix of the result, dials
    "detect-objects": (".parquet", DetectOptions),
    "classify-pixels": (".tif", ClassifyOptions),
    "classify-objects": (".parquet", ClassifyObjectsOptions),
}


@dataclass(frozen=True)
class Files:
    """A scene: its raster, or one for each of its bands with what these are called, and where its result goes."""

    rasters: Sequence[str]
    bands: Sequence[str]
    out: str

    @property
    def name(self) -> str:
        return Path(self.out if self.bands else self.rasters[0]).name

    def raster(self) -> Path:
        """The one, or one of its bands beside the folder of the result."""
        if not self.bands:
            return Path(self.rasters[0])
        return composite_bands(self.rasters, Path(f"{self.out}.vrt"), self.bands)


def run_scenes(
    tool: str,
    model: Path,
    source: ModelSource,
    options: Mapping[str, Any],
    scenes: Sequence[Files],
    *,
    on_progress: OnProgress = ignore,
) -> int:
    """How many gave a result. Raises OptionsError for tools that need more than one raster."""
    if tool not in KINDS:
        do = f"it needs more than one raster: use dlpk {tool}"
        raise OptionsError("does not run over single scenes", where=source.name, got=tool, do=do)
    suffix, kind = KINDS[tool]
    folder, dials = open_model(model), kind.model_validate(options)
    verb = getattr(importlib.import_module(f"tasks.{tool.replace('-', '_')}"), tool.replace("-", "_"))
    good = 0
    for done, files in enumerate(scenes, 1):
        out = Path(files.out)
        result = out / f"{out.name}{suffix}"
        record = _tried(lambda files=files, result=result: _run(verb, folder, files.raster(), result, dials, source))  # type: ignore[misc]
        good += "error" not in record
        write_text(out / RECORD, json.dumps(record))
        on_progress(Progress("run scenes", done, len(scenes), "scenes", files.name))
    return good


def _tried(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except StoreError:
        raise  # the disk or a server, no fault of the scene
    except Exception as error:  # noqa: BLE001  (whatever is odd about a scene, no other one waits for it)
        return {"error": str(error), "type": type(error).__name__}


def _run(
    verb: Callable[..., Path],
    model: ModelFolder,
    raster: Path,
    out: Path,
    options: InferenceOptions,
    source: ModelSource,
) -> dict[str, Any]:
    started = time.monotonic()
    shrinking(lambda dials: verb(model, raster, out, dials, source=source), options)
    classes = model.emd.classes
    counts = count_pixels(out, classes) if out.suffix == ".tif" else _features(out, options)
    preview = make_preview(raster, out, classes, out.parent)
    with rasterio.open(raster) as image:
        pixels, area = image.width * image.height, _area(image)
    sidecars = sorted(path for path in out.parent.glob(f"{out.name}.*") if path.is_file())
    return {
        "files": [str(path) for path in (out, *sidecars, *preview.files)],
        "geometry": preview.geometry,
        "bbox": preview.bbox,
        "counts": counts,
        "colors": preview.colors,
        "pixels": pixels,
        "km2": area,
        "seconds": round(time.monotonic() - started, 3),
    }


def _features(out: Path, options: InferenceOptions) -> dict[str, int]:
    return count_features(out, options.class_label_field if isinstance(options, ClassifyObjectsOptions) else "Class")


def _area(image: Any) -> float | None:
    """Square kilometres, where the raster is in a projection with a unit of length."""
    if image.crs is None or not image.crs.is_projected:
        return None
    unit = image.crs.linear_units_factor[1]
    return float(abs(image.transform.determinant) * image.width * image.height * unit**2 / 1e6)
