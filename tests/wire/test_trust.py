"""Whom those that connect take for the server: over real sockets, with impostors."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from lockstep_api.sessions import Registration, SessionOpened
from lockstep_operator.core.certificates import Ca
from lockstep_workers.device.connection import LOST, connect
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.trust import Trust, Untrusted
from lockstep_workers.trusting import TrustingTransport
from tests.support.certificates import certified, local_ca
from tests.support.patience import PATIENCE_S
from tests.wire.channels import LOOPBACK, Channel
from tests.wire.jobs import free_port, serving

JOB = local_ca()
NEW = local_ca("uid-2")
KEY = "k" * 43


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
