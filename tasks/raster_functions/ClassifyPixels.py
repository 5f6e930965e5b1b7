"""Classify Pixels: a class value for every pixel (ArcGIS formats E.8). Travels in the package."""

from __future__ import annotations

import importlib
import sys
import types
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

HOME = Path(__file__).resolve().parent
if TYPE_CHECKING:
    from . import _class_raster, _tiles
else:
    # a package of a unique name over this folder: sys.path stays as it is, and two packages cannot mix their files
    _package = types.ModuleType("dlpk_" + uuid.uuid4().hex)
    _package.__path__ = [str(HOME)]
    sys.modules[_package.__name__] = _package
    _class_raster = importlib.import_module(_package.__name__ + "._class_raster")
    _tiles = importlib.import_module(_package.__name__ + "._tiles")


class ClassifyPixels:
    """One band of class values; 0 is background, and what has no data is masked."""

    def __init__(self) -> None:
        self.name = "Classify Pixels"
        self.description = "Classifies pixels with the network of this package."
        self.model: Any = None  # _tiles.Model once a definition is known

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME)
            self.raster = _class_raster.ClassRaster(self.model)
            ignored = self.model.document.get("ignore_mapped_class") or ()
            self.never = [k for k in ignored if k]  # of background the parameter tells

    def getParameterInfo(self) -> list[dict[str, Any]]:
        background = self.model.document.get("PredictBackground", True) if self.model else True
        told = "False gives every pixel to its likeliest class"
        return [
            *_tiles.parameters(self.model),
            _tiles.switch("predict_background", background, "Predict background", told),
            *_tiles.augmentation(self.model),
            _tiles.probabilities(),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.padding = int(_tiles.number(values["padding"]))
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.raster.probabilities = _tiles.truth(values["probabilities"])
        self.background = _tiles.truth(values["predict_background"])
        self.views = self.model.views(_tiles.truth(values["test_time_augmentation"]))
        self.policy = _tiles.policy(values["merge_policy"])
        answer = _tiles.configuration(self.model, self.padding, self.batch_size, joined=True)
        self.padding = answer["padding"]
        return answer

    def updateRasterInfo(self, **kwargs: Any) -> dict[str, Any]:
        return self.raster.describe(kwargs)

    def updateKeyMetadata(self, names: Any, bandIndex: int, **keyMetadata: Any) -> dict[str, Any]:
        return self.raster.tell(bandIndex, keyMetadata)

    def updatePixels(self, tlc: Any, shape: Any, props: Any, **pixelBlocks: Any) -> dict[str, Any]:
        how = self.padding, self.batch_size, self._probabilities if self.raster.probabilities else self._indexes
        return self.raster.update(pixelBlocks, shape, props["pixelType"], *how)

    def _indexes(self, tiles: _tiles.Array) -> _tiles.Array:
        """The likeliest index of each pixel."""
        return _class_raster.likeliest(self.model.look(tiles, self._shares, self.views, self.policy))

    def _probabilities(self, tiles: _tiles.Array) -> _tiles.Array:
        shares: _tiles.Array = self.model.look(tiles, self._softmax, self.views, self.policy).float().cpu().numpy()
        return shares

    def _softmax(self, logits: Any) -> Any:
        return self._shares(logits).float().softmax(1) if len(self.views) == 1 else self._shares(logits)

    def _shares(self, logits: Any) -> Any:
        """(n, classes + 1, rows, cols) -> probabilities, or what has the same order where there is only one view."""
        for k in [*self.never, *([] if self.background else [0])]:
            logits[:, k] = -float("inf")
        return logits if len(self.views) == 1 else logits.float().softmax(1)
