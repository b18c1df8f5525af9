"""Strangers of a device's address, as behind a node's NAT or a proxy, keep it out of nothing.

All of them, and the devices, come from 127.0.0.1.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

from lockstep_api import names
from lockstep_api.sessions import Registration
from lockstep_serving.receiving import KNOWN
from lockstep_workers.cloud.signing_keys import SigningKeys
from lockstep_workers.device import connection as device
from lockstep_workers.edge.members import Members
from lockstep_workers.edge.split_routes import SplitRoutes
from lockstep_workers.hosting.asgi import no_such_route
from tests.support.patience import PATIENCE_S
from tests.support.tokens import Signer, claims_of
from tests.wire.cloud import Cloud, Device, cloud
from tests.wire.jobs import FakePlanner

SIGNER = Signer()
PLACES = 82
"""Of a cloud pod with three devices."""
LOST = (OSError, asyncio.IncompleteReadError)

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[Cloud]:
    """A cloud pod that knows the apiserver's key."""
    keys = SigningKeys()
    keys.know(SIGNER.published())
    async with cloud(folder, FakePlanner(), keys=keys) as server:
        yield server


def token_of(server: Cloud) -> str:
    """The token of the first device's pod."""
    return SIGNER.token(claims_of(server.job, "d-0", now_s=time.time()))


@asynccontextmanager
async def strangers(server: Cloud, count: int) -> AsyncIterator[list[Peer]]:
    """So many connections on which nobody says anything."""
    port = int(server.url.rpartition(":")[2])
    made = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.close()


async def is_closed(peer: Peer) -> None:
    """Waits for the end of a connection."""
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(peer[0].read(), PATIENCE_S) == b""


def opening(server: Cloud) -> tuple[bytes, bytes]:
    """Head and body of a request for a session; the body is asked for once the head is fine."""
    body = Registration(client="d-0", incarnation="1", examples=10).to_json().encode()
    head = (
        f"POST {names.SESSION_ROUTE.format(client='d-0')} HTTP/1.1\r\nhost: x\r\n"
        f"{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\nexpect: 100-continue\r\n"
        f"authorization: Bearer {token_of(server)}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


async def test_who_has_shown_a_token_makes_room_for_no_stranger(tmp_path: Path) -> None:
    """Not even before its session is open."""
    async with guarded(tmp_path) as server, strangers(server, PLACES):
        head, body = opening(server)
        async with strangers(server, 1) as ((reader, writer),):
            writer.write(head)
            assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
            async with strangers(server, 2 * PLACES) as more:
                await is_closed(more[0])
                writer.write(body)
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")


async def test_who_has_shown_a_sessions_key_makes_room_for_no_stranger(tmp_path: Path) -> None:
    """Whatever it asked for first."""
    async with guarded(tmp_path) as server, strangers(server, PLACES):
        each = Device(server, "d-0", token=token_of(server))
        await each.open()
        connection = await each.connect()
        await asyncio.to_thread(device.get_constants, connection, "d-0", key=each.key)
        async with strangers(server, 2 * PLACES) as more:
            await is_closed(more[0])
            await asyncio.to_thread(device.get_constants, connection, "d-0", key=each.key)
        each.close()


class Flood:
    """Strangers that come one after the other and go once others have come."""

    def __init__(self, port: int) -> None:
        self.count, self._port = 0, port
        self._news = asyncio.Event()

    async def come(self) -> None:
        """Until it is cancelled."""
        held: deque[asyncio.StreamWriter] = deque()
        try:
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    held.append(writer)
                self.count += 1
                self._news.set()
                if len(held) > 2 * PLACES:
                    held.popleft().close()
                await asyncio.sleep(0)
        finally:
            for writer in held:
                writer.close()

    async def past(self, more: int) -> None:
        """Returns when so many more have come."""
        until = self.count + more
        while self.count < until:
            self._news.clear()
            await self._news.wait()


async def test_a_newcomer_gets_in_that_is_slower_than_strangers_of_its_address(
    tmp_path: Path,
) -> None:
    """They take all places, and take them again before it has said a word: so it comes again."""
    async with guarded(tmp_path) as server:
        flood = Flood(int(server.url.rpartition(":")[2]))
        coming = asyncio.create_task(flood.come())
        await flood.past(PLACES)
        head, body = opening(server)
        async with asyncio.timeout(PATIENCE_S):
            while "d-0" not in server.reception.sessions:
                async with strangers(server, 1) as ((reader, writer),):
                    await flood.past(2 * PLACES)
                    with suppress(*LOST):
                        writer.write(head + body)
                        while b"200 OK" not in await reader.readuntil(b"\r\n\r\n"):
                            pass
                        await flood.past(2 * PLACES)
                        assert "d-0" in server.reception.sessions, "and stays"
                        break
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def test_who_waits_for_a_round_at_an_edge_makes_room_for_no_stranger() -> None:
    """The edge may hear of it later than the device."""
    members, known = Members(), asyncio.Queue[str]()
    members.know({"d-0": "key"})
    routes = SplitRoutes(members, no_such_route, shop=cast("Any", None), hold_s=PATIENCE_S)
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": names.SPLIT_ROUTE.format(client="d-0", round=7),
        "headers": [(names.SESSION_HEADER.encode(), b"key")],
        "extensions": {KNOWN: lambda _seconds, who: known.put_nowait(who)},
    }  # fmt: skip
    asked = asyncio.ensure_future(routes(scope, cast("Any", None), cast("Any", None)))
    assert await asyncio.wait_for(known.get(), PATIENCE_S) == "device d-0"
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
