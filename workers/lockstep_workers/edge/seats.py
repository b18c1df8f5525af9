"""The places of a cluster's devices in a round of split training: who is here, gone, back, lost.

Made and waited for by `edge.splitting`, taken by the devices' route. Invariant: a seat has one
connection at most; who shows its key once more takes the place of the connection before.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from lockstep_api.orders import MemberOrder
from lockstep_api.sessions import Refusal
from lockstep_api.wire import UpdateReport
from lockstep_serving import upgrading
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.split_frames import Flat, Shape


@dataclass(slots=True, eq=False)
class Seat:
    """A device's place in its cluster."""

    member: MemberOrder
    rows: slice
    """Its part of the cluster's batch."""
    shape: Shape
    front: Flat
    """Where its gradient by the front half lands, or its own front."""
    connection: SplitConnection | None = None
    fronted: SplitConnection | None = None
    """The last one over which it got a front."""
    came: bool = False
    """Whether it was here in this round."""
    lost: str = ""
    """Why it gives nothing more to this round; empty: it may."""
    is_rejected: bool = False
    """What it sent was bad."""
    steps: int = 0
    """Steps with its examples."""
    missed: int = 0
    """Steps that went on without it."""
    report: UpdateReport | None = None
    """What it has told at its end."""
    arrived_s: float = 0.0
    """When that was, from the order's start."""
    up_bytes: int = 0
    """Received over connections that have ended."""
    down_bytes: int = 0
    """Sent over these."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def client(self) -> str:
        """Whose it is."""
        return self.member.client

    def sit(self, connection: SplitConnection) -> None:
        """The device is here (again)."""
        if (older := self.connection) is not None:
            self.leave(older)
            older.finish()
        self.connection, self.came = connection, True
        self.changed.set()

    def leave(self, connection: SplitConnection) -> None:
        """A connection has ended."""
        if self.connection is connection:
            self.connection = None
            self.up_bytes += connection.received_bytes
            self.down_bytes += connection.sent_bytes

    def lose(self, why: str) -> None:
        """It gives nothing more to this round."""
        self.lost = self.lost or why
        self.changed.set()

    def is_expected(self) -> bool:
        """Whether it is here, or has not come yet."""
        return self.connection is not None or not self.came

    async def here(self) -> SplitConnection:
        """Its connection, as soon as it has one.

        Raises:
            Gone: it will not come any more.
        """
        while self.connection is None:
            if self.lost:
                raise Gone
            self.changed.clear()
            await self.changed.wait()
        return self.connection

    def begin_anew(self) -> None:
        """It has done nothing, and comes again."""
        self.steps, self.missed, self.report, self.fronted = 0, 0, None, None
        if (connection := self.connection) is not None:
            self.leave(connection)
            connection.finish()

    def too_slow(self, what: str) -> None:
        """The step goes on without it; its place in the batch is free from now on."""
        if self.connection is not None:
            self.connection.refuse(RefusedUpdate(Refusal.TOO_SLOW, what))
            self.leave(self.connection)

    def bytes(self) -> tuple[int, int]:
        """Received and sent in this round."""
        now = self.connection
        up, down = (0, 0) if now is None else (now.received_bytes, now.sent_bytes)
        return self.up_bytes + up, self.down_bytes + down


class Seated(SplitConnection):
    """A connection that takes its seat as soon as it can carry frames, until it has ended."""

    def __init__(
        self, seat: Seat, *, classes: int, refused: Callable[[RefusedUpdate], None]
    ) -> None:
        """As `SplitConnection`."""
        super().__init__(seat.shape, classes=classes, refused=refused)
        self._seat = seat

    def begun(
        self,
        wire: upgrading.Wire,
        *,
        behind: upgrading.Bytes = b"",
        http: upgrading.Http | None = None,
    ) -> None:
        """The device is there."""
        super().begun(wire, behind=behind, http=http)
        if not self.ending:
            self._seat.sit(self)

    def lost(self) -> None:
        """The device is gone."""
        super().lost()
        self._seat.leave(self)
