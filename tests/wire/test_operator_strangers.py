"""The planner over real sockets, while others call it too."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from lockstep_api.wire import PlanRequest
from lockstep_operator import bodies as bodies_module
from lockstep_operator.bodies import Bodies
from lockstep_operator.routes import planner_app
from lockstep_operator.serving import planner_server
from tests.support.patience import PATIENCE_S
from tests.support.planner import PLAN, planner_of_a_job, request
from tests.support.ports import free_port

BAD_ITEMS = b'{"round":1,"clients":[' + b"0," * (32 << 10) + b"0]}"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def planner(bodies: Bodies | None = None) -> AsyncIterator[int]:
    """A planner of one job with the operator's server; its port."""
    port = free_port()
    async with planner_of_a_job() as setup:
        app = planner_app(setup.planner, bodies=bodies)
        server = planner_server(app, ("127.0.0.1", port))
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = True
            await serving


async def begun(port: int, *, token: str | None, length: int) -> Stream:
    """A call whose head is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PLAN} HTTP/1.1\r\nhost: planner\r\ncontent-length: {length}\r\n"
    head += "" if token is None else f"authorization: Bearer {token}\r\n"
    writer.write(head.encode() + b"\r\n")
    await writer.drain()
    return reader, writer


async def status_of(stream: Stream) -> int:
    line = await asyncio.wait_for(stream[0].readline(), PATIENCE_S)
    return int(line.split()[1])


async def ended(stream: Stream) -> bool:
    """Whether the planner has closed the connection, with or without a reset."""
    with suppress(ConnectionResetError):
        await asyncio.wait_for(stream[0].read(), PATIENCE_S)
    stream[1].close()
    return True


async def plan(port: int) -> int:
    """The cloud pod asks for a plan."""
    body = json.dumps(request()).encode()
    stream = await begun(port, token="cloud", length=len(body))
    stream[1].write(body)
    status = await status_of(stream)
    stream[1].close()
    return status


async def test_bodies_of_strangers_are_not_parsed_and_the_job_is_planned_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[object] = []
    parse = bodies_module._parsed

    def noted(kind: type[PlanRequest], content: bytearray, **bounds: int) -> PlanRequest:
        parsed.append(kind)
        return parse(kind, content, **bounds)

    monkeypatch.setattr(bodies_module, "_parsed", noted)
    async with planner() as port:
        strangers = [
            await begun(port, token=token, length=len(BAD_ITEMS))
            for token in [None, "made-up"] * 10
        ]
        for _, writer in strangers[::2]:
            writer.write(BAD_ITEMS)
        assert await plan(port) == 200
        for stranger in strangers:
            assert await status_of(stranger) in {401, 429}
            assert await ended(stranger)
    assert len(parsed) == 1


async def test_a_stranger_that_sends_its_body_by_drops_is_closed_at_once() -> None:
    async with planner(Bodies(body_s=10 * PATIENCE_S)) as port:
        stranger = await begun(port, token=None, length=100)
        stranger[1].write(b"{")
        assert await status_of(stranger) == 401
        assert await ended(stranger)


async def test_a_jobs_own_pod_that_sends_its_body_by_drops_is_closed_in_time() -> None:
    async with planner(Bodies(body_s=0.3)) as port:
        own = await begun(port, token="cloud", length=10_000)

        async def drip() -> None:
            while True:
                own[1].write(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await status_of(own) == 408
        dripping.cancel()
        assert await ended(own)
        assert await plan(port) == 200
