"""Runs a job's rounds: plan, hand out, collect, average, evaluate, report.

Owned by `cloud.main`; `cloud.bulk` calls it for every session, long-poll and update, all in one
event loop, so state changes between two awaits are whole. The job waits on `_pulse`, the devices'
long-polls on `_news`, a session on its own event: an update wakes the job and nobody else.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch
from torch import nn

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
    totals,
)
from lockstep_workers.errors import RefusedUpdate, WorkerError
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.parameters import flatten, use_vector
from lockstep_workers.learning.strategies import MODEL, ServerState, Strategy
from lockstep_workers.wire import Flat, decode, encode, split

_log = structlog.get_logger()
_PLAN_WITHIN_S = 15.0
_MAX_COUNT = 2**31 - 1  # examples or steps; a weight above it could make a sum overflow
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
    over: asyncio.Event = field(default_factory=asyncio.Event)
    result: str | None = None

    def ended(self) -> dict[str, str]:
        """The last line of the session: the job's result, or that a newer session took over."""
        return {"over": self.result} if self.result else {"replaced": self.registration.client}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a coordinator works with."""

    job: JobSettings
    strategy: Strategy
    module: nn.Module
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
        self._model = flatten(parts.module)
        self.sessions: dict[str, Session] = {}
        self.round: Round | None = None
        self.outcome: Outcome | None = None
        self.body = bytearray()
        self.n_values = self._model.vector.numel() * len(parts.strategy.uploads)
        self._known = frozenset(parts.job.clients())
        self._state = parts.strategy.start(self._model.vector.numpy())
        self._sum = Accumulator(self.n_values)
        self._pulse = asyncio.Event()
        self._news = asyncio.Event()
        self._logged: set[tuple[str, int, Refusal]] = set()
        self._began: float | None = None
        self._progress = Progress()

    # -- waiting ---------------------------------------------------------------------------------

    async def _changed(self, timeout_s: float | None = None) -> None:
        """Waits until sessions or the round have changed since the last call."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pulse.wait(), timeout_s)
        self._pulse.clear()

    def _tell_devices(self) -> None:
        """Wakes the long-polls: a round has begun or the job is over."""
        old, self._news = self._news, asyncio.Event()
        old.set()

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
            older.over.set()
            self._lose(client, "it started anew")
        session = self.sessions[client] = Session(registration)
        self._p.metrics.connected.set(len(self.sessions))
        _log.info("client connected", client=client, examples=registration.examples)
        if self.outcome is not None:
            self._end_session(session, self.outcome)
        self._pulse.set()
        return session

    def close_session(self, session: Session) -> None:
        """The connection is closed: the client is gone at once."""
        client = session.registration.client
        if self.sessions.get(client) is not session:
            return
        del self.sessions[client]
        self._p.metrics.connected.set(len(self.sessions))
        self._lose(client, "its connection closed")
        self._pulse.set()

    def _lose(self, client: str, why: str) -> None:
        if self.round is not None and self.round.lose(client, why):
            _log.warning("client lost", client=client, round=self.round.number, why=why)

    async def next_task(self, client: str, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a round after `after` with this client; None when the job is over."""
        while self.outcome is None:
            now = self.round
            plan = now.waits_for(client) if now is not None else None
            if now is not None and plan is not None and now.number > after:
                task = Task(round=now.number, steps=plan.steps, frequency_ghz=plan.frequency_ghz)
                return task, self.body
            await self._news.wait()
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
        if max(report.examples, report.steps) > _MAX_COUNT:
            raise RefusedUpdate(Refusal.BAD_REPORT, f"examples or steps are above {_MAX_COUNT}")
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
        self._pulse.set()

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
            if error.reason in _FATAL:
                self._lose(client, f"its update was refused: {error}")
                self._pulse.set()

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
        for session in self.sessions.values():
            self._end_session(session, outcome)
        self._tell_devices()

    def _end_session(self, session: Session, outcome: Outcome) -> None:
        session.result = outcome.result
        session.over.set()

    async def _outcome(self) -> Outcome:
        try:
            return await self._train()
        except WorkerError as error:
            return Outcome(result="Failed", message=str(error), report=self._progress.report)

    async def _train(self) -> Outcome:
        await self._all_connected()
        while True:
            await self._any_connected()
            plan = await self._plan(self._progress)
            done = await self._play(plan)
            report = await self._finish(done, self._progress)
            self._progress = Progress(report.round, report.energy_joules, report, plan)
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

    async def _any_connected(self) -> None:
        """A plan needs somebody to plan for: with nobody there the job waits, it does not fail."""
        if not self.sessions:
            _log.warning("no client is connected: waiting for one")
        while not self.sessions:
            await self._changed()

    async def _plan(self, progress: Progress) -> RoundPlan:
        """The next round's plan; without a planner the last one again, except for round 1."""
        request = PlanRequest(
            round=progress.round + 1,
            clients=[s.registration for _, s in sorted(self.sessions.items())],
            report=progress.report,
        )
        if progress.plan is None:
            return await self._p.planner.plan(request, within_s=None)
        try:
            return await self._p.planner.plan(request, within_s=_PLAN_WITHIN_S)
        except PlannerUnreachable as error:
            _log.warning("round goes on with the last plan", round=request.round, why=str(error))
            return repeat_plan(progress.plan, round_number=request.round)

    async def _play(self, plan: RoundPlan) -> Round:
        """One round, from handing out the model until it closes."""
        if self._began is None:
            self._began = self._p.clock()
        self._encode()
        self._sum.reset()
        self._logged.clear()
        self._p.metrics.model_bytes.set(len(self.body))
        self._p.metrics.began(plan)
        self.round = now = Round(plan, began_s=self._now())
        for client in now.participants():
            if client not in self.sessions:
                self._lose(client, "it is not connected")
        self._tell_devices()
        while not now.is_closed(self._now()):
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self._changed(left if left is not None and left > 0 else None)
        return now

    def _encode(self) -> None:
        """The model's body; afterwards the state lives in it, so that it is in memory once."""
        names, state = self._p.strategy.broadcasts, self._state.vectors
        self.body = encode([state[name] for name in names])
        size = sum(state[name].size for name in names)
        kept = {
            n: v.copy() if self._sum.holds(v) else v for n, v in state.items() if n not in names
        }
        self._state = ServerState(kept | split(decode(self.body, n_values=size), names))
        self._use_model()

    def _use_model(self) -> None:
        """Puts the global model into the module without copying it."""
        self._model = use_vector(self._p.module, torch.from_numpy(self._state.vectors[MODEL]))

    async def _finish(self, done: Round, before: Progress) -> RoundReport:
        """Averages, evaluates and reports a closed round."""
        now_s = self._now()
        self.round = None
        if not done.accepted:
            raise WorkerError(f"round {done.number} got no update: {_why_lost(done)}")
        self._aggregate(done)
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

    def _aggregate(self, done: Round) -> None:
        weights = {
            name: self._p.strategy.weigh(examples=r.update.examples, steps=r.update.steps)
            for name, r in done.accepted.items()
        }
        figures = totals(done, clients=len(self._known), weights=weights)
        mean = split(self._sum.mean(), self._p.strategy.uploads)
        # The last model can go before the next one is made: its round is over.
        self.body = bytearray()
        self._state = self._p.strategy.aggregate(self._state, mean, figures)
        self._use_model()

    async def _evaluate(self) -> dict[str, float]:
        began = self._p.clock()
        result = await asyncio.to_thread(evaluate, self._model, self._p.test)
        self._p.metrics.evaluate_seconds.set(self._p.clock() - began)
        return {"accuracy": result.accuracy, "loss": result.loss}

    async def _end_well(self, result: Any, report: RoundReport, plan: RoundPlan) -> Outcome:
        await asyncio.to_thread(self._p.store.save_model, self._model)
        message = f"accuracy {report.accuracy:.4f} after {report.round} of {plan.rounds} rounds"
        return Outcome(result=result, message=message, report=report)


def _why_lost(done: Round) -> str:
    reasons = [f"{client}: {why}" for client, why in sorted(done.lost.items())]
    return "; ".join(reasons[:5]) + ("; …" if len(reasons) > 5 else "")
