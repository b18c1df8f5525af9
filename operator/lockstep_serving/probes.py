"""/healthz, /readyz and /metrics: a port and a thread of their own, the same server for all roles.

Each role starts one before anything else: a device answers before torch is imported. Invariants:
neither a flooded data port nor a loop that is busy keeps it from answering (what hangs is told by a
`Heartbeat`); nobody keeps others out of it, or has it work more than a share of a core; it reads
heads of requests and nothing else. Its routes are three, at the operator also the list of targets.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol

from lockstep_api import names
from lockstep_serving.exporting import CONTENT_TYPE
from lockstep_serving.pace import Buckets, Rate
from lockstep_serving.server import listener
from lockstep_serving.sources import Sources, source_of
from lockstep_serving.threads import start_thread

HEAD_BYTES = 8 << 10
_BACKLOG = 128
_RATE = Rate(burst=100, per_s=40)
_SHARE = 0.1
"""Of a core, for making pages."""
_TEXT = "text/plain; charset=utf-8"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """To one request."""

    status: int
    body: bytes
    content_type: str = _TEXT
    stays: bool = True
    """Whether the connection may."""


Routes = Mapping[str, Callable[[], Answer]]
"""Path → who answers; asked in the probes' thread, so it must not wait for anything."""


class Told(Protocol):
    """What is told of a process; asked in the probes' thread, so it must not wait for anything."""

    def unhealthy(self) -> str | None:
        """Why the process should be started anew; None: it should not."""

    def unready(self) -> str | None:
        """Why it cannot serve yet; None: it can."""

    def page(self) -> bytes:
        """All metrics in the text format."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What peers may take."""

    connections: int = 64
    """Open at once; beyond them the source that holds most loses its oldest."""
    rate: Rate = _RATE
    """Connections and requests of one source; what is beyond is closed without a word."""
    head_bytes: int = HEAD_BYTES
    head_s: float = 5.0
    """For a request's head, from the connection's start or its first byte."""
    answer_s: float = 15.0
    """Until an answer is taken."""
    rest_s: float = 75.0
    """Between two requests of a connection: longer than between scrapes of a large job's pod."""


_USUAL = Bounds()
_NO_MORE: Routes = MappingProxyType({})


class ProbeServer:
    """Answers probes and scrapes until it is closed, or the process ends."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        told: Told,
        more: Routes = _NO_MORE,
        within: Bounds = _USUAL,
    ) -> None:
        """Listens at once; `more` are routes beside the three.

        Raises:
            OSError: it cannot listen there.
        """
        self._socket = listener(host, port, backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._loop, self._over = asyncio.SelectorEventLoop(), asyncio.Event()
        self._held = _Held(_routes(told, more), within, Buckets(within.rate))
        self._thread = start_thread(self._run, "probes")

    def close(self) -> None:
        """Stops listening."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        loop = self._loop
        made = partial(_Connection, self._held, loop)
        server = await loop.create_server(made, sock=self._socket)
        await self._over.wait()
        server.close()
        for one in self._held.connections.all():
            one.abort()
        await asyncio.sleep(0)  # they close in the loop's next turn


@dataclass(slots=True)
class Pages:
    """A page is told again until making another one takes no more than a share of a core."""

    make: Callable[[], Answer]
    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.thread_time
    _page: Answer | None = None
    _stale_at_s: float = 0.0

    def get(self) -> Answer:
        """A page that is new, or as good as new."""
        if self._page is None or self.clock() >= self._stale_at_s:
            began_s = self.cpu_clock()
            self._page = self.make()
            self._stale_at_s = self.clock() + (self.cpu_clock() - began_s) / _SHARE
        return self._page


def _routes(told: Told, more: Routes) -> Routes:
    def metrics() -> Answer:
        return Answer(200, told.page(), CONTENT_TYPE)

    return {
        names.HEALTH_ROUTE: lambda: _said(told.unhealthy()),
        names.READY_ROUTE: lambda: _said(told.unready()),
        names.METRICS_ROUTE: Pages(metrics).get,
        **{path: Pages(make).get for path, make in more.items()},
    }


def _said(problem: str | None) -> Answer:
    return Answer(200, b"ok\n") if problem is None else Answer(503, f"{problem}\n".encode())


@dataclass(slots=True)
class _Held:
    """What all connections share."""

    routes: Routes
    within: Bounds
    paced: Buckets
    connections: "Sources[_Connection]" = field(default_factory=Sources)

    def answer(self, path: bytes) -> Answer:
        """What is said there."""
        route = self.routes.get(path.decode("latin-1"))
        return Answer(404, b"not found\n") if route is None else route()


class _Connection(asyncio.Protocol):
    """One request after the other; whatever is not one ends it."""

    def __init__(self, held: _Held, loop: asyncio.AbstractEventLoop) -> None:
        self._held, self._within, self._loop = held, held.within, loop
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None
        self._untaken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._source = source_of(transport)
        transport.set_write_buffer_limits(high=0)
        self._held.connections.add(self._source, self)
        self._expect(self._within.head_s)
        if not self._permitted():
            self.abort()
        elif len(self._held.connections) > self._within.connections:
            self._make_room()

    def _make_room(self) -> None:
        found = self._held.connections.next_to_go()
        assert found is not None
        found[1].abort()

    def abort(self) -> None:
        """Ends at once, and counts no more."""
        self._held.connections.discard(self._source, self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.connections.discard(self._source, self)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._untaken = True
        self._expect(self._within.answer_s)

    def resume_writing(self) -> None:
        self._untaken = False
        self._expect(self._within.rest_s)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if not self._head:
            self._expect(self._within.head_s)
        self._head += data
        head, end, more = self._head.partition(b"\r\n\r\n")
        if len(self._head) > self._within.head_bytes:
            self._refuse(431)
        elif end and (more or self._untaken):
            self._refuse(400)
        elif end:
            self._head = b""
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        asked = read_head(head)
        if asked is None:
            self._refuse(400)
        elif not self._permitted():
            self.abort()
        else:
            path, stays = asked
            answer = self._held.answer(path)
            self._send(answer, stays=stays and answer.stays)

    def _permitted(self) -> bool:
        return self._held.paced.of(self._source).take(self._loop.time())

    def _refuse(self, status: int) -> None:
        self._send(Answer(status, f"{_PHRASES[status]}\n".lower().encode()), stays=False)

    def _send(self, answer: Answer, *, stays: bool) -> None:
        head = f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\n"
        head += f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\n"
        head += "\r\n" if stays else "connection: close\r\n\r\n"
        self._expect(self._within.rest_s if stays else self._within.answer_s)
        self._transport.write(head.encode() + answer.body)
        if not stays:
            self._transport.close()

    def _expect(self, seconds: float) -> None:
        """Until something else is to come, it has so long."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.abort)


def read_head(head: bytes) -> tuple[bytes, bool] | None:
    """The path of a GET, and whether the connection stays; None: it is nothing else."""
    line, *fields = head.split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or words[0] != b"GET" or words[2] not in {b"HTTP/1.1", b"HTTP/1.0"}:
        return None
    known = {name.strip().lower(): value.strip().lower() for name, value in map(_field, fields)}
    if known.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in known:
        return None
    stays = words[2] == b"HTTP/1.1" and known.get(b"connection") != b"close"
    return words[1].partition(b"?")[0], stays


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value
