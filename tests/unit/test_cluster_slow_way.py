"""The slow way to an apiserver: what comes late, what does not, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.cluster.slow_way import address_of, serve
from tests.support.patience import PATIENCE_S

DELAY_S = 0.2


@dataclass
class Way:
    """A way to a server that answers each line with when it heard it."""

    delay_s: float = 0.0
    port: int = 0
    target: int = 0
    heard: list[bytes] = field(default_factory=list)

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
                await writer.drain()
        finally:
            writer.close()

    async def seconds(self, *lines: bytes) -> float:
        """How long it takes until all that is sent on a new connection is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        now = asyncio.get_running_loop().time
        began = now()
        for line in lines:
            writer.write(line)
            await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            answers = [await reader.readline() for _ in lines]
        assert answers == list(lines)
        writer.close()
        return now() - began


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    made = Way()
    async with await asyncio.start_server(made.echo, "127.0.0.1", 0) as server:
        made.target = _port(server)
        to = ("127.0.0.1", made.target)
        async with await serve(("127.0.0.1", 0), to, delay_s=lambda: made.delay_s) as slow:
            made.port = _port(slow)
            yield made


async def test_what_is_sent_comes_late_and_in_order(way: Way) -> None:
    way.delay_s = DELAY_S
    lines = [b"%d\n" % number for number in range(20)]
    assert await way.seconds(*lines) >= DELAY_S
    assert way.heard == lines


async def test_the_delay_may_change_while_a_connection_is_open(way: Way) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    now = asyncio.get_running_loop().time
    took = []
    for delay_s in (DELAY_S, 0.0, DELAY_S):
        way.delay_s, began = delay_s, now()
        writer.write(b"there?\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readline() == b"there?\n"
        took.append(now() - began)
    assert min(took[0], took[2]) >= DELAY_S
    writer.close()


async def test_where_nobody_listens_callers_are_told_at_once(way: Way) -> None:
    async with await serve(("127.0.0.1", 0), ("127.0.0.1", 1), delay_s=lambda: 0.0) as slow:
        reader, writer = await asyncio.open_connection("127.0.0.1", _port(slow))
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()


def test_an_address_is_a_host_and_a_port() -> None:
    assert address_of("10.89.0.1:16443") == ("10.89.0.1", 16443)
