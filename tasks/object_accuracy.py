"""Compute Accuracy For Object Detection: detected features beside true ones, on the map (ArcGIS formats F.6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely
from numpy.typing import NDArray
from pydantic import Field

from registry.errors import LabelError, OptionsError
from tasks.class_values import check_filled
from tasks.feature_files import field_of, read_features
from tasks.matching import average_precision
from tasks.options import Options
from tasks.overlap import overlap, ranks
from tasks.tables import write_rows

ALL = "All"  # the row of all classes
NO_CLASS = "Object"  # of features without a field of classes
LINES, LETTERS = 50, 34  # classes on a page of the report, and letters of their names


class ObjectAccuracyOptions(Options):
    """The parameters of the tool."""

    detected_class_value_field: str = Field("", description="field of the class of what was detected; empty: one class")
    ground_truth_class_value_field: str = Field("", description="field of the class of what is true; empty: one class")
    confidence_score_field: str = Field("Confidence", description="field that ranks what was detected, for AP")
    min_iou: float = Field(
        0.5, gt=0, le=1, description="shared by united area from which on a detection is one of the true object"
    )
    mask_features: str | None = Field(None, description="only features that touch these count")
    out_accuracy_report: str | None = Field(None, description="PDF to write besides: the table and the curves")


@dataclass(frozen=True)
class Judged:
    """One class: its detections surest first, whether each is true, and how many objects there are."""

    name: str
    hits: NDArray[np.bool_]
    truths: int

    def row(self) -> dict[str, Any]:
        """F.6's fields; AP is nan where there is no object."""
        true = int(self.hits.sum())
        false, missed = len(self.hits) - true, self.truths - true
        area = average_precision(self.hits, np.ones((1, len(self.hits))), np.array([float(self.truths)]))
        return _row(self.name, true, false, missed, float(area[0]))


def compute_object_accuracy(
    detected_features: Path, ground_truth_features: Path, out_accuracy_table: Path, options: ObjectAccuracyOptions
) -> list[dict[str, Any]]:
    """The rows that were written to the table (.csv, .dbf, .json or .gpkg): one for each class and one for all.

    Class, Precision, Recall, F1_Score, AP at `min_iou`, True_Positive, False_Positive, False_Negative. In order of
    confidence each detection takes the free object of its class that it overlaps most; AP of all is the mean over the
    classes. Raises LabelError for files that hold no features or lie elsewhere, OptionsError for fields that are not
    there.
    """
    if bool(options.detected_class_value_field) != bool(options.ground_truth_class_value_field):
        do = "name the field of both, or of none"
        raise OptionsError("only one of both has a field of classes", do=do)
    found, true = _polygons(detected_features), _polygons(ground_truth_features)
    true = _brought(true, found, ground_truth_features)
    if options.mask_features:
        area = _brought(read_features(Path(options.mask_features)), found, Path(options.mask_features))
        found, true = _touching(found, area), _touching(true, area)
    classes = [
        _classes(detected_features, found, options.detected_class_value_field),
        _classes(ground_truth_features, true, options.ground_truth_class_value_field),
    ]
    order = np.argsort(-_confidences(detected_features, found, options.confidence_score_field), kind="stable")
    names = sorted({*classes[0], *classes[1]}, key=lambda name: (len(name), name) if name.isdigit() else (99, name))
    shapes, labels = found.geometry.to_numpy()[order], classes[0][order]
    true_shapes, true_labels = true.geometry.to_numpy(), classes[1]
    judged = [
        _judged(name, shapes[labels == name], true_shapes[true_labels == name], options.min_iou) for name in names
    ]
    rows = [one.row() for one in judged]
    rows.append(_total(rows))
    write_rows(out_accuracy_table, rows)
    if options.out_accuracy_report:
        _report(Path(options.out_accuracy_report), rows, judged, options.min_iou)
    return rows


def _judged(name: str, found: NDArray[Any], true: NDArray[Any], least: float) -> Judged:
    """`found` is surest first."""
    hits, free = np.zeros(len(found), bool), np.ones(len(true), bool)
    both = shapely.make_valid(np.concatenate([found, true]))
    one, other = shapely.STRtree(both[len(found) :]).query(both[: len(found)], predicate="intersects")
    ratios = overlap(both, one, other + len(found))
    enough = ratios >= least
    one, other, ratios = one[enough], other[enough], ratios[enough]
    for i in np.lexsort((-ratios, one)).tolist():  # each with the object that it overlaps most first
        if not hits[one[i]] and free[other[i]]:
            hits[one[i]], free[other[i]] = True, False
    return Judged(name, hits, len(true))


def _row(name: str, true: int, false: int, missed: int, area: float) -> dict[str, Any]:
    precision, recall = true / max(1, true + false), true / max(1, true + missed)
    return {
        "Class": name,
        "Precision": precision,
        "Recall": recall,
        "F1_Score": 2 * precision * recall / max(precision + recall, np.finfo(float).tiny),
        "AP": area,
        "True_Positive": true,
        "False_Positive": false,
        "False_Negative": missed,
    }


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    true, false, missed = (sum(row[k] for row in rows) for k in ("True_Positive", "False_Positive", "False_Negative"))
    areas = [row["AP"] for row in rows if not np.isnan(row["AP"])]
    return _row(ALL, true, false, missed, float(np.mean(areas)) if areas else float("nan"))


def _polygons(path: Path) -> geopandas.GeoDataFrame:
    """Without rows that have no geometry. Raises LabelError when some have no area, so that they share none."""
    table = read_features(path)
    table = table[~(table.geometry.isna() | table.geometry.is_empty)].reset_index(drop=True)
    if flat := int(np.isin(shapely.get_dimensions(table.geometry.to_numpy()), (0, 1)).sum()):
        what = f"{flat} of {len(table)} features are points or lines"
        raise LabelError(what, where=path, do="give polygons, such as buffers of them")
    return table


def _brought(table: geopandas.GeoDataFrame, to: geopandas.GeoDataFrame, where: Path) -> geopandas.GeoDataFrame:
    """In the coordinate system of the detections. Raises LabelError when only one of the two has one."""
    if (table.crs is None) != (to.crs is None):
        do = "assign it one: ogr2ogr -a_srs EPSG:CODE OUT IN"
        raise LabelError("one of both has no coordinate system", where=where, do=do)
    return table if table.crs is None else table.to_crs(to.crs)


def _touching(table: geopandas.GeoDataFrame, area: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    rows = shapely.STRtree(shapely.make_valid(area.geometry.to_numpy())).query(table.geometry.to_numpy(), "intersects")[
        0
    ]
    return table.iloc[np.unique(rows)]


def _classes(path: Path, table: geopandas.GeoDataFrame, field: str) -> NDArray[Any]:
    if not field:
        return np.full(len(table), NO_CLASS, dtype=object)
    column = table[field_of(path, table, field)]
    check_filled(path, column, field)
    whole = pandas.api.types.is_float_dtype(column) and (column % 1 == 0).all()
    return np.array((column.astype("Int64") if whole else column).astype(str), dtype=object)


def _confidences(path: Path, table: geopandas.GeoDataFrame, field: str) -> NDArray[np.float64]:
    if not field:
        return np.zeros(len(table))
    try:
        return ranks(table[field_of(path, table, field)])
    except ValueError as error:
        do = 'name another by confidence_score_field; "" when there is none'
        raise OptionsError(f"field {field} holds no numbers ({error})", where=path, do=do) from error


def _report(out: Path, rows: Sequence[dict[str, Any]], judged: Sequence[Judged], least: float) -> None:
    """Pages of the table, and one of the curves."""
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    from registry.files import atomic

    def page() -> Figure:
        return Figure(figsize=(8.27, 11.69), layout="constrained")

    with (
        matplotlib.rc_context({"text.parse_math": False}),  # a $ is a letter
        atomic(out) as part,
        PdfPages(part, metadata={"Title": "Accuracy of detected objects"}) as pdf,
    ):
        for first in range(0, len(rows), LINES):
            pdf.savefig(_table_on(page(), rows[first : first + LINES], least))
        pdf.savefig(_curves_on(page(), judged))


def _table_on(page: Any, rows: Sequence[dict[str, Any]], least: float) -> Any:
    axes = page.subplots()
    axes.axis("off")
    axes.set_title(f"Accuracy of detected objects at an IoU of {least:g}", loc="left")
    cells = [[f"{v:.3f}" if isinstance(v, float) else _short(str(v)) for v in row.values()] for row in rows]
    heads = [name.replace("_", " ") for name in rows[0]]
    widths = [0.265, *[0.105] * (len(heads) - 1)]
    table = axes.table(cells, colLabels=heads, colWidths=widths, loc="upper center")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    return page


def _curves_on(page: Any, judged: Sequence[Judged]) -> Any:
    axes = page.subplots()
    for one in judged:
        true = np.cumsum(one.hits)
        recall, precision = true / max(1, one.truths), true / np.arange(1, len(true) + 1)
        axes.plot(recall, precision, label=f"{_short(one.name)} ({one.truths} objects)")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if 0 < len(judged) <= 2 * LINES:
        page.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return page


def _short(name: str) -> str:
    """Both its ends: names of a nomenclature often begin alike."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2]}…{name[1 - LETTERS // 2 :]}"
