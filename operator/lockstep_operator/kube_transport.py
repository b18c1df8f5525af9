"""How `kube` speaks to the apiserver: one request, its answer or its stream, and its error.

Only `kube` and its `kube_lists` use it. Every failure leaves as a KubeError with the
apiserver's own words; no error of aiohttp or of the Kubernetes client does. A write is bounded by
the time for which this process may write, so that one that lost its lease has nothing under way
when a successor begins. What is not in the table of rights (`rights`) does not go out at all.
"""

import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from lockstep_operator.answers import read_at_most
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import (
    Conflict,
    KubeError,
    NotFound,
    NotServed,
    Refused,
    Throttled,
    TooLarge,
    Unavailable,
)
from lockstep_operator.kube_reviews import ACCESS_REVIEW, TOKEN_REVIEW
from lockstep_operator.rights import called, granted
from lockstep_operator.shares import Shares

JSON = "application/json"
OBJECT_BYTES = 16 << 20
"""More than an object can have, as JSON: of what is stored in 1.5 MB the apiserver makes a few."""
REQUEST_TIMEOUT_S = 30.0
SILENCE_S = 90.0
"""A watch that brings nothing for so long is dead: the apiserver sends a bookmark every minute."""
MOST_WRITES = 40
"""To one namespace at once, of the hundred connections that the Kubernetes client has; resizing one
job takes twenty. An apiserver takes many seconds to write an object of a megabyte, and somebody may
have hundreds. Reads are quick, and some are made while others wait for their turn: they wait for no
writes."""
_NAMESPACE = re.compile(r"/namespaces/([^/]+)/(?!leases\b)")
"""A Lease is the operator's own: who renews it waits for no job's writes."""
_METHODS = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "apply": "PATCH",
    "delete": "DELETE",
}
_READS = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it goes out."""

    verb: str
    kind: tuple[str, str]
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Manifest | list[Manifest] | None = None
    content_type: str = JSON
    accept: str = JSON
    streams: bool = False
    """Whether the answer goes on for as long as the apiserver likes."""
    most_bytes: int = OBJECT_BYTES
    """What is read of the answer."""

    @property
    def writes(self) -> bool:
        return self.verb not in _READS and self.kind not in {TOKEN_REVIEW, ACCESS_REVIEW}

    def __str__(self) -> str:
        return f"{_METHODS[self.verb]} {self.path}"


@dataclass(frozen=True, slots=True)
class Transport:
    """Requests over HTTP."""

    client: ApiClient
    count: Callable[[str, str], None] = lambda verb, kind: None
    """Hears verb and kind of every request."""
    left_s: Callable[[], float] = lambda: math.inf
    """Seconds for which this process may still write."""
    writes: Shares = field(default_factory=lambda: Shares(MOST_WRITES))
    """Under way: no namespace has all connections."""

    async def call(self, request: Request) -> Manifest:
        """The answer as an object.

        Raises:
            TooLarge: it has more bytes than are read of it.
        """
        async with self._share(request), self.open(request) as response:
            content = await read_at_most(response, request.most_bytes)
            if content is None:
                raise TooLarge(f"{request}: more than {request.most_bytes:,} bytes")
            answer: Manifest = json.loads(content) if content else {}
            return answer

    async def send(self, request: Request) -> None:
        """A call whose answer is of no use: it is as large as its object, and nothing is held."""
        async with self._share(request), self.open(request) as response:
            async for _ in response.content.iter_any():
                continue

    def _share(self, request: Request) -> AbstractAsyncContextManager[None]:
        found = _NAMESPACE.search(request.path) if request.writes else None
        return nullcontext() if found is None else self.writes.of(found[1])

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a good status; anything else is raised as a KubeError."""
        if not granted(call := called(request.verb, request.path)):
            raise Refused(f"{request}: {call} is not among the operator's rights")
        timeout = self._timeout(request)
        try:
            _, url, headers, _, _ = await self.client.param_serialize(
                _METHODS[request.verb],
                request.path,
                query_params=list(request.query.items()),
                header_params={"Accept": request.accept, "Content-Type": request.content_type},
                auth_settings=["BearerToken"],
            )
            self.count(request.verb, request.kind[1])
            answer = await self.client.call_api(
                _METHODS[request.verb], url, headers,
                body=request.body, _request_timeout=timeout,
            )  # fmt: skip
            response: aiohttp.ClientResponse = answer.response
            async with response:
                await _raise_for(response, str(request))
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: TimeoutError too
            raise Unavailable(f"{request}: {str(error) or type(error).__name__}") from error

    def _timeout(self, request: Request) -> aiohttp.ClientTimeout:
        if request.streams:
            return aiohttp.ClientTimeout(sock_connect=REQUEST_TIMEOUT_S, sock_read=SILENCE_S)
        if not request.writes:
            return aiohttp.ClientTimeout(REQUEST_TIMEOUT_S)
        if (left_s := self.left_s()) <= 0:
            raise Unavailable(f"{request}: this operator does not lead any more")
        return aiohttp.ClientTimeout(min(REQUEST_TIMEOUT_S, left_s))


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Manifest]:
    """The events of a watch, each held until the next is asked for."""
    async for line in _lines(response):
        yield _event(line)


def _event(line: bytes) -> Manifest:
    event: Manifest = json.loads(line)
    if event["type"] == "ERROR":
        raise Unavailable(f"watch: {event['object'].get('message', 'failed')}")
    return event


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length that an event has: aiohttp's own end at 4 MiB."""
    line = bytearray()
    async for part in response.content.iter_any():
        *ended, rest = part.split(b"\n")
        for end in ended:
            line += end
            _check(line)
            yield bytes(line)
            line.clear()
        line += rest
        _check(line)


def _check(line: bytearray) -> None:
    if len(line) > OBJECT_BYTES:
        raise ValueError(f"an event of more than {OBJECT_BYTES:,} bytes")


async def _raise_for(response: aiohttp.ClientResponse, call: str) -> None:
    if response.status < 400:
        return
    error = error_of(
        response.status, await response.text(), retry_after=response.headers.get("Retry-After")
    )
    error.words = str(error)
    error.args = (f"{call}: {error}",)
    raise error


def error_of(status: int, body: str, *, retry_after: str | None = None) -> KubeError:
    """The error for an HTTP status; its text is the apiserver's message."""
    message = _message(body) or f"HTTP {status}"
    if status == 429:
        return Throttled(message, retry_after=_seconds(retry_after))
    if status >= 500:
        return Unavailable(message)
    if status == 404 and not _names_an_object(body):
        return NotServed(message)
    known: dict[int, type[KubeError]] = {404: NotFound, 409: Conflict, 410: Unavailable}
    return known.get(status, Refused)(message)


def _message(body: str) -> str:
    try:
        answer = json.loads(body)
    except ValueError:
        return body.strip()[:300]
    return str(answer.get("message", "")) if isinstance(answer, dict) else body[:300]


def _names_an_object(body: str) -> bool:
    """Whether an error is about an object, not about the route that was called."""
    try:
        details = json.loads(body)["details"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(details, dict) and bool(details.get("name"))


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 1.0
