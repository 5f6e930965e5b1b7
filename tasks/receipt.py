"""The receipt of a step: what went in, so that a rerun knows finished work, work to resume, and work of another kind.

Written as a hidden file before a step begins; the step's `.emd`, written last, says that it is finished.
"""

import json
from pathlib import Path
from typing import Any

from registry.errors import Conflict
from registry.files import write_text

NAME = ".receipt.json"


def claim(folder: Path, verb: str, facts: dict[str, Any]) -> None:
    """Take a folder for a step. Raises Conflict when it holds something else than an earlier try of the same step."""
    receipt = folder / NAME
    text = json.dumps({"verb": verb, **facts}, indent=2, sort_keys=True, default=str)
    if receipt.is_file():
        if receipt.read_text(encoding="utf-8") != text:
            do = "choose another folder, or delete this one to do it anew"
            raise Conflict(f"holds the result of another {verb}, made from other data or options", where=folder, do=do)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise Conflict("is not empty", where=folder, do="choose an empty or new folder")
    write_text(receipt, text)


def stamp(path: Path) -> dict[str, Any]:
    """What tells a changed input file from the same: its path, size and time of change."""
    facts = path.stat()
    return {"path": str(path.resolve()), "size": facts.st_size, "modified_ns": facts.st_mtime_ns}
