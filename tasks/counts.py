"""What a result holds, counted by class name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
import pyogrio
import rasterio

from registry.emd import ClassLabel, background_name
from tasks.results import layer_of


def count_features(path: Path, field: str = "Class") -> dict[str, int]:
    """Features by what a field of class names holds, the most frequent first; what has none is not counted."""
    if path.suffix.lower() == ".parquet":
        names = pandas.read_parquet(path, columns=[field])[field]
    else:
        field = field[:10] if path.suffix.lower() == ".shp" else field  # as many letters as a Shapefile has
        table = pyogrio.read_dataframe(path, layer=layer_of(path), columns=[field], read_geometry=False)
        names = table[field] if field in table else pandas.Series(dtype=object)  # an empty GeoJSON has no columns
    return dict(Counter(names.dropna()).most_common())


def count_pixels(path: Path, classes: Sequence[ClassLabel]) -> dict[str, int]:
    """Pixels of each class that occurs, the most frequent first; value 0 is the background. Memory: one block."""
    names = {0: background_name(c.name for c in classes), **{label.value: label.name for label in classes}}
    total: Counter[str] = Counter()
    with rasterio.open(path) as raster:
        for _, window in raster.block_windows(1):
            values, counts = np.unique(raster.read(1, window=window), return_counts=True)
            total.update({names[v]: int(n) for v, n in zip(values.tolist(), counts, strict=True) if v in names})
    return dict(total.most_common())
