"""The ASGI app of a pod that serves others, and how it is served until it is told to end.

Used by the cloud role and by edges, beside their probes (`lockstep_serving.probes`), which look at
the loop's heartbeat here. Invariant: routes answer only once the pod is ready; work ends before the
server does, so that devices whose connections close with it are lost to no round.
"""

import asyncio
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from lockstep_serving.bounded import Limits, bounded
from lockstep_serving.exporting import page
from lockstep_serving.heartbeat import Heartbeat
from lockstep_serving.securing import secured
from lockstep_serving.server import HostedServer, listener
from lockstep_workers.hosting.asgi import App, Scope, Send, send_json
from lockstep_workers.hosting.certificates import PodCertificate
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.sockets import watch_peer

_IDLE_S = 30
"""Between two requests of a connection that shows no session's key (`hosting.bulk` knows those)."""
_GRACE_S = 2
_SETTLE_S = 1.0
"""A device under a small limit needs some periods of it for a handshake and a request's head."""
_PER_CLIENT, _OTHERS = 6, 64
"""Connections: a client has two, and as many of a life before that the kernel still holds."""


class Front:
    """A pod's ASGI app, and what its probes tell.

    Loading a data set may take minutes; a device that comes earlier is told to come again.
    """

    def __init__(
        self, registry: CollectorRegistry, *, ready: Callable[[], bool] = lambda: True
    ) -> None:
        """Not ready, until it is open and `ready`; `registry` has the metrics."""
        self._registry, self._ready = registry, ready
        self._routes: App | None = None
        self._heartbeat = Heartbeat()
        self.listens = False
        """Whether somebody who connects is heard: there is a certificate, where one is needed."""
        self.failed = False
        """The job could not begin: no device is needed any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._routes is not None:
            await self._routes(scope, receive, send)
        elif self.failed:
            await send_json(send, 410, content={"message": "the job has failed"}, close=True)
        else:
            await send_json(send, 503, content={"message": "the job is being loaded: come again"})

    def open(self, routes: App) -> None:
        """From now on these routes are served."""
        self._routes = routes

    def begin(self) -> None:
        """The loop beats from now on; called in it."""
        self._heartbeat.start()

    # -- probes: asked in a thread of their own --------------------------------------------------

    def unhealthy(self) -> str | None:
        """What is wrong with the loop."""
        return self._heartbeat.problem()

    def unready(self) -> str | None:
        """Why the pod cannot be used yet."""
        if not self.listens:
            return "no certificate yet"
        return None if self._routes is not None and self._ready() else "loading"

    def page(self) -> bytes:
        """All metrics."""
        return page(self._registry)


def watched_listener(host: str, port: int) -> socket.socket:
    """A listening socket whose connections notice a vanished peer: they inherit its options."""
    sock = listener(host, port, backlog=2048)
    watch_peer(sock)
    return sock


def server_config(
    app: object,
    clients: int,
    *,
    upgrades: frozenset[bytes] = frozenset(),
    context: ssl.SSLContext | None = None,
) -> uvicorn.Config:
    """How a pod of so many clients serves, and to what its connections may be upgraded.

    With a context, over TLS.
    """
    connections = _OTHERS + _PER_CLIENT * clients
    limits = Limits(
        connections=connections, strangers_make_room=True, settle_s=_SETTLE_S, upgrades=upgrades
    )
    http = bounded(limits)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=http if context is None else secured(http, context),  # type: ignore[arg-type]
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
    certificate: PodCertificate | None = None
    """What it serves with; None: it speaks plain HTTP."""


def _server(front: Front, at: Address) -> HostedServer:
    context = None if at.certificate is None else at.certificate.kept.context
    return HostedServer(server_config(front, at.clients, upgrades=at.upgrades, context=context))


async def serve(front: Front, at: Address, *, work: Coroutine[Any, Any, None]) -> None:
    """Serves until SIGTERM, with `work` beside it; a crash of `work` ends the process.

    At the end `work` is cancelled first: devices whose connections close then are lost to no round.
    """
    server, stop = _server(front, at), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    front.begin()
    job = asyncio.create_task(work)

    def stop_on_crash(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            stop.set()

    job.add_done_callback(stop_on_crash)
    serving = asyncio.create_task(_listen(server, front, at=at))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    job.cancel()
    (ended,) = await asyncio.gather(job, return_exceptions=True)
    server.should_exit = True
    stopping.cancel()
    if not front.listens:
        serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    if isinstance(ended, Exception):
        raise ended


async def _listen(server: HostedServer, front: Front, *, at: Address) -> None:
    """Serves, once there is a certificate where one is needed."""
    certified = nullcontext() if at.certificate is None else at.certificate.renewed(server)
    async with certified:
        sock = watched_listener(at.host, at.port)
        front.listens = True
        await server.serve(sockets=[sock])
