"""The planner: plans a round for a job's cloud pod and takes the job's outcome; probes and metrics.

`app` serves it beside Kopf, in the same loop. A plan is answered when its CPU limits are in force
(or it says which are not); an outcome only when it is in the job's status, so it is never lost.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import BackgroundTasks, FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lockstep_allocator.fleet import Method
from lockstep_allocator.policy import Policy
from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.spec import Actuator, Allocation, AllocationPolicy, FederatedJobSpec
from lockstep_api.wire import Outcome, PlanRequest, PolicyVerdict, RoundPlan
from lockstep_operator.actuate import Resizer, actuate
from lockstep_operator.auth import Authenticator, Forbidden, Unauthenticated
from lockstep_operator.core.insight import Insight, combined, stale
from lockstep_operator.core.model import EventNote, JobKey, JobView
from lockstep_operator.core.plan import (
    fallback_note,
    has_anyway,
    left_to_devices,
    needs_telemetry,
    plan_round,
    replanned,
    with_applied,
)
from lockstep_operator.errors import InvalidSpec, KubeError, NotFound
from lockstep_operator.observe import FINISHED, read_job
from lockstep_operator.policies import Policies, PolicyUnavailable
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.reconcile import Deps, emit, finished
from lockstep_operator.runtime import Runtime
from lockstep_operator.telemetry import Prometheus, TelemetryError

logger = logging.getLogger(__name__)

_NOT_PLANNED = FINISHED | {"Refused", "Suspended"}


class NotLeader(Exception):
    """Another operator plans; the caller's next try reaches it."""


class JobEnded(Exception):
    """A job that takes no more rounds."""


@dataclass(frozen=True, slots=True)
class Planner:
    """What the routes need; made by `app`."""

    deps: Deps
    runtime: Runtime
    resizer: Resizer
    authenticator: Authenticator | None
    """None: callers are not checked."""
    prometheus: Prometheus | None
    """None: reports of rounds stand in."""
    policies: Policies
    learning: PolicyLearning
    watching: Callable[[], bool]
    """Whether Kopf's task is alive."""
    ready: Callable[[], bool]
    """Whether Kopf has begun to watch, or another operator leads."""
    leads: Callable[[], bool]
    """Whether this operator may plan."""
    resync_s: float

    async def plan(self, key: JobKey, request: PlanRequest, authorization: str | None) -> RoundPlan:
        """Plan a round, put its limits in force and tell what is not.

        Raises:
            NotLeader: another operator plans.
            NotFound, JobEnded, InvalidSpec: there is nothing to plan.
            ValueError: the request does not fit the job.
            KubeError: Kubernetes did not answer.
        """
        with self.deps.metrics.plan_seconds.time():
            job, spec = await self._plannable(key, authorization)
            notices = self.deps.sources.reports.asked(job.uid, request)
            events = (EventNote(note.type, note.reason, note.message) for note in notices)
            await emit(job, events, deps=self.deps)
            reports = self.deps.sources.reports
            off = reports.round_done(job.uid, request.report)
            self.deps.metrics.frequency_mismatches.inc(off)
            insight = await self._insight(job, spec, request)
            policy = await self._policy(job, spec, insight.problem)
            drawn = plan_round(spec, request, insight=insight, policy=policy)
            plan = await self._put_in_force(key, spec, drawn)
            plan = await self._around(key, spec, plan, insight=insight, policy=policy)
            heard = reports.get(job.uid)
            before = (heard.plan if heard else None, job.status.last_plan)
            if note := fallback_note(plan, before):
                await emit(job, [note], deps=self.deps)
            reports.planned(job.uid, plan, now=self.deps.clock())
            report = request.report
            self.learning.heard(job, spec, report=report, plan=plan, insight=insight)
        self.runtime.seen(key)
        return plan

    async def _insight(self, job: JobView, spec: FederatedJobSpec, request: PlanRequest) -> Insight:
        """What is known of the devices: from Prometheus, and from what they reported."""
        heard = self.deps.sources.reports.get(job.uid)
        measured = heard.measured if heard else {}
        if not needs_telemetry(spec):
            return Insight(measured)
        if self.prometheus is None:
            return Insight(measured, "no Prometheus is configured (operator.prometheusUrl)")
        try:
            with self.deps.metrics.telemetry_seconds.time():
                found = await self.prometheus.insight(job.key)
        except TelemetryError as error:
            self.deps.metrics.telemetry_failures.inc()
            return Insight(measured, str(error))
        reported = [one.update.client for one in request.report.clients] if request.report else []
        return Insight(combined(found, measured), stale(found, reported))

    async def _policy(
        self, job: JobView, spec: FederatedJobSpec, telemetry: str | None
    ) -> Method | None:
        """The policy of a job that asks for one; None, and an event, when it cannot be used."""
        policy, problem = None, None
        if spec.allocation.policy is AllocationPolicy.PPO:
            try:
                policy = await self._policy_of(job.key, spec.allocation)
            except PolicyUnavailable as error:
                problem = str(error)
        reports = self.deps.sources.reports
        heard = reports.get(job.uid)
        if problem is not None and (heard is None or heard.policy_problem != problem):
            note = f"policy equalize stands in for ppo: {problem}"
            await emit(job, [EventNote("Warning", "PolicyUnavailable", note)], deps=self.deps)
        reports.informed(job.uid, telemetry=telemetry, policy=problem)
        return policy

    async def _policy_of(self, key: JobKey, wanted: Allocation) -> Policy:
        learnt = await self.policies.learnt(key, wanted.policy_ref) if wanted.online else None
        return learnt or await self.policies.of(key, wanted.policy_ref)

    async def learn(self, key: JobKey) -> None:
        """What a round leaves to do once its plan is answered."""
        if not self.learning.has_news(key):
            return
        try:
            job = await read_job(key, self.deps.kube)
        except KubeError as error:  # the next round tries again
            logger.warning("job %s does not learn from this round: %s", key, error)
            return
        if job is not None and job.spec is not None:
            await self.learning.learn(job, job.spec)

    async def offer(self, key: JobKey, content: bytes, authorization: str | None) -> PolicyVerdict:
        """Judge a policy that a trainer offers.

        Raises:
            NotLeader: another operator plans.
            NotFound, JobEnded, InvalidSpec: there is no job that could use it.
            ValueError: it is no policy.
            KubeError: Kubernetes did not answer.
        """
        job, spec = await self._plannable(key, authorization, role=Role.TRAINER)
        if not spec.allocation.online:
            raise JobEnded(f"job {key.namespace}/{key.name} does not learn any more")
        return await self.learning.judge(job, spec, content)

    async def _around(
        self,
        key: JobKey,
        spec: FederatedJobSpec,
        plan: RoundPlan,
        *,
        insight: Insight,
        policy: Method | None,
    ) -> RoundPlan:
        """The plan, made anew around devices whose limits are not in force, if that changes it."""
        has_ghz = has_anyway(plan, insight)
        if not has_ghz or not needs_telemetry(spec):
            return plan
        again = replanned(spec, plan, has_ghz=has_ghz, insight=insight, policy=policy)
        return await self._put_in_force(key, spec, again)

    async def outcome(self, key: JobKey, outcome: Outcome, authorization: str | None) -> bool:
        """Take the end of a job; True when it is in the job's status."""
        job = await self._job(key, authorization)
        if job.status.phase in FINISHED:
            return True
        self.deps.sources.reports.ended(job.uid, outcome)
        return finished(await self.runtime.pass_now(key))

    def healthy(self) -> str | None:
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

    async def _job(
        self, key: JobKey, authorization: str | None, *, role: Role = Role.CLOUD
    ) -> JobView:
        """The job of the caller."""
        if not self.leads():
            raise NotLeader("this operator does not lead: try again, the leader answers")
        caller = None
        if self.authenticator is not None:
            caller = await self.authenticator.check(key, authorization, role=role)
        job = await read_job(key, self.deps.kube)
        if job is None:
            raise NotFound(f"no job {key.namespace}/{key.name}")
        if self.authenticator is not None and caller is not None:
            await self.authenticator.check_owner(key, caller, job.uid, role=role)
        return job

    async def _plannable(
        self, key: JobKey, authorization: str | None, *, role: Role = Role.CLOUD
    ) -> tuple[JobView, FederatedJobSpec]:
        job = await self._job(key, authorization, role=role)
        if job.status.phase in _NOT_PLANNED:
            raise JobEnded(f"job {key.namespace}/{key.name} is {job.status.phase}")
        if job.spec is not None and job.spec.suspend:
            raise JobEnded(f"job {key.namespace}/{key.name} is suspended")
        if job.spec is None:
            raise InvalidSpec(job.spec_error or "the spec cannot be read")
        return job, job.spec

    async def _put_in_force(
        self, key: JobKey, spec: FederatedJobSpec, plan: RoundPlan
    ) -> RoundPlan:
        """The plan, told what became of its limits."""
        if spec.allocation.actuator is Actuator.COOPERATIVE:
            return left_to_devices(plan)
        applied = await actuate(key, plan, resizer=self.resizer)
        return with_applied(plan, applied.failures, applied.refusals)


def planner_app(planner: Planner) -> FastAPI:
    """The HTTP application."""
    app = FastAPI(title="Lockstep planner", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)

    @app.post(names.PLAN_ROUTE)
    async def plan(
        namespace: str,
        job: str,
        body: PlanRequest,
        background: BackgroundTasks,
        authorization: str | None = Header(None),
    ) -> Response:
        key = JobKey(namespace, job)
        planned = await planner.plan(key, body, authorization)
        background.add_task(planner.learn, key)
        return _json(planned.to_json())

    @app.post(names.POLICY_ROUTE)
    async def policy(
        namespace: str, job: str, request: Request, authorization: str | None = Header(None)
    ) -> Response:
        key, content = JobKey(namespace, job), await request.body()
        return _json((await planner.offer(key, content, authorization)).to_json())

    @app.post(names.OUTCOME_ROUTE)
    async def outcome(
        namespace: str, job: str, body: Outcome, authorization: str | None = Header(None)
    ) -> Response:
        key = JobKey(namespace, job)
        if await planner.outcome(key, body, authorization):
            return _json("{}")
        return _message(503, "the outcome is not in the job's status yet: send it again")

    _add_probes(app, planner)
    return app


def _add_probes(app: FastAPI, planner: Planner) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        problem = planner.healthy()
        body = {"message": problem or "ok", "lastPassAgeSeconds": planner.runtime.last_pass_age_s}
        return JSONResponse(body, status_code=503 if problem else 200)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = planner.ready()
        return _message(200 if ready else 503, "ok" if ready else "not watching yet")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(planner.metrics(), media_type=CONTENT_TYPE_LATEST)


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NotLeader, 503),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (JobEnded, 409),
    (InvalidSpec, 422),
    (ValueError, 422),
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
