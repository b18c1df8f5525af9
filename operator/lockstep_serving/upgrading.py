"""A connection that leaves HTTP: after `101 Switching Protocols` its route's owner reads it itself.

`bounded` makes an `Offer` of a request that asks for a protocol which the server has
(`Limits.upgrades`); the route answers such a request like any other, or takes it. Where a proxy
lets no upgrade through, `stream` gives the same protocol the request's body and its answer.
Invariants: until the route has decided, the request is ordinary and nothing behind its head is
looked at; whatever came behind the head is the protocol's first; a connection that was taken still
counts in the server's limits, and ends with the server.
"""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

EXTENSION = "lockstep.upgrade"
"""In `scope["extensions"]` of a request for a protocol which the server has: an `Offer`."""
MOST_BEHIND_BYTES = 1 << 16
"""Behind a head whose route has not decided; more is left in the socket."""
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: %b\r\n\r\n"
_LINGER_S = 1.0
_DISCARDED_BYTES = 1 << 16

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Bytes = bytes | bytearray | memoryview


class Wire(Protocol):
    """What an upgraded connection does with its transport."""

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Sends them, at once or later; they must not change until then."""

    def write_eof(self) -> None:
        """Sends no more."""

    def abort(self) -> None:
        """Closes, whatever was not sent."""

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""

    def pause_reading(self) -> None:
        """Nothing is read from now on."""

    def resume_reading(self) -> None:
        """Reading goes on."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whom it reads for."""


class Http(Protocol):
    """uvicorn's protocol of a connection, as far as it is needed here."""

    transport: asyncio.Transport
    flow: Any
    cycle: Any

    def taken(self, by: "Upgraded") -> None:
        """The connection is no longer HTTP's, but counts."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As of every protocol."""


class Upgraded(asyncio.BufferedProtocol):
    """A connection that was taken; reading is paused until `resume`."""

    def __init__(self) -> None:
        """Not begun."""
        self.wire: Wire
        self.paused = True
        self.ending = False
        """It sends no more, and what still comes is thrown away."""
        self._http: Http | None = None
        self._behind = memoryview(b"")
        self._linger: asyncio.TimerHandle | None = None

    def begun(self, wire: Wire, *, behind: Bytes = b"", http: Http | None = None) -> None:
        """The connection is ours; `behind` has come already."""
        self.wire, self._http, self._behind = wire, http, memoryview(behind)

    def pause(self) -> None:
        """Reads no further."""
        if not self.paused:
            self.paused = True
            self.wire.pause_reading()

    def resume(self) -> None:
        """Reads what came behind the head, then what comes."""
        if not self.paused or self.ending or self.wire.is_closing():
            return
        self.paused = False
        while self._behind and not (self.paused or self.ending):
            room = memoryview(self.get_buffer(-1))
            count = min(len(room), len(self._behind))
            room[:count], self._behind = self._behind[:count], self._behind[count:]
            self.buffer_updated(count)
        if not (self.paused or self.ending):
            self.wire.resume_reading()

    def finish(self, last: Bytes = b"") -> None:
        """Sends `last` and no more; closes when the peer does, or in a moment.

        Closed at once, with data unread, the connection would be reset and the last words lost.
        """
        if self.ending or self.wire.is_closing():
            return
        self.ending = True
        if last:
            self.wire.writelines([last])
        self.wire.write_eof()
        self.wire.pause_reading()
        self.wire.set_protocol(_Discarding(self))
        self.wire.resume_reading()
        self._linger = asyncio.get_running_loop().call_later(_LINGER_S, self.wire.abort)

    def shut_down(self) -> None:
        """The server ends."""
        self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection's end, whoever wanted it."""
        if self._linger is not None:
            self._linger.cancel()
        if self._http is not None:
            self._http.connection_lost(exc)
        self.lost()

    @abstractmethod
    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go; never empty."""

    @abstractmethod
    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""

    @abstractmethod
    def lost(self) -> None:
        """There is no connection any more."""


class _Discarding(asyncio.BufferedProtocol):
    """Throws away what a peer still sends to a connection that has ended."""

    def __init__(self, ended: Upgraded) -> None:
        self._ended = ended
        self._room = memoryview(bytearray(_DISCARDED_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Nobody reads it."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.connection_lost(exc)


class Offer:
    """A request that asks to leave HTTP."""

    def __init__(self, http: Http, name: bytes) -> None:
        """`name` is the protocol that it asks for."""
        self._http, self._name = http, name
        self._behind = bytearray()

    def keep(self, data: Bytes) -> None:
        """What came behind the head."""
        self._behind += data
        if len(self._behind) > MOST_BEHIND_BYTES:
            self._http.flow.pause_reading()

    def take(self, protocol: Upgraded) -> None:
        """Answers 101; from now on the connection is the protocol's.

        Raises:
            ConnectionResetError: the peer has gone.
        """
        http, transport = self._http, self._http.transport
        if http.cycle.disconnected or transport.is_closing():
            raise ConnectionResetError
        http.cycle.response_started = http.cycle.response_complete = True
        http.flow.pause_reading()
        http.taken(protocol)
        transport.set_protocol(protocol)
        transport.write(_SWITCHING % self._name)
        protocol.begun(transport, behind=self._behind, http=http)


class _Streamed:
    """The body of a request and its answer, as the transport of a protocol."""

    def __init__(self, protocol: asyncio.BufferedProtocol) -> None:
        self._protocol = protocol
        self._out: deque[Bytes] = deque()
        self._to_do, self._may_read = asyncio.Event(), asyncio.Event()
        self._eof = self._aborted = False

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        if not self._eof:
            self._out += list_of_data
            self._to_do.set()

    def write_eof(self) -> None:
        self._eof = True
        self._to_do.set()

    def abort(self) -> None:
        self._out.clear()
        self._aborted = True
        self.write_eof()

    def is_closing(self) -> bool:
        return self._aborted

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.BufferedProtocol)
        self._protocol = protocol

    async def read(self, receive: Receive) -> None:
        """Hands on the request's body to its end."""
        more = True
        while more:
            await self._may_read.wait()
            message = await receive()
            more = message.get("more_body", False)
            piece = memoryview(message.get("body", b""))
            while piece:
                await self._may_read.wait()
                room = memoryview(self._protocol.get_buffer(-1))
                count = min(len(room), len(piece))
                room[:count], piece = piece[:count], piece[count:]
                self._protocol.buffer_updated(count)

    async def answer(self, send: Send) -> None:
        """Sends what is written, to its end."""
        while self._out or not self._eof:
            if not self._out:
                self._to_do.clear()
                await self._to_do.wait()
                continue
            await send({
                "type": "http.response.body", "body": self._out.popleft(), "more_body": True
            })  # fmt: skip
        await send({"type": "http.response.body", "body": b""})


async def stream(receive: Receive, send: Send, *, protocol: Upgraded, content_type: bytes) -> None:
    """Plays a protocol over a request's body and its answer until one of them ends."""
    wire = _Streamed(protocol)
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    protocol.begun(wire)
    ways = [asyncio.ensure_future(wire.read(receive)), asyncio.ensure_future(wire.answer(send))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        wire.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        protocol.connection_lost(None)
