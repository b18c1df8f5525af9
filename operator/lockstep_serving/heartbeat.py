"""Whether an event loop still turns, told to a thread beside it.

The cloud role, edges and the operator start one; their probes ask it. Invariant: nobody but the
loop itself can make it beat, so a loop that hangs is noticed though another thread answers for it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_BEAT_S = 1.0
HUNG_S = 30.0
"""Longer than any step of a loop takes on a starved core; a kubelet asks several times, besides."""


@dataclass(slots=True)
class Heartbeat:
    """Beats in the loop that started it, until that ends."""

    clock: Callable[[], float] = time.monotonic
    _last_s: float = field(init=False)

    def __post_init__(self) -> None:
        """It counts from now on."""
        self._last_s = self.clock()

    def start(self) -> None:
        """Beats now, and again in a second; called in the loop."""
        self._last_s = self.clock()
        asyncio.get_running_loop().call_later(_BEAT_S, self.start)

    def problem(self) -> str | None:
        """What is wrong with the loop; None: it turns."""
        silent_s = self.clock() - self._last_s
        return f"the event loop has not turned for {silent_s:.0f} s" if silent_s > HUNG_S else None
