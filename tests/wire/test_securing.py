"""TLS of a server's connections: what a peer may do with a handshake, and what it is told."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import uvicorn
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep_api.certificates import CertificateRequest
from lockstep_serving.bounded import App, Limits, Receive, Send, bounded
from lockstep_serving.receiving import EXTENSION
from lockstep_serving.tls import load, request_of
from tests.support.certificates import certified, job_ca, local_ca, trusting
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.channels import LOOPBACK, Channel, over_tls
from tests.wire.jobs import serving
from tests.wire.signing import Signer

LARGE = bytes(range(256)) * (1 << 16)  # 16 MiB
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Pods have uvloop's transports; tests of other modules have asyncio's."""

    @wraps(test)
    def run(*args: Any, **given: Any) -> None:
        uvloop.run(test(*args, **given))

    return run


async def large(_scope: MutableMapping[str, Any], _receive: Receive, send: Send) -> None:
    """An app that answers with more than a socket takes, in one piece."""
    headers = [(b"content-length", str(len(LARGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": memoryview(LARGE)})


@asynccontextmanager
async def server(channel: Channel, limits: Limits, app: App = large) -> AsyncIterator[int]:
    port = free_port()
    config = uvicorn.Config(
        app, http=bounded(limits), loop="none", ws="none", lifespan="off",
        log_config=None, access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    async with serving(app, port, config=config, channel=channel):
        yield port


async def got_all(reader: asyncio.StreamReader) -> bool:
    """Whether the whole large answer comes."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    assert head.startswith(b"HTTP/1.1 200")
    return await asyncio.wait_for(reader.readexactly(len(LARGE)), PATIENCE_S) == LARGE


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Returns when the other side has closed, in whatever way."""
    try:
        while await asyncio.wait_for(reader.read(1 << 16), PATIENCE_S):
            pass
    except ConnectionResetError:
        pass
    return True


@on_uvloop
async def test_a_large_answer_arrives_whole_and_the_connection_goes_on() -> None:
    channel = over_tls()
    async with server(channel, Limits(connections=10)) as port:
        reader, writer = await channel.open(port)
        for _ in range(2):
            writer.write(GET)
            assert await got_all(reader)
        writer.close()


@on_uvloop
async def test_who_speaks_plain_http_is_told_so() -> None:
    async with server(over_tls(), Limits(connections=10)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"this port speaks TLS: use https://")
        writer.close()


@on_uvloop
async def test_an_older_tls_is_refused_by_name() -> None:
    channel = over_tls()
    assert channel.client is not None
    channel.client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with server(channel, Limits(connections=10)) as port:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await channel.open(port)


@on_uvloop
async def test_who_trusts_another_ca_gets_no_further_and_others_do() -> None:
    channel = over_tls()
    async with server(channel, Limits(connections=10)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await replace(channel, client=trusting(job_ca("uid-2").pem)).open(port)
        reader, writer = await channel.open(port)
        writer.write(GET)
        assert await got_all(reader)
        writer.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a beginning"])
@on_uvloop
async def test_a_handshake_that_does_not_end_is_ended(said: bytes) -> None:
    async with server(over_tls(), Limits(connections=10, handshake_s=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        assert await is_closed(reader)
        writer.close()


@on_uvloop
async def test_half_open_connections_are_bounded_and_keep_nobody_out() -> None:
    """With too many the oldest is closed: of 100, with room for 20, the first 80."""
    channel, limits = over_tls(), Limits(connections=20, handshake_s=PATIENCE_S)
    async with server(channel, limits) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for reader, _ in held[:80]:
            assert await is_closed(reader)
        assert not any(reader.at_eof() for reader, _ in held[81:])
        reader, writer = await channel.open(port)
        writer.write(GET)
        assert await got_all(reader)
        for _, each in [*held, (reader, writer)]:
            each.close()


@on_uvloop
async def test_a_slow_handshake_is_not_washed_away_by_others_of_its_address() -> None:
    channel = over_tls()
    limits = Limits(connections=20, handshake_s=PATIENCE_S, settle_s=PATIENCE_S)
    async with server(channel, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for others, _ in held[20:80]:
            assert await is_closed(others)
        assert channel.client is not None
        await writer.start_tls(channel.client, server_hostname=LOOPBACK)
        writer.write(GET)
        assert await got_all(reader)
        for _, each in [*held, (reader, writer)]:
            each.close()


@on_uvloop
async def test_the_end_of_a_connection_is_said_in_tls_so_that_nobody_can_cut_it_off() -> None:
    """A client that takes no end of TCP alone for an end."""
    channel = over_tls()
    async with server(channel, Limits(connections=10)) as port:

        def ended() -> bytes:
            assert channel.client is not None
            plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            with channel.client.wrap_socket(
                plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nhost x\r\n\r\n")
                answer = b""
                while piece := sock.recv(1000):  # raises at an end that TLS does not know of
                    answer += piece
                return answer

        assert (await asyncio.to_thread(ended)).startswith(b"HTTP/1.1 400")


@on_uvloop
async def test_a_new_certificate_disturbs_no_body_that_is_on_its_way() -> None:
    """A connection lasts longer than certificates do."""
    ca, began = local_ca(), asyncio.Event()
    context = certified(ca, LOOPBACK)
    channel, took = Channel(context, trusting(ca.pem)), bytearray(len(LARGE))

    async def app(scope: MutableMapping[str, Any], _receive: Receive, send: Send) -> None:
        body = scope["extensions"][EXTENSION](len(LARGE))
        left = memoryview(took)
        while left:
            left = left[await body.fill(left, enough=1, patience_s=PATIENCE_S) :]
            began.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with server(channel, Limits(connections=10), app) as port:
        reader, writer = await channel.open(port)
        writer.write(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(LARGE))
        writer.write(LARGE[:1_000_000])
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        key = ec.generate_private_key(ec.SECP256R1())
        new = Signer(ca).sign(CertificateRequest(server="cloud", csr=request_of(key)))
        load(context, new.chain, key=key)
        writer.write(LARGE[1_000_000:])
        assert (await asyncio.wait_for(reader.readline(), PATIENCE_S)).startswith(b"HTTP/1.1 204")
        assert took == LARGE
        _, another = await channel.open(port)
        seen = [one.get_extra_info("ssl_object").getpeercert() for one in (writer, another)]
        assert seen[0]["serialNumber"] != seen[1]["serialNumber"]
        writer.close()
        another.close()


@on_uvloop
async def test_who_sends_a_body_that_nobody_reads_is_stopped() -> None:
    """Nothing piles up in the server: after the socket's own buffers it takes no more."""
    channel, done = over_tls(), asyncio.Event()

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await done.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def sent(port: int) -> bool:
        assert channel.client is not None
        plain = socket.create_connection((LOOPBACK, port), timeout=1.0)
        with channel.client.wrap_socket(plain, server_hostname=LOOPBACK) as sock:
            sock.sendall(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (1 << 30))
            for _ in range(64):
                sock.sendall(LARGE)
        return True

    async with server(channel, Limits(connections=10), app) as port:
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(sent, port)
        done.set()


@on_uvloop
async def test_nonsense_within_tls_ends_the_connection_alone() -> None:
    channel = over_tls()
    async with server(channel, Limits(connections=10)) as port:
        reader, writer = await channel.open(port)
        other, another = await channel.open(port)
        raw = writer.transport.get_extra_info("socket")
        with raw.dup() as sock:
            sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            await is_closed(reader)
        another.write(GET)
        assert await got_all(other)
        writer.close()
        another.close()
