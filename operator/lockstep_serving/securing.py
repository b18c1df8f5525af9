"""TLS of a server's connections: between the socket and a protocol that sees what is in the clear.

`secured` puts it around the protocol that `bounded` makes. That of the event loops cannot end one
direction of a connection, encrypts at once whatever it is given (a model, for each client), holds a
quarter of a megabyte for each connection, and nobody learns of handshakes that do not end.
Invariants: what waits to be sent is not copied, but encrypted piece by piece as the socket takes
it; the socket is read only while the protocol reads; a connection counts from its first moment; to
whoever does not get in it is said why, in words or by an alert.
"""

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, Protocol

from lockstep_serving.bounded import Limits
from lockstep_serving.rarely import Rarely
from lockstep_serving.sources import Sources, source_of

logger = logging.getLogger(__name__)

Bytes = bytes | bytearray | memoryview

_HANDSHAKE = 0x16
"""The first byte of whoever speaks TLS."""
_READ_BYTES = 1 << 18
_PIECE_BYTES = 1 << 17
_HIGH_BYTES = 1 << 16
"""Beyond so much that waits to be sent the protocol is asked to pause."""
_LEAST_HALF_OPEN = 16
"""So many handshakes may go on, or half as many as connections, however many of these are open."""
_LINGER_S = 1.0
_WORDS = b"this port speaks TLS: use https://"
_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n"
    b"connection: close\r\n\r\n%b" % (len(_WORDS), _WORDS)
)


class Bounded(Protocol):
    """What `bounded` makes."""

    within: Limits

    def __call__(self, **given: Any) -> asyncio.Protocol:
        """As uvicorn makes the protocol of a connection."""


def secured(http: Bounded, context: ssl.SSLContext) -> type[asyncio.Protocol]:
    """The same over TLS, for `uvicorn.Config(http=…)`; `context` has the certificate, or will."""
    gate = _Gate(context, http.within)

    def made(**given: Any) -> Secured:
        return Secured(http(**given), gate, opened=given["server_state"].connections)

    return made  # type: ignore[return-value]


class _Gate:
    """What the connections of one server share."""

    def __init__(self, context: ssl.SSLContext, limits: Limits) -> None:
        self.context, self.limits = context, limits
        self.room = memoryview(bytearray(_READ_BYTES))
        """What a socket is read into; nothing of it is needed after a call."""
        self.half_open: Sources[Secured] = Sources(limits.settle_s)
        """Handshakes that go on, by the address that they come from."""
        self._rarely = Rarely(time.monotonic)

    def enter(self, connection: "Secured", opened: Collection[object], *, now_s: float) -> None:
        """A new connection; with too many one that is half open is closed: `Sources` says which."""
        most = self.limits.connections
        most = max(_LEAST_HALF_OPEN, most // 2, most - len(opened))
        if len(self.half_open) >= most:
            self.log("more than %d handshakes at once: one makes room", most)
            if (found := self.half_open.next_to_go(now_s)) is not None:
                found[1].abort()
        self.half_open.add(connection.source(), connection, now_s=now_s)

    def leave(self, connection: "Secured") -> None:
        """It is open, or closed."""
        self.half_open.discard(connection.source(), connection)

    def log(self, message: str, *arguments: object) -> None:
        """A warning, each at most once a minute."""
        if self._rarely.due(message) is not None:
            logger.warning(message, *arguments)


class Secured(asyncio.Transport, asyncio.BufferedProtocol):
    """One connection: a protocol of its socket, and the transport of the protocol in the clear."""

    def __init__(
        self, protocol: asyncio.BaseProtocol, gate: _Gate, *, opened: Collection[object] = ()
    ) -> None:
        """`opened` are the server's connections whose handshakes are done."""
        super().__init__()
        self._protocol, self._gate, self._opened = protocol, gate, opened
        self._loop = asyncio.get_running_loop()
        self._raw: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._is_open = self._is_deaf = self._ends = self._closes = self._has_ended = False
        self._is_paused = self._is_stuck = self._holds = False
        self._backlog: deque[memoryview] = deque()
        self._waiting_bytes = 0

    # -- called by the event loop: the socket ------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected: the handshake may take so long."""
        self._raw = transport
        self._gate.enter(self, self._opened, now_s=self._loop.time())
        self._timer = self._loop.call_later(self._gate.limits.handshake_s, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection's end, whoever wanted it."""
        self._leave_gate()
        self._forget()
        if self._is_open:
            self._protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._gate.room

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        if self._is_deaf:
            return
        self._incoming.write(self._gate.room[:nbytes])
        if self._is_open:
            self._deliver()
        else:
            self._shake_hands()

    def eof_received(self) -> None:
        """The peer sends no more: the connection is closed."""
        self._end_of_peer()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._is_stuck = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_stuck = False
        self._flush()

    # -- the handshake -----------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        if self._tls is None:
            if self._gate.room[0] != _HANDSHAKE:
                self._refuse_plain()
                return
            context = self._gate.context
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_records()
        except ssl.SSLError as error:
            self._gate.log("a TLS handshake has failed, peer %s: %s", self._peer(), error)
            self._break_off()
        else:
            self._begin()

    def _begin(self) -> None:
        self._leave_gate()
        self._send_records()
        self._is_open = True
        self._protocol.connection_made(self)
        self._deliver()

    def _leave_gate(self) -> None:
        """The handshake is over."""
        self._gate.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_plain(self) -> None:
        """Who speaks plain HTTP is told so; what still comes is thrown away for a moment."""
        self._gate.log("plain HTTP on a port of TLS, peer %s", self._peer())
        self._is_deaf = self._has_ended = True
        self._raw.write(_PLAIN)
        self._raw.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S, self.close)

    def source(self) -> str:
        """The address of its peer."""
        return source_of(self._raw)

    def _peer(self) -> object:
        return self._raw.get_extra_info("peername")

    # -- reading -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hands on what has come, for as long as the protocol reads."""
        assert self._tls is not None
        try:
            while not (self._is_paused or self._is_deaf) and self._has_some():
                if isinstance(self._protocol, asyncio.BufferedProtocol):
                    goes_on = self._fill(self._protocol)
                else:
                    goes_on = self._hand_on(self._protocol)
                if not goes_on:
                    self._end_of_peer()
        except ssl.SSLWantReadError:  # there is only a part of a record
            pass
        except ssl.SSLError as error:
            self._gate.log("broken TLS, peer %s: %s", self._peer(), error)
            self._break_off()

    def _break_off(self) -> None:
        """TLS is broken: nothing more can be said but the alert."""
        self._forget()
        self._send_records()
        self._raw.close()

    def _forget(self) -> None:
        """Nothing is sent or handed on any more."""
        self._ends = self._has_ended = self._closes = self._is_deaf = True
        self._backlog.clear()
        self._waiting_bytes = 0

    def _has_some(self) -> bool:
        assert self._tls is not None
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _fill(self, protocol: asyncio.BufferedProtocol) -> bool:
        """Fills one buffer of a protocol; False at the peer's end."""
        assert self._tls is not None
        view, got, goes_on = memoryview(protocol.get_buffer(-1)), 0, True
        try:
            while goes_on and got < len(view) and self._has_some():
                count: int = self._tls.read(len(view) - got, view[got:])  # type: ignore[assignment]
                got, goes_on = got + count, count > 0
        finally:
            if got:
                protocol.buffer_updated(got)
        return goes_on

    def _hand_on(self, protocol: asyncio.BaseProtocol) -> bool:
        """Gives a protocol the next record; False at the peer's end."""
        assert self._tls is not None
        assert isinstance(protocol, asyncio.Protocol)
        data = self._tls.read(_PIECE_BYTES)
        if data:
            protocol.data_received(data)
        return bool(data)

    def _end_of_peer(self) -> None:
        if self._is_open and not self._is_deaf:
            self._protocol.eof_received()  # type: ignore[attr-defined]
        self.close()

    # -- writing -----------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Encrypts as much as the socket takes, and ends what was to end behind it."""
        while self._backlog and not self._is_stuck:
            self._encrypt()
            self._send_records()
        if not self._backlog:
            self._end_writing()
        self._tell_pace()

    def _encrypt(self) -> None:
        assert self._tls is not None
        while self._backlog and self._outgoing.pending < _PIECE_BYTES:
            view = self._backlog[0]
            count = self._tls.write(view[:_PIECE_BYTES])
            self._waiting_bytes -= count
            if count < len(view):
                self._backlog[0] = view[count:]
            else:
                self._backlog.popleft()

    def _send_records(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _end_writing(self) -> None:
        if self._ends and not self._has_ended:
            self._has_ended = True
            self._say_that_it_ends()
            if not (self._closes or self._raw.is_closing()):
                self._raw.write_eof()
        if self._closes:
            self._raw.close()

    def _say_that_it_ends(self) -> None:
        """TLS's own end, so that nobody can cut off what goes before it."""
        if self._tls is None or not self._is_open:
            return
        with suppress(ssl.SSLError):  # the peer has not said so yet, and need not
            self._tls.unwrap()
        self._send_records()

    def _tell_pace(self) -> None:
        if self._waiting_bytes > _HIGH_BYTES and not self._holds:
            self._holds = True
            self._protocol.pause_writing()
        elif not self._waiting_bytes and self._holds:
            self._holds = False
            self._protocol.resume_writing()

    # -- called by the protocol --------------------------------------------------------------------

    def write(self, data: Bytes) -> None:
        """Sends it, at once or later; it must not change until then."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Sends them, as `write`."""
        if self._ends or self._raw.is_closing():
            return
        for data in list_of_data:
            if data:
                view = memoryview(data).cast("B")
                self._backlog.append(view)
                self._waiting_bytes += len(view)
        self._flush()

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Sends no more; what still comes is thrown away."""
        self._ends = self._is_deaf = True
        self._flush()

    def close(self) -> None:
        """Closes, once all is sent; what still comes is thrown away."""
        self._closes = True
        self.write_eof()

    def abort(self) -> None:
        """Closes, whatever was not sent."""
        self._forget()
        self._leave_gate()
        self._raw.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be."""
        return self._closes or self._raw.is_closing()

    def pause_reading(self) -> None:
        """Nothing is handed on from now on."""
        if not self._is_paused:
            self._is_paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Reading goes on."""
        if self._is_paused:
            self._is_paused = False
            self._raw.resume_reading()
            if self._has_some():
                self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        """Whether it does."""
        return not self._is_paused

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whom it reads for."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whom it reads for."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._waiting_bytes + self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the socket, or of TLS."""
        of_tls = {"sslcontext": self._gate.context, "ssl_object": self._tls}
        return of_tls.get(name) or self._raw.get_extra_info(name, default)
