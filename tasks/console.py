"""What a person, or the program that started us, sees of a verb: progress while it runs, one record when it is done."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from registry.errors import DlpkError
from registry.records import print_record
from tasks.progress import Epoch, Progress

Listener = Callable[[Progress | Epoch], None]
A_WHILE = 5.0  # seconds after which a pace is worth telling


@contextmanager
def watching(program: "JsonLines | None" = None) -> Iterator[Listener]:
    """Progress bars on a terminal, a line now and then where stderr is a file or a pipe, JSON for a program."""
    if program:
        yield program
        return
    console = errors()
    if not console.is_terminal:
        yield Lines(lambda line: click.echo(line, err=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("[dim]{task.fields[note]}"), console=console) as bars:
        yield _Drawn(bars)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else task.fields["unit"], style="cyan")


class _Drawn:
    """One bar for each step; an epoch becomes a line above the bars."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.tasks = bars, dict[str, TaskID]()

    def __call__(self, event: Progress | Epoch) -> None:
        if isinstance(event, Epoch):
            self.bars.console.print(epoch_line(event), highlight=False)
            return
        if event.step not in self.tasks:
            self.tasks[event.step] = self.bars.add_task(event.step, total=None, unit=event.unit, note="")
        task, note = self.tasks[event.step], event.note
        self.bars.update(task, completed=event.done, total=event.total, unit=event.unit, note=note)


class Lines:
    """Says a line for each epoch, and at each quarter of a step; with rate and time left once it takes a while."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.quarters, self.began = say, dict[str, int](), dict[str, float]()

    def __call__(self, event: Progress | Epoch) -> None:
        if isinstance(event, Epoch):
            self.say(epoch_line(event))
            return
        quarter = 4 * event.done // event.total if event.total else 0
        if self.quarters.get(event.step) != quarter:
            self.quarters[event.step] = quarter
            words = f"{event.done} of {event.total} {event.unit}{self._pace(event)}"
            self.say(f"{event.step}: {words}  {event.note}".rstrip())

    def _pace(self, event: Progress) -> str:
        seconds = time.monotonic() - self.began.setdefault(event.step, time.monotonic())
        if seconds < A_WHILE or not event.done:
            return ""
        rate = event.done / seconds
        return f" ({rate:.1f} {event.unit}/s, {duration((event.total - event.done) / rate)} left)"


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def epoch_line(epoch: Epoch) -> str:
    metrics = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in epoch.metrics.items())
    return f"epoch {epoch.number + 1} of {epoch.total} ({epoch.seconds:.0f} s): {metrics}"


def end(program: "JsonLines | None", outcome: Mapping[str, Any] | DlpkError) -> None:
    """Hand the record or the error to whoever listens: the program that started us, or a person.

    A person is warned of a record's `warnings`; a program finds them in it.
    """
    if isinstance(outcome, DlpkError):
        if program:
            program.write("error", {"type": type(outcome).__name__, "message": str(outcome)})
        else:
            tell(outcome)
    elif program:
        program.write("result", outcome)
    else:
        warn(outcome.get("warnings", ()))
        print_record({key: value for key, value in outcome.items() if key != "warnings"})


def warn(lines: Sequence[str]) -> None:
    """Warnings on stderr, yellow on a terminal: the record on stdout stays what a program can read."""
    for line in lines:
        errors().print(f"Warning: {line}", style="yellow", markup=False, highlight=False)


def errors() -> Console:
    """stderr, where everything goes that is not the record; lines are never folded."""
    return Console(stderr=True, soft_wrap=True)


def tell(error: DlpkError) -> None:
    """The error as one clear line on stderr, red on a terminal."""
    errors().print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)


class JsonLines:
    """The other end of `flows.child`: one JSON object a line; whatever else prints to stdout goes to stderr."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self.stream: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, event: Progress | Epoch) -> None:
        self.write("progress" if isinstance(event, Progress) else "epoch", asdict(event))

    def write(self, kind: str, value: Any) -> None:
        self.stream.write(json.dumps({kind: value}, default=str) + "\n")
        self.stream.flush()


class Warned(logging.Handler):
    """Passes on what is worth a warning, which nobody sees on the stderr of a child."""

    def __init__(self, program: JsonLines) -> None:
        super().__init__(logging.WARNING)
        self.program = program

    def emit(self, record: logging.LogRecord) -> None:
        self.program.write("warning", record.getMessage())


def event_of(line: Mapping[str, Any]) -> Progress | Epoch | None:
    """The event that a line of JsonLines tells of; None when it tells of the end."""
    if "progress" in line:
        return Progress(**line["progress"])
    return Epoch(**line["epoch"]) if "epoch" in line else None
