"""The working folder of one retraining: `<home>/work/<name>/<digest of recipe and inputs>/`.

    chips/ held-out/ model/<name>/ <name>.dlpk     the products, each finished or not there
    done/<step>.json                               the record of a finished step, written after its product
    mlflow.json                                    the experiment run that a later try goes on in

The same recipe over the same files finds its finished steps here; a changed input has another digest and starts anew.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flows.recipe import Recipe
from registry.errors import Conflict, NotFound
from registry.files import write_text
from registry.locks import locked
from registry.settings import settings
from registry.tracking import Run

Record = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What the steps of one retraining share."""

    recipe: Recipe
    folder: Path
    run: Run

    @property
    def fingerprint(self) -> str:
        """Of the recipe and its input files."""
        return self.folder.name

    @property
    def model(self) -> Path:
        return self.folder / "model" / self.recipe.name

    @property
    def package(self) -> Path:
        return self.folder / f"{self.recipe.name}.dlpk"

    def once(self, step: str, product: Path, do: Callable[[], Record]) -> Record:
        """The record of a step: the one it left when it finished before, else what doing it gives."""
        mark = self.folder / "done" / f"{step}.json"
        if mark.is_file() and product.exists():
            record: Record = json.loads(mark.read_text(encoding="utf-8"))
            return record
        record = do()
        write_text(mark, json.dumps(record, indent=2))
        return record


@contextmanager
def opened(recipe: Recipe, tags: Mapping[str, str]) -> Iterator[Work]:
    """The folder, held against a second process, and its experiment run: resumed, and closed with the outcome."""
    folder = settings().home / "work" / recipe.name / recipe.digest()
    with _held(folder / ".lock"):
        run = _experiment_run(folder / "mlflow.json", recipe, tags)
        with run.failing():
            yield Work(recipe, folder, run)
        run.finish()


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """The system gives the lock back when the process dies, however it dies."""
    held = None
    while held is None:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = _taken(lock)
    with held:
        yield


def _taken(lock: Path) -> IO[str] | None:
    """None where a prune has just removed the folder. Raises Conflict."""
    with suppress(FileNotFoundError), ExitStack() as stack:
        file = stack.enter_context(lock.open("w"))
        if not locked(file):
            do = "wait for it, or stop it"
            raise Conflict("another process is at work on the same recipe", where=lock.parent, do=do)
        if os.fstat(file.fileno()).st_nlink:
            stack.pop_all()
            return file
    return None


def _experiment_run(mark: Path, recipe: Recipe, tags: Mapping[str, str]) -> Run:
    """The run of an earlier try when there is one and the server still knows it, else a new one."""
    experiment = recipe.experiment or recipe.name
    if mark.is_file():
        with suppress(NotFound):  # another tracking server than last time
            run = Run.resume(json.loads(mark.read_text(encoding="utf-8"))["run_id"])
            run.set_tags(tags)
            return run
    digest = mark.parent.name
    run = Run.start(experiment, f"{recipe.name} {digest}", tags, work=digest)
    write_text(mark, json.dumps({"experiment": experiment, "run_id": run.id}))
    return run
