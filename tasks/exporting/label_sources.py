"""What people mean by "the labels": features, a classified raster or a folder of them, a table; and what they become on
one scene.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tasks.formats
from registry import plugins
from registry.emd import ClassLabel
from registry.errors import LabelError, OptionsError
from tasks.chips import OF_CHIPS
from tasks.exporting.class_rasters import ClassRasters
from tasks.exporting.label_tables import ImageLabels, image_labels, is_table, points_of, read_table
from tasks.exporting.options import ExportOptions
from tasks.exporting.scene_labels import Classified, NoLabels, Objects, Panoptic, SceneLabels, WholeImage
from tasks.imagery import Imagery
from tasks.labels import Features, features_of, is_vector, read_features
from tasks.layers import file_of
from tasks.nearby import nearby

Source = Features | ClassRasters | ImageLabels | None
MOST_CLASSES = 255  # class indexes of a mask are bytes; 0 is background
OF_RASTERS = ("mask", "panoptic", *OF_CHIPS)  # what a classified raster can tell


@dataclass(frozen=True)
class Labels:
    """All labels of an export, read once."""

    source: Source
    objects: Features | None  # in_instance_data
    classes: tuple[ClassLabel, ...]  # of both, sorted by Value
    carries: str  # of the metadata format (tasks/formats)
    options: ExportOptions

    @classmethod
    def read(
        cls,
        path: Path | None,
        options: ExportOptions,
        given: Sequence[ClassLabel] = (),
        crs: object = None,
        pictures: Sequence[Path] = (),
    ) -> "Labels":
        """`crs`: of the imagery, for tables of x and y; `pictures`: those that a table may name.

        Raises LabelError, or OptionsError when data is missing.
        """
        carries = str(plugins.load(tasks.formats, options.metadata_format).CARRIES)
        source = _read(path, options, given, carries, crs, pictures) if path and carries != "nothing" else None
        if path is None and carries != "nothing":
            raise LabelError(f"{options.metadata_format} needs labels", do="give features, a class raster or a table")
        objects = _read_objects(options, given) if carries == "panoptic" else None
        classes = _union(source.classes if source else tuple(given), objects.classes if objects else ())
        placed = [features.values for features in (source, objects) if isinstance(features, Features)]
        if carries not in OF_CHIPS and all(values.all() for values in placed):  # 0 is background: no class
            classes = tuple(c for c in classes if c.value != 0)
        if len(classes) > MOST_CLASSES:
            raise LabelError(f"expected at most {MOST_CLASSES} classes", where=path, got=len(classes), do="merge some")
        source = replace(source, classes=classes) if source else None  # indexes count through all classes of the export
        objects = replace(objects, classes=classes) if objects else None
        return cls(source, objects, classes, carries, options)

    @property
    def repaired(self) -> int:
        """Features whose geometry was invalid."""
        return sum(f.repaired for f in (self.source, self.objects) if isinstance(f, Features))

    @property
    def counted(self) -> Features | None:
        """The features that chips hold, each of which is in a chip or told of: the objects of a panoptic export."""
        counted = self.objects if self.carries == "panoptic" else self.source
        return counted if isinstance(counted, Features) else None

    @contextmanager
    def on(self, imagery: Imagery) -> Iterator[SceneLabels]:
        """Placed on a scene. Raises LabelError when the two do not fit."""
        if self.carries != "panoptic":
            with self._of(imagery, self.carries) as labels:
                yield labels
            return
        assert self.objects is not None
        with self._of(imagery, "mask") as ground:
            placed = self.objects.on(imagery, self.options.reference_system)
            yield Panoptic(ground, Objects(placed, "instances", self.options.min_polygon_overlap_ratio))

    @contextmanager
    def _of(self, imagery: Imagery, carries: str) -> Iterator[SceneLabels]:
        source, options = self.source, self.options
        if source is None:
            yield NoLabels()
        elif isinstance(source, ImageLabels):
            yield WholeImage(source.of(imagery.path), carries)
        elif isinstance(source, ClassRasters):
            with source.on(imagery) as raster:
                yield Classified(raster, carries, options.blacken_around_feature)
        else:
            placed = source.on(imagery, options.reference_system)
            shape = (options.tile_size_x, options.tile_size_y) if options.crop_mode == "FIXED_SIZE" else None
            yield Objects(placed, carries, options.min_polygon_overlap_ratio, shape, options.blacken_around_feature)


def _read(
    path: Path,
    options: ExportOptions,
    given: Sequence[ClassLabel],
    carries: str,
    crs: object,
    pictures: Sequence[Path],
) -> Source:
    path = nearby(path)
    if not file_of(path).exists():
        raise LabelError("does not exist", where=path, do="check the path")
    points = carries == "label" and options.crop_mode == "FIXED_SIZE"
    field, radius = options.class_value_field, options.buffer_radius
    if is_table(path):
        table = read_table(path, options.definition_query)
        placed = points_of(table, crs)
        if placed is not None:
            return features_of(path, [placed], field, given, radius=radius, points=points)
        _refuse(path, carries, OF_CHIPS, "is a table of whole pictures")
        return image_labels(path, table, field, given, pictures)
    if is_vector(path):
        return read_features(path, field, given, query=options.definition_query, radius=radius, points=points)
    _refuse(path, carries, OF_RASTERS, "is a classified raster, which has no objects")
    if options.definition_query:
        do = "leave it empty, or name the classes to export"
        raise OptionsError("definition_query chooses among features, not pixels of a raster", where=path, do=do)
    return ClassRasters.read(path, given)


def _refuse(path: Path, carries: str, able: Sequence[str], what: str) -> None:
    if carries not in able:
        raise LabelError(what, where=path, do="give the objects as polygons, or export Classified_Tiles")


def _read_objects(options: ExportOptions, given: Sequence[ClassLabel]) -> Features:
    if not options.in_instance_data:
        do = "name the features of the objects"
        raise OptionsError("Panoptic_Segmentation needs in_instance_data", do=do)
    path, field = nearby(Path(options.in_instance_data)), options.instance_class_value_field
    if not file_of(path).exists():
        raise LabelError("does not exist", where=path, do="check the path")
    return read_features(path, field, given, radius=options.buffer_radius)


def _union(first: Sequence[ClassLabel], second: Sequence[ClassLabel]) -> tuple[ClassLabel, ...]:
    """The classes of both; the first's colours. Raises LabelError when they call one Value by two names."""
    both = {c.value: c for c in (*second, *first)}
    for label in second:
        if len({label.name, both[label.value].name} - {str(label.value)}) > 1:
            got = f"class {label.value} is {both[label.value].name!r} of the pixels, {label.name!r} of the objects"
            raise LabelError("the labels and in_instance_data do not agree", got=got, do="number the classes apart")
    return tuple(both[value] for value in sorted(both))
