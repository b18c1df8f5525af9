"""A request's body, straight from the socket into the memory that it is meant for.

`bounded` offers it to the app, as an extension of the request's scope; uvicorn's own way copies
each byte five times and stops the socket every 64 KiB. Between the head and the end of the body it
stands in the place of the connection's HTTP protocol.
Invariant: the socket is read while somebody waits for it only, and never beyond the body.
"""

import asyncio
from typing import Any, Protocol

EXTENSION = "lockstep.body"
"""In `scope["extensions"]`: called with the body's announced size it gives an `Incoming`."""
SOCKET = "lockstep.socket"
"""In `scope["extensions"]`: the connection's socket, to ask it for its options."""
KNOWN = "lockstep.known"
"""In `scope["extensions"]`: called with seconds and a name when the peer has shown who it is; its
connection may rest so long between two requests, and makes room for nobody but the same peer."""
TAKING = "lockstep.taking"
"""In `scope["extensions"]`: how the peer takes what it is sent (`taking.Taking`)."""
LEAST_BYTES = 1 << 10
"""Fewer bytes in the time that one waits for more are as good as none."""
_NOWHERE = memoryview(b"")


class Http(Protocol):
    """uvicorn's protocol of a connection, as far as it is needed here."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: Any
    cycle: Any

    def body_received(self) -> None:
        """The body is complete: a new request may begin."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As of every protocol."""

    def eof_received(self) -> None:
        """As of every protocol."""

    def pause_writing(self) -> None:
        """As of every protocol."""

    def resume_writing(self) -> None:
        """As of every protocol."""


class Incoming(asyncio.BufferedProtocol):
    """The body of one request."""

    def __init__(self, http: Http, size: int) -> None:
        """`size` bytes, as the head has announced."""
        self._http, self._cycle, self._transport = http, http.cycle, http.transport
        self._left = size
        self._view, self._got, self._enough = _NOWHERE, 0, 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_charge = self._keep_alive = False
        self._seen = 0

    async def fill(self, view: memoryview, *, enough: int, patience_s: float) -> int:
        """Fills `view` from its start; returns how many bytes of the body are in it.

        These are `enough` at least, unless the body ends or next to nothing comes for `patience_s`.

        Raises:
            ConnectionResetError: the peer has gone.
        """
        self._view = view[: self._left]
        self._enough = min(enough, len(self._view))
        self._got = self._take_what_is_there()
        try:
            if self._got < self._enough:
                await self._receive(patience_s)
        finally:
            self._view = _NOWHERE
        if self._left == 0 and self._in_charge:
            self._hand_back()
        return self._got

    def _take_what_is_there(self) -> int:
        """What came together with the head."""
        there: bytearray = self._cycle.body
        count = min(len(there), len(self._view))
        self._view[:count] = memoryview(there)[:count]
        self._cycle.body = there[count:]
        self._left -= count
        return count

    async def _receive(self, patience_s: float) -> None:
        self._take_charge()
        self._waiter, self._seen = self._http.loop.create_future(), self._got
        self._watch(patience_s)
        self._transport.resume_reading()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._stop()
        if self._got < self._enough and self._transport.is_closing():
            raise ConnectionResetError

    def _take_charge(self) -> None:
        """An answer before the body is complete ends the connection: nobody reads the rest."""
        if self._cycle.disconnected or self._transport.is_closing():
            raise ConnectionResetError
        if self._in_charge:
            return
        self._in_charge = True
        if self._cycle.waiting_for_100_continue:
            self._cycle.waiting_for_100_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._keep_alive, self._cycle.keep_alive = self._cycle.keep_alive, False
        self._http.flow.pause_reading()
        self._transport.set_protocol(self)

    def _hand_back(self) -> None:
        self._in_charge = False
        self._cycle.keep_alive = self._keep_alive
        self._transport.set_protocol(self._http)  # type: ignore[arg-type]
        self._http.body_received()

    def _watch(self, patience_s: float) -> None:
        self._timer = self._http.loop.call_later(patience_s, self._look, patience_s)

    def _look(self, patience_s: float) -> None:
        """Ends the waiting when too little has come since the last look: drops hold nobody up."""
        if self._got - self._seen >= LEAST_BYTES:
            self._seen = self._got
            self._watch(patience_s)
        else:
            self._stop()

    def _stop(self) -> None:
        """Reads no further and wakes who waits."""
        self._transport.pause_reading()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- called by the event loop ----------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._view[self._got :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        self._got += nbytes
        self._left -= nbytes
        if self._got >= self._enough:
            self._stop()

    def eof_received(self) -> None:
        """The peer sends no more: the connection is closed."""
        self._http.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wakes who waits; it sees that the transport is closing."""
        self._stop()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._http.resume_writing()
