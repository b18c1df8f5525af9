"""A lock that no namespace has for itself, however many of its jobs wait for it.

Invariant: between a call's wait and its turn, each other namespace has it once at the most.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLock:
    """One holder at a time; namespaces take turns, and in each who came first is first."""

    def __init__(self) -> None:
        """Nobody holds it."""
        self._is_held = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By namespace; whose turn is next comes first."""

    @asynccontextmanager
    async def of(self, namespace: str) -> AsyncIterator[None]:
        """Wait for a turn of the namespace, and hold the lock until the end."""
        if self._is_held:
            await self._turn(namespace)
        self._is_held = True
        try:
            yield
        finally:
            self._pass_on()

    async def _turn(self, namespace: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(namespace, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given, and is not wanted any more
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """To the next who still waits; without one it is free."""
        self._is_held = False
        while self._waiting and not self._is_held:
            namespace, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            del self._waiting[namespace]
            if queue:
                self._waiting[namespace] = queue
            if not turn.done():
                turn.set_result(None)
                self._is_held = True
