"""Clocks that the test moves: for whatever waits by `runtime.Pace`, and for the election."""

import asyncio
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class FakeTime:
    """Time passes by `move` only."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moved = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        """Returns when the event is set, or the time is over."""
        until = None if timeout_s is None else self.now + timeout_s
        while not event.is_set() and (until is None or self.now < until):
            either = [asyncio.ensure_future(one.wait()) for one in (event, self._moved)]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in either:
                    one.cancel()

    async def move(self, seconds: float) -> None:
        """Let time pass; returns when everything that was due has run."""
        await settled()
        self.now += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        await settled()


@dataclass
class Hand:
    """A clock that goes on only when it is told to, however busy the machine is."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def settled() -> None:
    """Returns when all tasks wait for something that only the test can bring."""
    for _ in range(50):
        await asyncio.sleep(0)


class _Waitless(selectors.SelectSelector):
    """Lets time pass in the place of waiting."""

    passed_s: float = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.passed_s += timeout or 0.0
        return super().select(0)


class _WaitlessLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while all tasks wait, and then at once."""

    def __init__(self) -> None:
        self._waitless = _Waitless()
        super().__init__(self._waitless)

    def time(self) -> float:
        return self._waitless.passed_s


def in_no_time(main: Coroutine[Any, Any, T]) -> T:
    """Runs what waits for nothing but its own tasks, for an hour of its clock at the most."""
    with asyncio.Runner(loop_factory=_WaitlessLoop) as runner:
        return runner.run(asyncio.wait_for(main, 3600))


def loop_time() -> float:
    """The clock of the loop that runs."""
    return asyncio.get_running_loop().time()
