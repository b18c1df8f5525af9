"""HTTP: the routes of the planner; errors become status codes here.

`app` serves it beside Kopf, in the same loop.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.wire import Outcome, PlanRequest
from lockstep_operator.auth import Caller
from lockstep_operator.bodies import Bodies
from lockstep_operator.core.askable import may_end, plannable
from lockstep_operator.core.model import JobKey
from lockstep_operator.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Forbidden,
    InvalidSpec,
    JobEnded,
    KubeError,
    NotFound,
    NotLeader,
    NotPlaced,
    NotSigned,
    PlanTookTooLong,
    PolicyUnavailable,
    Superseded,
    TooManyCalls,
    Unauthenticated,
    UnfitRequest,
)
from lockstep_operator.planner import Planner
from lockstep_serving.pace import Bucket, Buckets, Rate
from lockstep_serving.receiving import KNOWN

logger = logging.getLogger(__name__)

_REST_S = 5
"""A connection may rest between two calls."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?")
LINES_OF_ONE, LINES_OF_ALL = Rate(burst=5, per_s=0.1), Rate(burst=50, per_s=2)
"""Lines of the log about refused calls, for one source and for all."""


def planner_app(
    planner: Planner,
    *,
    bodies: Bodies | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The HTTP application."""
    app = FastAPI(title="Lockstep planner", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app, _RefusedCalls(clock))
    app.add_middleware(_Unexpected)

    bodies = bodies or Bodies()

    # Who calls is known before a byte of what is said is read.
    @app.post(names.PLAN_ROUTE)
    async def plan(request: Request, background: BackgroundTasks) -> Response:
        job = await planner.admit(_key(request), _caller(request))
        _admitted(request)
        plannable(job)
        async with bodies.call(job):
            asked = await bodies.message(request, job, kind=PlanRequest)
            planned = await planner.plan(job, asked)
        background.add_task(planner.label, job, planned)
        background.add_task(planner.learn, job.key)
        return _json(planned.to_json())

    @app.post(names.POLICY_ROUTE)
    async def policy(request: Request) -> Response:
        job = await planner.admit(_key(request), _caller(request), role=Role.TRAINER)
        _admitted(request)
        plannable(job)
        async with bodies.call(job):
            content = await bodies.policy(request, job)
            return _json((await planner.offer(job, content)).to_json())

    @app.post(names.CERTIFICATE_ROUTE)
    async def certificate(request: Request) -> Response:
        job = await planner.admit(_key(request), _caller(request))
        _admitted(request)
        plannable(job)
        async with bodies.call(job):
            asked = await bodies.certificate(request, job)
            return _json((await planner.certificate(job, asked)).to_json())

    @app.post(names.OUTCOME_ROUTE)
    async def outcome(request: Request) -> Response:
        job = await planner.admit(_key(request), _caller(request))
        _admitted(request)
        if not may_end(job):
            return _json("{}")
        async with bodies.call(job):
            told = await bodies.message(request, job, kind=Outcome)
            if await planner.outcome(job, told):
                return _json("{}")
        return _message(503, "the outcome is not in the job's status yet: send it again")

    @app.get(names.KEYS_ROUTE)
    async def keys(request: Request) -> Response:
        await planner.admit(_key(request), _caller(request))
        _admitted(request)
        missed = request.query_params.get("kid", "")
        return _json((await planner.issuer.keys(missed)).to_json())

    return app


def _key(request: Request) -> JobKey:
    """The job that a call is about; what is no name is not even repeated in the log."""
    key = JobKey(request.path_params["namespace"], request.path_params["job"])
    if not (_NAME.fullmatch(key.namespace) and _NAME.fullmatch(key.name)):
        raise NotFound("no such job: namespaces and jobs have names of a-z, 0-9 and -")
    return key


def _admitted(request: Request) -> None:
    """Its connection makes no room for those of strangers."""
    known = request.scope.get("extensions", {}).get(KNOWN)
    if known is not None:
        known(_REST_S, str(_key(request)))


def _caller(request: Request) -> Caller:
    source = "" if request.client is None else request.client.host
    return Caller(request.headers.get("authorization"), source)


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
    (NotPlaced, 503),
    (Superseded, 503),
    (PlanTookTooLong, 503),
    (TooManyCalls, 429),
    (NotSigned, 503),
    (BodyTooLarge, 413),
    (BodyTooSlow, 408),
    (InvalidSpec, 422),
    (UnfitRequest, 422),
    (PolicyUnavailable, 503),
    (KubeError, 503),
)


@dataclass(slots=True)
class _RefusedCalls:
    """Says in the log which calls were refused; a flood of them is counted instead."""

    clock: Callable[[], float]
    _of_one: Buckets = field(default_factory=lambda: Buckets(LINES_OF_ONE))
    _of_all: Bucket = field(default_factory=lambda: Bucket(LINES_OF_ALL))
    _unsaid: int = 0

    def say(self, request: Request, status: int, *, error: Exception) -> None:
        now_s, source = self.clock(), _caller(request).source
        if not (self._of_one.of(source).take(now_s) and self._of_all.take(now_s)):
            self._unsaid += 1
            return
        told = "%s from %s: %d %s" + (f" ({self._unsaid} more were refused)" * (self._unsaid > 0))
        self._unsaid = 0
        logger.info(told, _route(request), source, status, error)


def _route(request: Request) -> str:
    """The path, once it is known to be one of a job."""
    try:
        _key(request)
    except NotFound:
        return "no job's path"
    return request.url.path


def _add_errors(app: FastAPI, refused: _RefusedCalls) -> None:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        status = next(code for kind, code in _STATUS if isinstance(error, kind))
        refused.say(request, status, error=error)
        return _message(status, str(error))

    for kind, _ in _STATUS:
        app.add_exception_handler(kind, answer)


# A caller that is told to try again must not stay with this process, and strangers not at all.
_CLOSED = frozenset({401, 403, 404, 408, 413, 429, 503})


def _message(status: int, text: str) -> JSONResponse:
    headers = {"connection": "close"} if status in _CLOSED else None
    return JSONResponse({"message": text}, status_code=status, headers=headers)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
