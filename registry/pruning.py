"""Forget old versions: those of which nobody can say why they should be kept.

Kept are the newest of each model, every version with an alias, and what those refer to: the version that was in use
when they came, and those before and after them as champion, so that a rollback finds them. A version is first marked,
so that nobody sees it any more, then its files go, then its number: a killed run is completed by the next one. The
files stay where the same bytes were published again meanwhile, since they are those of the new version. What went is
remembered in a tag of the model, `pruned.<sha256>`, so that no place that is looked through again brings it back.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry import history
from registry.catalog import CHAMPION, Version, find_version, loaded, of_package, versions
from registry.errors import NotFound, OptionsError
from registry.rows import DELETED, PRUNED, WORKSPACE, reading
from registry.searching import Wanted, search
from registry.stores import locate
from registry.tracking import connect, patiently, told

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFERENCES = ("replaced", "replaced_by")  # notes of a promotion


@dataclass(frozen=True)
class Pruning:
    """What goes, and what stays beyond the newest and why."""

    remove: tuple[Version, ...]
    keep: dict[str, str]  # ref -> why

    def document(self) -> dict[str, Any]:
        size = sum(version.size for version in self.remove)
        return {"remove": [version.ref for version in self.remove], "bytes": size, "keep": self.keep}


def prune(keep: int, *, name: str = "", dry_run: bool = False) -> Pruning:
    """Remove all but the newest `keep` of each model, or of one. Raises OptionsError when that would leave none."""
    if keep < 1:
        raise OptionsError("expected to keep at least 1 version", where="--keep", got=keep)
    models: dict[str, list[Version]] = {}
    for version in versions(name) if name else search(Wanted()):
        models.setdefault(version.name, []).append(version)
    chosen = [_divided(known, keep) for known in models.values()]
    remove = tuple(version for part in chosen for version in part.remove)
    plan = Pruning(remove, {ref: why for part in chosen for ref, why in part.keep.items()})
    if dry_run:
        return plan
    client = connect()
    gone: list[Version] = []
    for version in plan.remove:
        if _is_free(version):
            _remove(client, version)
            gone.append(version)
    for version in _marked(name):  # what a killed run left
        _remove(client, version)
    return replace(plan, remove=tuple(gone))


def removed(name: str, sha256: str) -> str:
    """The reference under which a prune removed this package; "" when none did, or it was published again."""
    sql = f"SELECT value FROM registered_model_tags WHERE {WORKSPACE} AND name = ? AND key = ?"
    with reading(name) as rows:
        found = rows.ask(sql, (name, f"{PRUNED}.{sha256}"))
    return str(found[0][0]) if found and not of_package(sha256) else ""


def _divided(known: list[Version], keep: int) -> Pruning:
    """`known` are the versions of one model, newest first."""
    stay = {version.number for version in known[:keep]}
    why = {v.number: f"is {', '.join(v.aliases)}" for v in known if v.aliases}
    why = {**dict(_before(known)), **dict(_referenced(v for v in known if v.number in stay | why.keys())), **why}
    numbers = {version.number: version.ref for version in known}
    kept = {numbers[n]: text for n, text in sorted(why.items()) if n in numbers and n not in stay}
    return Pruning(tuple(v for v in known if v.number not in stay | why.keys()), kept)


def _before(known: list[Version]) -> Iterator[tuple[int, str]]:
    """The version that a rollback would take."""
    numbers = {version.number for version in known}
    for holder in (version for version in known if CHAMPION in version.aliases):
        before = history.predecessors(history.history(holder.name), holder.number)
        yield from [(n, f"was champion before {holder.ref}") for n in before if n in numbers][:1]


def _referenced(versions: Iterable[Version]) -> Iterator[tuple[int, str]]:
    for version in versions:
        parent = version.parent.removeprefix(f"{version.name}@")
        if parent.isdecimal():
            yield int(parent), f"was in use when {version.ref} came"
        for note, number in version.notes.items():
            if note.endswith(REFERENCES) and number.isdecimal():
                yield int(number), f"{version.ref} tells of it as {note.partition('.')[0]}"


def _is_free(version: Version) -> bool:
    """Still: a long pruning leaves people time to promote one, or to prune as well."""
    try:
        return not find_version(version.ref).aliases
    except NotFound:
        return False


def _remove(client: "MlflowClient", version: Version) -> None:
    with suppress(NotFound), told():  # another prune was quicker
        patiently(client.set_model_version_tag, version.name, str(version.number), PRUNED, "true")
        patiently(client.set_registered_model_tag, version.name, f"{PRUNED}.{version.sha256}", version.ref)
    store, key = locate(version.uri, depth=3)
    beside = store.list(f"{key.rpartition('/')[0]}/")
    for file in (*(file for file in beside if file != key), key):
        if of_package(version.sha256):
            break
        store.delete(file)
    with suppress(NotFound), told():
        patiently(client.delete_model_version, version.name, str(version.number))


def _marked(name: str) -> list[Version]:
    sql = f"""SELECT v.name, v.version FROM model_version_tags t JOIN model_versions v ON v.workspace = t.workspace
        AND v.name = t.name AND v.version = t.version WHERE t.workspace = 'default' AND t.key = '{PRUNED}'
        AND v.current_stage <> '{DELETED}'"""
    with reading(name) as rows:
        return loaded(rows, [(known, number) for known, number in rows.ask(sql) if name in ("", known)])
