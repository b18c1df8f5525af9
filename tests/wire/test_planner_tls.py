"""The planner over TLS: for those who trust its CA, and across renewals of its certificate."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep_api.certificates import Certificate
from lockstep_operator.bodies import Bodies
from lockstep_operator.core.certificates import Authority, public_key_of
from lockstep_operator.routes import planner_app
from lockstep_operator.serving import planner_server, serve
from lockstep_serving.tls import Kept, request_of
from tests.support.certificates import LIFE_S, SEED, job_ca, trusting
from tests.support.patience import PATIENCE_S
from tests.support.planner import CERTIFICATE, PLAN, planner_of_a_job, request, signing_of
from tests.support.ports import free_port

AUTHORITY = Authority(SEED)
HOST = "lockstep-operator.ops.svc"
PLANNER_CA = AUTHORITY.of_planner(HOST).pem
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Running:
    """A planner of one job with the operator's server."""

    port: int
    certificate: Kept
    task: "asyncio.Task[None]"

    async def connected(self, context: ssl.SSLContext, *, host: str = HOST) -> Stream:
        address = "127.0.0.1", self.port
        return await asyncio.open_connection(*address, ssl=context, server_hostname=host)


@asynccontextmanager
async def planner(certificate: Kept | None = None) -> AsyncIterator[Running]:
    port = free_port()
    async with planner_of_a_job(authority=AUTHORITY) as setup:
        kept = certificate or signing_of(AUTHORITY, setup.deps).kept_for_planner(HOST)
        app = planner_app(setup.planner, bodies=Bodies(body_s=PATIENCE_S))
        server = planner_server(app, ("127.0.0.1", port), certificate=kept)
        serving = asyncio.create_task(serve(server, kept))
        while not (server.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield Running(port, kept, serving)
        finally:
            server.should_exit = True
            await asyncio.wait({serving})


def head(route: str, body: bytes, *, token: str = "cloud") -> bytes:
    words = f"POST {route} HTTP/1.1\r\nhost: planner\r\ncontent-length: {len(body)}\r\n"
    return f"{words}authorization: Bearer {token}\r\n\r\n".encode()


async def answer_of(stream: Stream) -> tuple[int, Any]:
    """Status and body."""
    status = int((await asyncio.wait_for(stream[0].readline(), PATIENCE_S)).split()[1])
    length = 0
    while line := (await stream[0].readline()).strip():
        name, _, value = line.lower().partition(b":")
        length = int(value) if name == b"content-length" else length
    body = await asyncio.wait_for(stream[0].readexactly(length), PATIENCE_S)
    return status, json.loads(body)


async def planned(stream: Stream) -> int:
    body = json.dumps(request()).encode()
    stream[1].write(head(PLAN, body) + body)
    return (await answer_of(stream))[0]


def serial_of(stream: Stream) -> int:
    return int(stream[1].get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)


@pytest.mark.parametrize("host", [HOST, "localhost"])
async def test_who_trusts_the_planners_ca_gets_plans(host: str) -> None:
    async with planner() as running:
        stream = await running.connected(trusting(PLANNER_CA), host=host)
        assert await planned(stream) == 200
        stream[1].close()


@pytest.mark.parametrize(
    ("ca", "host"),
    [(job_ca().pem, HOST), (AUTHORITY.of_planner("other.ops.svc").pem, HOST), (PLANNER_CA, "else")],
    ids=["a job's CA", "another planner's", "another name"],
)
async def test_nobody_is_taken_for_the_planner_by_another_ca_or_name(ca: str, host: str) -> None:
    """Another host's CA has the same key, but may not sign for this one."""
    async with planner() as running:
        with pytest.raises(ssl.SSLCertVerificationError):
            await running.connected(trusting(ca), host=host)


async def test_a_call_without_tls_is_told_so() -> None:
    async with planner() as running:
        stream = await asyncio.open_connection("127.0.0.1", running.port)
        body = json.dumps(request()).encode()
        stream[1].write(head(PLAN, body) + body)
        said = await asyncio.wait_for(stream[0].read(), PATIENCE_S)
        assert said.startswith(b"HTTP/1.1 400")
        assert b"https://" in said
        stream[1].close()


async def test_an_older_tls_is_refused() -> None:
    old = trusting(PLANNER_CA)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with planner() as running:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await running.connected(old)
        stream = await running.connected(trusting(PLANNER_CA))
        assert await planned(stream) == 200
        stream[1].close()


async def test_a_call_that_is_under_way_outlives_a_renewal() -> None:
    async with planner() as running:
        before = await running.connected(trusting(PLANNER_CA))
        body = json.dumps(request()).encode()
        before[1].write(head(PLAN, body) + body[:10])
        await before[1].drain()
        await running.certificate.renew()
        after = await running.connected(trusting(PLANNER_CA))
        assert serial_of(after) != serial_of(before)
        before[1].write(body[10:])
        assert (await answer_of(before))[0] == 200
        for _, writer in (before, after):
            writer.close()


async def test_a_server_of_the_job_gets_its_certificate_over_tls_and_a_stranger_none() -> None:
    csr = request_of(ec.generate_private_key(ec.SECP256R1()))
    body = json.dumps({"server": "cloud", "csr": csr}).encode()
    async with planner() as running:
        for token, status in (("cloud", 200), ("device", 403), ("nobody", 401)):
            stream = await running.connected(trusting(PLANNER_CA))
            stream[1].write(head(CERTIFICATE, body, token=token) + body)
            answered, told = await answer_of(stream)
            assert (answered, "chain" in told) == (status, status == 200)
            stream[1].close()


async def test_a_planner_that_cannot_keep_its_certificate_ends() -> None:
    """It would serve one that has expired: the process starts anew."""
    signed: list[str] = []

    async def ask(csr: str) -> Certificate:
        if signed:
            raise RuntimeError("a bug")
        signed.append(csr)
        return AUTHORITY.of_planner(HOST).sign(
            public_key_of(csr), hosts=(HOST,), now=datetime.now(UTC), life_s=LIFE_S, serial=1
        )

    async with planner(Kept(ask)) as running:
        running.certificate.renew_now()
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(asyncio.shield(running.task), PATIENCE_S)
