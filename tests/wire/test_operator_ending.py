"""The operator's process ends in time: nothing that is under way keeps it longer than that."""

import asyncio
from typing import Any

from fastapi import FastAPI

from lockstep_operator.app import END_WITHIN_S
from lockstep_operator.core.election import Timing
from lockstep_operator.serving import GRACE_S, planner_server
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port


def test_the_end_takes_less_time_than_a_successor_waits() -> None:
    usual = Timing()
    assert GRACE_S < END_WITHIN_S < usual.lease_s - usual.renew_within_s


async def test_a_request_that_never_ends_does_not_keep_the_server() -> None:
    port = free_port()
    began, cancelled = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    @app.get("/")
    async def hang() -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server = planner_server(app, ("127.0.0.1", port))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: planner\r\n\r\n")
    await asyncio.wait_for(began.wait(), PATIENCE_S)
    server.should_exit = True
    await asyncio.wait_for(serving, PATIENCE_S)
    assert cancelled.is_set()
    writer.close()
