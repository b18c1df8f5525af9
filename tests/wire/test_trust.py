"""Whom those that connect take for the server: over real sockets, with impostors."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from lockstep_api.sessions import Registration, SessionOpened
from lockstep_operator.core.certificates import Ca
from lockstep_workers.addresses import MOST_ADDRESSES, addresses
from lockstep_workers.device.connection import LOST, connect
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.trust import Trust, Untrusted
from lockstep_workers.trusting import TrustingTransport
from tests.support.certificates import HOST, certified, job_ca, local_ca
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.channels import LOOPBACK, Channel
from tests.wire.jobs import serving

JOB = local_ca()
NEW = local_ca("uid-2")
KEY = "k" * 43
SERVER = "127.0.0.2"
CONNECT_S = 3.0
"""After which one that says nothing is left; the server answers sooner."""


async def app(_scope: Any, _receive: Any, send: Callable[..., Any]) -> None:
    """Answers to everything."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """The URL, of which it is said that it is https, of a server."""
    port = free_port()
    async with serving(app, port, channel=Channel(context)):
        yield f"https://127.0.0.1:{port}"


def ca_file(folder: Path, ca: Ca) -> Path:
    path = folder / "ca.pem"
    path.write_text(ca.pem)
    return path


def asked(url: str, trust: Trust) -> bytes:
    """An answer to a device."""
    connection = connect(url, trust)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


async def called(url: str, trust: Trust) -> bytes:
    """An answer to who calls the planner, or to an edge."""
    async with httpx2.AsyncClient(transport=TrustingTransport(trust)) as http:
        return (await http.get(url)).content


async def test_the_server_that_the_jobs_ca_has_signed_is_asked(tmp_path: Path) -> None:
    trust = Trust(ca_file(tmp_path, JOB))
    async with served(certified(JOB, LOOPBACK)) as url:
        assert await asyncio.to_thread(asked, url, trust) == b"ok"
        assert await called(url, trust) == b"ok"


IMPOSTORS: dict[str, tuple[Callable[[], ssl.SSLContext | None], str]] = {
    "of another job": (lambda: certified(NEW, LOOPBACK), "self-signed certificate in"),
    "of another pod": (lambda: certified(JOB, "127.0.0.2"), "mismatch"),
    "without a certificate": (lambda: None, "WRONG_VERSION_NUMBER|record layer|HTTP_REQUEST"),
}


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_an_impostor_is_told_nothing_and_named(
    who: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, why = IMPOSTORS[who]
    trust = Trust(ca_file(tmp_path, JOB))
    async with served(make()) as url:
        with pytest.raises(Untrusted, match=f"answers as 127.0.0.1 is not the server.*({why})"):
            await asyncio.to_thread(asked, url, trust)
        with pytest.raises(httpx2.ConnectError):
            await called(url, trust)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert issubclass(Untrusted, LOST[0]), "who has met an impostor comes again"


async def test_a_device_meets_an_impostor_says_so_and_comes_again(tmp_path: Path) -> None:
    """Until the cloud pod is there again, which was away for a moment."""
    over = asyncio.Event()

    async def session_app(_scope: Any, _receive: Any, send: Callable[..., Any]) -> None:
        """A cloud pod that opens a session."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        key = SessionOpened(key=KEY).to_json().encode() + b"\n"
        await send({"type": "http.response.body", "body": key, "more_body": True})
        await over.wait()
        await send({"type": "http.response.body", "body": b'{"over":"RoundsCompleted"}\n'})

    port, known = free_port(), Registration(client="d-0", incarnation="1", examples=1)
    trust = Trust(ca_file(tmp_path, JOB))
    keeper = SessionKeeper(f"https://{LOOPBACK}:{port}", known, trust=trust)
    with capture_logs() as said:
        async with serving(app, port, channel=Channel(certified(NEW, LOOPBACK))):
            keeper.start()
            async with asyncio.timeout(PATIENCE_S):
                while sum("is not the server" in str(one.get("why")) for one in said) < 2:  # noqa: ASYNC110 - a log gives no event
                    await asyncio.sleep(0.01)
            assert not keeper.is_open()
        async with serving(session_app, port, channel=Channel(certified(JOB, LOOPBACK))):
            opened = await asyncio.wait_for(asyncio.to_thread(keeper.wait_open), PATIENCE_S)
            assert opened is not None
            assert opened.key == KEY
            over.set()


async def test_an_impostor_that_says_nothing_is_left_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_workers.device.connection.CONNECT_TIMEOUT_S", 0.2)
    trust = Trust(ca_file(tmp_path, JOB))
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel takes connections
        port = listener.getsockname()[1]
        with pytest.raises(LOST):
            await asyncio.to_thread(asked, f"https://127.0.0.1:{port}", trust)


@dataclass(frozen=True)
class Places:
    """A server, whose name leads to an impostor's address, too."""

    url: str
    trust: Trust
    impostor: list[Any] = field(default_factory=list)
    """What the impostor was asked for."""


@asynccontextmanager
async def silent(_places: Places, port: int) -> AsyncIterator[None]:
    """Takes connections at the first place, and says nothing."""
    with socket.create_server((LOOPBACK, port)):
        yield


def foreign(places: Places, port: int) -> AbstractAsyncContextManager[None]:
    """Has a certificate for the name, of another job's CA."""

    async def answer(scope: Any, receive: Any, send: Callable[..., Any]) -> None:
        places.impostor.append(scope)
        await app(scope, receive, send)

    return serving(answer, port, channel=Channel(certified(job_ca("uid-2"), HOST)))


FIRST: dict[str, Callable[[Places, int], AbstractAsyncContextManager[None]]] = {
    "of-another-ca": foreign,
    "silent": silent,
}


@asynccontextmanager
async def two_places(
    who: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Places]:
    """The name leads to 127.0.0.1, where an impostor is, and to 127.0.0.2, where the server is."""
    usual, port, ca = socket.getaddrinfo, free_port(), job_ca()

    def resolved(host: Any, *given: Any, **more: Any) -> Any:
        if host not in {HOST, HOST.encode()}:
            return usual(host, *given, **more)
        return [one for at in (LOOPBACK, SERVER) for one in usual(at, *given, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    places = Places(f"https://{HOST}:{port}", Trust(ca_file(folder, ca)))
    channel = Channel(certified(ca, HOST))
    async with (
        FIRST[who](places, port),
        serving(app, port, channel=channel, host=SERVER),
    ):
        yield places


@pytest.mark.parametrize("who", FIRST)
async def test_a_device_passes_over_an_impostor_among_the_addresses(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order = [LOOPBACK, SERVER]
    monkeypatch.setattr("lockstep_workers.device.connection.addresses", lambda *_: in_order)
    monkeypatch.setattr("lockstep_workers.device.connection.CONNECT_TIMEOUT_S", CONNECT_S)
    async with two_places(who, tmp_path, monkeypatch) as at:
        assert await asyncio.to_thread(asked, at.url, at.trust) == b"ok"
        assert at.impostor == []


def test_of_many_addresses_each_may_be_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [f"10.0.0.{number}" for number in range(20)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in (*known, *known)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_given, **_more: found)
    drawn = [addresses(HOST, 443) for _ in range(1000)]
    assert {one[0] for one in drawn} == set(known)
    assert {len(set(one)) for one in drawn} == {MOST_ADDRESSES}


@pytest.mark.parametrize("who", FIRST)
async def test_an_edge_passes_over_an_impostor_among_the_addresses(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half a body, "
        yield b"and the rest"

    timeout = httpx2.Timeout(PATIENCE_S, connect=CONNECT_S)
    async with two_places(who, tmp_path, monkeypatch) as at:
        transport = TrustingTransport(at.trust)
        async with httpx2.AsyncClient(transport=transport, timeout=timeout) as http:
            for _ in range(3):
                assert (await http.get(at.url)).content == b"ok"
                assert (await http.put(at.url, content=pieces())).content == b"ok"
        assert at.impostor == []


async def test_an_edge_whose_server_has_moved_asks_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The impostor, too, had another place meanwhile."""
    ca = job_ca()
    trust, here = Trust(ca_file(tmp_path, ca)), [LOOPBACK, SERVER]
    usual, port = socket.getaddrinfo, free_port()

    def resolved(host: Any, *given: Any, **more: Any) -> Any:
        named = here if host in {HOST, HOST.encode()} else [host]
        return [one for at in named for one in usual(at, *given, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    right, wrong = Channel(certified(ca, HOST)), Channel(certified(job_ca("uid-2"), HOST))
    async with httpx2.AsyncClient(transport=TrustingTransport(trust)) as http:
        for server in (SERVER, "127.0.0.3"):
            here[1] = server
            async with (
                serving(app, port, channel=wrong),
                serving(app, port, channel=right, host=server),
            ):
                assert (await http.get(f"https://{HOST}:{port}")).content == b"ok"


async def test_the_ca_is_that_of_the_file_at_the_moment(tmp_path: Path) -> None:
    """The operator may make another one, and a pod may be there before it."""
    path = tmp_path / "ca.pem"
    trust = Trust(path)
    async with served(certified(NEW, LOOPBACK)) as url:
        for ask in (called, lambda url, trust: asyncio.to_thread(asked, url, trust)):
            path.unlink(missing_ok=True)
            with pytest.raises((Untrusted, httpx2.ConnectError), match="no CA"):
                await ask(url, trust)
            path.write_text("")
            with pytest.raises((Untrusted, httpx2.ConnectError), match="no certificate of a CA"):
                await ask(url, trust)
            ca_file(tmp_path, JOB)
            with pytest.raises((Untrusted, httpx2.ConnectError)):
                await ask(url, trust)
            ca_file(tmp_path, NEW)
            assert await ask(url, trust) == b"ok"


async def test_a_call_in_flight_survives_a_new_ca(tmp_path: Path) -> None:
    """Connections that are open go on; only new ones ask for the new one."""
    trust = Trust(ca_file(tmp_path, JOB))
    async with (
        served(certified(JOB, LOOPBACK)) as url,
        httpx2.AsyncClient(transport=TrustingTransport(trust)) as http,
        http.stream("GET", url) as before,
    ):
        ca_file(tmp_path, NEW)
        with pytest.raises(httpx2.ConnectError):
            await http.get(url)
        assert await before.aread() == b"ok"


def test_the_context_is_made_anew_only_for_another_ca(tmp_path: Path) -> None:
    trust = Trust(ca_file(tmp_path, JOB))
    first = trust.context()
    assert trust.context() is first
    ca_file(tmp_path, NEW)
    assert trust.context() is not first
