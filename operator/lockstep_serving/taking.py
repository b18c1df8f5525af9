"""How fast a peer takes what it is sent: who takes next to nothing would hold it for ever.

`bounded` has one for each connection, which routes may ask too. Invariant: what counts as taken is
what the peer's kernel has acknowledged, so a slow link, or one that stands still for two minutes,
is never mistaken for a peer that does not read.
"""

import asyncio
import fcntl
import struct
import termios
from typing import Any, Protocol

SILENCE_S = 240.0
"""Twice as long as a link may stand still: kernels tell of room in lumps."""
LEAST_BYTES_S = 64
"""On the whole, beyond the silence; as of bodies."""
LOOK_S = 15.0


class Sends(Protocol):
    """A transport, as far as it is needed here."""

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the socket."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Its socket."""

    def abort(self) -> None:
        """Ends it at once."""


class Taking:
    """Watches a connection while something waits to be sent on it."""

    def __init__(self, transport: Sends, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing waits yet."""
        self._transport, self._loop = transport, loop
        self._timer: asyncio.TimerHandle | None = None
        self._began_s = self._last_s = 0.0
        self._left = self._taken = 0

    def untaken(self) -> int:
        """Bytes that the peer has not acknowledged."""
        sock = self._transport.get_extra_info("socket")
        waiting = self._transport.get_write_buffer_size()
        return waiting if sock is None else waiting + _unacknowledged(sock.fileno())

    def holds_back(self) -> bool:
        """Whether the socket takes no more, and something waits."""
        return self._timer is not None

    def abort(self) -> None:
        """Ends the connection."""
        self._transport.abort()

    def begin(self) -> None:
        """The socket takes no more for now."""
        self.end()
        self._began_s = self._last_s = self._loop.time()
        self._left, self._taken = self.untaken(), 0
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def end(self) -> None:
        """It does again, or the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        left, now_s = self.untaken(), self._loop.time()
        if left < self._left:
            self._taken, self._last_s = self._taken + self._left - left, now_s
        self._left = left
        if is_overdue(now_s - self._began_s, silent_s=now_s - self._last_s, taken=self._taken):
            self._timer = None
            self.abort()
        else:
            self._timer = self._loop.call_later(LOOK_S, self._look)


def is_overdue(passed_s: float, *, silent_s: float, taken: int) -> bool:
    """Whether a peer that has taken so much is waited for no longer."""
    return silent_s > SILENCE_S or passed_s > SILENCE_S + taken / LEAST_BYTES_S


def _unacknowledged(fileno: int) -> int:
    """Bytes in the kernel's queue of a connection."""
    try:
        (queued,) = struct.unpack("i", fcntl.ioctl(fileno, termios.TIOCOUTQ, struct.pack("i", 0)))
    except OSError:  # it is closed
        return 0
    return int(queued)
