"""One plan of a job at a time; the planner takes a turn for each call.

A call waits until the one before it has ended, so that the limits of two plans never mix and those
of the newer call are set last. Of calls that wait only the newest is served: whoever sent the
others has given them up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lockstep_operator.errors import Superseded


@dataclass(slots=True)
class _Queue:
    """The calls of one job."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: int = 0
    """Number of the call that came last."""
    calls: int = 0
    """Those that wait or are served."""


class Turns:
    """By the job's uid; a job without calls is not known here."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def take(self, uid: str) -> AsyncIterator[None]:
        """Wait for the job's turn, and have it until the end.

        Raises:
            Superseded: a newer call came meanwhile.
        """
        queue = self._queues.setdefault(uid, _Queue())
        queue.newest += 1
        queue.calls += 1
        mine = queue.newest
        try:
            async with queue.lock:
                if queue.newest != mine:
                    raise Superseded("the job has asked for a plan again meanwhile")
                yield
        finally:
            queue.calls -= 1
            if not queue.calls:
                del self._queues[uid]
