"""Model versions: which packages there are, how good each is, and which one is in use.

How they come there: registry.publishing; how one comes into use: registry.promotion. The alias `challenger` is the
newest, `champion` the one in use. MLflow knows names, numbers, aliases and what one searches for; the manifest in the
store knows the rest.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import Conflict, NotFound, OptionsError, StoreError
from registry.files import atomic, sha256
from registry.settings import settings
from registry.stores import locate
from registry.tracking import connect, told

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,198}")
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
    """The whole versions of a model, newest first. Raises NotFound with the list of models."""
    check_name(name)
    client = connect()
    with told():
        found = [version_of(version) for version in search(client, f"name = '{name}'") if _is_whole(version)]
        aliases = aliases_of(client, name) if found else {}
    if not found:
        raise NotFound(f"no model {name!r}; there {_list(_names(client), 'model')}")
    return _with_aliases(found, {name: aliases})


def find(*, text: str = "", model_type: str = "", alias: str = "") -> list[Version]:
    """The whole versions of all models, by name and newest first; `text` is looked for in names and class names."""
    client = connect()
    with told():
        found = [version_of(version) for version in search(client, "") if _is_whole(version)]
        aliases = {name: aliases_of(client, name) for name in {version.name for version in found}}
    words = text.casefold()
    return [
        version
        for version in _with_aliases(found, aliases)
        if model_type in ("", version.model_type)
        and (not alias or alias in version.aliases)
        and words in " ".join((version.name, *version.classes)).casefold()
    ]


def of_package(sha256: str) -> list[Version]:
    """The whole versions, of any model, that are the package of this digest; without their aliases."""
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        return []
    client = connect()
    with told():
        return [version_of(v) for v in search(client, f"tags.sha256 = '{sha256}'") if _is_whole(v)]


def find_version(ref: ModelRef | str) -> Version:
    """The version behind a reference. Raises NotFound with what there is."""
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    known = versions(ref.name)
    if ref.number is not None:
        found = [version for version in known if version.number == ref.number]
    elif ref.alias:
        found = [version for version in known if ref.alias in version.aliases]
    else:
        found = [version for version in known if CHAMPION in version.aliases] or known[:1]
    if not found:
        there = _list([str(version.number) for version in reversed(known)], "version")
        aliases = _list(sorted(alias for version in known for alias in version.aliases), "alias")
        raise NotFound(f"no {ref}; there {there}, and there {aliases}")
    return found[0]


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


def search(client: "MlflowClient", text: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(text, max_results=1000, page_token=token)
        found += page
        if not (token := page.token):
            return found


def aliases_of(client: "MlflowClient", name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}


def _with_aliases(found: list[Version], aliases: Mapping[str, Mapping[str, int]]) -> list[Version]:
    def named(version: Version) -> Version:
        own = sorted(alias for alias, number in aliases[version.name].items() if number == version.number)
        return Version(**{**vars(version), "aliases": tuple(own)})

    return sorted(map(named, found), key=lambda version: (version.name, -version.number))


def _is_whole(version: Any) -> bool:
    return bool(
        version.status == "READY" and {"uri", "sha256", "size"} <= version.tags.keys() and "pruned" not in version.tags
    )


def version_of(version: Any) -> Version:
    tags = version.tags
    return Version(
        name=version.name,
        number=int(version.version),
        uri=tags["uri"],
        sha256=tags["sha256"],
        size=int(tags["size"]),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        scores=json.loads(tags.get("scores", "{}")),
        classes=tuple(json.loads(tags.get("classes", "[]"))),
        bands=tuple(json.loads(tags.get("bands", "[]"))),
        tags=tuple(json.loads(tags.get("tags", "[]"))),
        cell_size=json.loads(tags.get("cell_size", "null")),
        tile_size=int(tags.get("tile_size", 0)),
        imported="imported" in tags,
        run_id=version.run_id or None,
        notes={key: value for key, value in sorted(tags.items()) if key.endswith(_NOTES)},
        **{key: tags.get(key, "") for key in _TEXTS},
    )


_TEXTS = ("model_type", "framework", "model_configuration", "data_digest", "git_commit", "sensor", "parent")
_NOTES = (".since", ".until", ".reason", ".replaced", ".replaced_by", ".scores")


def _names(client: "MlflowClient") -> list[str]:
    with told():
        return sorted({version.name for version in search(client, "") if _is_whole(version)})


def _list(things: list[str], kind: str) -> str:
    return f"is no {kind}" if not things else f"{'is' if len(things) == 1 else 'are'} {', '.join(things)}"


# -- fetch -------------------------------------------------------------------------------------------------------------
def fetch(ref: ModelRef | str, into: Path | None = None) -> Path:
    """The .dlpk of a version, its sha256 checked: in the cache, or copied into the folder `into`.

    Raises Conflict when another file of that name is there, StoreError when the store gives other bytes.
    """
    version = find_version(ref)
    cached = settings().cache / "packages" / version.sha256 / f"{version.name}.dlpk"
    if not cached.exists() or sha256(cached) != version.sha256:
        store, key = locate(version.uri, depth=3)
        with atomic(cached) as part:
            store.get(key, part)
            if (got := sha256(part)) != version.sha256:
                do = "the store is damaged: publish the package again elsewhere"
                raise StoreError(f"expected the sha256 {version.sha256}", where=version.uri, got=got, do=do)
    return cached if into is None else _copy(cached, into / cached.name, version.sha256)


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
