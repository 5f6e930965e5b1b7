"""A crew: the same function over many units of work, in this process and in interpreters beside it.

    with crew(4) as run:
        for result in run(partial(write_unit, job), units): ...      results as they come, in any order

Workers are fresh interpreters, no forks: a fork copies whatever lock GDAL or Prefect holds at that moment. The caller
works too, so a crew of one starts nothing. What is called and what comes back are pickles; workers end with the caller.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from registry.errors import DlpkError
from tasks.lifeline import die_with

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class Run(Protocol):
    """How units are done: here, by a crew, on a cluster. Results come in any order; the first error ends it."""

    size: int  # how many units are done at a time

    def __call__(self, do: Callable[[Unit], Result], units: Sequence[Unit], /) -> Iterable[Result]: ...


@contextmanager
def crew(size: int) -> Iterator[Run]:
    """`size` processes, this one among them. Raises DlpkError when a worker dies; nobody outlives the block."""
    workers = [_Worker(number) for number in range(2, size + 1)]
    try:
        yield _Crew(workers)
    finally:
        for worker in workers:
            worker.end()


class _Crew:
    def __init__(self, workers: "list[_Worker]") -> None:
        self.workers, self.size = workers, 1 + len(workers)

    def __call__(self, do: Callable[[Unit], Result], units: Sequence[Unit], /) -> Iterator[Result]:
        return _shared_out(do, units, self.workers)


def _shared_out(do: Callable[[Unit], Result], units: Sequence[Unit], workers: "list[_Worker]") -> Iterator[Result]:
    """Whoever is free takes the next unit."""
    todo, answers = deque(units), SimpleQueue[tuple[bool, Any]]()
    threads = [Thread(target=_serve, args=(worker, do, todo, answers), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for unit in _taken(todo):
            yield do(unit)
            while not answers.empty():
                yield _unwrapped(answers.get())
        for thread in threads:
            thread.join()
        while not answers.empty():
            yield _unwrapped(answers.get())
    finally:
        todo.clear()


def _serve(
    worker: "_Worker", do: Callable[[Any], Any], todo: deque[Any], answers: SimpleQueue[tuple[bool, Any]]
) -> None:
    for unit in _taken(todo):
        answer = worker.call(do, unit)
        answers.put(answer)
        if not answer[0]:
            todo.clear()  # nobody begins anything more


def _taken(todo: deque[Unit]) -> Iterator[Unit]:
    while todo:
        try:
            unit = todo.popleft()
        except IndexError:  # another was quicker
            return
        yield unit


def _unwrapped(answer: tuple[bool, Any]) -> Any:
    well, value = answer
    if not well:
        raise value
    return value


class _Worker:
    """An interpreter that calls what it is told, one call at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        command = [sys.executable, "-m", "tasks.crew", str(os.getpid())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, do: Callable[[Any], Any], unit: Any) -> tuple[bool, Any]:
        """Whether it went well, and its result or its error."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            pickle.dump((do, unit), self.process.stdin)
            self.process.stdin.flush()
            answer: tuple[bool, Any] = pickle.load(self.process.stdout)  # noqa: S301 - from our own child
        except (OSError, EOFError, pickle.UnpicklingError):
            return False, self._died()
        return answer

    def end(self) -> None:
        self.process.kill()  # every unit is done whole or done again: there is nothing to save
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was still to be said to it
                pipe.close()  # type: ignore[union-attr]

    def _died(self) -> DlpkError:
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
        do = "run the same command again, it goes on where it was; with fewer workers if memory ran out"
        return DlpkError(f"worker {self.number} (process {self.process.pid}) {how}", do=do)


def _work(calls: Any, answers: Any) -> None:
    while True:
        try:
            do, unit = pickle.load(calls)  # noqa: S301 - from our own parent
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = True, do(unit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller raises it
            answer = False, error
        pickle.dump(answer, answers)
        answers.flush()


def _main() -> None:
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the caller, who ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    _work(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
