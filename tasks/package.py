"""Share a model: its folder goes into one deep learning package, name.dlpk (ArcGIS formats B)."""

from collections.abc import Sequence
from pathlib import Path

from registry.dlpk import ModelFolder, pack
from registry.editing import Changes


def package_model(
    model: ModelFolder, out: Path, *, description: str = "", summary: str = "", tags: Sequence[str] = ()
) -> Path:
    """Pack a model folder. `out` is `<model name>.dlpk`; equal folders give equal bytes.

    Description, Summary and Tags go into the definition, where they are given. Raises EmdError when the model breaks a
    rule, OptionsError for too many tags, StoreError when the disk is full.
    """
    words = Changes(description=description or None, summary=summary or None, tags=tags or None).apply(model.emd)
    if words != model.emd:
        words.write(model.emd_path)
        model = ModelFolder(model.path)
    return pack(model, out)
