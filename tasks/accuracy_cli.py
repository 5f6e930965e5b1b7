"""The tools that look at finished results, on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tasks import console
from tasks.cli_options import Verb

if TYPE_CHECKING:
    from tasks.object_accuracy import ObjectAccuracyOptions
    from tasks.pixel_accuracy import PixelAccuracyOptions
    from tasks.suppression import SuppressionOptions

SOME = click.Path(path_type=Path)


@click.command("non-maximum-suppression", cls=Verb, options="tasks.suppression:SuppressionOptions")
@click.argument("in_featureclass", type=SOME)
@click.argument("out_featureclass", type=SOME)
@click.pass_obj
def non_maximum_suppression(
    program: console.JsonLines | None, *, in_featureclass: Path, out_featureclass: Path, options: "SuppressionOptions"
) -> None:
    """Remove the copies of objects from features (Non Maximum Suppression).

    `dlpk nms` is the same command. Detect Objects does so by itself.
    """
    from tasks.suppression import suppress_non_maxima

    facts = suppress_non_maxima(in_featureclass, out_featureclass, options)
    console.end(program, {"features": str(out_featureclass), **facts})


@click.command("compute-object-accuracy", cls=Verb, options="tasks.object_accuracy:ObjectAccuracyOptions")
@click.argument("detected_features", type=SOME)
@click.argument("ground_truth_features", type=SOME)
@click.argument("out_accuracy_table", type=SOME)
@click.pass_obj
def object_accuracy(
    program: console.JsonLines | None,
    *,
    detected_features: Path,
    ground_truth_features: Path,
    out_accuracy_table: Path,
    options: "ObjectAccuracyOptions",
) -> None:
    """Compare detected features with true ones (Compute Accuracy For Object Detection).

    The table is .csv, .json, .dbf or .gpkg: Precision, Recall, F1_Score, AP and counts for each class and for all.
    """
    from tasks.object_accuracy import compute_object_accuracy
    from tasks.tables import plain

    rows = compute_object_accuracy(detected_features, ground_truth_features, out_accuracy_table, options)
    console.end(program, {"table": str(out_accuracy_table), "classes": {row["Class"]: row for row in plain(rows)}})


@click.command("compute-pixel-accuracy", cls=Verb, options="tasks.pixel_accuracy:PixelAccuracyOptions")
@click.argument("in_raster", type=SOME)
@click.argument("in_ground_truth_data", type=SOME)
@click.argument("out_confusion_matrix", type=SOME)
@click.pass_obj
def pixel_accuracy(
    program: console.JsonLines | None,
    *,
    in_raster: Path,
    in_ground_truth_data: Path,
    out_confusion_matrix: Path,
    options: "PixelAccuracyOptions",
) -> None:
    """Compare a class raster with the truth (Compute Accuracy For Pixel Classification).

    The truth is a class raster or features. The confusion matrix is .csv, .json, .dbf or .gpkg.
    """
    from tasks.pixel_accuracy import compute_pixel_accuracy

    facts = compute_pixel_accuracy(in_raster, in_ground_truth_data, out_confusion_matrix, options)
    console.end(program, {"table": str(out_confusion_matrix), **facts})
