"""How many writes to one namespace may be under way at once; `kube_transport` asks.

An apiserver takes many seconds to write an object of a megabyte, and somebody may have hundreds:
they would have every connection, and nobody else's calls would go out. Reads are quick, and some
are made while others wait for their turn: they wait for no writes. Invariant: writes to one
namespace have at most `MOST_OF_A_NAMESPACE` connections, besides those of Leases.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

MOST_OF_A_NAMESPACE = 40
"""Of the hundred that the Kubernetes client has; resizing one job takes twenty."""

_NAMESPACE = re.compile(r"/namespaces/([^/]+)/(?!leases\b)")
"""A Lease is the operator's own: who renews it waits for no job's writes."""


class Shares:
    """What is under way, by namespace; one without writes is not known here."""

    def __init__(self, most: int = MOST_OF_A_NAMESPACE) -> None:
        """Nothing is under way."""
        self._most = most
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, path: str) -> AsyncIterator[None]:
        """Wait until a write to this path may go out, and hold its place until the end."""
        found = _NAMESPACE.search(path)
        if found is None:
            yield
            return
        slots = self._slots.setdefault(found[1], asyncio.Semaphore(self._most))
        async with slots:
            yield
