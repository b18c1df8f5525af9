"""How an edge receives devices: as the cloud pod does, but only those that the cloud pod has sent.

A device opens its session here with a key that it has from the cloud pod (`edge.members`), and
polls for a task that the cloud pod has announced to it. Invariant: nobody waits here for ever. Who
has nothing to wait for is told so, and asks the cloud pod again, which knows where its work is.
"""

import asyncio
import time
from collections.abc import Callable, Collection

from lockstep_api.sessions import ClientFailure, Registration
from lockstep_api.wire import Task
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.errors import NoSession, SessionTaken
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.hosting.sessions import DeviceSession
from lockstep_workers.learning.clipping import Measured
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.tensors import Flat


class _NoSink:
    """Where nothing goes: each round of an edge has a sink of its own."""

    n_values = 0
    body = bytearray()
    constants = b""

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Never called: no round is open without a sink."""
        raise AssertionError(client)


class EdgeReception(Reception):
    """The devices of one edge."""

    def __init__(
        self,
        clients: Collection[str],
        members: Members,
        *,
        metrics: EdgeMetrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes these clients of the job, while they are members."""
        super().__init__(clients, _NoSink(), tally=metrics, now=now)
        self._members = members

    async def open_session(
        self, registration: Registration, *, key: bytes, proved: bool, is_silent: Callable[[], bool]
    ) -> DeviceSession:
        """A member is there; a session that it has makes room: its key has proved who it is.

        Raises:
            SessionTaken: this is not its key here, as the cloud pod has told it.
        """
        client = registration.client
        if not await self._members.admits(client, key):
            raise SessionTaken(f"no order names {client} with this key: ask the cloud pod")
        return await super().open_session(registration, key=key, proved=True, is_silent=is_silent)

    async def next_task(self, session: DeviceSession, after: int) -> tuple[Task, bytearray] | None:
        """As `Reception`, for a while.

        Raises:
            NoSession: there is no task for this client here.
        """
        try:
            async with asyncio.timeout(self._members.hold_s):
                return await super().next_task(session, after)
        except TimeoutError:
            raise NoSession(f"no task for {session.client} here: ask the cloud pod") from None

    def client_failed(self, failure: ClientFailure, key: bytes) -> bool:
        """That is told to the cloud pod, which counts.

        Raises:
            NoSession: always.
        """
        raise NoSession("tell the cloud pod of it")

    def close_all(self) -> None:
        """Nobody is a member any more: their polls end, and they ask the cloud pod again."""
        for session in list(self.sessions.values()):
            self.close_session(session)
            session.over.set()
