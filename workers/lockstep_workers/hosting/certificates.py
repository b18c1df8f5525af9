"""The certificate of a pod that serves others, where its job speaks TLS.

The cloud pod asks the planner, an edge the cloud pod; `front` serves with what comes. Invariant: a
pod whose URL says https listens only once it has a certificate, and has another one soon after its
CA has become another: whoever connects then trusts that.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lockstep_api.certificates import Certificate
from lockstep_serving.server import HostedServer, alongside
from lockstep_serving.tls import Kept

_LOOK_S = 10.0
"""Between two looks at the CA's file, of whose change nobody tells."""

Ask = Callable[[str], Awaitable[Certificate]]
"""A request in PEM → a certificate; raises NoCertificate."""


@dataclass(frozen=True, slots=True)
class PodCertificate:
    """A pod's certificate, and the CA beside its settings that is to have signed it."""

    kept: Kept
    ca_file: Path

    @asynccontextmanager
    async def renewed(self, server: HostedServer) -> AsyncIterator[None]:
        """There is one inside, kept fresh; should that fail, the server ends."""
        ca = self._ca()
        await self.kept.obtain()
        async with alongside(server, self.kept.run(), self._follow(ca)):
            yield

    async def _follow(self, ca: bytes) -> None:
        """Renews when the CA has become another."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now = self._ca()
            if now not in {b"", ca}:
                ca = now
                self.kept.renew_now()

    def _ca(self) -> bytes:
        """Empty while there is none."""
        try:
            return self.ca_file.read_bytes()
        except OSError:
            return b""


def certificate_of(
    url: str, ca_file: Path, *, ask: Ask, told: Callable[[float], None]
) -> PodCertificate | None:
    """Of the server at a URL, `told` when each one ends; None: it speaks plain HTTP."""
    return PodCertificate(Kept(ask, told=told), ca_file) if url.startswith("https://") else None
