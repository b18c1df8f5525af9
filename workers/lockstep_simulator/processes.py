"""Trains the units of a round in several processes, which keep the clients' data and models.

Made by whoever simulates, around a way to train in this process. Results do not depend on how many
processes there are: what is a unit follows from the orders, and a unit comes to the same wherever
it is done. So this process begins by itself, starts the others once that has taken a while, and
goes on until the first of them is ready. Invariant: when the context ends, so have the processes.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import ModuleType
from typing import Any

from lockstep_api.settings import JobSettings
from lockstep_simulator.batched import Batched
from lockstep_simulator.other_process import Answer, Common, work
from lockstep_simulator.shared import CONTEXT, Arena
from lockstep_simulator.trainers import Order, Trainer, Way
from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.learning.client import Trained
from lockstep_workers.learning.strategy import Vector

ALONE_S = 2.5
"""Seconds of training after which other processes are worth their start. From a fifth of it on what
they are forked from gets ready, which takes as long as importing torch."""


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def in_processes(
    way: Way, job: JobSettings, *, processes: int, alone_s: float = ALONE_S
) -> Iterator[Trainer]:
    """Trains in so many processes from the moment on when that pays.

    Args:
        way: how to train in this process.
        job: the settings of the job whose clients train.
        processes: how many; with one, training stays in this process.
        alone_s: seconds of training before the others are started.
    """
    if processes == 1:
        yield way
        return
    pool = Pool(way, job, processes=processes, alone_s=alone_s)
    try:
        yield pool
    finally:
        pool.close()


@dataclass(slots=True)
class _Hand:
    """One of the processes, as this one sees it."""

    process: ForkServerProcess
    connection: Connection
    orders: Arena
    trained: Arena
    ready: bool = False
    unit: int | None = None
    """Number of the unit that it is doing."""

    def end(self) -> None:
        """It ends, whatever it is doing."""
        self.connection.close()
        self.process.terminate()
        self.process.join()
        self.process.close()


@dataclass(slots=True)
class _Round:
    """Units of a round, and what has come of them."""

    orders: Sequence[Order]
    units: list[list[int]]
    begun: int = 0
    done: dict[int, Trained] = field(default_factory=dict)
    invalid: dict[int, str] = field(default_factory=dict)
    """What went wrong, by the unit's number."""

    def next(self) -> int | None:
        """Takes the next unit; None: there is none, or one has failed."""
        if self.invalid or self.begun == len(self.units):
            return None
        self.begun += 1
        return self.begun - 1

    def of(self, unit: int) -> list[Order]:
        """The orders of a unit."""
        return [self.orders[place] for place in self.units[unit]]

    def take(self, unit: int, trained: Sequence[Trained]) -> None:
        """Notes what has come of a unit."""
        self.done.update(zip(self.units[unit], trained, strict=True))


class Pool:
    """Trains clients in processes of its own."""

    def __init__(
        self,
        way: Way,
        job: JobSettings,
        *,
        processes: int,
        alone_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As `in_processes`."""
        self._way, self._job, self._count = way, job, processes
        self._most_alone_s, self._clock, self._alone_s = alone_s, clock, 0.0
        self._common: Common | None = None
        self._hands: list[_Hand] = []

    def train(self, received: Mapping[str, Vector], orders: Sequence[Order]) -> list[Trained]:
        """As `Trainer.train`.

        Raises:
            JobFailed: a process has died.
        """
        now = _Round(orders, self._way.units(orders))
        self._show(received)
        while True:
            self._give(now)
            if any(hand.unit is not None for hand in self._hands):
                self._hear(now, timeout_s=None)
            elif (unit := now.next()) is not None:
                self._train_here(now, unit, received=received)
            else:
                break
        if now.invalid:
            raise InvalidJob(now.invalid[min(now.invalid)])
        return [now.done[place] for place in range(len(orders))]

    def wait_until_ready(self) -> None:
        """Starts all processes, and waits until they are there; errors as `train`."""
        self._start()
        while not all(hand.ready for hand in self._hands):
            self._hear(_Round([], []), timeout_s=None)

    def close(self) -> None:
        """All processes end."""
        for hand in self._hands:
            hand.end()
        self._hands = []

    def _train_here(self, now: _Round, unit: int, *, received: Mapping[str, Vector]) -> None:
        """Does a unit in this process, since no other one is ready."""
        began_s = self._clock()
        now.take(unit, self._way.train_unit(received, now.of(unit)))
        self._alone_s += self._clock() - began_s
        if self._alone_s >= self._most_alone_s / 5:
            with _by_themselves():
                forkserver.ensure_running()
        if self._alone_s >= self._most_alone_s and not self._hands:
            self._start()
            self._show(received)
        self._hear(now, timeout_s=0)

    def _show(self, received: Mapping[str, Vector]) -> None:
        if self._common is not None:
            self._common.show(list(received.values()))

    def _start(self) -> None:
        self._common = Common.of(
            self._job, self._way.clients, in_groups=isinstance(self._way, Batched)
        )
        with _by_themselves():
            self._hands = [self._hand(self._common) for _ in range(self._count)]

    def _hand(self, common: Common) -> _Hand:
        strategy = next(iter(self._way.clients.values())).strategy
        vector_bytes = common.received.array()[0].nbytes * self._way.most
        orders = Arena(vector_bytes * len(strategy.remembers))
        trained = Arena(vector_bytes * (len(strategy.uploads) + len(strategy.remembers)))
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=work,
            args=(there, common),
            kwargs={"orders": orders, "trained": trained},
            daemon=True,
        )
        process.start()
        there.close()
        return _Hand(process, here, orders, trained)

    def _give(self, now: _Round) -> None:
        """Each process that is free gets a unit, as long as there are any."""
        for hand in self._hands:
            if hand.ready and hand.unit is None and (unit := now.next()) is not None:
                hand.connection.send(hand.orders.pack(now.of(unit)))
                hand.unit = unit

    def _hear(self, now: _Round, *, timeout_s: float | None) -> None:
        """Takes in what processes say."""
        said = wait([hand.connection for hand in self._hands], timeout_s)
        for hand in (one for one in self._hands if one.connection in said):
            try:
                answer, body = hand.connection.recv()
            except (EOFError, OSError) as error:
                raise JobFailed(_died(hand)) from error
            self._take(now, hand, answer=answer, body=body)

    def _take(self, now: _Round, hand: _Hand, *, answer: Answer, body: Any) -> None:
        match answer:
            case Answer.READY:
                hand.ready = True
                return
            case Answer.BROKEN:
                raise RuntimeError(f"a process that trains broke:\n{body}")
            case Answer.INVALID if hand.unit is not None:
                now.invalid[hand.unit] = body
            case Answer.INVALID:
                raise InvalidJob(body)
            case Answer.DONE if hand.unit is not None:
                now.take(hand.unit, hand.trained.unpack(body, copy=True))
        hand.unit = None


def _died(hand: _Hand) -> str:
    hand.process.join()
    code = hand.process.exitcode or 0
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    advice = "; it may have needed more memory than there is: use fewer processes"
    return f"a process that trains ended with {how}{advice if code == -signal.SIGKILL else ''}"


@contextmanager
def _by_themselves() -> Iterator[None]:
    """Processes that are started inside never see SIGINT and do not import the main module.

    Ctrl-C is for this process, which ends the others. Whatever program the main module is, it may
    take long to import, and nothing that is handed to the processes comes from it.
    """
    resource_tracker.ensure_running()  # it would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
