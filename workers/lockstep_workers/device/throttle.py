"""Keeps a device to so many cores by sleeping: for pods whose CPU limit cannot be changed.

The loop makes one `Throttle` a round, the training calls it between its parts. Invariant: what is
owed is reckoned from the round's start (`Allowance`), so errors of single sleeps do not add up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

CREDIT_S = 0.1
"""How much of a time without CPU may be made up for, in s: the CPU quota's period."""
SHORTEST_SLEEP_S = 0.01
"""Less is owed until later: many tiny sleeps cost more than they slow, and 100 ms even out."""


@dataclass(slots=True)
class Allowance:
    """CPU time that may be used as wall time passes: `cores` core-seconds a second. Pure.

    CPU time used ahead of it has to be slept off. What was not used (a sleep that took too long, a
    machine that was busy) can be used later, at most CREDIT_S seconds of it.
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
        if unused_s > CREDIT_S:
            self.wall_s += unused_s - CREDIT_S
        return max(0.0, -unused_s)


class Throttle:
    """Slows the calling process down to `cores`; call it often, and `settle` at the end."""

    def __init__(
        self,
        cores: float,
        *,
        wall: Clock = time.monotonic,
        cpu: Clock = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """The clocks count seconds; `cpu` the core-seconds of all of this process's threads."""
        self.cores = cores
        self._wall, self._cpu, self._sleep = wall, cpu, sleep
        self._allowance = Allowance(cores, wall(), cpu())

    def __call__(self) -> None:
        """Sleeps off what is owed, if it is worth a sleep."""
        self._pay(SHORTEST_SLEEP_S)

    def settle(self) -> None:
        """Sleeps off all that is owed."""
        self._pay(0.0)

    def _pay(self, shortest_s: float) -> None:
        owed_s = self._allowance.owed_s(wall_s=self._wall(), cpu_s=self._cpu())
        if owed_s > shortest_s:
            self._sleep(owed_s)
