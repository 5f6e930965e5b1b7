"""Non Maximum Suppression: of the copies of an object among features the surest stays (ArcGIS formats F.5)."""

from pathlib import Path

import geopandas
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from registry.errors import OptionsError
from tasks.feature_files import field_of, read_features, with_whole_numbers
from tasks.options import Options
from tasks.overlap import keep_best, ranks
from tasks.replacing import refuse_replacing
from tasks.results import driver_of, write_table


class SuppressionOptions(Options):
    """The parameters of the tool."""

    confidence_score_field: str = Field("Confidence", min_length=1, description="field that ranks the copies")
    class_value_field: str = Field("", description="field of the class, copies are of one; empty: all are of one class")
    max_overlap_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="shared by united area of two features of a class above which the weaker one goes; 0: any overlap",
    )


def suppress_non_maxima(in_featureclass: Path, out_featureclass: Path, options: SuppressionOptions) -> dict[str, int]:
    """Write the features that stay to `out_featureclass`, with all their fields and in their order; how many they are.

    Greedy by confidence, of equal ones the first; time grows with the neighbours, not with the square of the features.
    Raises LabelError for a file that holds no features, OptionsError for a field that is not there or no number.
    """
    driver_of(out_featureclass)
    refuse_replacing([str(in_featureclass)], out_featureclass)
    table = read_features(in_featureclass)
    sure = _numbers(in_featureclass, table, options.confidence_score_field)
    classes = np.zeros(len(table), np.int64)
    if options.class_value_field:
        classes = table[field_of(in_featureclass, table, options.class_value_field)].astype(str).to_numpy()
    stays = keep_best(table.geometry.to_numpy(), sure, classes, options.max_overlap_ratio)
    write_table(out_featureclass, with_whole_numbers(in_featureclass, table)[stays], {})
    return {"kept": int(stays.sum()), "removed": int((~stays).sum())}


def _numbers(path: Path, table: geopandas.GeoDataFrame, name: str) -> NDArray[np.float64]:
    """(n,) of a field."""
    column = table[field_of(path, table, name)]
    try:
        return ranks(column)
    except ValueError as error:
        do = "name the field of the confidence by confidence_score_field"
        raise OptionsError(f"field {name} holds no numbers ({error})", where=path, do=do) from error
