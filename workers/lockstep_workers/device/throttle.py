"""Keeps a device to so many cores by sleeping: where its pod's CPU limit cannot do it.

A limit that cannot be changed: the loop makes one `Throttle` a round, the training calls it between
its parts. Split training, whose pieces are so short that no limit slows them: a `Pacer` a round.
Invariant: what is owed is reckoned over a whole round, so errors of single sleeps do not add up.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]

PERIOD_S = 0.1
"""CPU time comes in one piece a period, in s, as under a CPU quota: in shorter pieces with sleeps
between them caches are cold, and the same work takes up to twice the CPU time."""
SHORTEST_SLEEP_S = 1e-4
"""A shorter sleep lasts too long by more than that."""
MOST_OVERSLEPT_S = 0.02
"""A piece is shortened by so much, at most, for sleeps that lasted too long."""


@dataclass(slots=True)
class Allowance:
    """CPU time that may be used as wall time passes: `cores` core-seconds a second. Pure.

    CPU time used ahead of it has to be slept off. What was not used (a sleep that took too long, a
    machine that was busy) can be used later, at most that of a period.
    """

    cores: float
    wall_s: float
    """Wall clock at the start."""
    cpu_s: float
    """CPU clock at the start."""

    def owed_s(self, *, wall_s: float, cpu_s: float) -> float:
        """Seconds to sleep now, so that CPU / wall time since the start is `cores`."""
        due_s = self.wall_s + (cpu_s - self.cpu_s) / self.cores
        unused_s = wall_s - due_s
        if unused_s > PERIOD_S:
            self.wall_s += unused_s - PERIOD_S
        return max(0.0, -unused_s)

    def piece_s(self, owed_s: float) -> float:
        """Seconds of work on one core until what is owed fills a period with that work."""
        if self.cores >= 1:
            return PERIOD_S
        missing_s = PERIOD_S * (1 - self.cores) - owed_s
        return max(0.0, missing_s * self.cores / (1 - self.cores))


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time, in seconds, and how to let it pass."""

    wall: Clock = time.monotonic
    cpu: Clock = time.process_time
    """Core-seconds of all threads of this process."""
    sleep: Callable[[float], None] = time.sleep


class Throttle:
    """Slows the calling process down to `cores`; call it often, and `settle` at the end."""

    def __init__(self, cores: float, clocks: Clocks = Clocks()) -> None:
        """The round begins now."""
        self._clocks = clocks
        self._allowance = Allowance(cores, clocks.wall(), clocks.cpu())
        self._next_s = clocks.wall() + self._allowance.piece_s(0.0)

    def __call__(self) -> bool:
        """Sleeps off what is owed when the period's piece of work is done; whether it came late."""
        late_s = self._clocks.wall() - self._next_s
        if late_s < 0:  # the wall clock is cheaper than the CPU clock, a system call
            return False
        if self._allowance.piece_s(self._owed_s()) < SHORTEST_SLEEP_S:
            self.settle()
        self._next_s = self._clocks.wall() + self._allowance.piece_s(self._owed_s())
        return late_s > PERIOD_S / 10

    def settle(self) -> None:
        """Sleeps off all that is owed."""
        owed_s = self._owed_s()
        if owed_s > SHORTEST_SLEEP_S:
            self._clocks.sleep(owed_s)

    def _owed_s(self) -> float:
        return self._allowance.owed_s(wall_s=self._clocks.wall(), cpu_s=self._clocks.cpu())


class Pacer:
    """Makes each piece of work last as long as `cores` would need for it.

    A step's halves take a few ms, and between them the device waits for its edge: within a CPU
    quota's period it may use what it did not need while it waited, and is not slowed at all. Here
    nothing is carried over but what a sleep lasted too long, and of that little.
    """

    def __init__(self, cores: float, clocks: Clocks = Clocks()) -> None:
        """Nothing is done yet."""
        self._cores, self._clocks = cores, clocks
        self._overslept_s = 0.0
        self.compute_s = 0.0
        """All pieces so far, with their sleeps."""
        self.cpu_s = 0.0
        """Core-seconds of all pieces so far."""

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Around a piece of work: a forward or a backward pass."""
        began_s, cpu_s = self._clocks.wall(), self._clocks.cpu()
        yield
        used_s = self._clocks.cpu() - cpu_s
        due_s = began_s + used_s / self._cores
        early_s = due_s - self._clocks.wall()
        owed_s = early_s - self._overslept_s
        if owed_s > SHORTEST_SLEEP_S:
            self._clocks.sleep(owed_s)
        ended_s = self._clocks.wall()
        if early_s > 0:  # else it took longer than it should have, for no sleep's sake
            self._overslept_s = min(MOST_OVERSLEPT_S, self._overslept_s + ended_s - due_s)
        self.compute_s += ended_s - began_s
        self.cpu_s += used_s
