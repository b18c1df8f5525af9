"""Wires the cloud role: settings, model, data, planner, job, HTTP server."""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx2
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lockstep_api import names
from lockstep_api.settings import JobSettings
from lockstep_api.wire import Outcome
from lockstep_serving.bounded import Limits, bounded
from lockstep_serving.server import HostedServer
from lockstep_workers.cloud.asgi import Scope, Send, send_json
from lockstep_workers.cloud.bulk import BulkRoutes, Host
from lockstep_workers.cloud.job import Job, Parts
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.reading import Receive
from lockstep_workers.cloud.store import Store
from lockstep_workers.environment import Environment
from lockstep_workers.errors import JobFailed
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.training import be_deterministic
from lockstep_workers.learning.trial import load_and_try
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.sockets import watch_peer

_log = structlog.get_logger()
_IDLE_S = 30
"""Between two requests of a connection that shows no session's key (`cloud.bulk` knows those)."""
_GRACE_S = 2
_PER_CLIENT, _OTHERS = 6, 64
"""Connections: a device has two, and as many of a life before that the kernel still holds."""


def run_cloud(environment: Environment) -> None:
    """Runs the cloud pod until SIGTERM."""
    uvloop.run(_run(environment))


class Front:
    """The pod's ASGI app: probes and metrics from the start, the devices' routes once it is ready.

    Loading a data set may take minutes; a device that comes earlier is told to come again.
    """

    def __init__(self, metrics: CloudMetrics) -> None:
        """Not ready."""
        self._ordinary = ordinary_app(metrics, lambda: self.routes is not None)
        self.routes: BulkRoutes | None = None
        self.failed = False
        """The job could not begin: no device is needed any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        early = self.routes is None and scope["path"].startswith("/v1/")
        if early and self.failed:
            await send_json(send, 410, content={"message": "the job has failed"}, close=True)
        elif early:
            await send_json(send, 503, content={"message": "the job is being loaded: come again"})
        else:
            await (self.routes or self._ordinary)(scope, receive, send)

    def open(self, host: Host) -> None:
        """From now on devices are served."""
        self.routes = BulkRoutes(host, self._ordinary)


@dataclass(frozen=True, slots=True)
class Pod:
    """What a cloud pod has before its job is loaded."""

    job: JobSettings
    environment: Environment
    planner: PlannerClient
    journal: Journal
    metrics: CloudMetrics


async def _run(environment: Environment) -> None:
    job = environment.job()
    if job.training.deterministic:
        be_deterministic()
    metrics = CloudMetrics(job.job)
    front = Front(metrics)
    async with httpx2.AsyncClient() as http:
        planner = PlannerClient(job, environment.token_file, client=http)
        store = Store(environment.data_dir, job.uid, keep=job.checkpoint.keep)
        journal = Journal(store, metrics, job.checkpoint.every_rounds)
        pod = Pod(job, environment, planner, journal, metrics)
        await _serve(front, pod, work=_work(pod, front))


async def _work(pod: Pod, front: Front) -> None:
    """Loads the job and runs it; when cancelled, the last finished round is written down."""
    try:
        job = Job(await asyncio.to_thread(_parts, pod))
    except JobFailed as error:
        front.failed = True
        await _tell(pod, error)
        return
    front.open(job.reception)
    try:
        await job.run()
    finally:
        await job.stop()


async def _tell(pod: Pod, error: JobFailed) -> None:
    """A job that cannot begin: its outcome is the error."""
    outcome = Outcome(result="Failed", message=str(error))
    _log.error("job cannot begin", error=str(error))
    pod.journal.end(outcome)
    await pod.planner.tell_outcome(outcome)


def _parts(pod: Pod) -> Parts:
    """Everything that a job needs; errors in the settings show here."""
    job = pod.job
    loaded = load_and_try(job, pod.environment.datasets)
    constants = pod.journal.constants(loaded.module)
    return Parts(
        job=job,
        strategy=build_strategy(job.strategy, momentum=job.training.momentum),
        module=loaded.module,
        examples=loaded.examples,
        test=loaded.dataset.test,
        planner=pod.planner,
        journal=pod.journal,
        metrics=pod.metrics,
        constants=constants,
    )


def ordinary_app(metrics: CloudMetrics, ready: Callable[[], bool] = lambda: True) -> FastAPI:
    """Probes and metrics; `ready` decides what /readyz says."""
    app = FastAPI(title="Lockstep cloud pod", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(names.HEALTH_ROUTE)
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(names.READY_ROUTE)
    async def readiness() -> Response:
        loaded = ready()
        return Response("ok" if loaded else "loading", status_code=200 if loaded else 503)

    @app.get(names.METRICS_ROUTE)
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def listener(host: str, port: int) -> socket.socket:
    """A listening socket whose connections notice a vanished peer: they inherit its options."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=2048)
    watch_peer(sock)
    return sock


def server_config(app: object, clients: int) -> uvicorn.Config:
    """How a cloud pod of so many clients serves."""
    connections = _OTHERS + _PER_CLIENT * clients
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=bounded(Limits(connections=connections, strangers_make_room=True)),
        loop="none",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


async def _serve(app: object, pod: Pod, *, work: Coroutine[Any, Any, None]) -> None:
    """Serves until SIGTERM, with `work` beside it; a crash of `work` ends the process.

    At the end `work` is cancelled first: devices whose connections close then are lost to no round.
    """
    config = server_config(app, len(pod.job.clients()))
    server, stop = HostedServer(config), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    job = asyncio.create_task(work)

    def stop_on_crash(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            stop.set()

    job.add_done_callback(stop_on_crash)
    sockets = [listener(pod.environment.host, pod.environment.port)]
    serving = asyncio.create_task(server.serve(sockets=sockets))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    job.cancel()
    (ended,) = await asyncio.gather(job, return_exceptions=True)
    server.should_exit = True
    stopping.cancel()
    await serving
    if isinstance(ended, Exception):
        raise ended
