"""uvicorn as a part of a process: operator, cloud role and edges run it beside other work."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import uvicorn


class HostedServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one set, and ends it in order."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def alongside(server: HostedServer, *works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Works go on while a server serves, that ends should one of them end.

    Raises:
        Exception: that of a work that has failed.
    """
    tasks = [asyncio.create_task(one) for one in works]
    for task in tasks:
        task.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


def listener(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket for an address of either family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)
