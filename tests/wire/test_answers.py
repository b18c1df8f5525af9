"""What devices and edges make of answers that no server of a job gives: over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.sessions import ClientFailure, Registration, SessionOpened
from lockstep_api.tiers import EdgeRegistration
from lockstep_workers.device.connection import (
    LOST,
    connect,
    get_constants,
    get_work,
    open_session,
    report_failure,
    send_update,
    session_end,
)
from lockstep_workers.edge.upward import Upward, http_client
from lockstep_workers.errors import NoSession
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.rounds import an_update
from tests.wire.jobs import serving

KEY = "k" * 43
OPENED = SessionOpened(key=KEY).to_json().encode() + b"\n"
MALFORMED = {
    "nested too deep": b"[" * 100_000,
    "an object nested too deep": b'{"message":' * 100_000,
    "a text that is nested": b'{"message":' + b"[" * 800 + b"]" * 800 + b',"reason":{}}',
    "a number without end": b'{"message":' + b"9" * 5000 + b',"reason":1}',
    "a number beyond all": b'{"message":1e999,"reason":1e999,"again":1e999}',
    "no object": b"17",
    "no text": b"\xff\xfe",
    "nothing": b"",
}


@dataclass
class Server:
    """Answers everything alike; a session it opens first, unless it is not to."""

    url: str
    status: int = 200
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    opens: bool = True
    asked: int = 0

    async def __call__(self, scope: Any, _receive: Any, send: Callable[..., Any]) -> None:
        self.asked += 1
        opening = self.opens and scope["path"].endswith("/session")
        status = 200 if opening else self.status
        await send({"type": "http.response.start", "status": status, "headers": self.headers})
        if opening:
            await send({"type": "http.response.body", "body": OPENED, "more_body": True})
        await send({"type": "http.response.body", "body": self.body})


@asynccontextmanager
async def server(**answers: Any) -> AsyncIterator[Server]:
    port = free_port()
    made = Server(f"http://127.0.0.1:{port}", **answers)
    async with serving(made, port):
        yield made


def device(url: str, ask: Callable[[Any], Any]) -> Any:
    """What a device gets for one question."""
    connection = connect(url)
    try:
        return ask(connection)
    finally:
        connection.close()


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_device_takes_a_session_that_ends_so_for_one_that_broke(body: bytes) -> None:
    def ends(connection: Any) -> Any:
        known = Registration(client="d-0", incarnation="1", examples=1)
        with open_session(connection, known) as session:
            return session_end(session)

    async with server(body=body) as at:
        assert "over" not in await asyncio.to_thread(device, at.url, ends)


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_device_comes_again_after_such_an_answer(body: bytes) -> None:
    failure = ClientFailure(client="d-0", incarnation="1", round=1, message="no")
    report = an_update("d-0")
    async with server(body=body) as at:
        with pytest.raises(LOST, match="no FailureAnswer"):
            await asyncio.to_thread(device, at.url, lambda one: report_failure(one, failure))
    async with server(status=409, body=body) as at:
        with pytest.raises(NoSession):
            await asyncio.to_thread(
                device, at.url, lambda one: get_work(one, "d-0", key=KEY, after=0)
            )
        answer = await asyncio.to_thread(
            device, at.url, lambda one: send_update(one, report, key=KEY, body=bytearray(4))
        )
        assert (answer.accepted, answer.reason) == (False, "")


@pytest.mark.parametrize(
    "header",
    [[], [b"[" * 30_000], [b'{"round":' + b"9" * 5000 + b"}"], [b'{"round":1e999}']],
    ids=["none", "nested", "endless", "beyond-all"],
)
async def test_a_task_that_is_none_is_a_broken_connection(header: list[bytes]) -> None:
    headers = [(names.TASK_HEADER.encode(), one) for one in header]
    async with server(headers=headers) as at:
        with pytest.raises(LOST, match="no Task"):
            await asyncio.to_thread(
                device, at.url, lambda one: get_work(one, "d-0", key=KEY, after=0)
            )


@pytest.mark.parametrize("size", [2**62, 10**30])
async def test_a_body_beyond_all_memory_is_a_broken_connection(size: int) -> None:
    """A plain socket says so: no server of ours would."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as at:
        url = f"http://127.0.0.1:{at.sockets[0].getsockname()[1]}"
        with pytest.raises(LOST, match="too much"):
            await asyncio.to_thread(device, url, lambda one: get_constants(one, "d-0", key=KEY))


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("opens", [True, False])
async def test_an_edge_comes_again_after_such_a_session(body: bytes, *, opens: bool) -> None:
    class Nothing:
        """Runs no cluster."""

        def drop_all(self) -> None:
            pass

    registration = EdgeRegistration(edge="near-0", incarnation="1")
    async with server(body=body, opens=opens) as at, http_client() as http:
        upward = Upward(at.url, registration, client=http)
        kept = asyncio.create_task(upward.keep(Nothing(), dropped=lambda: None))  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE_S):
            while at.asked < 4 and not kept.done():  # noqa: ASYNC110 - the server gives no event
                await asyncio.sleep(0.01)
        assert not kept.done()
        kept.cancel()
        await asyncio.gather(kept, return_exceptions=True)
