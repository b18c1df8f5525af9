"""What a peer can send is bounded: heads, connections, bodies, time; over real sockets."""

import asyncio
import gc
import http.client
import json
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lockstep_api import names
from lockstep_api.sessions import Refusal, Registration
from lockstep_serving.bounded import Limits
from tests.support.patience import PATIENCE_S
from tests.wire.channels import PLAIN, Channel, over_tls
from tests.wire.cloud import Device, cloud, devices, first_task
from tests.wire.jobs import FakePlanner
from tests.wire.limited import HEAD, say, server

SPEAKS = f"host: x\r\n{names.PROTOCOL_HEADER}: {names.PROTOCOL}\r\n".encode()
HURRIED = Limits(connections=3, head_bytes=1000, head_s=1.0)


@pytest.fixture(params=["plain", "tls"])
def channel(request: pytest.FixtureRequest) -> Channel:
    """What is refused in the clear is refused over TLS, in the same words."""
    return PLAIN if request.param == "plain" else over_tls()


async def test_a_head_that_is_too_large_is_refused(channel: Channel) -> None:
    async with server(channel=channel) as port:
        whole = HEAD + b"a: " + b"b" * 2000 + b"\r\ncontent-length: 0\r\n\r\n"
        assert (await say(port, whole, channel=channel))[0] == 431
        endless = [HEAD, *[b"a: " + b"b" * 300 + b"\r\n"] * 10]
        assert (await say(port, *endless, channel=channel))[0] == 431
        url = b"POST /?" + b"q" * 2000 + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
        assert (await say(port, url, channel=channel))[0] == 431


async def test_a_head_that_takes_too_long_is_refused(channel: Channel) -> None:
    async with server(HURRIED, channel=channel) as port:
        assert (await say(port, HEAD, channel=channel))[0] == 408
        assert (await say(port, channel=channel))[0] == 408, "a connection that says nothing, too"


async def test_a_connection_may_rest_between_requests(channel: Channel) -> None:
    request = HEAD + b"content-length: 2\r\n\r\nab"
    async with server(HURRIED, channel=channel) as port:
        reader, writer = await channel.open(port)
        for _ in range(2):
            writer.write(request)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"}") == b'{"bytes":2}'
            await asyncio.sleep(2 * HURRIED.head_s)
        writer.close()


async def test_connections_beyond_the_limit_are_closed_and_room_comes_back(
    channel: Channel,
) -> None:
    async with server(Limits(connections=3, head_s=30), channel=channel) as port:
        held = [await channel.open(port) for _ in range(3)]
        assert (await say(port, HEAD + b"content-length: 0\r\n\r\n", channel=channel))[0] == 503
        held[0][1].close()
        request = HEAD + b"content-length: 1\r\nconnection: close\r\n\r\na"
        async with asyncio.timeout(PATIENCE_S):
            while (await say(port, request, channel=channel))[0] != 200:  # noqa: ASYNC110 - the server gives no event
                await asyncio.sleep(0.01)
        for _, writer in held[1:]:
            writer.close()


async def test_the_oldest_stranger_makes_room_where_that_is_asked_for(channel: Channel) -> None:
    """A connection that is known stays, and so does its request; room is never made of itself."""
    limits = Limits(connections=3, head_s=30, strangers_make_room=True)
    request = HEAD + b"content-length: 1\r\nconnection: close\r\n\r\na"
    async with server(limits, channel=channel) as port:
        known = await channel.open(port)
        known[1].write(HEAD + b"known: yes\r\ncontent-length: 1\r\n\r\na")
        assert b"200 OK" in await known[0].readuntil(b"\r\n\r\n")
        held = [await channel.open(port) for _ in range(2)]
        held[1][1].write(b"POST / HTTP/1.1\r\n")
        assert (await say(port, request, channel=channel))[0] == 200
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(held[0][0].read(), PATIENCE_S) == b"", "the oldest"
        assert await known[0].readuntil(b"}") == b'{"bytes":1}'
        known[1].write(HEAD + b"known: yes\r\ncontent-length: 1\r\n\r\na")
        assert b"200 OK" in await known[0].readuntil(b"\r\n\r\n")
        held[1][1].write(b"host: x\r\ncontent-length: 1\r\n\r\na")
        assert b"200 OK" in await held[1][0].readuntil(b"\r\n\r\n"), "one was enough"
        for _, writer in [known, *held]:
            writer.close()


async def test_a_connection_that_was_reset_leaves_nothing_behind(channel: Channel) -> None:
    """Its peer might have rested for a minute; whatever was kept for it goes with it at once."""
    async with server(Limits(connections=10, head_s=30), channel=channel) as port:
        before = protocols()
        for _ in range(5):
            reader, writer = await channel.open(port)
            writer.write(HEAD + b"known: yes\r\ncontent-length: 1\r\n\r\na")
            assert await reader.readuntil(b"}")
            reset(writer)
        async with asyncio.timeout(PATIENCE_S):
            while any(one in one.connections for one in protocols() - before):  # noqa: ASYNC110 - the server gives no event
                await asyncio.sleep(0.01)
        assert protocols() == before


def protocols() -> set[HttpToolsProtocol]:
    """Those of connections of which something is kept."""
    gc.collect()
    return {one for one in gc.get_objects() if issubclass(type(one), HttpToolsProtocol)}


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as the kernel does when something that has come was not read."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_where_all_are_known_a_new_connection_is_refused(channel: Channel) -> None:
    limits = Limits(connections=1, head_s=30, strangers_make_room=True)
    async with server(limits, channel=channel) as port:
        reader, writer = await channel.open(port)
        writer.write(HEAD + b"known: yes\r\ncontent-length: 1\r\n\r\na")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert (await say(port, HEAD + b"content-length: 0\r\n\r\n", channel=channel))[0] == 503
        writer.close()


async def test_nonsense_is_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with server(Limits(connections=50)) as port:
        caplog.clear()
        for _ in range(20):
            assert (await say(port, b"POST / HTTP/1.1\r\nhost x\r\n\r\n"))[0] == 400
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) <= 1, "one, or none when another test had it"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"content-length: 100\r\nconnection: close\r\n\r\n" + b"a" * 100, 200),
        (HEAD + b"content-length: 101\r\n\r\n", 413),
        (
            HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"40\r\n" + b"a" * 64 + b"\r\n40\r\n"
            + b"a" * 64 + b"\r\n0\r\n\r\n",
            413,
        ),
        (b"POST / HTTP/1.1\r\nhost x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"POST /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ],
)  # fmt: skip
async def test_bodies_are_bounded_and_nonsense_is_answered(
    request_: bytes, status: int, channel: Channel
) -> None:
    async with server(channel=channel) as port:
        assert (await say(port, request_, channel=channel))[0] == status


async def test_an_answer_before_the_end_of_the_body_ends_the_connection(channel: Channel) -> None:
    """However slowly the rest is sent: nobody waits for it."""
    async with server(max_body=10**7, channel=channel) as port:
        reader, writer = await channel.open(port)
        writer.write(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert b"404 Not Found" in await reader.readuntil(b"\r\n\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE_S)
        dripping.cancel()
        writer.close()


async def test_expect_100_continue_is_answered_before_the_body(channel: Channel) -> None:
    async with server(channel=channel) as port:
        reader, writer = await channel.open(port)
        writer.write(HEAD + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_a_second_request_before_the_answer_is_refused(channel: Channel) -> None:
    async with server(Limits(connections=3, head_s=30), channel=channel) as port:
        _, answer = await say(
            port, HEAD + b"content-length: 2\r\n\r\na", b"b" + HEAD * 3, channel=channel
        )
        assert b"200 OK" in answer or b"400 Bad Request" in answer
        flood = (HEAD + b"content-length: 0\r\n\r\n") * 20_000
        _, answer = await say(port, flood, channel=channel)
        assert b"400 Bad Request" in answer
        assert answer.count(b"200 OK") < 10


async def test_trailers_are_bounded(channel: Channel) -> None:
    trailer = b"x: " + b"y" * 200 + b"\r\n"
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    async with server(channel=channel) as port:
        assert (await say(port, head, *[trailer] * 50, channel=channel))[0] == 431


async def test_a_lost_device_is_noticed_whatever_it_sent_before(tmp_path: Path) -> None:
    """A request behind an open session must not hide that the peer has gone."""
    async with cloud(tmp_path, FakePlanner()) as running:
        port = int(running.url.rpartition(":")[2])
        body = Registration(client="d-0", incarnation="1", examples=1).to_json().encode()
        path = names.SESSION_ROUTE.format(client="d-0").encode()
        head = (
            b"POST " + path + b" HTTP/1.1\r\n" + SPEAKS + b"content-length: %d\r\n\r\n" % len(body)
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        await reader.readuntil(b"open")
        assert list(running.reception.sessions) == ["d-0"]
        writer.write(b"GET /anything HTTP/1.1\r\nhost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            while running.reception.sessions:  # noqa: ASYNC110 - the reception gives no event
                await asyncio.sleep(0.01)


# -- the cloud pod ---------------------------------------------------------------------------------


async def test_a_registration_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner()) as running:
        each = Device(running, "d-0")
        connection = await each.connect()
        path = names.SESSION_ROUTE.format(client="d-0")

        def send() -> tuple[int, dict[str, Any]]:
            connection.request(
                "POST", path, b" " * (1 << 17), {names.PROTOCOL_HEADER: names.PROTOCOL}
            )
            response: http.client.HTTPResponse = connection.getresponse()
            return response.status, json.loads(response.read())

        status, answer = await asyncio.to_thread(send)
        each.close()
        assert status == 413
        assert "at most 65536 bytes" in answer["message"]


async def test_a_registration_that_takes_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_workers.hosting.opening._REGISTRATION_S", 0.1)
    async with cloud(tmp_path, FakePlanner()) as running:
        port = int(running.url.rpartition(":")[2])
        path = names.SESSION_ROUTE.format(client="d-0").encode()
        head = b"POST " + path + b" HTTP/1.1\r\n" + SPEAKS + b"content-length: 100\r\n\r\n{"
        assert (await say(port, head))[0] == 408


async def test_a_sender_that_falls_silent_is_refused_and_the_round_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence_s = "lockstep_workers.hosting.reading._SILENCE_S"
    monkeypatch.setattr(silence_s, 0.2)
    async with cloud(tmp_path, FakePlanner(rounds=2)) as running, devices(running, 2 + 1) as made:
        await first_task(made)
        body = bytes(made[0].update(1.0))
        head = (
            f"PUT {names.UPDATE_ROUTE.format(client='d-0', round=1)} HTTP/1.1\r\nhost: x\r\n"
            f"content-type: {names.TENSORS}\r\ncontent-length: {len(body)}\r\n"
            f"{names.REPORT_HEADER}: {made[0].report(1).to_json()}\r\n"
            f"{names.SESSION_HEADER}: {made[0].key}\r\n\r\n"
        ).encode()
        status, answer = await say(int(running.url.rpartition(":")[2]), head + body[:1000])
        assert status == 408
        assert b'"reason": "too_slow"' in answer
        assert running.refused(Refusal.TOO_SLOW) == 1
        assert running.vectors.weight == 0
        monkeypatch.setattr(silence_s, PATIENCE_S)
        for each in made[1:]:
            assert (await each.send())[0] == 200
        assert await asyncio.wait_for(made[1].work(after=1), PATIENCE_S) is not None


async def test_a_second_long_poll_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=2)) as running, devices(running, 3) as made:
        await first_task(made)
        first = asyncio.ensure_future(made[0].work(after=1))
        async with asyncio.timeout(PATIENCE_S):
            while not running.polls():  # noqa: ASYNC110 - nor does a request under way
                await asyncio.sleep(0.01)
        second = asyncio.ensure_future(made[0].work(after=1))
        with pytest.raises(Exception, match="d-0 asked again"):
            await asyncio.wait_for(first, PATIENCE_S)
        for each in made:
            await each.send()
        work = await asyncio.wait_for(second, PATIENCE_S)
        assert work is not None
        assert work.task.round == 2
