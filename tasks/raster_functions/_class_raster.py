"""What the functions whose output is a raster of class values share (ArcGIS formats E.8). It travels, too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

if TYPE_CHECKING:
    from . import _tiles

PIXEL_TYPES = ("u1", "u2", "i2", "i4")  # the first that holds 0 and every class value is the output's
LARGEST_INDEX = 255  # of classes, in a byte
INTEGER, TEXT = "esriFieldTypeInteger", "esriFieldTypeString"
COLUMNS = [("Value", INTEGER), ("Class", TEXT), ("Red", INTEGER), ("Green", INTEGER), ("Blue", INTEGER)]


class ClassRaster:
    """One band of class values, 0 is background, or a band of probabilities a class; what has no data is masked."""

    def __init__(self, model: _tiles.Model) -> None:
        self.model = model
        self.values = np.array([0] + [c["Value"] for c in model.classes])  # index in the network -> Value
        self.pixel_type = next(t for t in PIXEL_TYPES if (self.values.astype(t) == self.values).all())
        self.probabilities = False  # instead of class values

    def describe(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Answer of updateRasterInfo: one band, its type, colours and attribute table; or a float band a class."""
        if self.probabilities:
            kwargs["output_info"].update(
                bandCount=len(self.values), pixelType="f4", colormap=(), rasterAttributeTable=""
            )
            return kwargs
        entries = self.model.document["Classes"]
        values = np.array([c["Value"] for c in entries], "i4")
        colors = np.array([c["Color"] for c in entries]).clip(0, 255).astype("u1")
        kwargs["output_info"].update(
            bandCount=1,
            pixelType=self.pixel_type,
            colormap=(values, colors[:, 0], colors[:, 1], colors[:, 2]),
            rasterAttributeTable=json.dumps(_table(entries)),
        )
        return kwargs

    def tell(self, band: int, metadata: dict[str, Any]) -> dict[str, Any]:
        """Answer of updateKeyMetadata: which class a band of probabilities is of. `band`: -1 is the whole raster."""
        if self.probabilities and band >= 0:
            names = {c["Value"]: c["Name"] for c in self.model.document["Classes"]}
            metadata["bandname"] = names.get(int(self.values[band]), "Background")
        return metadata

    def update(
        self,
        blocks: dict[str, Any],
        shape: tuple[int, ...],
        pixel_type: str,
        padding: int,
        batch_size: int,
        look: Callable[[_tiles.Array], _tiles.Array],
    ) -> dict[str, Any]:
        """Answer of updatePixels. `look`: tiles (n, bands, rows, cols) -> indexes of classes (n, rows, cols), whole
        numbers; or probabilities (n, classes, rows, cols).
        """
        pixels, mask = blocks["raster_pixels"], blocks["raster_mask"]
        rows, cols = (length - 2 * padding for length in pixels.shape[1:])
        values = self.values.astype(pixel_type)
        result = np.zeros((len(values) if self.probabilities else 1, rows, cols), pixel_type)
        for spots, tiles in self.model.batches(pixels, mask, padding, batch_size, tight=True):
            for spot, found in zip(spots, look(tiles)):
                place = result[(slice(None), *spot.core(padding))]
                own = spot.own(found)[..., : place.shape[1], : place.shape[2]]
                place[...] = own if self.probabilities else np.take(values, own)
        valid = mask[:, padding : padding + rows, padding : padding + cols].min(axis=0)[None] > 0
        if not valid.all():
            np.copyto(result, 0, where=~valid)
        rows, cols = shape[-2:]
        blocks["output_pixels"] = result[:, :rows, :cols]
        blocks["output_mask"] = valid[:, :rows, :cols].view("u1")
        return blocks


def likeliest(shares: Any) -> _tiles.Array:
    """(n, classes, rows, cols) -> (n, rows, cols) position of the first of the largest.

    On a CPU plane by plane: torch's max costs ten times as much there, and argmax a hundred times.
    """
    if shares.device.type != "cpu" or shares.shape[1] > LARGEST_INDEX:
        indexes: _tiles.Array = shares.max(1)[1].cpu().numpy()
        return indexes
    found = np.zeros((len(shares), *shares.shape[2:]), np.uint8)
    for planes, index in zip(shares.float().numpy(), found):
        best = planes[0].copy()
        for k in range(1, len(planes)):
            np.maximum(index, (planes[k] > best).view(np.uint8) * np.uint8(k), out=index)
            np.maximum(best, planes[k], out=best)
    return found


def _table(entries: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [("OID", "esriFieldTypeOID"), *COLUMNS]
    features = []
    for i, entry in enumerate(entries, 1):
        red, green, blue = entry["Color"]
        row = {"OID": i, "Value": entry["Value"], "Class": entry["Name"], "Red": red, "Green": green, "Blue": blue}
        features.append({"attributes": row})
    return {
        "displayFieldName": "",
        "fieldAliases": {name: name for name, _ in rows},
        "fields": [{"name": n, "type": t, "alias": n} for n, t in rows],
        "features": features,
    }
