"""Share a model: its folder goes into one deep learning package, name.dlpk (ArcGIS formats B)."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from registry.dlpk import ModelFolder, pack
from registry.editing import Changes

Flavour = Literal["self-contained", "extension"]
FLAVOURS: tuple[str, ...] = get_args(Flavour)


def package_model(
    model: ModelFolder,
    out: Path,
    *,
    flavour: Flavour = "self-contained",
    description: str = "",
    summary: str = "",
    tags: Sequence[str] = (),
) -> Path:
    """Pack a model folder. `out` is `<model name>.dlpk`; equal folders give equal bytes.

    `flavour`: self-contained, with our raster function, which any ArcGIS Pro with torch runs; or extension, which
    arcgis.learn opens, runs and trains on, too. Description, Summary and Tags go into the definition, where they are
    given. Raises EmdError when the model breaks a rule, OptionsError for too many tags or a model that cannot be an
    extension, StoreError when the disk is full.
    """
    words = Changes(description=description or None, summary=summary or None, tags=tags or None).apply(model.emd)
    if words != model.emd:
        words.write(model.emd_path)
        model = ModelFolder(model.path)
    if flavour == "self-contained":
        return pack(model, out)
    from tasks.extension import extension_of

    with TemporaryDirectory() as folder:
        return pack(extension_of(model, Path(folder) / model.name), out)
