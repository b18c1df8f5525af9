"""Work beside the event loop, of which one namespace has one piece at a time under way.

The threads are few and shared by all. A piece that nobody waits for any more goes on to its end, as
threads do, and until then the next of its namespace does not begin. Invariant: so one namespace
never has more than one of the threads.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Beside:
    """By namespace; one without work is not known here."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._newest: dict[str, asyncio.Future[None]] = {}
        """When the newest piece of each namespace has ended."""

    async def run(
        self, namespace: str, work: Callable[P, R], *args: P.args, **named: P.kwargs
    ) -> R:
        """What the work gives, or raises, once the pieces before it have ended."""
        before = self._newest.get(namespace)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._newest[namespace] = ended
        if before is not None:
            try:
                await asyncio.shield(before)
            except asyncio.CancelledError:
                before.add_done_callback(lambda _: self._end(namespace, ended))
                raise
        piece = asyncio.ensure_future(asyncio.to_thread(work, *args, **named))
        piece.add_done_callback(lambda _: self._end(namespace, ended))
        piece.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(piece)

    def _end(self, namespace: str, ended: asyncio.Future[None]) -> None:
        ended.set_result(None)
        if self._newest.get(namespace) is ended:
            del self._newest[namespace]
