"""HTTP: the routes of the planner, the probes and the metrics; errors become status codes here.

`app` serves it beside Kopf, in the same loop.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import BackgroundTasks, FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockstep_api import names
from lockstep_api.wire import Outcome, PlanRequest
from lockstep_operator.core.model import JobKey
from lockstep_operator.errors import (
    Forbidden,
    InvalidSpec,
    JobEnded,
    KubeError,
    NotFound,
    NotLeader,
    PlanTookTooLong,
    PolicyUnavailable,
    Superseded,
    Unauthenticated,
    UnfitRequest,
)
from lockstep_operator.planner import Planner
from lockstep_operator.reconcile import Deps
from lockstep_operator.runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probes:
    """How the operator is; made by `app`."""

    deps: Deps
    runtime: Runtime
    watching: Callable[[], bool]
    """Whether Kopf's task is alive."""
    ready: Callable[[], bool]
    """Whether Kopf has begun to watch, or another operator leads."""
    resync_s: float

    def problem(self) -> str | None:
        """What is wrong; None when all is well."""
        if not self.watching():
            return "the watch of jobs has ended"
        age = self.runtime.last_pass_age_s
        if self.runtime.jobs and age > 3 * self.resync_s:
            return f"no pass over a job for {age:.0f} s"
        return None

    def metrics(self) -> bytes:
        """All metrics in the text format."""
        metrics = self.deps.metrics
        metrics.queue_depth.set(self.runtime.queue_depth)
        metrics.last_pass_age.set(self.runtime.last_pass_age_s)
        metrics.jobs.clear()
        for known in self.deps.known.values():
            if known.phase is not None:
                metrics.jobs.labels(known.phase.value).inc()
        return generate_latest(metrics.registry)


def planner_app(planner: Planner, probes: Probes) -> FastAPI:
    """The HTTP application."""
    app = FastAPI(title="Lockstep planner", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)
    app.add_middleware(_Unexpected)

    @app.post(names.PLAN_ROUTE)
    async def plan(
        namespace: str,
        job: str,
        *,
        body: PlanRequest,
        background: BackgroundTasks,
        authorization: str | None = Header(None),
    ) -> Response:
        key = JobKey(namespace, job)
        planned = await planner.plan(key, body, authorization=authorization)
        background.add_task(planner.learn, key)
        return _json(planned.to_json())

    @app.post(names.POLICY_ROUTE)
    async def policy(
        namespace: str, job: str, *, request: Request, authorization: str | None = Header(None)
    ) -> Response:
        key, content = JobKey(namespace, job), await request.body()
        return _json((await planner.offer(key, content, authorization=authorization)).to_json())

    @app.post(names.OUTCOME_ROUTE)
    async def outcome(
        namespace: str, job: str, *, body: Outcome, authorization: str | None = Header(None)
    ) -> Response:
        key = JobKey(namespace, job)
        if await planner.outcome(key, body, authorization=authorization):
            return _json("{}")
        return _message(503, "the outcome is not in the job's status yet: send it again")

    _add_probes(app, probes)
    return app


def _add_probes(app: FastAPI, probes: Probes) -> None:
    @app.get(names.HEALTH_ROUTE)
    async def healthz() -> JSONResponse:
        problem = probes.problem()
        body = {"message": problem or "ok", "lastPassAgeSeconds": probes.runtime.last_pass_age_s}
        return JSONResponse(body, status_code=503 if problem else 200)

    @app.get(names.READY_ROUTE)
    async def readyz() -> JSONResponse:
        ready = probes.ready()
        return _message(200 if ready else 503, "ok" if ready else "not watching yet")

    @app.get(names.METRICS_ROUTE)
    async def metrics() -> Response:
        return Response(probes.metrics(), media_type=CONTENT_TYPE_LATEST)


class _Unexpected:
    """What nobody foresaw is a 500, logged with its traceback; the caller's next try may pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            logger.error(
                "%s: %s: %s", scope.get("path"), type(error).__name__, error, exc_info=error
            )
            if not begun:
                answer = _message(
                    500, f"the planner failed: {type(error).__name__}; its log says why"
                )
                await answer(scope, receive, send)


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NotLeader, 503),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (JobEnded, 409),
    (Superseded, 503),
    (PlanTookTooLong, 503),
    (InvalidSpec, 422),
    (UnfitRequest, 422),
    (PolicyUnavailable, 503),
    (KubeError, 503),
)


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        status = next(code for kind, code in _STATUS if isinstance(error, kind))
        logger.info("%s: %d %s", request.url.path, status, error)
        return _message(status, str(error))

    for kind, _ in _STATUS:
        app.add_exception_handler(kind, answer)


def _message(status: int, text: str) -> JSONResponse:
    # A caller that is told to try again must not stay with this process.
    headers = {"connection": "close"} if status == 503 else None
    return JSONResponse({"message": text}, status_code=status, headers=headers)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
