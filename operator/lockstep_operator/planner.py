"""The planner: plans a round for a job's cloud pod, takes the job's outcome and offered policies.

`routes` serves it: who calls is asked first (`admit`), then what is said is read. It does the I/O
between the pure functions of `core.planning` and keeps what they return. A plan is answered when
its CPU limits are in force (or it says which are not); an outcome only when it is in the job's
status, so it is never lost.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from lockstep_allocator.policy import Policy
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.names import Role
from lockstep_api.spec import Allocation, AllocationPolicy, FederatedJobSpec
from lockstep_api.status import FINISHED
from lockstep_api.wire import Outcome, PlanRequest, PolicyVerdict, RoundPlan
from lockstep_operator.actuate import Resizer, actuate
from lockstep_operator.auth import Authenticator, Caller
from lockstep_operator.authority import Signing
from lockstep_operator.beside import Beside
from lockstep_operator.core.alternatives import alternatives
from lockstep_operator.core.askable import plannable
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.model import EventNote, JobKey, JobView
from lockstep_operator.core.plan import needs_telemetry, with_applied
from lockstep_operator.core.planning import (
    Basis,
    Drawn,
    draw,
    ended,
    hear,
    know,
    limits,
    redraw,
    settle,
    undrawn,
)
from lockstep_operator.core.policy_source import PolicySource, policy_use
from lockstep_operator.core.privacy import Counted, ledger_of, load_accountant
from lockstep_operator.core.round_cost import round_cost
from lockstep_operator.core.state import JobState
from lockstep_operator.core.trust import speaks_tls
from lockstep_operator.errors import (
    JobEnded,
    KubeError,
    NotFound,
    NotLeader,
    NotSigned,
    PlanTookTooLong,
    PolicyUnavailable,
    Superseded,
    TelemetryError,
    TooManyCalls,
    UnfitRequest,
)
from lockstep_operator.issuer import Issuer
from lockstep_operator.labelling import Labelling
from lockstep_operator.observe import read_job
from lockstep_operator.policies import Policies
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.reconcile import Deps, emit, finished
from lockstep_operator.reports import Reports
from lockstep_operator.runtime import Runtime
from lockstep_operator.telemetry import Prometheus
from lockstep_operator.turns import Turns
from lockstep_serving.pace import Buckets, Rate

logger = logging.getLogger(__name__)

PLAN_S = 9.0
"""A cloud pod gives a call up after 10 s."""
TELL_S = 0.5
"""For so long a plan waits for its events; they are written meanwhile, or afterwards."""
EVENTS_OF_A_JOB = Rate(burst=16, per_s=1 / 30)
UNSIGNED_OF_A_JOB = Rate(burst=1, per_s=1 / 600)
"""Events about certificates that cannot be signed: each server asks every ten seconds."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans rounds; made by `app`."""

    deps: Deps
    reports: Reports
    runtime: Runtime
    resizer: Resizer
    authenticator: Authenticator | None
    """None: callers are not checked."""
    issuer: Issuer
    prometheus: Prometheus | None
    """None: reports of rounds stand in."""
    policies: Policies
    learning: PolicyLearning
    labelling: Labelling
    signing: Signing | None
    """None: servers of jobs get no certificates."""
    leads: Callable[[str], bool]
    """Whether this operator may plan for jobs of a namespace."""
    turns: Turns = field(default_factory=Turns)
    beside: Beside = field(default_factory=Beside)
    judged: set[str] = field(default_factory=set)
    """Uids of jobs of which an offered policy is being judged: a trainer offers one at its end."""
    events: Buckets = field(default_factory=lambda: Buckets(EVENTS_OF_A_JOB))
    unsigned: Buckets = field(default_factory=lambda: Buckets(UNSIGNED_OF_A_JOB))
    telling: set[asyncio.Task[list[EventNote]]] = field(default_factory=set)
    """Events that are being written."""
    plan_s: float = PLAN_S
    """How long a call may take, once it has its turn."""

    async def admit(self, key: JobKey, caller: Caller, *, role: Role = Role.CLOUD) -> JobView:
        """The job of the caller.

        Raises:
            NotLeader: another operator plans.
            Unauthenticated, Forbidden, TooManyCalls: the caller may not speak for the job.
            NotFound: there is none.
            KubeError: Kubernetes did not answer.
        """
        self._check_leads(key)
        if self.authenticator is None:
            return await self._existing(key)
        user = await self.authenticator.check(key, caller, role=role)
        job = await self._existing(key)
        await self.authenticator.check_owner(key, user, uid=job.uid, role=role)
        seen = self.deps.sources.cluster.pod_uid(key, user.pod)
        await self.authenticator.check_pod(key, caller, user=user, role=role, seen=seen)
        return job

    async def plan(self, job: JobView, request: PlanRequest) -> RoundPlan:
        """Plan a round of an admitted caller's job, put its limits in force and tell what is not.

        Raises:
            NotLeader: another operator plans.
            JobEnded, InvalidSpec: there is nothing to plan.
            UnfitRequest: it does not fit the job.
            Superseded, PlanTookTooLong: its caller has given it up.
            KubeError: Kubernetes did not answer.
        """
        spec = plannable(job)
        if spec.privacy is not None:
            await asyncio.to_thread(load_accountant)
        try:
            with self.deps.metrics.plan_seconds.time():
                async with self.turns.take(job.uid):
                    return await self._in_time(job, spec, request=request)
        finally:
            self.runtime.seen(job.key)  # a failed plan, too: the status says what is heard of it

    async def _in_time(
        self, job: JobView, spec: FederatedJobSpec, *, request: PlanRequest
    ) -> RoundPlan:
        """The plan, in less time than its caller waits: else its limits would come too late."""
        self._check_leads(job.key)  # it may have waited for its turn
        try:
            async with asyncio.timeout(self.plan_s):
                return await self._plan(job, spec, request=request)
        except TimeoutError as error:
            raise PlanTookTooLong(f"there is no plan after {self.plan_s:g} s") from error

    async def _plan(
        self, job: JobView, spec: FederatedJobSpec, *, request: PlanRequest
    ) -> RoundPlan:
        """The planning step of `core.planning`, and what it asks of the world in between."""
        heard = hear(self.reports.of(job.uid), request, spec=spec)
        self.deps.metrics.frequency_mismatches.inc(heard.mismatches)
        await self._keep(job, heard.state, events=heard.events)
        telemetry = await self._telemetry(job, spec)
        insight = know(heard.state, request, telemetry=telemetry, spec=spec)
        private = job.status.privacy
        counted = Counted(0 if private is None else private.rounds, ledger_of(private))
        basis = await self._basis(job, spec, insight=insight)
        basis = replace(basis, private=counted)
        drawn = await self._draw(job, request, basis=basis)
        plan = await self._put_in_force(job.key, drawn.plan, basis=basis)
        state, now = self.reports.of(job.uid), self.deps.clock()
        settled = settle(state, plan, basis=basis, before=job.status.last_plan, now=now)
        await self._keep(job, settled.state, events=settled.events)
        self.learning.heard(job, spec, finished=settled.finished)
        self._show(job, plan, basis=basis)
        return plan

    def _show(self, job: JobView, plan: RoundPlan, *, basis: Basis) -> None:
        """What metrics tell of a plan, and of the round before it."""
        tell, report = self.deps.metrics.of_jobs, self.reports.of(job.uid).report
        cost = None if report is None else round_cost(basis.spec, report)
        tell.clusters(job.uid, job.key, plan=plan.clusters)
        costs = {one.method: one.cost for one in alternatives(basis.spec, plan)}
        tell.plan_costs(job.uid, job.key, costs=costs)
        tell.round_cost(job.uid, job.key, found=cost)
        tell.privacy(job.uid, job.key, account=plan.privacy)
        if basis.use is not None:
            tell.policy(job.uid, job.key, use=basis.use)

    async def _draw(self, job: JobView, request: PlanRequest, *, basis: Basis) -> Drawn:
        """What is drawn, beside the event loop: a large job takes long, and others go on."""
        state = self.reports.of(job.uid)
        try:
            drawn = await self.beside.run(job.key.namespace, draw, state, request, basis=basis)
        except UnfitRequest as error:
            undone = undrawn(state, request, error=error)
            self._check_still(job, state)
            await self._keep(job, undone.state, events=undone.events)
            raise
        self._check_still(job, state)
        await self._keep(job, drawn.state, events=drawn.events)
        return drawn

    def _check_still(self, job: JobView, state: JobState) -> None:
        """Nothing may have been heard of the job since, that a plan would take back."""
        now = self.reports.get(job.uid)
        if now is not None and now is not state:
            raise Superseded("the job has ended meanwhile")

    async def _keep(self, job: JobView, state: JobState, *, events: Iterable[EventNote]) -> None:
        self.reports.keep(job.key, job.uid, state=state)
        await self._emit(job, list(events))

    async def _emit(self, job: JobView, events: Sequence[EventNote]) -> None:
        if notes := self._told(job, events):
            task = asyncio.create_task(emit(job, notes, deps=self.deps), name="events")
            self.telling.add(task)
            task.add_done_callback(self.telling.discard)
            written, _ = await asyncio.wait({task}, timeout=TELL_S)
            for one in written:
                one.result()

    def _told(self, job: JobView, events: Sequence[EventNote]) -> list[EventNote]:
        """As many as a job may have; the last of these tells how many are left out."""
        bucket, now_s, told = self.events.of(job.uid), self.deps.monotonic(), list[EventNote]()
        for note in events:
            if bucket.left(now_s) < 2:
                break
            bucket.take(now_s)
            told.append(note)
        if (more := len(events) - len(told)) and bucket.take(now_s):
            message = f"{more} more events are left out, for a while: the job has too many"
            told.append(EventNote("Warning", "EventsLeftOut", message))
        return told

    async def _telemetry(self, job: JobView, spec: FederatedJobSpec) -> Insight | None:
        """What Prometheus says, or why it says nothing; None: the job's policy needs none."""
        if not needs_telemetry(spec):
            return None
        if self.prometheus is None:
            return Insight(problem="no Prometheus is configured (operator.prometheusUrl)")
        try:
            with self.deps.metrics.telemetry_seconds.time():
                found = await self.prometheus.insight(job.key, clients=spec.clients())
            return Insight(found)
        except TelemetryError as error:
            self.deps.metrics.telemetry_failures.inc()
            return Insight(problem=str(error))

    async def _basis(self, job: JobView, spec: FederatedJobSpec, *, insight: Insight) -> Basis:
        """What the plan is made from: the policy, if the job asks for one."""
        if spec.allocation.policy is not AllocationPolicy.PPO:
            return Basis(spec, insight, use=policy_use(spec, PolicySource.BUILT_IN))
        try:
            policy, source = await self._policy_of(job, spec.allocation)
            return Basis(spec, insight, policy, use=policy_use(spec, source))
        except PolicyUnavailable as error:
            use = policy_use(spec, PolicySource.FALLBACK, problem=error.problem)
            return Basis(spec, insight, policy_problem=str(error), use=use)

    async def _policy_of(self, job: JobView, wanted: Allocation) -> tuple[Policy, PolicySource]:
        reference = wanted.policy_ref
        if wanted.online:
            learnt = await self.policies.learnt(job.key, reference, uid=job.uid)
            if learnt is not None:
                return learnt, PolicySource.ONLINE
        source = PolicySource.SHIPPED if reference is None else PolicySource.REF
        return await self.policies.of(job.key, reference), source

    async def _put_in_force(self, key: JobKey, drawn: RoundPlan, *, basis: Basis) -> RoundPlan:
        """The plan, told what became of its limits; made anew around those that stay."""
        if not (wanted := limits(drawn)):
            return drawn
        until = asyncio.get_running_loop().time() + self.resizer.whole_s
        first = await actuate(key, wanted, resizer=self.resizer, until=until)
        plan = with_applied(drawn, first.failures, refusals=first.refusals)
        if (again := await self.beside.run(key.namespace, redraw, plan, basis)) is None:
            return plan
        rest = limits(again, but=first.failures)
        try:
            second = await actuate(key, rest, resizer=self.resizer, until=until)
        except KubeError as error:  # nothing was changed: the first plan is what is in force
            logger.warning("job %s is not planned around limits that stay: %s", key, error)
            return plan
        return with_applied(again, {**first.failures, **second.failures}, refusals=second.refusals)

    async def label(self, job: JobView, plan: RoundPlan) -> None:
        """Show on the job's pods where a plan has them, once it is answered."""
        if plan.clusters and job.spec is not None:
            await self.labelling.bring(job, job.spec, clusters=plan.clusters)

    async def learn(self, key: JobKey) -> None:
        """What a round leaves to do once its plan is answered."""
        if not self.learning.has_news(key):
            return
        try:
            job = await read_job(key, self.deps.sources)
        except KubeError as error:  # the next round tries again
            logger.warning("job %s does not learn from this round: %s", key, error)
            return
        if job is not None and job.spec is not None:
            await self.learning.learn(job, job.spec)

    async def offer(self, job: JobView, content: bytes) -> PolicyVerdict:
        """Judge a policy that an admitted trainer offers.

        Raises:
            JobEnded, InvalidSpec: the job cannot use it.
            TooManyCalls: one that came before is being judged.
            UnfitRequest: it is no policy.
            KubeError: Kubernetes did not answer.
        """
        spec = plannable(job)
        if not spec.allocation.online:
            raise JobEnded(f"job {job.key.namespace}/{job.key.name} does not learn any more")
        if job.uid in self.judged:
            raise TooManyCalls("a policy of this job is being judged: wait for the answer")
        self.judged.add(job.uid)
        try:
            return await self.learning.judge(job, spec, content=content)
        finally:
            self.judged.discard(job.uid)

    async def certificate(self, job: JobView, asked: CertificateRequest) -> Certificate:
        """A certificate for a server of an admitted caller's job.

        Raises:
            JobEnded, InvalidSpec: the job needs none.
            UnfitRequest, TooManyCalls: it gets none for this.
            NotSigned: there is none now; the job says so, too.
        """
        spec = plannable(job)
        if self.signing is None or not speaks_tls(spec, self.deps.settings):
            raise UnfitRequest("the servers of this job speak plain HTTP: there is no certificate")
        try:
            return self.signing.for_server(job, spec, asked=asked)
        except NotSigned as error:
            if self.unsigned.of(job.uid).take(self.deps.monotonic()):
                message = f"{asked.server}: no certificate can be signed: {error}"
                await self._emit(job, [EventNote("Warning", "CertificateNotSigned", message)])
            raise

    async def outcome(self, job: JobView, outcome: Outcome) -> bool:
        """Take the end of an admitted caller's job; True when it is in the job's status."""
        if job.status.phase in FINISHED:
            return True
        state = ended(self.reports.of(job.uid), outcome)
        self.reports.keep(job.key, job.uid, state=state)
        taken = finished(await self.runtime.pass_now(job.key))
        if taken:
            self.learning.forget(job.uid)
            self.deps.metrics.of_jobs.forget(job.uid)
        return taken

    async def _existing(self, key: JobKey) -> JobView:
        job = await read_job(key, self.deps.sources)
        if job is None:
            raise NotFound(f"no job {key.namespace}/{key.name}")
        return job

    def _check_leads(self, key: JobKey) -> None:
        if not self.leads(key.namespace):
            raise NotLeader("this operator does not lead: try again, the leader answers")
