"""Change what a package says or holds, as its Properties window does (ArcGIS formats B.3).

The package is unpacked, changed and packed anew beside the old file, whose name it takes at the end. A change may leave
what was wrong before, but breaks no rule that held.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.archive import check_names
from registry.dlpk import ModelFolder, Package, definitions, inspect, unpack, write_archive
from registry.emd import Emd
from registry.errors import EmdError, NotFound, OptionsError, PackageError

MOST_TAGS = 128  # of ArcGIS's Share pane (ArcGIS formats B.3)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Changes:
    """What shall stand in a definition; None leaves it as it is, "" and () take it out."""

    description: str | None = None
    summary: str | None = None
    tags: Sequence[str] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # any other key; None takes it out
    class_names: Mapping[int, str] = field(default_factory=dict)  # Value -> new Name
    class_colors: Mapping[int, Color] = field(default_factory=dict)  # Value -> new Color, 0-255 each

    def apply(self, emd: Emd) -> Emd:
        """A changed copy. Raises OptionsError for a class that is not there and for too many tags."""
        if self.tags is not None and len(self.tags) > MOST_TAGS:
            raise OptionsError(f"expected at most {MOST_TAGS} tags", got=len(self.tags), do="leave some out")
        texts = {"Description": self.description, "Summary": self.summary}
        keys: dict[str, Any] = {key: text or None for key, text in texts.items() if text is not None}
        if self.tags is not None:
            keys["Tags"] = ", ".join(self.tags) or None
        if self.class_names or self.class_colors:
            keys |= _classes(emd, self.class_names, self.class_colors)
        return emd.replace(**keys, **self.arguments)


def edit(path: Path, changes: Changes, out: Path | None = None) -> Path:
    """Change the definition in a .dlpk, or an .emd beside its files; a new file, or in place.

    Raises EmdError when that would break a rule; then nothing is changed.
    """
    if path.suffix.lower() == ".emd":
        emd = Emd.read(path)
        changed = changes.apply(emd)
        _check(emd.problems(path.parent), changed, path.parent, path)
        return changed.write(out or path)

    def change(folder: ModelFolder) -> None:
        changes.apply(folder.emd).write(folder.emd_path)

    return rewrite(path, change, out)


def add_files(dlpk: Path, files: Mapping[str, Path], out: Path | None = None) -> Path:
    """Add files under their member names, or replace those that are there."""
    for name in files:
        if not name.isascii() or name.lower().endswith(".emd"):
            do = "rename it; change the definition with `dlpk edit`"
            raise PackageError("expected an ASCII name that is no .emd", where=dlpk, got=name, do=do)

    def change(folder: ModelFolder) -> None:
        check_names([*folder.members().keys() - files.keys(), *files], dlpk)
        for name, source in files.items():
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder.path / name)

    return rewrite(dlpk, change, out)


def remove_files(dlpk: Path, names: Sequence[str], out: Path | None = None) -> Path:
    """Remove members; what the definition needs stays. Raises NotFound with what there is."""

    def change(folder: ModelFolder) -> None:
        for name in names:
            if name not in (there := folder.members()):
                raise NotFound(f"no {name!r}; it holds {', '.join(there)}", where=dlpk)
            if there[name] == folder.emd_path:
                raise PackageError("expected its definition to stay", where=dlpk, got=name, do="remove another file")
            there[name].unlink()

    return rewrite(dlpk, change, out)


def rewrite(dlpk: Path, change: Callable[[ModelFolder], None], out: Path | None = None) -> Path:
    """Unpack, change, and pack all of it again; raises before anything is written."""
    out = out or dlpk
    with tempfile.TemporaryDirectory() as work:
        folder = unpack(dlpk, Path(work) / "model")
        before, named = folder.emd.problems(folder.path), folder.emd_path.stem == dlpk.stem
        change(folder)
        _check(before, folder.emd, folder.path, dlpk)
        name = definitions(folder.path)[0].stem
        if named and out.stem != name:
            do = f"a package is called like its definition: give a folder, as {out.parent / name}.dlpk"
            raise PackageError(f"expected the file name {name}.dlpk", where=out, got=out.name, do=do)
        return write_archive(folder.members(), out)


def renamed(dlpk: Path, name: str, out: Path) -> Path:
    """The same package under another name, which its definition takes too (ArcGIS formats B.1)."""

    def change(folder: ModelFolder) -> None:
        folder.emd.write(folder.path / f"{name}.part")  # also makes its text ASCII
        folder.emd_path.unlink()
        (folder.path / f"{name}.part").rename(folder.path / f"{name}.emd")

    return rewrite(dlpk, change, out)


def edited(path: Path) -> Package | Emd:
    """What an edit made."""
    return Emd.read(path) if path.suffix.lower() == ".emd" else inspect(path)


def _check(before: Sequence[str], after: Emd, folder: Path, where: Path) -> None:
    if broken := [problem for problem in after.problems(folder) if problem not in before]:
        raise EmdError("; ".join(broken), where=where, do="nothing was changed")


def _classes(emd: Emd, names: Mapping[int, str], colors: Mapping[int, Color]) -> dict[str, Any]:
    known = {label.value: label.name for label in emd.classes}
    if strange := sorted({*names, *colors} - known.keys()):
        raise OptionsError(f"expected a class Value of {sorted(known)}", where="class", got=strange[0])
    entries = [dict(entry) for entry in emd.document["Classes"]]
    for entry, value in zip(entries, known, strict=True):
        if value in names:
            entry["ClassName" if "ClassName" in entry else "Name"] = names[value]
        if value in colors:
            entry["Color"] = list(colors[value])
    return {"Classes": entries, **_scores({known[value]: name for value, name in names.items()}, emd)}


def _scores(new: Mapping[str, str], emd: Emd) -> dict[str, Any]:
    """The scores of each class, under its new name (ArcGIS formats C.4)."""
    changed = {}
    for key in ("average_precision_score", "per_class_metrics"):
        if isinstance(rows := emd.scores.get(key), dict):
            rows = {new.get(name, name): row for name, row in rows.items()}
            changed[key] = json.dumps(rows) if isinstance(emd.document[key], str) else rows
    return changed
