"""Model versions: which packages there are, how good each is, and which one is in use.

How they come there: registry.publishing; how one comes into use: registry.promotion. The alias `challenger` is the
newest, `champion` the one in use. MLflow knows names, numbers, aliases and what one searches for; the manifest in the
store knows the rest.
"""

import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from registry import signing
from registry.errors import Conflict, NotFound, OptionsError, StoreError
from registry.files import atomic, sha256, write_text
from registry.rows import WHOLE, WORKSPACE, Rows, reading
from registry.settings import settings
from registry.stores import locate

CHAMPION, CHALLENGER = "champion", "challenger"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,198}")
SCORE = "score."  # before the name of a score, in the key of a tag
FEW = 10  # names in an error
MEND = "the store is damaged: remove this object there and publish the same package again, or restore a backup"
_FORM = "write NAME, NAME@3 or NAME@champion"


@dataclass(frozen=True)
class ModelRef:
    """`roofs@7`, `roofs@champion`; `roofs` alone means its champion, or the newest while there is none."""

    name: str
    number: int | None = None
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Raises OptionsError."""
        name, at, version = text.strip().partition("@")
        check_name(name)
        if at and not re.fullmatch(r"[A-Za-z0-9_-]+", version):
            raise OptionsError("expected a version number or an alias behind the @", got=text, do=_FORM)
        if version.isascii() and version.isdecimal():
            return cls(name, number=int(version))
        return cls(name, alias=check_alias(version) if at else "")

    def __str__(self) -> str:
        version = self.alias or ("" if self.number is None else str(self.number))
        return f"{self.name}@{version}" if version else self.name


def is_reference(text: str) -> bool:
    """Whether a text may name a version, as `roofs@champion` does, and no path of a model."""
    path = PurePath(text)
    return len(path.parts) == 1 and path.suffix.lower() not in (".dlpk", ".emd")


@dataclass(frozen=True)
class Version:
    """One published package, whole: the file is in the store."""

    name: str
    number: int
    uri: str
    sha256: str
    size: int  # bytes
    created: datetime
    aliases: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    model_type: str = ""
    classes: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    cell_size: float | None = None  # smallest of the training imagery, in units of its spatial reference
    extent: tuple[float, ...] | None = None  # of the training ground: west, south, east, north in degrees
    tile_size: int = 0  # pixels
    framework: str = ""
    model_configuration: str = ""
    data_digest: str = ""
    git_commit: str = ""
    sensor: str = ""
    tags: tuple[str, ...] = ()
    parent: str = ""  # the version that was in use when this one came
    imported: bool = False  # made elsewhere: to be published here does not make its code ours
    run_id: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)  # when and why it was promoted: champion.since, .reason, ...

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"

    def document(self) -> dict[str, Any]:
        return {"ref": self.ref, **asdict(self), "created": self.created.isoformat(timespec="seconds")}


# -- find --------------------------------------------------------------------------------------------------------------
def versions(name: str) -> list[Version]:
    """The whole versions of a model, newest first. Raises NotFound with the models of like names."""
    with reading(check_name(name)) as rows:
        found = loaded(rows, [(name, number) for number in _numbers(rows, name)])
    if not found:
        raise _no_model(name)
    return found


def refs() -> set[str]:
    """Of all whole versions: roofs@7."""
    with reading() as rows:
        sql = f"SELECT v.name, v.version FROM model_versions v WHERE {WHOLE.format('v')}"
        return {f"{name}@{number}" for name, number in rows.scan(sql)}


@dataclass(frozen=True)
class Overview:
    """A model at a glance."""

    shown: Version  # the champion, or the newest while there is none
    scores: Mapping[int, Mapping[str, float]]  # by the number of each whole version, newest first


def overview(versions: Sequence[Version]) -> Overview:
    """Of all versions of a model, newest first."""
    shown = next((version for version in versions if CHAMPION in version.aliases), versions[0])
    return Overview(shown, {version.number: version.scores for version in versions})


def overviews(names: Sequence[str]) -> list[Overview]:
    """Of several models, in this order, in a few questions; a name that nothing has is left out."""
    scores: dict[str, dict[int, Mapping[str, float]]] = {name: {} for name in names}
    if not scores:
        return []
    with reading() as rows:
        sql = f"""SELECT v.name, v.version, s.value FROM model_versions v LEFT JOIN model_version_tags s
            ON s.{WORKSPACE} AND s.key = 'scores' AND s.name = v.name AND s.version = v.version
            WHERE v.name IN ({", ".join("?" * len(scores))}) AND {WHOLE.format("v")} ORDER BY v.version DESC"""
        for name, number, text in rows.ask(sql, tuple(scores)):
            scores[name][number] = json.loads(text or "{}")
        aliases = rows.aliases(names)
        keys = [(name, _in_use(found, aliases.get(name, {}))) for name, found in scores.items() if found]
        return [Overview(version, scores[version.name]) for version in loaded(rows, keys)]


def _in_use(numbers: Collection[int], aliases: Mapping[str, int]) -> int:
    """The champion of these, newest first, or the newest."""
    held = aliases.get(CHAMPION)
    return held if held is not None and held in numbers else next(iter(numbers))


def of_package(sha256: str) -> list[Version]:
    """The whole versions, of any model, that are the package of this digest."""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        return []
    sql = f"""SELECT v.name, v.version FROM model_version_tags s CROSS JOIN model_versions v
        WHERE s.{WORKSPACE} AND s.key = 'sha256' AND s.value = ?
        AND v.name = s.name AND v.version = s.version AND {WHOLE.format("v")}"""
    with reading(sha256=sha256) as rows:
        return loaded(rows, [(name, number) for name, number in rows.ask(sql, (sha256,))])


def find_version(ref: ModelRef | str) -> Version:
    """The version behind a reference. Raises NotFound with what there is."""
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    with reading(check_name(ref.name)) as rows:
        numbers = _numbers(rows, ref.name)
        aliases = rows.aliases([ref.name]).get(ref.name, {})
        wanted = aliases.get(ref.alias or CHAMPION) if ref.number is None else ref.number
        if ref.number is None and not ref.alias and wanted not in numbers:
            wanted = numbers[0] if numbers else None
        if wanted in numbers and (found := loaded(rows, [(ref.name, int(wanted))])):
            return found[0]
    if not numbers:
        raise _no_model(ref.name)
    there = _list([str(number) for number in reversed(numbers)], "version")
    known = _list(sorted(alias for alias, number in aliases.items() if number in numbers), "alias")
    raise NotFound(f"no {ref}; there {there}, and there {known}")


def manifest_of(version: Version) -> dict[str, Any]:
    """What was written down when it was published; {} when the store has no manifest."""
    store, key = locate(f"{version.uri.rpartition('/')[0]}/manifest.json", depth=3)
    try:
        return dict(json.loads(store.get_bytes(key)))
    except NotFound:
        return {}


def described(ref: ModelRef | str) -> dict[str, Any]:
    """All that is known of a version: its properties, its scores and what it was made from."""
    version = find_version(ref)
    manifest = manifest_of(version)
    made = {key: manifest[key] for key in ("evaluation", "environment", "recipe", "origin") if manifest.get(key)}
    return {**version.document(), **manifest.get("properties", {}), "scores": dict(version.scores), **made}


def champion(name: str) -> Version | None:
    """The version in use; None when there is none, or no such model yet."""
    try:
        return find_version(ModelRef(name, alias=CHAMPION))
    except NotFound:
        return None


def loaded(rows: Rows, keys: Sequence[tuple[str, int]]) -> list[Version]:
    """The versions of these names and numbers, in this order; what is not ours is left out."""
    known: dict[tuple[str, int], Version] = {}
    for i in range(0, len(keys), AT_ONCE):
        some = keys[i : i + AT_ONCE]
        aliases = rows.aliases(sorted({name for name, _ in some}))
        tags: dict[tuple[str, int], dict[str, str]] = {}
        for name, number, key, value in rows.of(some, "model_version_tags", ("key", "value")):
            tags.setdefault((name, number), {})[key] = value
        for name, number, created, run_id in rows.of(some, "model_versions", ("creation_time", "run_id")):
            own = sorted(alias for alias, held in aliases.get(name, {}).items() if held == number)
            if {"uri", "sha256", "size"} <= tags.get((name, number), {}).keys():
                facts = tags[name, number]
                known[name, number] = version_of(
                    name, number, created, facts, aliases=tuple(own), run_id=run_id or None
                )
    return [known[key] for key in keys if key in known]


def version_of(name: str, number: int, created: int, tags: Mapping[str, str], **more: Any) -> Version:
    """A version out of its tags; `created` in milliseconds."""
    return Version(
        name=name,
        number=int(number),
        uri=tags["uri"],
        sha256=tags["sha256"],
        size=int(tags["size"]),
        created=datetime.fromtimestamp(created / 1000, UTC),
        scores=json.loads(tags.get("scores", "{}")),
        classes=tuple(json.loads(tags.get("classes", "[]"))),
        bands=tuple(json.loads(tags.get("bands", "[]"))),
        tags=tuple(json.loads(tags.get("tags", "[]"))),
        cell_size=json.loads(tags.get("cell_size", "null")),
        extent=tuple(json.loads(tags["extent"])) if "extent" in tags else None,
        tile_size=int(tags.get("tile_size", 0)),
        imported="imported" in tags,
        notes={key: value for key, value in sorted(tags.items()) if key.endswith(_NOTES)},
        **{key: tags.get(key, "") for key in _TEXTS},  # type: ignore[arg-type]  # each of them is a text
        **more,
    )


AT_ONCE = 400  # versions in one question
_TEXTS = ("model_type", "framework", "model_configuration", "data_digest", "git_commit", "sensor", "parent")
_NOTES = (".since", ".until", ".reason", ".replaced", ".replaced_by", ".scores")


def _numbers(rows: Rows, name: str) -> list[int]:
    sql = f"SELECT v.version FROM model_versions v WHERE v.name = ? AND {WHOLE.format('v')} ORDER BY v.version DESC"
    return [number for (number,) in rows.ask(sql, (name,))]


def _no_model(name: str) -> NotFound:
    """With the models of like names, or all where they are few."""
    with reading() as rows:
        sql = f"SELECT DISTINCT v.name FROM model_versions v WHERE {WHOLE.format('v')} ORDER BY v.name"
        names = [known for (known,) in rows.ask(sql)]
    like = names if len(names) <= FEW else get_close_matches(name, names, FEW, 0.5)
    return NotFound(f"no model {name!r}; there {_list(like, 'model' if len(names) <= FEW else 'model of a like name')}")


def _list(things: list[str], kind: str) -> str:
    if len(things) > 3 * FEW:
        things = [*things[:FEW], "...", *things[-FEW:]]
    return f"is no {kind}" if not things else f"{'is' if len(things) == 1 else 'are'} {', '.join(things)}"


# -- fetch -------------------------------------------------------------------------------------------------------------
def fetch(ref: ModelRef | str, into: Path | None = None, *, signatures: bool = False, anew: bool = False) -> Path:
    """The .dlpk of a version, its sha256 checked: in the cache, or copied into the folder `into`.

    Its signatures come along where they are asked for, by `signatures` or by DLPK_SIGNERS. `anew` reads the store, past
    the cache. Raises Conflict when another file of that name is there, StoreError when the store gives other bytes.
    """
    version = find_version(ref)
    cached = settings().cache / "packages" / version.sha256 / f"{version.name}.dlpk"
    if anew or not cached.exists() or sha256(cached) != version.sha256:
        store, key = locate(version.uri, depth=3)
        with atomic(cached) as part:
            store.get(key, part)
            if (got := sha256(part)) != version.sha256:
                do = MEND
                raise StoreError(f"expected the sha256 {version.sha256}", where=version.uri, got=got, do=do)
    if signatures or settings().signers:
        store, key = locate(version.uri, depth=3)
        signing.bring(store, key, cached)
    if into is None:
        return cached
    copied = _copy(cached, into / cached.name, version.sha256)
    for signature in signing.signatures(cached):
        write_text(copied.with_name(signature.name), signature.read_text(encoding="utf-8"))
    return copied


def sign(ref: ModelRef | str, key: str) -> str:
    """Sign the package of a version; where the signature lies in the store. Another one of the same key stays."""
    version = find_version(ref)
    text = signing.signature(fetch(ref), key)
    store, place = locate(version.uri, depth=3)
    return f"{store.uri}/{signing.keep(store, place, text)}"


def _copy(source: Path, target: Path, digest: str) -> Path:
    if target.exists():
        if sha256(target) == digest:
            return target
        raise Conflict("another file of this name is there", where=target, do="remove it or choose another folder")
    with atomic(target) as part:
        shutil.copyfile(source, part)
    return target


# -- names -------------------------------------------------------------------------------------------------------------
def check_name(name: str) -> str:
    """The name. Raises OptionsError for one that some store, server or file system would not take."""
    if not _NAME.fullmatch(name) or name.lower() == "latest":
        do = "use letters, digits and - _ . (at most 199, the first a letter or digit), and not `latest`"
        raise OptionsError("expected a model name", got=name, do=do)
    return name


def check_alias(alias: str) -> str:
    """The alias. Raises OptionsError for one that MLflow keeps for itself."""
    if not re.fullmatch(r"[A-Za-z_-][A-Za-z0-9_-]{0,99}", alias) or re.fullmatch(r"(?i)latest|v\d+", alias):
        do = "use a word such as champion; `latest` and `v3` are taken, write NAME@3 for a number"
        raise OptionsError("expected an alias", got=alias, do=do)
    return alias
