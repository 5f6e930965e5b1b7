"""The verbs on the command line: a command parses, calls one function, prints one record.

`python -m tasks.cli --json-progress VERB ...` is how flows run a verb in an interpreter of its own: one JSON object a
line, {"progress": {...}}, {"epoch": {...}} or {"warning": "..."}, and last {"result": {...}} or
{"error": {"type", "message"}}.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import yaml

from registry.dlpk import ModelFolder, open_model, pack
from registry.emd import ClassLabel
from registry.errors import NotFound, OptionsError
from registry.files import sha256
from tasks import console
from tasks.cli_options import Verb
from tasks.commands import ALIASES, INNER, LAZY
from tasks.lazy_group import LazyGroup
from tasks.lifeline import die_with
from tasks.package import FLAVOURS, Flavour

if TYPE_CHECKING:  # each verb is imported when its command is called
    from tasks.chips import ChipFolder
    from tasks.export import ExportOptions
    from tasks.inference_options import (
        ChangeOptions,
        ClassifyObjectsOptions,
        ClassifyOptions,
        DetectOptions,
        ModelSource,
    )
    from tasks.train import TrainOptions

# Before torch comes: OpenMP's threads spin for a little, then sleep (docs/decisions/0002-threads.md)
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
PARENT = "DLPK_PARENT"  # environment variable: the process with which a verb in --json-progress ends
NO_LABELS = "-"
SOME = click.Path(path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
DEVICE = click.option("--device", default=-1, show_default=True, help="GPU to use, counted from 0; -1: the CPU")
TRUST = click.option("--trust", is_flag=True, help="run code that this registry did not publish, in a confined process")
EXPORT_GROUPS = {
    "Chips": (
        *("metadata_format", "image_chip_format", "compress", "tile_size", "tile_size_x", "tile_size_y"),
        *("stride", "stride_x", "stride_y", "rotation_angle", "output_nofeature_tiles", "start_index"),
    ),
    "Labels": (
        *("definition_query", "class_value_field", "buffer_radius", "min_polygon_overlap_ratio"),
        *("crop_mode", "blacken_around_feature", "in_instance_data", "instance_class_value_field"),
    ),
    "Imagery": (
        *("in_raster2", "processing_mode", "reference_system", "warp", "cell_size", "extent", "in_mask_polygons"),
        *("max_nodata_share", "skip_unreadable"),
    ),
    "Training, validation, test": ("split", "split_by", "split_block_size", "oversample"),
}


def _source(_ctx: click.Context, _option: click.Parameter, text: str | None) -> "ModelSource | None":
    from tasks.inference_options import ModelSource

    return ModelSource(**json.loads(text)) if text else None


SOURCE = click.option("--source", hidden=True, callback=_source, help="JSON: what results say of the model")


@click.command(cls=Verb, options="tasks.exporting.options:ExportOptions", groups=EXPORT_GROUPS)
@click.argument("imagery", nargs=-1, required=True)
@click.argument("labels")
@click.argument("out", type=SOME)
@click.option("--classes", type=SOME, help="YAML or JSON file: a list of {value, name, color}; none: from the labels")
@click.option("--workers", type=click.IntRange(min=1), help="processes that share the work; none: one for each CPU")
@click.option("--dry-run", is_flag=True, help="only say how many chips, bytes and minutes it will be")
@click.pass_obj
def export(
    program: console.JsonLines | None,
    *,
    imagery: tuple[str, ...],
    labels: str,
    out: Path,
    classes: Path | None,
    workers: int | None,
    dry_run: bool,
    options: "ExportOptions",
) -> None:
    """Cut imagery into labelled chips (Export Training Data For Deep Learning).

    IMAGERY is one raster or more, a folder of them, a text file that lists them, or a STAC item or collection; local,
    s3:// or https://. LABELS are features, a classified raster, likewise; or - for none (Export_Tiles, CycleGAN).
    `dlpk export-training-data` is the same command.
    """
    from tasks.export import dry_run as only_survey
    from tasks.export import export_training_data

    found, known = None if labels == NO_LABELS else Path(labels), _classes(classes) if classes else ()
    with console.watching(program) as listen:
        if dry_run:
            answer = only_survey(imagery, found, options, classes=known, workers=workers, on_progress=listen)
            record = answer.document()
        else:
            record = exported(
                export_training_data(imagery, found, out, options, classes=known, workers=workers, on_progress=listen)
            )
    console.end(program, record)


def exported(chips: "ChipFolder") -> dict[str, Any]:
    """What an export wrote, and where to look at it."""
    from tasks.exporting.report import PAGE, summary
    from tasks.preview import PREVIEW

    pages = {"preview": chips.home / PREVIEW, "report": chips.home / PAGE}
    places = {"folder": str(chips.path), **{name: str(path) for name, path in pages.items() if path.is_file()}}
    return {"chips": len(chips.names), **summary(chips.home), **places, "digest": chips.digest}


@click.command(cls=Verb, options="tasks.train:TrainOptions")
@click.argument("chips", type=FOLDER, nargs=-1, required=True)
@click.argument("out", type=SOME)
@click.pass_obj
def train(program: console.JsonLines | None, chips: tuple[Path, ...], out: Path, options: "TrainOptions") -> None:
    """Train a network on chips (Train Deep Learning Model).

    CHIPS is a folder of exported chips, or several of one format, band count and tile size.
    """
    from tasks.chip_folders import open_chips
    from tasks.train import train_model

    if options.pretrained_model:
        options = options.model_copy(update={"pretrained_model": str(fetched(options.pretrained_model)[0])})
    with console.watching(program) as listen:
        model = train_model(open_chips(chips), out, options, on_epoch=listen, on_progress=listen)
    console.end(program, {"model": model.name, "folder": str(model.path)})


@click.command()
@click.argument("model")
@click.argument("chips", type=FOLDER)
@click.option("--report", type=SOME, help="folder for figures and page; none: the model folder, or NAME_evaluation")
@DEVICE
@TRUST
@click.pass_obj
def evaluate(
    program: console.JsonLines | None, *, model: str, chips: Path, report: Path | None, device: int, trust: bool
) -> None:
    """Score a model on held-out chips; a model folder gets figures, report and the best threshold."""
    from tasks.chips import ChipFolder
    from tasks.evaluate import evaluate_model
    from tasks.provenance import PAGE

    folder = opened(model)
    if not Path(model).exists() or Path(model).suffix.lower() == ".dlpk":  # what was published stays as it is
        report = report or Path(f"{folder.name}_evaluation")
    with console.watching(program) as listen:
        held_out = ChipFolder.open(chips)
        scores = evaluate_model(folder, held_out, report=report, device=device, trust=trust, on_progress=listen)
    console.end(program, {**scores.document(), "report": str((report or folder.path) / PAGE)})


@click.command()
@click.argument("model_a")
@click.argument("model_b")
@click.argument("chips", type=FOLDER)
@DEVICE
@TRUST
@click.pass_obj
def compare(
    program: console.JsonLines | None, *, model_a: str, model_b: str, chips: Path, device: int, trust: bool
) -> None:
    """Tell which of two models is better on the same chips, and how sure that is."""
    from tasks.chips import ChipFolder
    from tasks.compare import compare_models

    with console.watching(program) as listen:
        found, judge = (fetched(model_a), fetched(model_b)), ChipFolder.open(chips)
        a, b = (open_model(path) for path, _ in found)
        comparison = compare_models(a, b, judge, device=device, trust=trust, on_progress=listen)
    rivals = {side: {"name": m.name, "sha256": m.sha256} for side, (_, m) in zip("ab", found, strict=True)}
    console.end(program, {**comparison.document(), "models": rivals, "chips_digest": judge.digest})


@click.command()
@click.argument("model", type=FOLDER)
@click.argument("out", type=SOME)
@click.option("--summary", default="", help="one line for the item page")
@click.option("--description", default="", help="longer text for the item page")
@click.option("--tag", "tags", multiple=True, help="keyword for the item page; may be given again")
@click.option("--flavour", type=click.Choice(FLAVOURS), default=FLAVOURS[0], help="extension: for arcgis.learn, too")
@click.pass_obj
def package(
    program: console.JsonLines | None,
    *,
    model: Path,
    out: Path,
    summary: str,
    description: str,
    tags: tuple[str, ...],
    flavour: Flavour,
) -> None:
    """Make a deep learning package (.dlpk) of a model folder.

    A self-contained one carries our raster function; an extension is run by ArcGIS's own functions, and arcgis.learn
    opens it and trains it on.
    """
    from tasks.package import package_model

    folder = ModelFolder(model)
    dlpk = package_model(folder, out, flavour=flavour, description=description, summary=summary, tags=tags)
    console.end(program, packed(dlpk))


def packed(dlpk: Path) -> dict[str, Any]:
    """What a command tells of a package that it has written."""
    return {"package": str(dlpk), "size": dlpk.stat().st_size, "sha256": sha256(dlpk)}


@click.command("detect-objects", cls=Verb, options="tasks.inference_options:DetectOptions")
@click.argument("model")
@click.argument("imagery", type=SOME)
@click.argument("out", type=SOME)
@SOURCE
@click.pass_obj
def detect_objects(
    program: console.JsonLines | None,
    *,
    model: str,
    imagery: Path,
    out: Path,
    source: "ModelSource | None",
    options: "DetectOptions",
) -> None:
    """Find the objects in a raster (Detect Objects Using Deep Learning)."""
    from tasks.counts import count_features
    from tasks.detect_objects import detect_objects as verb

    def run(known: ModelFolder, made_by: "ModelSource", listen: Any) -> Path:
        return verb(known, imagery, out, options, source=made_by, on_progress=listen)

    _infer(program, model, source, run, lambda result, _: count_features(result))


@click.command("classify-pixels", cls=Verb, options="tasks.inference_options:ClassifyOptions")
@click.argument("model")
@click.argument("imagery", type=SOME)
@click.argument("out", type=SOME)
@SOURCE
@click.pass_obj
def classify_pixels(
    program: console.JsonLines | None,
    *,
    model: str,
    imagery: Path,
    out: Path,
    source: "ModelSource | None",
    options: "ClassifyOptions",
) -> None:
    """Classify every pixel of a raster (Classify Pixels Using Deep Learning)."""
    from tasks.classify_pixels import classify_pixels as verb
    from tasks.counts import count_pixels

    def run(known: ModelFolder, made_by: "ModelSource", listen: Any) -> Path:
        return verb(known, imagery, out, options, source=made_by, on_progress=listen)

    _infer(program, model, source, run, lambda result, known: count_pixels(result, known.emd.classes))


@click.command("classify-objects", cls=Verb, options="tasks.inference_options:ClassifyObjectsOptions")
@click.argument("model")
@click.argument("imagery", type=SOME)
@click.argument("out", type=SOME)
@SOURCE
@click.pass_obj
def classify_objects(
    program: console.JsonLines | None,
    *,
    model: str,
    imagery: Path,
    out: Path,
    source: "ModelSource | None",
    options: "ClassifyObjectsOptions",
) -> None:
    """Tell the class of every feature, or of every raster (Classify Objects Using Deep Learning)."""
    from tasks.classify_objects import classify_objects as verb
    from tasks.counts import count_features

    def run(known: ModelFolder, made_by: "ModelSource", listen: Any) -> Path:
        return verb(known, imagery, out, options, source=made_by, on_progress=listen)

    _infer(program, model, source, run, lambda result, _: count_features(result, options.class_label_field))


@click.command("detect-change", cls=Verb, options="tasks.inference_options:ChangeOptions")
@click.argument("model")
@click.argument("from_raster", type=SOME)
@click.argument("to_raster", type=SOME)
@click.argument("out", type=SOME)
@SOURCE
@click.pass_obj
def detect_change(
    program: console.JsonLines | None,
    *,
    model: str,
    from_raster: Path,
    to_raster: Path,
    out: Path,
    source: "ModelSource | None",
    options: "ChangeOptions",
) -> None:
    """Find what changed between two rasters of one place (Detect Change Using Deep Learning)."""
    from tasks.counts import count_pixels
    from tasks.detect_change import detect_change as verb

    def run(known: ModelFolder, made_by: "ModelSource", listen: Any) -> Path:
        return verb(known, from_raster, to_raster, out, options, source=made_by, on_progress=listen)

    _infer(program, model, source, run, lambda result, known: count_pixels(result, known.emd.classes))


@click.command("export-onnx")
@click.argument("model")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def export_onnx(program: console.JsonLines | None, *, model: str, out: Path) -> None:
    """Write the network of a MODEL trained here as an ONNX file, with what QGIS's Deepness plugin reads in it.

    MODEL is a .dlpk, a model folder or a reference. Its answers are compared with those of torch before it is kept.
    """
    from tasks.export_onnx import export_onnx as verb

    with console.watching(program):
        made = verb(opened(model), out)
    console.end(program, made.document())


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def convert(program: console.JsonLines | None, *, model: str, out: Path) -> None:
    """Write a MODEL that ArcGIS trained again as a package that runs without ArcGIS.

    What it gives for a tile is what ArcGIS gives: UnetClassifier, DeepLab, PSPNetClassifier, SingleShotDetector,
    RetinaNet, MaskRCNN, FasterRCNN, FeatureClassifier and ChangeDetector over a ResNet. So does a package that brings
    a class for arcgis.learn; that class is its maker's code, so what is written here runs with --trust only.

    MODEL is a .dlpk, a model folder or a reference; OUT is the .dlpk to write.
    """
    from tasks.conversion import convert as verb

    with console.watching(program), TemporaryDirectory() as folder:
        made = pack(verb(opened(model), Path(folder) / out.stem), out)
    console.end(program, packed(made))


@click.command("run-scenes", hidden=True)
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def run_scenes(program: console.JsonLines | None, job: Path) -> None:
    """Run one model over several scenes, by a JSON file: tool, model, source, options, scenes."""
    from tasks.inference_options import ModelSource
    from tasks.scene_run import Files
    from tasks.scene_run import run_scenes as verb

    asked = json.loads(job.read_text(encoding="utf-8"))
    scenes = [Files(**scene) for scene in asked["scenes"]]
    with console.watching(program) as listen:
        source = ModelSource(**asked["source"])
        good = verb(asked["tool"], Path(asked["model"]), source, asked["options"], scenes, on_progress=listen)
    console.end(program, {"scenes": len(scenes), "results": good})


def _infer(
    program: console.JsonLines | None,
    model: str,
    source: "ModelSource | None",
    run: Callable[[ModelFolder, "ModelSource", Any], Path],
    count: Callable[[Path, ModelFolder], dict[str, int]],
) -> None:
    """What the inference commands share: a model fetched and opened, a result by `run`, its sums by `count`."""
    path, known = fetched(model)
    folder = open_model(path)
    with console.watching(program) as listen:
        result = run(folder, source or known, listen)
    console.end(program, {"result": str(result), "counts": count(result, folder)})


@click.group(cls=LazyGroup, lazy={**LAZY, **INNER}, aliases=ALIASES)
@click.option("--json-progress", is_flag=True, help="tell progress and result as one JSON object a line")
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@click.pass_context
def main(ctx: click.Context, json_progress: bool, debug: bool) -> None:
    """What is done: one verb each, folders in, a folder out."""
    if json_progress:
        if PARENT in os.environ:
            die_with(int(os.environ[PARENT]))
            os.environ[PARENT] = str(os.getpid())  # of the processes that train beside this one with the same command
        ctx.obj = console.JsonLines()
        logging.getLogger("dlpk").addHandler(console.Warned(ctx.obj))


def opened(reference: str) -> ModelFolder:
    """The model behind a .dlpk, an .emd, a model folder or a registry reference such as `trees@champion`."""
    return open_model(fetched(reference)[0])


def fetched(reference: str) -> tuple[Path, "ModelSource"]:
    """Where the model lies on this machine, fetched and verified if it must be, and what results will say of it."""
    from tasks.inference_options import ModelSource

    path = Path(reference)
    if path.suffix.lower() == ".dlpk" and path.is_file():
        return path, ModelSource(path.stem, sha256=sha256(path))
    if path.exists():
        return path, ModelSource.of(open_model(path))
    from registry import catalog

    if not catalog.is_reference(reference):
        do = "check the path, or give a reference such as trees@champion"
        raise NotFound("there is no such model", where=reference, do=do)
    version = catalog.find_version(reference)
    return catalog.fetch(version.ref), ModelSource(version.name, str(version.number), version.sha256)


def _classes(path: Path) -> tuple[ClassLabel, ...]:
    if not path.is_file():
        raise NotFound("there is no such file of classes", where=path)
    try:
        entries: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionsError(f"is no valid YAML ({error})", where=path) from error
    try:
        return tuple(ClassLabel(int(e["value"]), str(e["name"]), tuple(e.get("color", (-1, -1, -1)))) for e in entries)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise OptionsError("expected a list of {value, name, color}", where=path, got=entries) from error


if __name__ == "__main__":
    main(prog_name="python -m tasks.cli")
