"""Does tasks in processes of their own; `sweep` calls it.

Invariant: what comes of a task depends on the task alone. One that raises, or whose process dies,
fails by itself: the others go on.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

Work = Callable[[Any], Iterator[Any]]
"""Gives, task by task, what comes of it, piece by piece; a function of a module."""


@dataclass(frozen=True, slots=True)
class Came:
    """A piece of what a task comes to."""

    task: int
    piece: Any


@dataclass(frozen=True, slots=True)
class Over:
    """A task is over."""

    task: int
    error: str | None = None
    """Why it failed; None: it did not."""


Event = Came | Over


@dataclass(slots=True)
class _Process:
    """A process, and what it works on."""

    process: BaseProcess
    connection: Connection
    task: int = 0


@dataclass(slots=True)
class _Pool:
    context: SpawnContext
    work: Work
    idle: list[_Process] = field(default_factory=list)
    busy: list[_Process] = field(default_factory=list)

    def begin(self, task: int, content: Any) -> None:
        """Gives a task to a process that has none, or to a new one."""
        one = self.idle.pop() if self.idle else self._started()
        one.task = task
        self.busy.append(one)
        with suppress(OSError):  # it has died meanwhile: `events` tells
            one.connection.send((task, content))

    def _started(self) -> _Process:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.work), daemon=False)
        process.start()
        theirs.close()
        return _Process(process, ours)

    def events(self) -> Iterator[Event]:
        """What the processes say now, or next."""
        ready = wait([one.connection for one in self.busy])
        for one in [one for one in self.busy if one.connection in ready]:
            yield self._heard(one)

    def _heard(self, one: _Process) -> Event:
        try:
            said: Event = one.connection.recv()
        except (EOFError, OSError):
            one.process.join()
            said = Over(one.task, f"its process died (exit code {one.process.exitcode})")
            self.busy.remove(one)
            return said
        if isinstance(said, Over):
            self.busy.remove(one)
            self.idle.append(one)
        return said

    def end(self) -> None:
        """Ends all processes, whatever they do."""
        for one in (*self.idle, *self.busy):
            one.connection.close()
            one.process.terminate()
        for one in (*self.idle, *self.busy):
            one.process.join()


def tasks_in_processes(work: Work, tasks: Sequence[Any], *, parallel: int) -> Iterator[Event]:
    """What comes of tasks, as it comes, from so many processes at a time.

    Closing the iterator ends the processes.
    """
    pool = _Pool(multiprocessing.get_context("spawn"), work)
    left = list(enumerate(tasks))
    try:
        while left or pool.busy:
            while left and len(pool.busy) < parallel:
                number, content = left.pop(0)
                pool.begin(number, content)
            yield from pool.events()
    finally:
        pool.end()


def _serve(connection: Connection, work: Work) -> None:
    """What a process does: one task after another, until nobody wants more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    with suppress(EOFError, OSError):
        while True:
            task, content = connection.recv()
            connection.send(Over(task, _done(connection, work, task=task, content=content)))


def _done(connection: Connection, work: Work, *, task: int, content: Any) -> str | None:
    """Does a task and sends its pieces; returns why it failed."""
    try:
        for piece in work(content):
            connection.send(Came(task, piece))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  # one task fails, whatever it raised
        return "; ".join(str(error).splitlines()) or type(error).__name__
    return None
