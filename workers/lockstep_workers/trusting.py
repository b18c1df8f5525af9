"""httpx2's connections of a worker: to the planner, and an edge's to the cloud pod.

Beside `trust`, since a device needs no httpx2.
"""

import ssl
from typing import Any

import httpx2

from lockstep_workers.trust import Trust, Untrusted


class TrustingTransport(httpx2.AsyncBaseTransport):
    """Connections of httpx2, each new one made with the CA as it is then."""

    def __init__(self, trust: Trust, **options: Any) -> None:
        """`options` are those of `httpx2.AsyncHTTPTransport`."""
        self._trust, self._options = trust, options
        self._plain = httpx2.AsyncHTTPTransport(verify=False, **options)
        self._secured: dict[ssl.SSLContext, httpx2.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As of every transport."""
        if request.url.scheme != "https":
            return await self._plain.handle_async_request(request)
        try:
            context = self._trust.context()
        except Untrusted as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        if context not in self._secured:
            made = httpx2.AsyncHTTPTransport(verify=context, **self._options)
            self._secured[context] = made
        return await self._secured[context].handle_async_request(request)

    async def aclose(self) -> None:
        """Closes all connections."""
        for one in (self._plain, *self._secured.values()):
            await one.aclose()
