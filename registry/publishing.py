"""Publish a package: it gets a number, and a manifest says for good what it is and what it was made from.

    <store>/roofs/<sha256>/roofs.dlpk      the package, under its content's name, never renamed
    <store>/roofs/<sha256>/roofs.dlpk.<key>.sig    its signatures, if it is signed
    <store>/roofs/<sha256>/manifest.json   written after it: members, data, code, environment, recipe, scores, parent
    <store>/roofs/<sha256>/item.json       the same as a STAC item with the Machine Learning Model extension
    MLflow  roofs  version 7               written after all of them: tags uri, sha256, size, scores, ...
            alias challenger               the newest

Each step may be repeated, so a killed publish is completed by the next one, and what it left is never seen as whole.
"""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import signing, stac
from registry.catalog import (
    CHALLENGER,
    CHAMPION,
    SCORE,
    ModelRef,
    Version,
    champion,
    check_name,
    find_version,
)
from registry.dlpk import Package, survey
from registry.errors import Conflict, PackageError
from registry.properties import of_package
from registry.rows import DELETED, TAG_OF, WHOLE, WORKSPACE, reading
from registry.secrets import plain
from registry.settings import settings
from registry.stores import Store, open_store
from registry.tracking import code, connect, metric_name, patiently, told

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_TAG = 100_000  # characters that MLflow takes
NO_TAGS = (
    "name",
    "members",
    "properties",
    "environment",
    "recipe",
    "evaluation",
    "origin",
)  # the manifest alone tells them
SOFTWARE = ("dlpk-flows", "torch", "torchvision", "pytorch-lightning", "numpy", "rasterio", "albumentations", "timm")


def publish(
    dlpk: Path,
    *,
    scores: Mapping[str, float],
    data_digest: str,
    git_commit: str,
    run_id: str | None = None,
    made: Mapping[str, Any] | None = None,
) -> Version:
    """Keep a package for good and register it as the newest version and challenger.

    `made` tells more of where it came from, as JSON values: recipe, evaluation (with intervals), environment, origin,
    and extent, where the chips lie: {"bbox": [west, south, east, north], "geometry": GeoJSON}, in degrees.
    The same bytes give the same version, whose first manifest stands. Raises PackageError for a package that is damaged
    or misnamed, Conflict when the store holds other bytes in its place, StoreError when store or server are out of
    reach.
    """
    package, members = survey(dlpk)
    if package.name != dlpk.stem:
        do = "ArcGIS Pro opens the .emd by the package's name: name both alike"
        raise PackageError(f"expected the file name {package.name}.dlpk", where=dlpk, got=dlpk.name, do=do)
    check_name(package.name)
    client, store = connect(), open_store(settings().store)
    facts = {"data_digest": data_digest, "git_commit": git_commit, "scores": finite(scores), "run_id": run_id}
    manifest = {**_facts(package), **facts, "members": members, "parent": _parent(package), **(made or {})}
    lay = partial(_lay, store, dlpk, package, _signatures(dlpk))
    uri, manifest = lay(manifest)
    number = _register(client, {**manifest, "uri": uri}, run_id)
    files = (f"{package.name}.dlpk", "manifest.json", "item.json")
    if not all(store.exists(f"{package.name}/{package.sha256}/{file}") for file in files):
        lay(manifest)  # a prune of the same bytes has run at this moment
    return find_version(ModelRef(package.name, number))


def _lay(
    store: Store, dlpk: Path, package: Package, signatures: Sequence[str], manifest: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Package, signatures, manifest and STAC item into the store; the address, and the manifest that counts."""
    place = f"{package.name}/{package.sha256}"
    uri = store.put(f"{place}/{package.name}.dlpk", dlpk, package.sha256)
    for signature in signatures:
        signing.keep(store, f"{place}/{package.name}.dlpk", signature)
    manifest = _keep(store, f"{place}/manifest.json", manifest)
    _keep(store, f"{place}/item.json", stac.item(package.emd, manifest, uri))
    return uri, manifest


def _signatures(dlpk: Path) -> list[str]:
    """Those beside the package, and one of our own where there is a key."""
    found = [path.read_text(encoding="utf-8", errors="replace") for path in signing.signatures(dlpk)]
    return [*found, *([signing.signature(dlpk, key)] if (key := settings().sign_key) else [])]


def environment() -> dict[str, str]:
    """The versions that matter, of this process."""
    found = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in SOFTWARE:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def finite(scores: Mapping[str, float]) -> dict[str, float]:
    """JSON knows no NaN."""
    return {key: float(value) for key, value in scores.items() if math.isfinite(value)}


def _facts(package: Package) -> dict[str, Any]:
    emd = package.emd
    cell = emd.cell_size
    return {
        "name": package.name,
        "sha256": package.sha256,
        "size": package.size,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_type": str(emd.model_type),
        "classes": [label.name for label in emd.classes],
        "bands": list(emd.band_names),
        "sensor": emd.sensor,
        "tags": list(emd.tags),
        "cell_size": min(cell[:2]) if cell else None,
        "tile_size": emd.tile_size,
        "framework": str(emd.document.get("Framework", "")),
        "model_configuration": emd.model_configuration,
        "environment": environment(),
        "properties": of_package(package),
    }


def _parent(package: Package) -> str:
    """The version that was in use when this one came, "" when none was."""
    known = champion(package.name)
    return known.ref if known and known.sha256 != package.sha256 else ""


def _keep(store: Store, key: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document that counts: the first that was written for these bytes."""
    try:
        kept: dict[str, Any] = plain(document)
        store.put_bytes(key, json.dumps(kept, indent=2, sort_keys=True, default=str, allow_nan=False).encode())
    except Conflict:
        return dict(json.loads(store.get_bytes(key)))
    return kept


def _register(client: "MlflowClient", facts: dict[str, Any], run_id: str | None) -> int:
    """The number of the version that holds these bytes; the newest becomes the challenger."""
    name, digest = facts["name"], facts["sha256"]
    with told():
        patiently(partial(_make_model, client, name))
        number = _registered(name, digest)
        if number is None:
            # MLflow takes no file: address that lies outside a run; the tag has the true one
            source = facts["uri"] if facts["uri"].startswith("s3:") else f"dlpk://{name}/{digest}"
            create = client.create_model_version
            made = int(patiently(lambda: create(name, source, run_id, tags=_tags(facts))).version)
            number = _registered(name, digest) or made
            if number != made:  # another publisher of the same bytes was quicker by a moment
                patiently(partial(client.delete_model_version, name, str(made)))
        if number == _newest(name):
            _challenge(client, name)
    return number


def _challenge(client: "MlflowClient", name: str) -> None:
    """The newest becomes the challenger, also when a newer one comes meanwhile, or the newest is taken back."""
    from mlflow.exceptions import MlflowException

    known = 0
    while (newest := _newest(name)) not in (0, known):
        known = newest
        with reading(name) as rows:
            aliases = rows.aliases([name]).get(name, {})
        if newest in (aliases.get(CHAMPION), aliases.get(CHALLENGER)):
            continue
        try:
            patiently(partial(client.set_registered_model_alias, name, CHALLENGER, str(newest)))
        except MlflowException as error:  # another publisher of the same bytes has just deleted its own
            if code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise


def _newest(name: str) -> int:
    sql = f"SELECT max(version) FROM model_versions WHERE {WORKSPACE} AND name = ? AND current_stage <> '{DELETED}'"
    with reading(name) as rows:
        return int(rows.ask(sql, (name,))[0][0] or 0)


def _make_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(name: str, digest: str) -> int | None:
    sql = f"""SELECT min(v.version) FROM model_versions v WHERE v.name = ? AND {WHOLE.format("v")} AND EXISTS
        (SELECT 1 FROM model_version_tags t WHERE {TAG_OF.format("v")} = 'sha256' AND t.value = ?)"""
    with reading(name) as rows:
        found = rows.ask(sql, (name, digest))[0][0]
    return None if found is None else int(found)


def _tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Everything one may look for; lists and numbers as JSON. What is too long for a tag only the manifest tells."""
    known = {key: value for key, value in facts.items() if key not in NO_TAGS}
    if isinstance(known.get("extent"), Mapping):
        known["extent"] = known["extent"]["bbox"]
    tags = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in known.items()
    }
    if facts.get("origin"):
        tags["imported"] = "true"
    scores = {metric_name(f"{SCORE}{key}"): str(value) for key, value in facts["scores"].items()}
    return {key: value for key, value in {**tags, **scores}.items() if len(value) <= LONGEST_TAG}
