"""Whom an edge works with: what its members show here, as the cloud pod has told it.

Filled from orders and news (`edge.running`), asked by the routes. A member shows what follows from
the key of its session at the cloud pod and this edge's name: of the key itself an edge never knows,
so that it is nobody at the cloud pod, and nobody at another edge. A member may come before the
order that names it, or, started anew, before its new key is known: so it is waited for, a while.
Invariant: without a session at the cloud pod an edge knows nobody.
"""

import asyncio
import hmac
from collections.abc import Iterable, Mapping

HOLD_S = 10.0
"""How long a request is held until an order comes; then its sender asks the cloud pod again."""


class Members:
    """The keys by client."""

    def __init__(self, hold_s: float = HOLD_S) -> None:
        """Nobody; requests are held for `hold_s` at most."""
        self._keys: dict[str, str] = {}
        self.hold_s = hold_s
        self._news = asyncio.Event()

    def know(self, keys: Mapping[str, str]) -> None:
        """These clients are members, with these keys from now on."""
        self._keys.update(keys)
        self._tell()

    def forget(self, clients: Iterable[str] | None = None) -> None:
        """These clients are members no longer; None: nobody is."""
        for client in list(self._keys if clients is None else clients):
            self._keys.pop(client, None)
        self._tell()

    async def admits(self, client: str, key: bytes) -> bool:
        """Whether a client shows its key; waits until it is known."""
        try:
            async with asyncio.timeout(self.hold_s):
                while not self._fits(client, key):
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _fits(self, client: str, key: bytes) -> bool:
        known = self._keys.get(client)
        return known is not None and hmac.compare_digest(known.encode(), key)

    def _tell(self) -> None:
        old, self._news = self._news, asyncio.Event()
        old.set()
