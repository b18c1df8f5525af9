"""One plan of a job at a time; the planner takes a turn for each call.

A call waits until the one before it has ended, so that the limits of two plans never mix and those
of the newer call are set last. Of calls that wait only the newest is served: whoever sent the
others has given them up, and they end as soon as it comes. Invariant: of a job one call waits at
the most.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lockstep_operator.errors import Superseded


class Turns:
    """By the job's uid; a job without calls is not known here."""

    def __init__(self) -> None:
        """Nobody has a turn."""
        self._waiting: dict[str, asyncio.Future[None] | None] = {}
        """Of each job whose turn somebody has, who waits for it."""

    @asynccontextmanager
    async def take(self, uid: str) -> AsyncIterator[None]:
        """Wait for the job's turn, and have it until the end.

        Raises:
            Superseded: a newer call came meanwhile.
        """
        if uid in self._waiting:
            await self._turn(uid)
        self._waiting.setdefault(uid, None)
        try:
            yield
        finally:
            self._pass_on(uid)

    async def _turn(self, uid: str) -> None:
        older = self._waiting[uid]
        if older is not None and not older.done():
            older.set_exception(Superseded("the job has asked for a plan again meanwhile"))
        turn = self._waiting[uid] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(uid)  # it was given, and is not wanted any more
            raise

    def _pass_on(self, uid: str) -> None:
        """To whoever still waits."""
        turn = self._waiting[uid]
        if turn is None or turn.done():
            del self._waiting[uid]
        else:
            self._waiting[uid] = None
            turn.set_result(None)
