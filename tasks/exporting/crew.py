"""A crew: the same function over many units of work, in this process and in others beside it.

    with crew(4) as run:
        for result in run(partial(write_unit, job), units): ...      results as they come, in any order

The caller works too, so a crew of one starts nothing. Workers are fresh interpreters, or forks where the caller knows
that these are safe (`alone`): a fork begins at once with all that is loaded, but copies whatever lock another thread
holds at that moment. What is called and what comes back are pickles; workers end with the caller.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Lock, Thread, main_thread
from threading import enumerate as enumerate_threads
from typing import IO, Any, NoReturn, Protocol, TypeVar

from registry.errors import DlpkError
from tasks.lifeline import die_with

Unit = TypeVar("Unit")
Result = TypeVar("Result")
POOLS = {"torch", "prefect", "distributed"}  # their threads do not show, and a fork would wait for them forever


class Run(Protocol):
    """How units are done: here, by a crew, on a cluster. Results come in any order; the first error ends it."""

    @property
    def size(self) -> int:
        """How many units are done at a time."""

    def __call__(self, do: Callable[[Unit], Result], units: Sequence[Unit], /) -> Iterable[Result]: ...


@contextmanager
def crew(size: int, *, fork: bool = False) -> Iterator[Run]:
    """`size` processes, this one among them. Raises DlpkError when a worker dies; nobody outlives the block."""
    kind, team = (_Fork if fork else _Interpreter), _Crew()
    gc.freeze()  # or the first collection in a fork would copy every page that it shares with the caller
    try:
        for number in range(2, size + 1):
            team.workers.append(kind(number))
        yield team
    finally:
        gc.unfreeze()
        team.end()


def alone() -> bool:
    """Whether a fork copies no lock that is held: no other thread of Python is there, and no library with a pool."""
    others = [t for t in enumerate_threads() if not type(t).__module__.startswith("rich.")]  # which only draw
    return sys.platform == "linux" and others == [main_thread()] and POOLS.isdisjoint(sys.modules)


class _Crew:
    def __init__(self) -> None:
        self.workers, self.threads = list[_Worker](), list[Thread]()

    @property
    def size(self) -> int:
        return 1 + len(self.workers)

    def __call__(self, do: Callable[[Unit], Result], units: Sequence[Unit], /) -> Iterator[Result]:
        """Whoever is free takes the next unit."""
        todo, answers = deque(units), SimpleQueue[tuple[bool, Any]]()
        self.threads = [Thread(target=_serve, args=(w, do, todo, answers), daemon=True) for w in self.workers]
        return _shared_out(do, todo, answers, self.threads)

    def end(self) -> None:
        """Every unit is done whole or done again: there is nothing to save. Pipes stay until nobody reads them."""
        for worker in self.workers:
            worker.kill()
        for thread in self.threads:
            if thread.ident:  # it was started
                thread.join()
        for worker in self.workers:
            worker.close()


def _shared_out(
    do: Callable[[Unit], Result], todo: deque[Unit], answers: SimpleQueue[tuple[bool, Any]], threads: Sequence[Thread]
) -> Iterator[Result]:
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
    """A process that calls what it is told, one call at a time."""

    def __init__(self, number: int, process: int, calls: IO[bytes], answers: IO[bytes]) -> None:
        self.number, self.process, self.calls, self.answers = number, process, calls, answers

    def call(self, do: Callable[[Any], Any], unit: Any) -> tuple[bool, Any]:
        """Whether it went well, and its result or its error."""
        try:
            pickle.dump((do, unit), self.calls)
            self.calls.flush()
            answer: tuple[bool, Any] = pickle.load(self.answers)  # noqa: S301 - from our own child
        except (OSError, EOFError, pickle.UnpicklingError):
            return False, self._died()
        return answer

    def close(self) -> None:
        for pipe in (self.calls, self.answers):
            with suppress(OSError):  # what was still to be said to it
                pipe.close()

    def kill(self) -> int:
        """Its exit code; minus the signal that ended it, were it ours or not."""
        raise NotImplementedError

    def _died(self) -> DlpkError:
        code = self.kill()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with exit code {code}"
        do = "run the same command again, it goes on where it was; with fewer workers if memory ran out"
        return DlpkError(f"worker {self.number} (process {self.process}) {how}", do=do)


class _Interpreter(_Worker):
    def __init__(self, number: int) -> None:
        command = [sys.executable, "-m", "tasks.exporting.crew", str(os.getpid())]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.child.stdin
        assert self.child.stdout
        super().__init__(number, self.child.pid, self.child.stdin, self.child.stdout)

    def kill(self) -> int:
        self.child.kill()
        return self.child.wait()


class _Fork(_Worker):
    code: int | None = None

    def __init__(self, number: int) -> None:
        self.lock = Lock()  # who waits for a process frees its number
        parent, (told, calls), (answers, said) = os.getpid(), os.pipe(), os.pipe()
        process = os.fork()
        if not process:
            _forked(parent, told, said)
        os.close(told)
        os.close(said)
        super().__init__(number, process, os.fdopen(calls, "wb"), os.fdopen(answers, "rb"))

    def kill(self) -> int:
        with self.lock:
            if self.code is None:
                os.kill(self.process, signal.SIGKILL)
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            return self.code


def _forked(parent: int, told: int, said: int) -> NoReturn:
    """The life of a fork: nothing that the caller has to do at its end is done here."""
    try:
        die_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - the caller's may be locked
        _work(os.fdopen(told, "rb"), os.fdopen(said, "wb"))
    finally:
        os._exit(0)


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
