"""Waiting for a frame of each device of a cluster: for all of them, or as long as a round allows.

Called by `edge.splitting`. Invariant: who is not among those that are there will not write into the
batch any more: its connection has ended, or is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from lockstep_workers.edge.seats import Seat
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.errors import Gone, RefusedUpdate

First = Callable[[Seat, SplitConnection], "asyncio.Future[None]"]
"""Asks a device that is here for its frame."""
Again = Callable[[Seat, SplitConnection], Awaitable[None]]
"""Brings a device that has come (back) to where its cluster is, and asks it for its frame."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a cluster waits for its devices; times in seconds of one clock."""

    patient: bool
    """It waits for those whose connection ended."""
    step_s: float
    """The longest that any other waits for a frame."""
    due_s: float | None
    """When the round may close with the quorum."""
    quorum: int
    clock: Callable[[], float]

    def is_due(self, there: int) -> bool:
        """Whether the round may close now, with so many."""
        return self.due_s is not None and there >= self.quorum and self.clock() >= self.due_s

    def is_over(self, began_s: float, there: int) -> bool:
        """Whether who is not there by now is waited for no longer."""
        too_slow = not self.patient and self.clock() >= began_s + self.step_s
        return too_slow or self.is_due(there)

    def look_after_s(self, began_s: float) -> float | None:
        """Seconds until that may change, if nothing comes; None: never."""
        now_s = self.clock()
        times = [] if self.patient else [began_s + self.step_s]
        times += [] if self.due_s is None or self.due_s <= now_s else [self.due_s]
        return max(0.0, min(times) - now_s) if times else None

    def each_counts(self) -> bool:
        """Whether a single further device may end the waiting."""
        return self.due_s is not None and self.clock() >= self.due_s


@dataclass(frozen=True, slots=True)
class Ask:
    """What a gathering asks for."""

    first: First
    again: Again


async def gather(seats: Sequence[Seat], ask: Ask, *, patience: Patience) -> list[Seat]:
    """The seats whose frame is there, in their order."""
    began_s, there = patience.clock(), set[Seat]()
    pending = dict(_asked(seat, ask) for seat in seats)
    try:
        while pending and not patience.is_over(began_s, len(there)):
            when = asyncio.FIRST_COMPLETED if patience.each_counts() else asyncio.FIRST_EXCEPTION
            done, _ = await asyncio.wait(
                pending, timeout=patience.look_after_s(began_s), return_when=when
            )
            for future in done:
                seat, connection = pending.pop(future)
                if _came(future):
                    there.add(seat)
                    continue
                if connection is not None:
                    seat.leave(connection)
                if patience.patient and not seat.lost:
                    pending[asyncio.ensure_future(_comes(seat, ask.again))] = (seat, None)
    finally:
        await _leave_out(pending)
    return [seat for seat in seats if seat in there]


_Asked = tuple[Seat, SplitConnection | None]
"""Whom, and over which connection if it had one."""


def _asked(seat: Seat, ask: Ask) -> tuple["asyncio.Future[None]", _Asked]:
    if seat.connection is not None:
        return ask.first(seat, seat.connection), (seat, seat.connection)
    return asyncio.ensure_future(_comes(seat, ask.again)), (seat, None)


async def _comes(seat: Seat, again: Again) -> None:
    connection = await seat.here()
    try:
        await again(seat, connection)
    except (Gone, RefusedUpdate):
        seat.leave(connection)
        raise


def _came(future: "asyncio.Future[None]") -> bool:
    try:
        future.result()
    except (Gone, RefusedUpdate):
        return False
    return True


async def _leave_out(pending: dict["asyncio.Future[None]", _Asked]) -> None:
    """Those that are not waited for any longer."""
    for future, (seat, _) in pending.items():
        future.cancel()
        seat.too_slow("the step went on without it: its frame did not come in time")
    await asyncio.gather(*pending, return_exceptions=True)
