"""Bodies that an app reads straight from the socket, past uvicorn's buffers."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from lockstep_serving.bounded import App, Receive, Send
from lockstep_serving.receiving import EXTENSION
from tests.support.ports import free_port
from tests.wire.channels import PLAIN, Channel, over_tls
from tests.wire.jobs import serving

LARGE = bytes(range(256)) * 4096
PATIENCE_S = 30.0


@pytest.fixture(params=["plain", "tls"])
def channel(request: pytest.FixtureRequest) -> Channel:
    """What is true in the clear is true over TLS."""
    return PLAIN if request.param == "plain" else over_tls()


@dataclass
class Taker:
    """An app that fills buffers of one size from each body, and remembers what it got."""

    buffer: int = 1 << 20
    enough: int = 1 << 20
    patience_s: float = PATIENCE_S
    refuse: bool = False
    """Answers after the first fill."""
    took: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, scope: MutableMapping[str, Any], _receive: Receive, send: Send
    ) -> None:
        """ASGI."""
        left = int(dict(scope["headers"])[b"content-length"])
        body, view = scope["extensions"][EXTENSION](left), memoryview(bytearray(self.buffer))
        while left:
            self.asked.set()
            try:
                got = await body.fill(view, enough=self.enough, patience_s=self.patience_s)
            except ConnectionResetError:
                self.gone.set()
                return
            left -= got
            self.took.append(bytes(view[:got]))
            if self.refuse:
                break
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def talking_to(
    app: App, channel: Channel
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of this app."""
    port = free_port()
    async with serving(app, port, channel=channel):
        reader, writer = await channel.open(port)
        try:
            async with asyncio.timeout(60):
                yield reader, writer
        finally:
            writer.close()


def head(size: int, more: bytes = b"") -> bytes:
    """The head of a request."""
    return b"PUT /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n" % (size, more)


async def answered(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer whose body is `ok`."""
    answer = await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(2) == b"ok"
    return answer


@pytest.mark.parametrize("buffer", [1000, 1 << 20, 1 << 22])
async def test_what_is_sent_is_what_is_read_and_the_connection_goes_on(
    buffer: int, channel: Channel
) -> None:
    app = Taker(buffer=buffer, enough=buffer)
    async with talking_to(app, channel) as (reader, writer):
        for body in (LARGE, b"small", LARGE[:70_000], b"x"):
            app.took.clear()
            writer.write(head(len(body)) + body)
            assert (await answered(reader)).startswith(b"HTTP/1.1 200")
            assert b"".join(app.took) == body


async def test_a_body_that_comes_in_pieces_is_put_together(channel: Channel) -> None:
    app = Taker()
    async with talking_to(app, channel) as (reader, writer):
        writer.write(head(len(LARGE)))
        for start in range(0, len(LARGE), 100_000):
            writer.write(LARGE[start : start + 100_000])
            await writer.drain()
            await asyncio.sleep(0)
        await answered(reader)
        assert b"".join(app.took) == LARGE
        assert len(app.took) == 1, "one fill, for nobody let it wait"


async def test_a_sender_that_waits_is_noticed_and_loses_nothing(channel: Channel) -> None:
    app = Taker(patience_s=0.01)
    async with talking_to(app, channel) as (reader, writer):
        writer.write(head(6) + b"abc")
        while b"" not in app.took:  # noqa: ASYNC110 - the app's own loop gives no event
            await asyncio.sleep(0.01)
        writer.write(b"def")
        await answered(reader)
        assert b"".join(app.took) == b"abcdef"


async def test_with_enough_there_the_rest_is_not_waited_for(channel: Channel) -> None:
    app = Taker(enough=1)
    async with talking_to(app, channel) as (reader, writer):
        for letter in (b"a", b"b", b"c"):
            writer.write((head(3) if letter == b"a" else b"") + letter)
            while b"".join(app.took)[-1:] != letter:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        await answered(reader)
        assert app.took == [b"a", b"b", b"c"]


async def test_a_peer_that_goes_is_noticed(channel: Channel) -> None:
    app = Taker()
    async with talking_to(app, channel) as (_, writer):
        writer.write(head(100) + b"abc")
        await app.asked.wait()
        writer.close()
        await app.gone.wait()


async def test_an_answer_before_the_end_of_the_body_closes_the_connection(channel: Channel) -> None:
    app = Taker(buffer=10, enough=10, refuse=True)
    async with talking_to(app, channel) as (reader, writer):
        writer.write(head(20) + b"0123456789")
        app.asked.clear()
        assert b"connection: close" in await answered(reader) or await reader.read() == b""


async def test_the_body_is_asked_for_when_the_sender_waits_for_that(channel: Channel) -> None:
    app = Taker()
    async with talking_to(app, channel) as (reader, writer):
        writer.write(head(3, b"expect: 100-continue\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        await answered(reader)
        assert app.took == [b"abc"]


async def test_bytes_behind_the_body_are_the_next_request(channel: Channel) -> None:
    app = Taker()
    async with talking_to(app, channel) as (reader, writer):
        writer.write(head(len(LARGE)) + LARGE[:-1])
        await app.asked.wait()
        writer.write(LARGE[-1:])
        await answered(reader)
        writer.write(head(1) + b"z")
        await answered(reader)
        assert app.took[-1] == b"z"


async def test_a_sender_that_drips_ends_the_waiting_as_a_silent_one_does(channel: Channel) -> None:
    """Who takes bodies one at a time would be held up by a byte now and then."""
    taker = Taker(patience_s=1.0)
    async with talking_to(taker, channel) as (_, writer):
        writer.write(head(len(LARGE)))
        while not taker.took:
            writer.write(b"x")
            await asyncio.sleep(0.005)
        assert len(taker.took[0]) < len(LARGE)
        writer.close()
        await asyncio.wait_for(taker.gone.wait(), PATIENCE_S)
