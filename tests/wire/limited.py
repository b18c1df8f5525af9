"""A small app behind the server that both planes use, and what is said to it over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response

from lockstep_serving.bounded import BodyLimit, Limits, bounded
from lockstep_serving.receiving import KNOWN
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.channels import PLAIN, Channel

SMALL = Limits(connections=3, head_bytes=1000, head_s=30)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
LARGE = 50 << 20
"""Bytes of the answer to GET /large: more than kernels hold."""


@asynccontextmanager
async def server(
    limits: Limits = SMALL, *, max_body: int = 100, channel: Channel = PLAIN
) -> AsyncIterator[int]:
    """An app that tells how many bytes it was sent."""
    app, port = FastAPI(), free_port()

    @app.get("/large")
    async def large(request: Request) -> Response:
        return Response(bytes(LARGE))

    @app.post("/")
    async def length(request: Request) -> dict[str, int]:
        if "known" in request.headers:
            request.scope["extensions"][KNOWN](60, request.headers["known"])
        return {"bytes": len(await request.body())}

    config = uvicorn.Config(
        BodyLimit(app, max_body), host="127.0.0.1", port=port, http=channel.serve(bounded(limits)),
        loop="none", ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    running_server = uvicorn.Server(config)
    running = asyncio.ensure_future(running_server._serve())
    while not running_server.started:  # noqa: ASYNC110 - uvicorn gives no event
        await asyncio.sleep(0.005)
    try:
        yield port
    finally:
        running_server.should_exit = True
        await running


async def say(port: int, *pieces: bytes, channel: Channel = PLAIN) -> tuple[int, bytes]:
    """Sends pieces on a new connection; (status, all that was answered until it was closed)."""
    reader, writer = await channel.open(port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()
    return int(answer.split(b" ")[1]) if answer else 0, answer
