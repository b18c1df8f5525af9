"""Runs a job's rounds: plan, hand out, collect, average, evaluate, report.

Owned by `cloud.main`; `cloud.bulk` calls it for every session, long-poll and update, all in one
event loop, so state changes between two awaits are whole. Anything that waits, waits on `_pulse`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import torch

from lockstep_api.settings import JobSettings
from lockstep_api.wire import (
    ClientReport,
    Outcome,
    PlanRequest,
    Refusal,
    Registration,
    RoundPlan,
    RoundReport,
    Task,
    UpdateReport,
)
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.planner import Planner, PlannerUnreachable
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.engine import (
    Accumulator,
    Progress,
    Round,
    repeat_plan,
    round_report,
    target_reached,
)
from lockstep_workers.errors import RefusedUpdate, WorkerError
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.strategies import MODEL, ServerState, Strategy
from lockstep_workers.wire import Flat, encode, split

_log = structlog.get_logger()
_PLAN_TRIES = 4
_MISSING_LOG_S = (10.0, 30.0, 60.0)
# The update itself is bad: its client gives none to this round.
_FATAL = frozenset(
    {
        Refusal.CONTENT_TYPE,
        Refusal.BAD_REPORT,
        Refusal.TOO_LARGE,
        Refusal.MALFORMED,
        Refusal.SHAPE,
        Refusal.DTYPE,
        Refusal.NON_FINITE,
    }
)


@dataclass(eq=False, slots=True)
class Session:
    """A client's open connection."""

    registration: Registration
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """What a coordinator works with."""

    job: JobSettings
    strategy: Strategy
    model: FlatModel
    test: Examples
    planner: Planner
    store: Store
    metrics: CloudMetrics
    clock: Callable[[], float] = field(default=time.monotonic)


class Coordinator:
    """The rounds of one job."""

    def __init__(self, parts: Parts) -> None:
        """Nothing happens until `run`."""
        self._p = parts
        self.sessions: dict[str, Session] = {}
        self.round: Round | None = None
        self.outcome: Outcome | None = None
        self.body = bytearray()
        self.n_values = parts.model.vector.numel() * len(parts.strategy.uploads)
        self._known = frozenset(parts.job.clients())
        self._state = ServerState({MODEL: parts.model.vector.numpy().copy()})
        self._sum = Accumulator(self.n_values)
        self._pulse = asyncio.Event()
        self._logged: set[tuple[str, int, Refusal]] = set()
        self._began: float | None = None

    # -- waiting ---------------------------------------------------------------------------------

    def pulse(self) -> None:
        """Something changed: wakes everything that waits."""
        old, self._pulse = self._pulse, asyncio.Event()
        old.set()

    async def _changed(self, timeout_s: float | None = None) -> None:
        """Returns at the next pulse, or after the time."""
        try:
            await asyncio.wait_for(self._pulse.wait(), timeout_s)
        except TimeoutError:
            return

    def _now(self) -> float:
        """Seconds since round 1 began."""
        return 0.0 if self._began is None else self._p.clock() - self._began

    # -- called by the routes --------------------------------------------------------------------

    def knows(self, client: str) -> bool:
        """Whether the job has such a client."""
        return client in self._known

    def open_session(self, registration: Registration) -> Session:
        """A client is there; an older session of it ends."""
        client = registration.client
        if older := self.sessions.get(client):
            older.replaced = True
            self._lose(client, "it started anew")
        session = self.sessions[client] = Session(registration)
        self._p.metrics.connected.set(len(self.sessions))
        _log.info("client connected", client=client, examples=registration.examples)
        self.pulse()
        return session

    def close_session(self, session: Session) -> None:
        """The connection is closed: the client is gone at once."""
        client = session.registration.client
        if self.sessions.get(client) is not session:
            return
        del self.sessions[client]
        self._p.metrics.connected.set(len(self.sessions))
        self._lose(client, "its connection closed")
        self.pulse()

    def _lose(self, client: str, why: str) -> None:
        if self.round is not None and client in self.round.waiting():
            self.round.lose(client, why)
            _log.warning("client lost", client=client, round=self.round.number, why=why)

    async def session_over(self, session: Session) -> None:
        """Waits until the job is over or the session was replaced."""
        while self.outcome is None and not session.replaced:
            await self._changed()

    async def next_task(self, client: str, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a round after `after` with this client; None when the job is over."""
        while self.outcome is None:
            now = self.round
            if now is not None and now.number > after and client in now.waiting():
                plan = next(p for p in now.plan.participants if p.client == client)
                task = Task(round=now.number, steps=plan.steps, frequency_ghz=plan.frequency_ghz)
                return task, self.body
            await self._changed()
        return None

    def check(self, report: UpdateReport) -> None:
        """Whether an update is welcome, before its body is read.

        Raises:
            RefusedUpdate: it is not; says why.
        """
        if not self.knows(report.client):
            message = f"this job has no client {report.client}"
            raise RefusedUpdate(Refusal.UNKNOWN_CLIENT, message)
        if self.round is None:
            raise RefusedUpdate(Refusal.WRONG_ROUND, "no round is under way")
        self.round.check(report)

    def add(self, report: ClientReport, flat: Flat) -> None:
        """Adds a checked update; errors as `check`."""
        update = report.update
        self.check(update)
        assert self.round is not None
        weight = self._p.strategy.weigh(examples=update.examples, steps=update.steps)
        self._sum.add(flat, weight)
        self.round.accept(report)
        self._p.metrics.accepted.inc()
        self.pulse()

    def refuse(self, client: str, error: RefusedUpdate) -> None:
        """Counts and logs a refused update; one that is bad loses its client to the round."""
        self._p.metrics.refused(error.reason)
        number = self.round.number if self.round else 0
        if (client, number, error.reason) not in self._logged:
            self._logged.add((client, number, error.reason))
            _log.warning(
                "update refused",
                client=client,
                round=number,
                reason=error.reason.value,
                why=str(error),
            )
        if self.round is not None:
            self.round.count_refusal(error.reason)
            if error.reason in _FATAL and client in self.round.waiting():
                self.round.lose(client, f"its update was refused: {error}")
            self.pulse()

    def elapsed_in_round(self) -> float:
        """Seconds since the current round began."""
        return 0.0 if self.round is None else self._now() - self.round.began_s

    # -- the job ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the job to its end and tells the planner; a job that ended before is told again."""
        ended = self._p.store.outcome()
        if ended is None:
            self._p.store.begin()
            ended = await self._outcome()
            self._p.store.end(ended)
        self.end(ended)
        await self._p.planner.tell_outcome(ended)
        _log.info("outcome taken", result=ended.result)

    def end(self, outcome: Outcome) -> None:
        """The job is over: everything that waits is told."""
        self.outcome = outcome
        _log.info("job over", result=outcome.result, message=outcome.message)
        self.pulse()

    async def _outcome(self) -> Outcome:
        try:
            return await self._train()
        except WorkerError as error:
            return Outcome(result="Failed", message=str(error))

    async def _train(self) -> Outcome:
        await self._all_connected()
        progress = Progress()
        while True:
            plan = await self._plan(progress)
            done = await self._play(plan)
            report = await self._finish(done, progress)
            progress = replace(
                progress, round=report.round, energy=report.energy_joules, report=report, plan=plan
            )
            if target_reached(plan, report):
                return await self._end_well("TargetReached", report, plan)
            if report.round >= plan.rounds:
                return await self._end_well("RoundsCompleted", report, plan)

    async def _all_connected(self) -> None:
        """Waits until every client is there, and says at growing intervals who is missing."""
        waits = iter(_MISSING_LOG_S)
        began, next_log = self._p.clock(), _MISSING_LOG_S[0]
        while missing := sorted(self._known - self.sessions.keys()):
            waited = self._p.clock() - began
            if waited >= next_log:
                _log.info("waiting for clients", missing=missing, seconds=round(waited))
                next_log = waited + next(waits, _MISSING_LOG_S[-1])
            await self._changed(max(0.1, next_log - waited))

    async def _plan(self, progress: Progress) -> RoundPlan:
        """The next round's plan; without a planner the last one again, except for round 1."""
        request = PlanRequest(
            round=progress.round + 1,
            clients=[s.registration for _, s in sorted(self.sessions.items())],
            report=progress.report,
        )
        if progress.plan is None:
            return await self._p.planner.plan(request, tries=None)
        try:
            return await self._p.planner.plan(request, tries=_PLAN_TRIES)
        except PlannerUnreachable as error:
            _log.warning("round goes on with the last plan", round=request.round, why=str(error))
            return repeat_plan(progress.plan, round_number=request.round)

    async def _play(self, plan: RoundPlan) -> Round:
        """One round, from handing out the model until it closes."""
        if self._began is None:
            self._began = self._p.clock()
        self._sum.reset()
        self.body = bytearray()  # the last round's model can go before this one is made
        self.body = encode([self._state.vectors[name] for name in self._p.strategy.broadcasts])
        self._p.metrics.model_bytes.set(len(self.body))
        self._p.metrics.began(plan)
        self.round = now = Round(plan, began_s=self._now())
        for client in now.participants():
            if client not in self.sessions:
                self._lose(client, "it is not connected")
        self.pulse()
        while not now.is_closed(self._now()):
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self._changed(left if left is not None and left > 0 else None)
        return now

    async def _finish(self, done: Round, before: Progress) -> RoundReport:
        """Averages, evaluates and reports a closed round."""
        now_s = self._now()
        self.round = None
        if not done.accepted:
            raise WorkerError(f"round {done.number} got no update: {_why_lost(done)}")
        mean = split(self._sum.mean(), self._p.strategy.uploads)
        self._state = self._p.strategy.aggregate(self._state, mean)
        result = await self._evaluate()
        report = round_report(done, before, now_s=now_s, result=result)
        self._p.metrics.ended(report)
        self._p.store.add(report)
        _log.info(
            "round finished",
            round=report.round,
            seconds=round(report.seconds, 3),
            accuracy=report.accuracy,
            clients=len(report.clients),
            lost=report.lost,
        )
        return report

    async def _evaluate(self) -> dict[str, float]:
        began = self._p.clock()
        self._p.model.vector.copy_(torch.from_numpy(self._state.vectors[MODEL]))
        result = await asyncio.to_thread(evaluate, self._p.model, self._p.test)
        self._p.metrics.evaluate_seconds.set(self._p.clock() - began)
        return {"accuracy": result.accuracy, "loss": result.loss}

    async def _end_well(self, result: Any, report: RoundReport, plan: RoundPlan) -> Outcome:
        await asyncio.to_thread(self._p.store.save_model, self._p.model)
        message = f"accuracy {report.accuracy:.4f} after {report.round} of {plan.rounds} rounds"
        return Outcome(result=result, message=message, report=report)


def _why_lost(done: Round) -> str:
    reasons = [f"{client}: {why}" for client, why in sorted(done.lost.items())]
    return "; ".join(reasons[:5]) + ("; …" if len(reasons) > 5 else "")
