"""Detect Change: where two rasters of one place differ in the way that was learned (ArcGIS formats E.9). Travels."""

from __future__ import annotations

import importlib
import sys
import types
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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


class DetectChange:
    """One band: 0 where nothing changed, else the value of the change. The bands are those of both dates, in order."""

    def __init__(self) -> None:
        self.name = "Detect Change"
        self.description = "Finds what changed between two rasters with the network of this package."
        self.model: Any = None  # _tiles.Model once a definition is known

    def initialize(self, **kwargs: Any) -> None:
        if "model" in kwargs:
            self.model = _tiles.Model(kwargs["model"], kwargs.get("device", -1), HOME, dates=2)
            self.raster = _class_raster.ClassRaster(self.model)

    def getParameterInfo(self) -> list[dict[str, Any]]:
        threshold = self.model.document.get("Threshold", 0.5) if self.model else 0.5
        return [
            *_tiles.parameters(self.model),
            _tiles.parameter("threshold", "numeric", threshold, "Threshold", "Least probability of a change, 0 to 1"),
            *_tiles.augmentation(self.model),
            _tiles.probabilities(),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        values = _tiles.answered(self.getParameterInfo(), scalars)
        self.padding = int(_tiles.number(values["padding"]))
        self.batch_size = int(_tiles.number(values["batch_size"]))
        self.raster.probabilities = _tiles.truth(values["probabilities"])
        self.threshold = _tiles.number(values["threshold"])
        self.views = self.model.views(_tiles.truth(values["test_time_augmentation"]))
        self.policy = _tiles.policy(values["merge_policy"])
        answer = _tiles.configuration(self.model, self.padding, self.batch_size, joined=True)
        self.padding = answer["padding"]
        return dict(answer, threshold=self.threshold)

    def updateRasterInfo(self, **kwargs: Any) -> dict[str, Any]:
        return self.raster.describe(kwargs)

    def updateKeyMetadata(self, names: Any, bandIndex: int, **keyMetadata: Any) -> dict[str, Any]:
        return self.raster.tell(bandIndex, keyMetadata)

    def updatePixels(self, tlc: Any, shape: Any, props: Any, **pixelBlocks: Any) -> dict[str, Any]:
        how = self.padding, self.batch_size, self._probabilities if self.raster.probabilities else self._indexes
        return self.raster.update(pixelBlocks, shape, props["pixelType"], *how)

    def _indexes(self, tiles: _tiles.Array) -> _tiles.Array:
        """0, or the likeliest change of each pixel where any change is as likely as the threshold."""
        shares = self._looked(tiles)
        changed = (shares[:, 1:].sum(1) >= self.threshold).cpu().numpy()
        kinds: _tiles.Array = (_class_raster.likeliest(shares[:, 1:]).astype(np.int64) + 1) * changed
        return kinds

    def _probabilities(self, tiles: _tiles.Array) -> _tiles.Array:
        shares: _tiles.Array = self._looked(tiles).cpu().numpy()
        return shares

    def _looked(self, tiles: _tiles.Array) -> Any:
        return self.model.look(tiles, self._shares, self.views, self.policy)

    def _shares(self, logits: Any) -> Any:
        """(n, kinds of change + 1, rows, cols) -> probabilities."""
        return logits.float().softmax(1)
