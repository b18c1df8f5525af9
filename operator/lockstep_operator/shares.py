"""So many at once of each namespace, whatever others do: writes to Kubernetes, uses of rounds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Shares:
    """What is under way, by namespace; one without anything is not known here."""

    def __init__(self, most: int) -> None:
        """Nothing is under way."""
        self._most = most
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, namespace: str) -> AsyncIterator[None]:
        """Wait for one of the namespace's places, and hold it until the end."""
        slots = self._slots.setdefault(namespace, asyncio.Semaphore(self._most))
        async with slots:
            yield
