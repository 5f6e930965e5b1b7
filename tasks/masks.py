"""Where a raster has data, by the masks of GDAL; light, since whoever reads chips loads it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import NodataShadowWarning


def shown(source: rasterio.DatasetReader, bands: Sequence[int], **how: Any) -> NDArray[np.bool_]:
    """(rows, cols), where any of the bands has data, by GDAL's masks; `how`: window, out_shape of rasterio's reading.

    rasterio's own dataset_mask asks the fourth alone of four bands of which the first is red.
    """
    one = MaskFlags.per_dataset in source.mask_flag_enums[bands[0] - 1]
    asked = list(bands[:1] if one else bands)
    if shape := how.get("out_shape"):
        how["out_shape"] = (len(asked), *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)  # nodata beside alpha: nodata rules
        return np.asarray((source.read_masks(asked, **how) > 0).any(axis=0))
