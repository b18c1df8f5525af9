"""What a process's probes say, over a real socket."""

from contextlib import closing
from dataclasses import dataclass

import httpx2

from lockstep_serving.probes import ProbeServer, Routes, Told


@dataclass(frozen=True, slots=True)
class Always:
    """A process that is well, or not."""

    problem: str | None = None
    metrics: bytes = b"series 1\n"

    def unhealthy(self) -> str | None:
        """The problem."""
        return self.problem

    def unready(self) -> str | None:
        """The problem."""
        return self.problem

    def page(self) -> bytes:
        """Some metrics."""
        return self.metrics


async def asked(told: Told, path: str, *, more: Routes | None = None) -> httpx2.Response:
    """The answer to one request."""
    with closing(ProbeServer("127.0.0.1", 0, told=told, more=more or {})) as server:
        async with httpx2.AsyncClient() as http:
            return await http.get(f"http://127.0.0.1:{server.port}{path}")
