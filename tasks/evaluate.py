"""Evaluate: a model runs on chips that it has never seen, and is told how well it did.

Adds to the model folder: show_results.png, the worst mistakes, accuracy.csv, the page, and in the definition the
confidence threshold that found best. Package the model after it.
"""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.dlpk import ModelFolder
from registry.files import write_text
from tasks.bootstrap import draws, intervals
from tasks.chips import ChipFolder
from tasks.exam import Exam, examine
from tasks.pictures import ResultSample
from tasks.progress import OnProgress, ignore
from tasks.provenance import described, flattered, learnt, shares
from tasks.report import FOLDER, write_metrics_page, write_show_results, write_worst
from tasks.scores import DetectionScores, PixelScores, Scores

SHOWN, WORST = 4, 4  # chips in the picture of sample results, and in that of the worst mistakes
TABLE = "accuracy.csv"


def evaluate_model(
    model: ModelFolder,
    chips: ChipFolder,
    *,
    report: Path | None = None,
    device: int = -1,
    trust: bool = False,
    on_progress: OnProgress = ignore,
) -> Scores:
    """Score a model on held-out chips (ArcGIS formats F.6), on their split `test` where they have one.

    `report`: the folder that gets figures and page, the model then stays as it is; None: the model's own folder, whose
    definition also gets the best threshold, if any object is found. `device`: -1 CPU, else the GPU's number. `trust`:
    as inference has it. Raises OptionsError or ImageryError when chips and model do not fit, RasterFunctionError when
    the function fails.
    """
    exam = examine(model, chips, device=device, trust=trust, calibrate=True).sit("evaluate", on_progress)
    best = exam.tally.best_threshold() if isinstance(exam.tally, DetectionScores) else None
    scores = _scored(exam, (exam.threshold if best is None else best) or 0.0)
    if learnt(model.path, chips):
        scores = replace(scores, facts={**scores.facts, "warnings": [flattered(model.name)]})
    write_report(model, report or model.path, exam, scores)
    if report is None and best is not None:
        model.emd.replace(Threshold=best).write(model.emd_path)
    return scores


def _scored(exam: Exam, threshold: float) -> Scores:
    """The scores with their intervals; one chip alone is drawn again and again, and tells no doubt."""
    several = exam.tally.chips > 1
    ends = intervals(exam.tally.resampled(draws(exam.tally.chips), threshold)) if several else {}
    scores = exam.tally.compute(threshold)
    return replace(scores, intervals=ends, facts={"data_digest": exam.chips.digest})


def write_report(model: ModelFolder, folder: Path, exam: Exam, scores: Scores) -> None:
    """Pictures, table and page."""
    ranked = _from_worst(exam, scores.threshold or 0)
    spread = [exam.names[i] for i in np.linspace(0, len(exam.names) - 1, min(SHOWN, len(exam.names))).astype(int)]
    classes = exam.chips.classes
    write_show_results(folder, [_sample(exam, name, scores.threshold) for name in spread], classes)
    write_worst(folder, [_sample(exam, name, scores.threshold) for name in ranked[:WORST]], classes)
    write_text(folder / FOLDER / TABLE, _table(scores))
    pixels = {name: int(row["Pixels"]) for name, row in scores.per_class.items() if "Pixels" in row}
    write_metrics_page(
        folder,
        model.emd,
        name=model.name,
        scores=scores.document(),
        data={"scored": described(exam.chips, exam.names, shares(pixels))},
        page=model.path,
    )


def _from_worst(exam: Exam, threshold: float) -> list[str]:
    """Names of the chips that are not wholly right, the worst first."""
    right = exam.tally.chip_scores(threshold)
    return [exam.names[i] for i in np.argsort(right, kind="stable") if right[i] < 1]


def _sample(exam: Exam, name: str, threshold: float | None) -> ResultSample:
    """A chip beside what the model makes of it: asked again, since all answers would not fit into memory."""
    chip = exam.chips.read(name)
    answer = exam.ask(chip)
    found = answer.chip if threshold is None else answer.above(threshold)
    names = tuple(s.name for s in exam.chips.band_statistics)
    judged = chip.valid
    if isinstance(exam.tally, PixelScores) and not exam.tally.background and chip.mask is not None:
        judged = judged & (chip.mask > 0)  # elsewhere nobody has looked
    return ResultSample(chip.image, names, chip, found, name, chip.image2, chip.valid, judged)


def _table(scores: Scores) -> str:
    """A row for each class and one for all, as the accuracy tables of ArcGIS have them (ArcGIS formats F.6)."""
    columns = list(dict.fromkeys(name for row in scores.per_class.values() for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, ["Class", *columns], lineterminator="\n")
    table.writeheader()
    table.writerows({"Class": label, **row} for label, row in scores.per_class.items())
    table.writerow({"Class": "All", **_all(scores)})
    return text.getvalue()


def _all(scores: Scores) -> dict[str, float]:
    """The row of all classes: counts are added up, the rest is the figure over all."""
    names = {
        "AP50": "AP", "AP50_95": "AP50_95", "precision": "Precision", "recall": "Recall", "f1": "F1_Score",
        "f1_score": "F1_Score", "F1": "F1_Score", "mIoU": "IoU",
    }  # fmt: skip
    overall = {names[key]: value for key, value in scores.values.items() if key in names}
    rows = list(scores.per_class.values())
    counts = {key for row in rows for key, value in row.items() if isinstance(value, int)}
    columns = {key for row in rows for key in row}
    added = {key: sum(row.get(key, 0) for row in rows) for key in counts}
    return {key: value for key, value in (overall | added).items() if key in columns}
