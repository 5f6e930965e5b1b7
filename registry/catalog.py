"""Model versions: which packages there are, how good each is, and which one is in use.

    <store>/roofs/<sha256>/roofs.dlpk      the package, under its content's name, never renamed
    <store>/roofs/<sha256>/manifest.json   written after it: what is known of it
    MLflow  roofs  version 7               written after both: tags uri, sha256, size, scores, ...
            alias challenger               the newest; champion is the one in use

Each step may be repeated, so a killed publish is completed by the next one, and what it left is never seen as whole.
"""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.dlpk import Package, digests, inspect
from registry.errors import Conflict, NotFound, OptionsError, PackageError, StoreError
from registry.files import atomic, sha256
from registry.settings import settings
from registry.stores import Store, locate, open_store
from registry.tracking import code, connect, told

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
    run_id: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)  # when and why it was promoted: champion.since, .reason, ...

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"

    def document(self) -> dict[str, Any]:
        return {"ref": self.ref, **asdict(self), "created": self.created.isoformat(timespec="seconds")}


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes the champion, and why in a sentence."""

    promote: bool
    why: str


# -- publish -----------------------------------------------------------------------------------------------------------
def publish(
    dlpk: Path, *, scores: Mapping[str, float], data_digest: str, git_commit: str, run_id: str | None = None
) -> Version:
    """Keep a package for good and register it as the newest version and challenger.

    The same bytes give the same version, whose first scores stand. Raises PackageError for a package that is damaged or
    misnamed, Conflict when the store holds other bytes in its place, StoreError when store or server are out of reach.
    """
    package = inspect(dlpk)
    if package.name != dlpk.stem:
        do = "ArcGIS Pro opens the .emd by the package's name: name both alike"
        raise PackageError(f"expected the file name {package.name}.dlpk", where=dlpk, got=dlpk.name, do=do)
    check_name(package.name)
    client, store = connect(), open_store(settings().store)
    facts = {"data_digest": data_digest, "git_commit": git_commit, "scores": _finite(scores)}
    manifest = {**_facts(package), **facts, "members": digests(dlpk)}
    place = f"{package.name}/{package.sha256}"
    uri = store.put(f"{place}/{package.name}.dlpk", dlpk)
    manifest = _put_manifest(store, f"{place}/manifest.json", manifest)
    number = _register(client, {**manifest, "uri": uri}, run_id)
    return find_version(ModelRef(package.name, number))


def _facts(package: Package) -> dict[str, Any]:
    emd = package.emd
    cell = emd.cell_size
    names = emd.document.get("InputRastersProps", {}).get("BandNames") or emd.extract_bands
    return {
        "name": package.name,
        "sha256": package.sha256,
        "size": package.size,
        "model_type": str(emd.model_type),
        "classes": [label.name for label in emd.classes],
        "bands": [str(band) for band in names],
        "cell_size": min(cell[:2]) if cell else None,
        "tile_size": emd.tile_size,
        "framework": str(emd.document.get("Framework", "")),
        "model_configuration": _configuration(emd.document.get("ModelConfiguration", "")),
    }


def _configuration(value: Any) -> str:
    return str(value.get("Name", "")) if isinstance(value, Mapping) else str(value)


def _put_manifest(store: Store, key: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest that counts: the first that was written for these bytes."""
    try:
        store.put_bytes(key, json.dumps(manifest, indent=2, sort_keys=True).encode())
    except Conflict:
        return dict(json.loads(store.get_bytes(key)))
    return manifest


def _register(client: "MlflowClient", facts: dict[str, Any], run_id: str | None) -> int:
    """The number of the version that holds these bytes; the newest becomes the challenger."""
    name, digest = facts["name"], facts["sha256"]
    with told():
        _make_model(client, name)
        number = _registered(client, name, digest)
        if number is None:
            # MLflow takes no file: address that lies outside a run; the tag has the true one
            source = facts["uri"] if facts["uri"].startswith("s3:") else f"dlpk://{name}/{digest}"
            made = int(client.create_model_version(name, source, run_id, tags=_tags(facts)).version)
            number = _registered(client, name, digest) or made
            if number != made:  # another publisher of the same bytes was quicker by a moment
                client.delete_model_version(name, str(made))
        aliases = _aliases(client, name)
        newest = max(int(version.version) for version in _search(client, f"name = '{name}'"))
        if number == newest and aliases.get(CHAMPION) != number and aliases.get(CHALLENGER) != number:
            client.set_registered_model_alias(name, CHALLENGER, str(number))
    return number


def _make_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(client: "MlflowClient", name: str, digest: str) -> int | None:
    found = _search(client, f"name = '{name}' and tags.sha256 = '{digest}'")
    return min((int(version.version) for version in found), default=None)


def _tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Everything one may look for; lists and numbers as JSON."""
    known = {key: value for key, value in facts.items() if key not in ("name", "members")}
    tags = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    scores = {f"score.{re.sub(r'[^A-Za-z0-9_. /:-]', '_', key)}": str(value) for key, value in facts["scores"].items()}
    return {**tags, **scores}


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in scores.items() if math.isfinite(value)}  # JSON knows no NaN


# -- find --------------------------------------------------------------------------------------------------------------
def versions(name: str) -> list[Version]:
    """The whole versions of a model, newest first. Raises NotFound with the list of models."""
    check_name(name)
    client = connect()
    with told():
        found = [_version(version) for version in _search(client, f"name = '{name}'") if _is_whole(version)]
        aliases = _aliases(client, name) if found else {}
    if not found:
        raise NotFound(f"no model {name!r}; there {_list(_names(client), 'model')}")
    return _with_aliases(found, {name: aliases})


def find(*, text: str = "", model_type: str = "", alias: str = "") -> list[Version]:
    """The whole versions of all models, by name and newest first; `text` is looked for in names and class names."""
    client = connect()
    with told():
        found = [_version(version) for version in _search(client, "") if _is_whole(version)]
        aliases = {name: _aliases(client, name) for name in {version.name for version in found}}
    words = text.casefold()
    return [
        version
        for version in _with_aliases(found, aliases)
        if model_type in ("", version.model_type)
        and (not alias or alias in version.aliases)
        and words in " ".join((version.name, *version.classes)).casefold()
    ]


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


def champion(name: str) -> Version | None:
    """The version in use; None when there is none, or no such model yet."""
    try:
        return find_version(ModelRef(name, alias=CHAMPION))
    except NotFound:
        return None


def _search(client: "MlflowClient", text: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(text, max_results=1000, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _aliases(client: "MlflowClient", name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}


def _with_aliases(found: list[Version], aliases: Mapping[str, Mapping[str, int]]) -> list[Version]:
    def named(version: Version) -> Version:
        own = sorted(alias for alias, number in aliases[version.name].items() if number == version.number)
        return Version(**{**vars(version), "aliases": tuple(own)})

    return sorted(map(named, found), key=lambda version: (version.name, -version.number))


def _is_whole(version: Any) -> bool:
    return bool(version.status == "READY" and {"uri", "sha256", "size"} <= version.tags.keys())


def _version(version: Any) -> Version:
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
        cell_size=json.loads(tags.get("cell_size", "null")),
        tile_size=int(tags.get("tile_size", 0)),
        run_id=version.run_id or None,
        notes={key: value for key, value in sorted(tags.items()) if key.endswith(_NOTES)},
        **{key: tags.get(key, "") for key in _TEXTS},
    )


_TEXTS = ("model_type", "framework", "model_configuration", "data_digest", "git_commit")
_NOTES = (".since", ".until", ".reason", ".replaced", ".replaced_by", ".scores")


def _names(client: "MlflowClient") -> list[str]:
    with told():
        return sorted({version.name for version in _search(client, "") if _is_whole(version)})


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


# -- promote -----------------------------------------------------------------------------------------------------------
def promote(
    name: str, number: int, alias: str = CHAMPION, *, reason: str = "", scores: Mapping[str, float] | None = None
) -> Version:
    """Give an alias to a version, and write to the old holder and the new one when and why.

    MLflow lets the last of two simultaneous promotions win, so hold a lock around it where that can happen.
    """
    check_alias(alias)
    new = find_version(ModelRef(name, number))
    old = next((version for version in versions(name) if alias in version.aliases), None)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    client = connect()
    with told():
        if old and old.number != number:
            for key, text in {"until": now, "replaced_by": str(number)}.items():
                client.set_model_version_tag(name, str(old.number), f"{alias}.{key}", text)
        notes = {"since": now, "reason": reason, "replaced": str(old.number) if old else ""}
        notes["scores"] = json.dumps(_finite(scores)) if scores else ""
        for key, text in notes.items():
            if text:
                client.set_model_version_tag(name, str(number), f"{alias}.{key}", text)
        client.set_registered_model_alias(name, alias, str(number))
    return find_version(ModelRef(new.name, number))


def decide(challenger: Mapping[str, float], champion: Mapping[str, float] | None, metric: str) -> Decision:
    """Whether the challenger is better: both were scored on the same chips, and more of `metric` is better."""
    mine = challenger.get(metric, math.nan)
    if not math.isfinite(mine):
        return Decision(False, f"the challenger has no {metric}")
    if champion is None:
        return Decision(True, f"there is no champion yet; the challenger has {metric} {mine:.4f}")
    theirs = champion.get(metric, math.nan)
    if not math.isfinite(theirs):
        return Decision(True, f"the champion has no {metric} here; the challenger has {mine:.4f}")
    word = "better than" if mine > theirs else "not better than"
    return Decision(mine > theirs, f"{metric} {mine:.4f} is {word} the champion's {theirs:.4f}")


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
