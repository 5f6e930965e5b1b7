"""What a model was made of and measured on: the facts of a folder of chips, and of the machine.

They lie in the page of a model folder, `model_metrics.html`, where `facts_in` finds them again.
"""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import shapely

from tasks.chips import ChipFolder

FACTS = '<script type="application/json" id="facts">'
PAGE = "model_metrics.html"


def facts_in(page: Path) -> dict[str, Any]:
    """What a page was made from; {} where there is none, or another program wrote it."""
    if not page.is_file():
        return {}
    _, _, rest = page.read_text(encoding="utf-8", errors="replace").partition(FACTS)
    try:
        facts = json.loads(rest.partition("</script>")[0])
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def learnt(model: Path, chips: ChipFolder) -> bool:
    """Whether the model of a folder was trained on the chips that it is to be scored on, as far as its page tells."""
    training = facts_in(model / PAGE).get("data", {}).get("training", {})
    known = training.get("digests") or [training.get("digest")]
    return not chips.splits.get("test") and chips.digest in known


def flattered(name: str) -> str:
    """What is to be said of the scores of such a model."""
    do = "score it on others: those of another scene, or the part test of a split export"
    return f"{name} was trained on these chips, and does worse on ground that it has not seen; {do}"


def described(
    chips: ChipFolder, names: Sequence[str] | None = None, of: Mapping[str, int | str] | None = None
) -> dict[str, Any]:
    """Of all chips or of those named: how many, of what, and where they lie; plain JSON values.

    `of`: what they show, by class; None = the objects that the export counted, where all of them are meant.
    """
    chosen = chips.names if names is None else names
    cell = chips.definition.cell_size
    facts = {
        "chips": len(chosen),
        "of": of or (_objects(chips) if len(chosen) == len(chips.names) else {}),
        "tile_size": f"{chips.tile_shape[1]} × {chips.tile_shape[0]} pixels",
        "cell_size": f"{cell[0]:g}" if cell else "",
        "coordinate_system": f"EPSG:{cell[2]}" if cell and len(cell) > 2 and cell[2] else "",
        "bands": [s.name for s in chips.band_statistics],
        "metadata_format": chips.definition.metadata_format,
        "digest": chips.digest,
        "digests": list(chips.digests),
        "outline": outline(chips, chosen),
    }
    return {key: value for key, value in facts.items() if value}


def shares(pixels: Mapping[str, int]) -> dict[str, int | str]:
    """Of each class that is there, as people read it: 12.5 %, in one line."""
    whole = sum(pixels.values())
    return {name: f"{100 * n / whole:.1f}\u00a0%" for name, n in pixels.items() if n}


def outline(chips: ChipFolder, names: Sequence[str]) -> list[list[tuple[float, float]]]:
    """Rings of the ground that the chips cover together, in map units, to a thousandth of a chip.

    Those of gaps within, as blocks of another part leave them, run the other way round.
    """
    boxes = [shapely.box(*chips.bounds(name)) for name in names]
    digits = max(2, 3 - math.floor(math.log10(min((box.length / 4 for box in boxes), default=1.0))))
    parts = shapely.get_parts(shapely.orient_polygons(shapely.union_all(boxes).simplify(0)))
    rings = [ring for part in parts if hasattr(part, "exterior") for ring in (part.exterior, *part.interiors)]
    return [[(round(x, digits), round(y, digits)) for x, y in ring.coords] for ring in rings]


def _objects(chips: ChipFolder) -> dict[str, int]:
    """Objects of each class, where the export counted them (ArcGIS formats D.5)."""
    counted: Mapping[str, Any] = chips.accumulated
    per_class = (counted.get("FeatureStats") or {}).get("NumFeaturesPerClass") or []
    return {str(c.get("ClassName")): int(n) for c, n in zip(counted.get("Classes") or [], per_class, strict=False)}


def machine() -> dict[str, str]:
    """What the training ran on: processor, memory, GPUs and the versions that matter."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "processor": _processor(),
        "cores": str(cores),
        "memory": f"{memory / 2**30:.0f} GiB" if memory else "",
        "gpu": ", ".join(gpus) or "none",
        "system": f"{platform.system()} {platform.release()}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
    return {key: value for key, value in facts.items() if value}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
