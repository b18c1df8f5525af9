"""The ASGI app of a pod that serves others, and how it is served until it is told to end.

Used by the cloud role and by edges. Invariant: probes and metrics answer from the start, all other
routes only once the pod is ready; work ends before the server does, so that devices whose
connections close with it are lost to no round.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_serving.bounded import Limits, bounded
from lockstep_serving.exporting import CONTENT_TYPE, page
from lockstep_serving.server import HostedServer
from lockstep_workers.hosting.asgi import App, Scope, Send, send_json
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.sockets import watch_peer

_IDLE_S = 30
"""Between two requests of a connection that shows no session's key (`hosting.bulk` knows those)."""
_GRACE_S = 2
_PER_CLIENT, _OTHERS = 6, 64
"""Connections: a client has two, and as many of a life before that the kernel still holds."""


class Front:
    """A pod's ASGI app.

    Loading a data set may take minutes; a device that comes earlier is told to come again.
    """

    def __init__(
        self, registry: CollectorRegistry, *, ready: Callable[[], bool] = lambda: True
    ) -> None:
        """Not ready, until it is open and `ready`; `registry` has the metrics."""
        self.ordinary: App = ordinary_app(registry, lambda: self._routes is not None and ready())
        """Probes and metrics: where routes end that are not their own."""
        self._routes: App | None = None
        self.failed = False
        """The job could not begin: no device is needed any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        early = self._routes is None and scope["path"].startswith("/v1/")
        if early and self.failed:
            await send_json(send, 410, content={"message": "the job has failed"}, close=True)
        elif early:
            await send_json(send, 503, content={"message": "the job is being loaded: come again"})
        else:
            await (self._routes or self.ordinary)(scope, receive, send)

    def open(self, routes: App) -> None:
        """From now on these routes are served."""
        self._routes = routes


def ordinary_app(registry: CollectorRegistry, ready: Callable[[], bool] = lambda: True) -> FastAPI:
    """Probes and metrics; `ready` decides what /readyz says."""
    app = FastAPI(title="Lockstep worker", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(names.HEALTH_ROUTE)
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(names.READY_ROUTE)
    async def readiness() -> Response:
        loaded = ready()
        return Response("ok" if loaded else "loading", status_code=200 if loaded else 503)

    @app.get(names.METRICS_ROUTE)
    async def scrape() -> Response:
        return Response(page(registry), media_type=CONTENT_TYPE)

    return app


def listener(host: str, port: int) -> socket.socket:
    """A listening socket whose connections notice a vanished peer: they inherit its options."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    watch_peer(sock)
    return sock


def server_config(
    app: object, clients: int, *, upgrades: frozenset[bytes] = frozenset()
) -> uvicorn.Config:
    """How a pod of so many clients serves, and to what its connections may be upgraded."""
    connections = _OTHERS + _PER_CLIENT * clients
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=bounded(Limits(connections=connections, strangers_make_room=True, upgrades=upgrades)),
        loop="none",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


@dataclass(frozen=True, slots=True)
class Address:
    """Where a pod listens, and for how many."""

    host: str
    port: int
    clients: int
    upgrades: frozenset[bytes] = frozenset()
    """What connections may be upgraded to."""


async def serve(app: object, at: Address, *, work: Coroutine[Any, Any, None]) -> None:
    """Serves until SIGTERM, with `work` beside it; a crash of `work` ends the process.

    At the end `work` is cancelled first: devices whose connections close then are lost to no round.
    """
    server, stop = (
        HostedServer(server_config(app, at.clients, upgrades=at.upgrades)),
        asyncio.Event(),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    job = asyncio.create_task(work)

    def stop_on_crash(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            stop.set()

    job.add_done_callback(stop_on_crash)
    serving = asyncio.create_task(server.serve(sockets=[listener(at.host, at.port)]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    job.cancel()
    (ended,) = await asyncio.gather(job, return_exceptions=True)
    server.should_exit = True
    stopping.cancel()
    await serving
    if isinstance(ended, Exception):
        raise ended
