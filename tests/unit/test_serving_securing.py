"""What TLS of a server holds of a connection, beside a socket that is played."""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lockstep_serving.bounded import Limits
from lockstep_serving.securing import Secured, secured
from tests.support.certificates import certified, local_ca, trusting

LARGE = bytes(range(256)) * (1 << 14)  # 4 MiB
SOCKET_BYTES = 300_000


class Wire(asyncio.Transport):
    """A socket that takes so many bytes before somebody reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.protocol = bytearray(), asyncio.BaseProtocol()
        self.has_eof = self.is_reading_now = self.has_closed = False

    def write(self, data: Any) -> None:
        before = len(self.sent)
        self.sent += data
        if before < SOCKET_BYTES <= len(self.sent):
            self.protocol.pause_writing()

    def taken(self) -> bytes:
        """The peer reads all that is there."""
        data, was_full = bytes(self.sent), len(self.sent) >= SOCKET_BYTES
        self.sent.clear()
        if was_full:
            self.protocol.resume_writing()
        return data

    def write_eof(self) -> None:
        self.has_eof = True

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return self.has_closed

    def close(self) -> None:
        self.has_closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class App(asyncio.BufferedProtocol):
    """A protocol in the clear, with room for so much at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.got, self.room, self.calls = bytearray(), memoryview(bytearray(1 << 16)), list[str]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.room[:nbytes]

    def eof_received(self) -> None:
        self.calls.append("eof")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


@dataclass
class Server:
    connections: set[object] = field(default_factory=set)


class Made:
    """A connection whose handshake is done, and its client."""

    def __init__(self) -> None:
        ca = local_ca()
        self.app, self.wire = App(), Wire()

        def http(**_given: Any) -> Any:
            return self.app

        http.within = Limits(connections=3)  # type: ignore[attr-defined]
        made: Any = secured(http, certified(ca, "127.0.0.1"))  # type: ignore[arg-type]
        self.served: Secured = made(server_state=Server())
        self.wire.protocol = self.served
        self.served.connection_made(self.wire)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = trusting(ca.pem).wrap_bio(
            self.incoming, self.outgoing, server_hostname="127.0.0.1"
        )
        while self.app.transport is None:
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.tell()
            self.incoming.write(self.wire.taken())

    def tell(self) -> None:
        """What the client has written arrives."""
        data = self.outgoing.read()
        while data:
            room = self.served.get_buffer(-1)
            count = min(len(room), len(data))
            room[:count], data = data[:count], data[count:]
            self.served.buffer_updated(count)

    def heard(self) -> bytes:
        """What the client reads now, to the end of what the socket holds."""
        self.incoming.write(self.wire.taken())
        heard = bytearray()
        while self.incoming.pending or self.client.pending():
            try:
                piece = self.client.read(1 << 20)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break
            if not piece:
                break
            heard += piece
        return bytes(heard)


async def test_what_waits_to_be_sent_is_encrypted_as_the_socket_takes_it() -> None:
    """Else whoever sends a model to many that are slow holds a copy of it for each."""
    made = Made()
    body = bytearray(LARGE)
    made.app.transport.write(memoryview(body))
    assert len(made.wire.sent) < 2 * SOCKET_BYTES
    assert made.app.calls == ["pause"]
    heard = bytearray()
    while len(heard) < len(LARGE):
        heard += made.heard()
        assert len(made.wire.sent) < 2 * SOCKET_BYTES
    assert heard == LARGE
    assert made.app.calls == ["pause", "resume"]
    body += b"nobody holds it any more"


async def test_the_end_comes_behind_all_that_was_sent_before() -> None:
    made = Made()
    made.app.transport.write(memoryview(LARGE))
    made.app.transport.close()
    made.app.transport.write(b"too late")
    assert not made.wire.has_closed
    heard = bytearray()
    while not made.wire.has_closed:
        heard += made.heard()
    heard += made.heard()
    assert heard == LARGE


async def test_what_comes_after_the_own_end_is_thrown_away() -> None:
    """Who refuses a body says so, and lets the rest come for a moment."""
    made = Made()
    made.app.transport.write(b"no")
    made.app.transport.write_eof()
    made.client.write(LARGE[:100_000])
    made.tell()
    assert made.heard() == b"no"
    assert (made.wire.has_eof, made.wire.has_closed, bytes(made.app.got)) == (True, False, b"")


async def test_while_the_protocol_does_not_read_nothing_is_read_and_nothing_is_lost() -> None:
    made = Made()
    made.app.transport.pause_reading()
    assert not made.wire.is_reading_now
    made.client.write(LARGE[:200_000])
    made.tell()  # it was on its way
    assert made.app.got == b""
    made.app.transport.resume_reading()
    assert made.wire.is_reading_now
    await asyncio.sleep(0)
    assert made.app.got == LARGE[:200_000]


async def test_the_peers_end_is_heard_behind_what_it_said() -> None:
    made = Made()
    made.client.write(b"last words")
    with suppress(ssl.SSLWantReadError):
        made.client.unwrap()
    made.tell()
    assert (bytes(made.app.got), made.app.calls) == (b"last words", ["eof"])
    assert made.wire.has_closed
