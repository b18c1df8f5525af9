"""How tests talk to a server: in the clear or over TLS, with the same words."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from lockstep_serving.securing import secured
from tests.support.certificates import certified, local_ca, trusting

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Channel:
    """Both sides of a way to talk."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    def serve(self, http: Any) -> Any:
        """What a server speaks that has `http` of `bounded`."""
        return http if self.server is None else secured(http, self.server)

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a server on loopback."""
        return await asyncio.open_connection(LOOPBACK, port, ssl=self.client)


PLAIN = Channel()


def over_tls() -> Channel:
    """With a CA of its own."""
    ca = local_ca()
    return Channel(certified(ca, LOOPBACK), trusting(ca.pem))
