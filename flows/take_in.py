"""Import: models that were made elsewhere, from one file or from a place where people drop them (prefect.yaml).

Nothing of them is run. The same package gives the same version, so a place may be looked through again and again; what
a prune has removed comes back only when it is named itself.
"""

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow

from flows.happenings import tell_of
from flows.listening import publish_report, say
from flows.pages import imports_page
from flows.patience import patiently
from flows.steps import step
from registry import catalog, scenes
from registry.dlpk import definitions
from registry.errors import DlpkError, OptionsError, Pruned, StoreError
from registry.importing import import_model
from registry.records import few
from registry.scenes import Scene, Search

SETTLE = 60.0  # seconds that a package must have been left alone


@flow(name="import")
def take_in(place: str = "inbox", name: str = "", note: str = "", trust: bool = False) -> str:
    """Register models that were made elsewhere; returns the references of their versions.

    Args:
        place: a .dlpk, an .emd or a model folder; or where packages lie: a folder or s3://bucket/prefix
        name: name in the registry, for a single model; empty: that of its definition
        note: where it came from; it is kept with the version
        trust: take it even if its weights run code when they are loaded
    """
    known, records, there = patiently(catalog.refs), list[dict[str, Any]](), packages(place)
    if waiting := len(packages(place, settle=0)) - len(there):
        say(f"{waiting} more were changed less than a minute ago, and wait for the next run: {place}")
    if name and len(there) > 1:
        do = "leave it empty: each gets that of its definition"
        raise OptionsError(f"is for a single model, and {len(there)} lie at {place}", where="name", got=name, do=do)
    again = _is_single(place)
    if strays := () if again else [path.name for path in definitions(Path(place))]:
        say(f"{few(strays)} is left alone, as packages lie there, too; give it by its own path: {place}")
    for package in there:
        records.append(record := take(package, name, note or package.place, trust=trust, again=again))
        if "ref" in record and record["ref"] not in known:
            known.add(record["ref"])
            tell_of("dlpk.model.published", catalog.find_version(record["ref"]))
    report(place, records)
    errors = [record["error"] for record in records if "error" in record]
    if errors and len(errors) == len(records):
        raise DlpkError("no package could be imported", where=place, do=f"see the page; {errors[0]}")
    return ", ".join(record["ref"] for record in records if "ref" in record)


def packages(place: str, *, settle: float = SETTLE) -> list[Scene]:
    """Those of a place that were left alone for so long; a model folder and a single file are one. Raises NotFound."""
    if _is_single(place):
        path = Path(place)
        return [Scene(path.name, "", str(path), "file")]
    return _lying(place, settle)


def _lying(place: str, settle: float) -> list[Scene]:
    return list(scenes.find(place, Search(suffixes=(".dlpk",), settle=settle)))


def _is_single(place: str) -> bool:
    """A file, or a model's folder: no package but its own lies there."""
    if "://" in place:
        return False
    names = {path.stem.casefold() for path in definitions(Path(place))}
    packed = {Path(one.id).stem.casefold() for one in _lying(place, settle=0)} if names else set()
    return Path(place).is_file() or (bool(names) and packed <= names)


def _take(package: Scene, name: str, note: str, *, trust: bool, again: bool) -> dict[str, Any]:
    """Which version it became, or why it became none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = scenes.fetch(package, Path(folder))
            version, needs = import_model(file, name, note=note, trust=trust, again=again)
        except StoreError:
            raise  # waiting may heal that
        except Pruned as error:
            say(f"{package.id} is passed over: it {error.what}")
            return {"package": package.id, "passed_over": error.what}
        except DlpkError as error:
            say(f"{package.id}: {error}")
            return {"package": package.id, "error": str(error)}
    return {"package": package.id, "ref": version.ref, "kind": needs.kind, "runs_with": needs.runs_with}


def _report(place: str, records: list[dict[str, Any]]) -> None:
    markdown, rows = imports_page(place, records)
    publish_report("import", markdown, rows)


take = step(_take, hours=2, retries=3)
report = step(_report, hours=1, retries=3)
