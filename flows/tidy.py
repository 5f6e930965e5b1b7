"""Prune: old versions that nothing refers to, and what old runs left on this machine, weekly (prefect.yaml)."""

import shutil
import time
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.listening import publish_report, say
from flows.pages import prune_page
from flows.steps import step
from registry.locks import locked
from registry.pruning import Pruning
from registry.pruning import prune as remove
from registry.settings import settings

KEPT_BY = ("work", "evaluations")  # folders of <home> whose parts are <model>/<digest>
DAY = 86_400.0


@flow(name="prune")
def prune(keep: Annotated[int, Field(ge=1)] = 5, name: str = "", work_days: float = 30, dry_run: bool = False) -> str:
    """Remove what nobody needs; returns what went in a sentence.

    Args:
        keep: newest versions of each model that stay, beside those with an alias and what they refer to
        name: only this model; empty: all
        work_days: working folders of this machine that were untouched for so many days go, too
        dry_run: only say what would go
    """
    plan = versions(keep, name, dry_run=dry_run)
    folders = old_work(work_days, name, dry_run=dry_run)
    return report(plan, folders, dry_run=dry_run)


def _versions(keep: int, name: str, *, dry_run: bool) -> Pruning:
    return remove(keep, name=name, dry_run=dry_run)


def _old_work(days: float, name: str, *, dry_run: bool) -> list[str]:
    """Working folders that nobody is at and nobody was for so long."""
    home, before = settings().home, time.time() - days * DAY
    found = [path for part in KEPT_BY for path in home.glob(f"{part}/{name or '*'}/*") if path.is_dir()]
    old = [path for path in found if _touched(path) < before]
    return [str(path) for path in old if dry_run or _removed(path)]


def _touched(folder: Path) -> float:
    """When a step of it ended last."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*"), *folder.glob("done/*")))


def _removed(folder: Path) -> bool:
    """Not when a process holds it."""
    with (folder / ".lock").open("w") as lock:
        if not locked(lock):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True


def _report(plan: Pruning, folders: list[str], *, dry_run: bool) -> str:
    markdown, rows = prune_page(plan, folders, dry_run=dry_run)
    publish_report("prune", markdown, rows)
    told = f"{len(plan.remove)} versions and {len(folders)} working folders {'would go' if dry_run else 'are gone'}"
    say(told)
    return told


versions = step(_versions, hours=6, retries=3)
old_work = step(_old_work, hours=6, retries=2)
report = step(_report, hours=1, retries=3)
