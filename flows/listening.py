"""Who hears of progress: bars on a terminal, the flow run's page where there is one, the experiment run for epochs."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext

from flows.patience import patiently
from registry.tracking import Run
from tasks.console import Lines, Listener, errors, watching
from tasks.progress import Epoch, Progress

SECONDS = 2.0  # between two updates of a progress artifact: each is a request


_FACTS: ContextVar[Mapping[str, str]] = ContextVar("facts", default={})  # noqa: B039  (never changed in place)


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """Lines of a flow run's log that are written inside carry these, such as model and scene, where logs are JSON."""
    before = _FACTS.set({**_FACTS.get(), **facts})
    try:
        yield
    finally:
        _FACTS.reset(before)


def _log(line: str, level: int = logging.INFO) -> None:
    get_run_logger().log(level, line, extra=dict(_FACTS.get()))


def _spelt_out(record: logging.LogRecord) -> bool:
    """Where logs are JSON, Prefect's formatter writes what a record has, and a pattern tells nobody anything."""
    record.message = record.getMessage()
    return True


logging.getLogger("dlpk").addFilter(_spelt_out)


def in_flow_run() -> bool:
    return FlowRunContext.get() is not None


def say(line: str, level: int = logging.INFO) -> None:
    """A line for the flow run's log, or for the person at the terminal."""
    if in_flow_run():
        _log(line, level)
    if _someone_looks():
        logging.getLogger("dlpk").log(level, line)


def _someone_looks() -> bool:
    """A worker's flow run has no terminal, and its log has a page; without a flow run stderr is all there is."""
    return not in_flow_run() or errors().is_terminal


@contextmanager
def listening(step: str, run: Run | None = None) -> Iterator[Listener]:
    """Tell everyone who may listen to a step; epochs also go to the experiment run, as soon as its server answers."""

    def tell(event: Progress | Epoch) -> None:
        if run and isinstance(event, Epoch):
            number, figures = event.number, {**event.metrics, "seconds": event.seconds}
            patiently(lambda: run.log_epoch(number, figures))
        for listen in listeners:
            listen(event)

    with ExitStack() as stack:
        listeners = [stack.enter_context(_run_page(step))] if in_flow_run() else []
        if _someone_looks():
            listeners.append(stack.enter_context(watching()))
        yield tell


@contextmanager
def _run_page(step: str) -> Iterator[Listener]:
    """A line for each epoch and quarter in the log, and a progress artifact: a silent server costs the bar alone."""
    artifact = cast(UUID, create_progress_artifact(0.0, description=f"{step}: how far it is"))
    lines, said = Lines(_log), time.monotonic()

    def tell(event: Progress | Epoch) -> None:
        nonlocal said
        lines(event)
        if isinstance(event, Progress) and event.total and time.monotonic() - said > SECONDS:
            said = time.monotonic()
            with suppress(httpx.HTTPError):
                update_progress_artifact(artifact, progress=100.0 * event.done / event.total)

    yield tell
    with suppress(httpx.HTTPError):
        update_progress_artifact(artifact, progress=100.0)


def publish_report(key: str, markdown: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Text and table for the flow run's page; elsewhere nobody would see them."""
    if in_flow_run():
        create_markdown_artifact(markdown, key=key)
        create_table_artifact([dict(row) for row in rows], key=f"{key}-table")


def run_tags() -> dict[str, str]:
    """What ties an experiment run to its flow run."""
    context = FlowRunContext.get()
    return {"prefect.flow_run_id": str(context.flow_run.id)} if context and context.flow_run else {}
