"""A server's certificate over real sockets: what it takes, and that nobody notices a renewal."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from lockstep_api.certificates import Certificate
from lockstep_operator.core.certificates import public_key_of
from lockstep_serving.tls import RENEWED_AFTER, SET_BACK_S, Kept, NoCertificate
from tests.support.certificates import HOST, LIFE_S, job_ca, shaken, trusting
from tests.support.clock import Hand, settled
from tests.support.patience import PATIENCE_S

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Signer:
    """Signs what a server asks for, and can be away."""

    life_s: float = LIFE_S
    away: int = 0
    """Tries that fail."""
    serials: list[int] = field(default_factory=list)
    third: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, csr: str) -> Certificate:
        if self.away:
            self.away -= 1
            raise NoCertificate("the planner is away")
        self.serials.append(len(self.serials) + 1)
        if len(self.serials) == 3:
            self.third.set()
        return job_ca().sign(
            public_key_of(csr),
            hosts=(HOST,),
            now=datetime.now(UTC),
            life_s=self.life_s,
            serial=self.serials[-1],
        )


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def serving(kept: Kept) -> AsyncIterator[int]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=kept.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def connected(port: int, context: ssl.SSLContext | None = None) -> Stream:
    trust = context or trusting(job_ca().pem)
    return await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=HOST)


async def answered(stream: Stream) -> bytes:
    stream[1].write(b"there?\n")
    await stream[1].drain()
    return await asyncio.wait_for(stream[0].readline(), PATIENCE_S)


def serial_of(stream: Stream) -> int:
    seen = stream[1].get_extra_info("ssl_object").getpeercert()
    return int(seen["serialNumber"], 16)


async def test_a_renewal_is_seen_by_who_connects_and_by_nobody_who_is_connected() -> None:
    signer = Signer()
    kept = Kept(signer.ask)
    await kept.renew()
    async with serving(kept) as port:
        before = await connected(port)
        await kept.renew()
        after = await connected(port)
        assert [await answered(one) for one in (before, after)] == [b"there?\n"] * 2
        assert [serial_of(one) for one in (before, after)] == [1, 2]
        for _, writer in (before, after):
            writer.close()


async def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left() -> None:
    now = datetime.now(UTC).timestamp()
    kept = Kept(Signer().ask, clock=lambda: now)
    await kept.renew()
    assert kept.renew_at == pytest.approx(now + RENEWED_AFTER * LIFE_S, abs=2)


async def test_it_is_renewed_again_and_again() -> None:
    """These are due at once: a certificate that has no life left is over."""
    signer = Signer(life_s=0)
    running = asyncio.create_task(Kept(signer.ask).run())
    await asyncio.wait_for(signer.third.wait(), PATIENCE_S)
    running.cancel()


async def test_one_that_is_not_due_is_renewed_when_it_is_not_trusted_any_more() -> None:
    signer = Signer()
    kept = Kept(signer.ask)
    running = asyncio.create_task(kept.run())
    try:
        while len(signer.serials) < 3:
            kept.renew_now()
            await asyncio.sleep(0)
    finally:
        running.cancel()


@pytest.mark.parametrize("jump_s", [LIFE_S, -LIFE_S])
async def test_one_that_a_clock_jump_makes_void_is_replaced_at_once(jump_s: float) -> None:
    """The clock was set forward, or it ran ahead when the certificate was made."""
    signer, clock = Signer(), Hand(datetime.now(UTC).timestamp())
    kept = Kept(signer.ask, clock=clock, look_s=0.01)
    await kept.renew()
    running = asyncio.create_task(kept.run())
    await settled()
    assert signer.serials == [1]
    for tries in (2, 3):
        clock.now_s += jump_s
        async with asyncio.timeout(PATIENCE_S):
            while len(signer.serials) < tries:  # noqa: ASYNC110 - it looks at the clock, too
                await asyncio.sleep(0.01)
    running.cancel()


async def test_a_clock_that_is_set_back_a_little_costs_no_certificate() -> None:
    signer, clock = Signer(), Hand(datetime.now(UTC).timestamp())
    kept = Kept(signer.ask, clock=clock)
    await kept.renew()
    due_s = kept.due_s()
    clock.now_s -= SET_BACK_S
    assert kept.due_s() == pytest.approx(due_s + SET_BACK_S)


async def test_while_nobody_signs_the_one_before_is_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signer = Signer()
    kept = Kept(signer.ask)
    await kept.renew()
    signer.away = 3
    async with serving(kept) as port:
        with pytest.raises(NoCertificate):
            await kept.renew()
        stream = await connected(port)
        assert (serial_of(stream), await answered(stream)) == (1, b"there?\n")
        stream[1].close()
    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: real(0))
    await kept.obtain()
    assert signer.serials == [1, 2]
    assert [one.message for one in caplog.records] == ["certificate: the planner is away"]


@pytest.mark.parametrize(
    "spoilt",
    [lambda text: "", lambda text: text.replace("M", "N"), lambda text: job_ca().pem],
    ids=["nothing", "changed", "of another key"],
)
async def test_an_answer_that_is_no_certificate_changes_nothing(
    spoilt: Callable[[str], str],
) -> None:
    signer = Signer()

    async def ask(csr: str) -> Certificate:
        made = await signer.ask(csr)
        return made if len(signer.serials) == 1 else made.model_copy(
            update={"chain": spoilt(made.chain)}
        )  # fmt: skip

    kept = Kept(ask)
    await kept.renew()
    due = kept.renew_at
    with pytest.raises(NoCertificate):
        await kept.renew()
    async with serving(kept) as port:
        stream = await connected(port)
        assert (serial_of(stream), kept.renew_at) == (1, due)
        stream[1].close()


async def test_a_client_of_an_older_tls_is_refused() -> None:
    kept = Kept(Signer().ask)
    await kept.renew()
    old = trusting(job_ca().pem)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shaken(kept.context, old)
    async with serving(kept) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connected(port, old)


async def test_who_speaks_no_tls_gets_no_answer() -> None:
    kept = Kept(Signer().ask)
    await kept.renew()
    async with serving(kept) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/clients/d-0/work HTTP/1.1\r\nhost: cloud\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert b"HTTP" not in got
        writer.close()
