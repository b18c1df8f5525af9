"""httpx2's connections of a worker: to the planner, and an edge's to the cloud pod.

Beside `trust`, since a device needs no httpx2.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

import httpx2
import structlog

from lockstep_workers.addresses import addresses
from lockstep_workers.trust import Trust, Untrusted

_log = structlog.get_logger()
_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout)


class TrustingTransport(httpx2.AsyncBaseTransport):
    """Connections of httpx2, each new one made with the CA as it is then."""

    def __init__(self, trust: Trust, **options: Any) -> None:
        """`options` are those of `httpx2.AsyncHTTPTransport`."""
        self._trust, self._options = trust, options
        self._plain = httpx2.AsyncHTTPTransport(verify=False, **options)
        self._secured: dict[ssl.SSLContext, httpx2.AsyncHTTPTransport] = {}
        self._found: dict[str, str] = {}
        """Hosts whose name led to an impostor, and the address where the server was."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """As of every transport; over TLS an impostor among a name's addresses is passed over."""
        if request.url.scheme != "https":
            return await self._plain.handle_async_request(request)
        try:
            context = self._trust.context()
        except Untrusted as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        if context not in self._secured:
            made = httpx2.AsyncHTTPTransport(verify=context, **self._options)
            self._secured[context] = made
        return await self._asked(request, self._secured[context])

    async def _asked(
        self, request: httpx2.Request, by: httpx2.AsyncHTTPTransport
    ) -> httpx2.Response:
        """Asks by name, unless that led to nowhere: then where the server was found at last.

        Nothing of a request is sent before its connection stands, so that it can be tried again.
        """
        host = request.url.host
        if (place := self._found.get(host)) is not None:
            try:
                return await self._at(place, request, by=by)
            except _UNREACHED:
                self._found.pop(host, None)
        try:
            return await by.handle_async_request(request)
        except _UNREACHED as error:
            for place in await _others(request.url):
                _log.info("not the server", host=host, why=str(error), next=place)
                with suppress(*_UNREACHED):
                    return await self._at(place, request, by=by)
            raise

    async def _at(
        self, place: str, request: httpx2.Request, *, by: httpx2.AsyncHTTPTransport
    ) -> httpx2.Response:
        """Asks at an address, whoever answers proving to be the host."""
        host = request.url.host
        there = httpx2.Request(
            request.method,
            request.url.copy_with(host=place),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        answer = await by.handle_async_request(there)
        self._found[host] = place
        return answer

    async def aclose(self) -> None:
        """Closes all connections."""
        for one in (self._plain, *self._secured.values()):
            await one.aclose()


async def _others(url: httpx2.URL) -> list[str]:
    """All addresses of a name that has several; who has one only has been asked there."""
    try:
        found = await asyncio.to_thread(addresses, url.host, url.port or 443)
    except OSError:
        return []
    return found if len(found) > 1 else []
