"""Chips are added to a finished export (`start_index` above 0): an export of its own beside it, then joined in.

    chips/.adding/           the new chips, a whole export; what was there stays whole until they are
    chips/.adding/joined/    the documents of both together; once it is there, any rerun ends the joining
    chips/.added/            what is left of it while it is deleted

While files move, the definition is away: a killed joining is no finished export.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

import tasks.formats
from registry import plugins
from registry.emd import Emd
from registry.errors import Conflict
from registry.files import write_text
from tasks import receipt
from tasks.chip_statistics import ChipStatistics
from tasks.chips import ACCUMULATED, CONTENT, DEFINITION, INSTANCE_CLASSES, SPLITS, ChipFolder
from tasks.exporting.chip_split import shrunk
from tasks.exporting.finish import write_pages
from tasks.exporting.plan import Job
from tasks.exporting.run import ADDING, VERB, Hire, run_export
from tasks.progress import OnProgress
from tasks.rasters import read_raster

JOINED, ADDED = "joined", ".added"
SAME = ("MetaDataMode", "ImageHeight", "ImageWidth", "ImageSpaceUsed", "ExtractBands", "Classes")
PICTURES = "pictures in each chip"


def is_wanted(job: Job) -> bool:
    """Whether chips go to an export that is there, or an earlier try of that was begun."""
    return job.options.start_index > 0 and ((job.out / DEFINITION).is_file() or (job.out / ADDING).is_dir())


def append(hire: Hire, job: Job, tell: OnProgress) -> None:
    """Raises Conflict, with nothing changed, when the new chips do not fit those that are there."""
    with receipt.hold(job.out):
        _append(hire, job, tell)


def _append(hire: Hire, job: Job, tell: OnProgress) -> None:
    adding = job.out / ADDING
    if _is_joined(job.out):  # a kill came before it was deleted
        _delete(adding)
    if not (adding / JOINED).is_dir():
        there = ChipFolder.open(job.out)
        _refuse_other(there, _wanted(job, there))
        new = replace(job, out=adding, classes=job.classes or there.listed)
        receipt.check(adding, VERB, new.facts)
        if not (adding / DEFINITION).is_file():
            run_export(hire, new, tell)
        try:
            _refuse_misfits(there, ChipFolder(adding))
        except Conflict:
            _delete(adding)
            raise
        _write_joined(job, there, ChipFolder(adding))
    elif not receipt.holds(adding / JOINED, VERB, job.facts):
        raise Conflict("is being added to by another export", where=job.out, do="run that one again first")
    _join(job.out)


def _is_joined(out: Path) -> bool:
    """The receipt is that of both together before the definition comes back."""
    joined = out / ADDING / JOINED
    whole = joined.is_dir() and (out / DEFINITION).is_file()
    return whole and receipt.read(joined, VERB) == receipt.read(out, VERB)


def _delete(adding: Path) -> None:
    """At once: a kill must not leave a part of it that looks like an addition."""
    gone = adding.with_name(ADDED)
    shutil.rmtree(gone, ignore_errors=True)
    adding.rename(gone)
    shutil.rmtree(gone)


def _wanted(job: Job, there: ChipFolder) -> Mapping[str, Any]:
    """The kind that the new chips will be of, as far as the options tell."""
    options = job.options
    size = {"ImageHeight": options.tile_size_y, "ImageWidth": options.tile_size_x}
    kind = {"MetaDataMode": options.metadata_format, "ImageSpaceUsed": options.reference_system}
    return {**_kind(there), **kind, **size, PICTURES: 2 if options.in_raster2 else 1}


def _kind(chips: ChipFolder) -> dict[str, Any]:
    """What all chips of an export have in common, as far as the folder tells."""
    document = chips.definition.document
    kind = {key: document[key] for key in SAME if key in document}
    rasters = {"": ("AllTilesStats", chips.pictures), " of in_raster2": ("AllTilesStats2", chips.seconds)}
    for which, (key, pictures) in rasters.items():
        if names := [str(band.get("BandName")).lower() for band in document.get(key, ())]:
            kind[f"BandNames{which}"] = names
        if pictures:
            kind[f"pixel type{which}"] = str(read_raster(next(iter(pictures.values()))).pixels.dtype)
    return {**kind, PICTURES: 2 if chips.seconds else 1}


def _refuse_other(there: ChipFolder, wanted: Mapping[str, Any]) -> None:
    for key, mine in _kind(there).items():
        if mine != wanted.get(key):
            do = "add chips of the same kind, or export to another folder"
            what = f"the chips that are there have {key} {mine!r}"
            raise Conflict(what, where=there.path, got=wanted.get(key), do=do)


def _refuse_misfits(there: ChipFolder, new: ChipFolder) -> None:
    _refuse_other(there, _kind(new))
    if taken := sorted(set(there.pictures) & set(new.pictures)):
        free = int(max(name for name in there.pictures if name.isdigit())) + 1
        do = f"choose a start_index from {free} on"
        raise Conflict(f"{len(taken)} chips have numbers that are taken", where=there.path, got=taken[0], do=do)


def _write_joined(job: Job, there: ChipFolder, new: ChipFolder) -> None:
    """The documents of both together, in a folder that appears when it is whole."""
    part = new.path / f"{JOINED}.part"
    shutil.rmtree(part, ignore_errors=True)
    statistics = _statistics(there).merge(_statistics(new))
    _write_map(there.path, new.path, part)
    if there.splits or new.splits:
        write_text(part / SPLITS, json.dumps(_splits(there, new), indent=1))
    write_text(part / "stats.txt", statistics.text(there.tile_shape))
    write_text(part / ACCUMULATED, json.dumps(statistics.document(there.tile_shape, there.metadata_format)))
    _definition(there.definition.document, new.definition.document, statistics).write(part / DEFINITION)
    receipt.write(part, VERB, [*receipt.read(job.out, VERB), job.facts])
    part.rename(new.path / JOINED)


def _statistics(chips: ChipFolder) -> ChipStatistics:
    where = chips.home / ACCUMULATED
    return ChipStatistics.from_document(chips.accumulated, chips.listed, chips.format.CARRIES, where)


def _write_map(there: Path, new: Path, out: Path) -> None:
    texts = [(folder / "map.txt").read_bytes().decode() for folder in (there, new) if (folder / "map.txt").is_file()]
    write_text(out / "map.txt", "".join(texts))


def _splits(there: ChipFolder, new: ChipFolder) -> dict[str, list[str]]:
    """Names by part. A new chip on ground of a chip that is there, and of another part, is in none."""
    known = {part: shapely.STRtree(_ground(there, names)) for part, names in there.splits.items()}
    both = {part: list(names) for part, names in there.splits.items()}
    for part, names in new.splits.items():
        others = [tree for its, tree in known.items() if its != part]
        free = [not any(tree.query(box).size for tree in others) for box in _ground(new, names)]
        both.setdefault(part, []).extend(name for name, is_free in zip(names, free, strict=True) if is_free)
    return both


def _ground(chips: ChipFolder, names: Sequence[str]) -> NDArray[np.object_]:
    """(n,) What the chips cover, so that those which only touch do not meet."""
    return shrunk(np.array([chips.bounds(name) for name in names], np.float64).reshape(-1, 4))


def _definition(there: Mapping[str, Any], new: Mapping[str, Any], statistics: ChipStatistics) -> Emd:
    document = dict(there)
    rasters, more = there.get("InputRastersProps", {}), new["InputRastersProps"]
    count = rasters.get("RasterCount", 0) + more["RasterCount"]
    document["InputRastersProps"] = {**more, **rasters, "RasterCount": count}
    names = [band["BandName"] for band in new["AllTilesStats"]]
    document["AllTilesStats"] = [s.document() for s in statistics.bands(names)]
    # AllTilesStats2 stay those of the first pair: water_change learns better by them (docs/performance.md)
    if INSTANCE_CLASSES in new:
        both = {c["Name"]: c for c in (*there.get(INSTANCE_CLASSES, ()), *new[INSTANCE_CLASSES])}
        document[INSTANCE_CLASSES] = sorted(both.values(), key=lambda label: int(label["Value"]))
    for key, choose in (("MinCellSize", min), ("MaxCellSize", max)):
        known = [d[key] for d in (there, new) if isinstance(d.get(key), dict)]
        document[key] = choose(known, key=lambda cell: float(cell["x"]))
    return Emd(document)


def _join(out: Path) -> None:
    """May be ended by any rerun: what was moved is not there to move again."""
    adding, joined = out / ADDING, out / ADDING / JOINED
    definition = Emd.read(joined / DEFINITION)
    (out / DEFINITION).unlink(missing_ok=True)
    for path in [p for name in CONTENT for p in (adding / name).rglob("*") if p.is_file()]:
        target = out / path.relative_to(adding)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    for path in [p for p in joined.iterdir() if p.name != DEFINITION]:
        shutil.copyfile(path, out / path.name)
    chips = ChipFolder(out)
    chips.__dict__["definition"] = definition  # not on the disk yet
    gather = getattr(plugins.load(tasks.formats, chips.metadata_format), "finish", None)
    if gather:
        gather(out, tuple(chips.pictures), chips.listed)
    write_pages(out, definition)
    definition.write(out / DEFINITION)
    _delete(adding)
