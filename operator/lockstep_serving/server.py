"""uvicorn as a part of a process: operator, cloud role and edges run it beside other work."""

import socket
from contextlib import AbstractContextManager, nullcontext

import uvicorn


class HostedServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one set, and ends it in order."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def listener(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket for an address of either family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)
