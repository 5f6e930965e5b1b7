"""`dlpk doctor`: everything that a run needs, asked one by one; what is wrong comes with what to do."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import httpx
from packaging.requirements import Requirement
from packaging.version import Version
from prefect.settings import PREFECT_API_URL

from flows import gpus
from infra import api
from registry.errors import DlpkError
from registry.secrets import bare
from registry.settings import settings
from registry.stores import open_store
from registry.tracking import connect

FREE_BYTES = 10 * 2**30  # a training's chips, checkpoints and cache
WORST = ("ok", "note", "wrong")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str  # ok, note: works without it, wrong
    found: str
    do: str = ""


def examine() -> list[Finding]:
    """Look at everything, several at a time."""
    checks = (_python, _versions, _home, _store, _mlflow, _prefect, _results, _gpu)
    with ThreadPoolExecutor(len(checks)) as threads:
        return [finding for found in threads.map(_safely, checks) for finding in found]


def _safely(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check that fails is a finding, too."""
    try:
        return list(check())
    except (DlpkError, OSError, httpx.HTTPError) as error:
        do = getattr(error, "do", "") or "read the message"
        return [Finding(check.__name__.lstrip("_"), "wrong", str(error), do)]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "wrong", found, "use Python 3.11 or newer")


def _versions() -> Iterator[Finding]:
    """Every installed dependency against the range that this software was made for: pairs break silently."""
    wrong = []
    for line in importlib.metadata.requires("dlpk-flows") or []:
        wanted = Requirement(line)
        try:
            there = Version(importlib.metadata.version(wanted.name))
        except importlib.metadata.PackageNotFoundError:
            if not wanted.marker:
                wrong.append(f"{wanted.name} is missing")
            continue
        if there not in wanted.specifier:
            wrong.append(f"{wanted.name} {there}, expected {wanted.specifier}")
    do = "pip install -e '.[train,local]' -c constraints.txt"
    yield Finding("package versions", "wrong" if wrong else "ok", "; ".join(sorted(set(wrong))) or "as required", do)


def _home() -> Iterator[Finding]:
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    probe = home / f".doctor-{uuid4().hex}"
    probe.touch()
    probe.unlink()
    free = shutil.disk_usage(home).free
    state = "ok" if free >= FREE_BYTES else "wrong"
    yield Finding("disk", state, f"{free / 2**30:.0f} GiB free in {home}", "free some, or set DLPK_HOME elsewhere")


def _store() -> Iterator[Finding]:
    yield _writable("store", settings().store)


def _results() -> Iterator[Finding]:
    yield _writable("results", settings().results)


def _writable(what: str, uri: str) -> Finding:
    """Written, read and removed: the address, the bucket and the rights of the keys at once."""
    store, key = open_store(uri), f"doctor/{uuid4().hex}"
    store.put_bytes(key, b"doctor")
    try:
        if store.get_bytes(key) != b"doctor":
            return Finding(what, "wrong", f"{uri} gives other bytes than it was given", "look at the S3 server")
    finally:
        store.delete(key)
    return Finding(what, "ok", f"{uri} can be written and read")


def _mlflow() -> Iterator[Finding]:
    uri = settings().tracking_uri
    client = connect()
    client.search_experiments(max_results=1)
    yield Finding("MLflow", "ok", bare(uri))
    if uri.startswith("http"):
        theirs = httpx.get(f"{uri.rstrip('/')}/version", timeout=10).text.strip()
        yield _pair("MLflow", importlib.metadata.version("mlflow"), theirs)


def _prefect() -> Iterator[Finding]:
    url = PREFECT_API_URL.value()
    if not url:
        yield Finding("Prefect", "note", "no server is set; flows run here", "export PREFECT_API_URL, or dlpk up")
        return
    with api.server(10) as ask:
        ask("/health")
        yield Finding("Prefect", "ok", str(url))
        yield _pair("Prefect", importlib.metadata.version("prefect"), str(ask("/admin/version")))
        try:
            pools = [pool["name"] for pool in ask("/work_pools/filter", {})]
        except httpx.HTTPStatusError as error:
            yield Finding("Prefect", "wrong", str(error), "export PREFECT_API_AUTH_STRING=user:password")
            return
        missing = {"cpu", "gpu"} - set(pools)
        state = "wrong" if missing else "ok"
        yield Finding("work pools", state, ", ".join(pools) or "none", "dlpk deploy, which makes cpu and gpu")
        for pool in pools:
            count = api.online(ask, pool)
            do = f"prefect worker start --pool {pool} --limit 1 --install-policy never"
            yield Finding(f"workers of {pool}", "ok" if count else "wrong", f"{count} at work", do)


def _pair(what: str, ours: str, theirs: str) -> Finding:
    """Client and server speak one language where major and minor agree."""
    state = "ok" if ours.split(".")[:2] == theirs.split(".")[:2] else "wrong"
    found = f"client {ours}, server {theirs}"
    return Finding(f"{what} versions", state, found, "install the same constraints.txt on both")


TORCH = "import torch; print([torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())])"


def _gpu() -> Iterator[Finding]:
    """As torch sees it, in a process of its own: that is what a training gets."""
    named = gpus.devices()
    if importlib.util.find_spec("torch") is None:
        yield Finding("GPU", "note", "torch is not installed: nothing can be trained here", "pip install -e '.[train]'")
        return
    told = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, check=False)
    seen = told.stdout.strip() or told.stderr.strip()[-200:]
    if told.returncode or (named and seen == "[]"):
        yield Finding("GPU", "wrong", f"{len(named)} there, torch sees {seen}", "check the driver: nvidia-smi")
    else:
        yield Finding("GPU", "note" if seen == "[]" else "ok", "none" if seen == "[]" else seen, "fine without one")


def worst(findings: list[Finding]) -> str:
    return max((finding.state for finding in findings), key=WORST.index)
