"""Share a model: its folder goes into one deep learning package, name.dlpk (ArcGIS formats B)."""

from collections.abc import Sequence
from pathlib import Path

from registry.dlpk import ModelFolder, pack
from registry.errors import OptionsError

MOST_TAGS = 128  # of ArcGIS's Share pane (ArcGIS formats B.3)


def package_model(
    model: ModelFolder, out: Path, *, description: str = "", summary: str = "", tags: Sequence[str] = ()
) -> Path:
    """Pack a model folder. `out` is `<model name>.dlpk`; equal folders give equal bytes.

    Description, Summary and Tags go into the definition, where they are given. Raises EmdError when the model breaks a
    rule, OptionsError for too many tags, StoreError when the disk is full.
    """
    if len(tags) > MOST_TAGS:
        raise OptionsError(f"expected at most {MOST_TAGS} tags", got=len(tags), do="leave some out")
    words = {"Description": description, "Summary": summary, "Tags": ", ".join(tags)}
    given = {key: text for key, text in words.items() if text}
    if given and any(model.emd.document.get(key) != text for key, text in given.items()):
        model.emd.replace(**given).write(model.emd_path)
        model = ModelFolder(model.path)
    return pack(model, out)
