"""Runs a job's rounds: plan, hand out, collect, average, evaluate, report, checkpoint.

Owned by `cloud.main`; `cloud.bulk` calls it for every session, long-poll and update, all in one
event loop, so state changes between two awaits are whole. The job waits on `_pulse`, the devices'
long-polls on `_news`, a session on its own event: an update wakes the job and nobody else.
Invariant: `server.state` is the state after round `_progress.round` whenever `_settling` is done.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from torch import nn

from lockstep_api.settings import JobSettings
from lockstep_api.wire import (
    ClientReport,
    NoticeReason,
    Outcome,
    PlanRequest,
    Refusal,
    Registration,
    RoundPlan,
    Task,
    UpdateReport,
)
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.server import Server
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.errors import JobFailed, PlannerUnreachable, RefusedUpdate
from lockstep_workers.learning.rounds import (
    Progress,
    Round,
    is_over,
    may_begin,
    repeat_plan,
    round_report,
)
from lockstep_workers.learning.strategies import Strategy
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.tensors import Flat

_log = structlog.get_logger()
_PLAN_WITHIN_S = 15.0
_RETURN_WITHIN_S = 60.0
"""How long a resumed job without a deadline waits for all its clients to come back."""
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
        Refusal.TOO_SLOW,
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
    planner: PlannerClient
    store: Store
    metrics: CloudMetrics
    clock: Callable[[], float] = field(default=time.monotonic)
    wall_clock: Callable[[], float] = field(default=time.time)


class Coordinator:
    """The rounds of one job."""

    def __init__(self, parts: Parts) -> None:
        """Nothing happens until `run`."""
        self._p = parts
        self.server = Server(
            parts.strategy,
            parts.module,
            clients=len(parts.job.clients()),
            deterministic=parts.job.training.deterministic,
        )
        self._patient = parts.job.training.deterministic
        self.sessions: dict[str, Session] = {}
        self.round: Round | None = None
        self.outcome: Outcome | None = None
        self._known = frozenset(parts.job.clients())
        self._pulse = asyncio.Event()
        self._news = asyncio.Event()
        self._logged: set[tuple[str, int, Refusal]] = set()
        self._began: float | None = None
        self._progress = Progress()
        self._settling: asyncio.Future[bool] | None = None
        self._journal = Journal(
            parts.store, parts.metrics, parts.job.checkpoint.every_rounds, parts.clock
        )

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
            self._disconnect(client, "it started anew")
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
        self._disconnect(client, "its connection closed")
        self._pulse.set()

    def _disconnect(self, client: str, why: str) -> None:
        if self.round is not None and self.round.disconnect(client, why):
            self._lost(client, self.round, why)

    def _lost(self, client: str, now: Round, why: str) -> None:
        _log.warning("client lost", client=client, round=now.number, why=why)
        self.server.skip(client)

    async def next_task(self, client: str, after: int) -> tuple[Task, bytearray] | None:
        """Waits for a round after `after` with this client; None when the job is over."""
        while self.outcome is None:
            now = self.round
            plan = now.waits_for(client) if now is not None else None
            if now is not None and plan is not None and now.number > after:
                task = Task(
                    round=now.number,
                    steps=plan.steps,
                    frequency_ghz=plan.frequency_ghz,
                    throttle_milli=plan.throttle_milli(),
                )
                return task, self.server.body
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
        self.server.add(update.client, flat, examples=update.examples, steps=update.steps)
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
            why = f"its update was refused ({error.reason.value}): {error}"
            if error.reason in _FATAL and self.round.reject(client, why):
                self._lost(client, self.round, why)
                self._pulse.set()

    def elapsed_in_round(self) -> float:
        """Seconds since the current round began."""
        return 0.0 if self.round is None else self._now() - self.round.began_s

    # -- the job ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the job to its end and tells the planner; a job that ended before is told again."""
        ended = self._p.store.outcome()
        if ended is None:
            ended = await self._outcome()
            self._write_end(ended)
        self.end(ended)
        await self._p.planner.tell_outcome(ended)
        _log.info("outcome taken", result=ended.result)

    async def stop(self) -> None:
        """After `run` was cancelled: the last finished round is written down, unless it is."""
        if self._settling is not None and not self._settling.done():
            await asyncio.wait({self._settling})
        if self.outcome is None and self._progress.round > self._journal.saved_round:
            await self._journal.save(self._progress, self.server.state)

    def _write_end(self, outcome: Outcome) -> None:
        """Without it a cloud pod that restarts now plays the last rounds again: no more is lost."""
        try:
            self._p.store.end(outcome)
        except OSError as error:
            _log.warning("outcome not written to the volume", why=str(error))

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
        except JobFailed as error:
            return Outcome(result="Failed", message=str(error), report=self._progress.report)

    async def _train(self) -> Outcome:
        await self._resume()
        settled = False
        while (over := self._over()) is None:
            if not settled or self._patient:
                await self._gather()
            await self._any_connected()
            plan = await self._plan(self._progress)
            if plan.rounds < plan.round:  # fewer rounds than are done were asked for meanwhile
                return await self._end_well("RoundsCompleted", plan)
            done = await self._play(plan)
            self._settling = asyncio.ensure_future(self._settle(done))
            settled = await asyncio.shield(self._settling)
        return await self._end_well(over, self._progress.plan)

    def _over(self) -> str | None:
        """How the job ends after the last finished round, if it does."""
        last = self._progress
        return None if last.plan is None or last.report is None else is_over(last.plan, last.report)

    async def _resume(self) -> None:
        """Goes on from the newest checkpoint, when there is one."""
        found = await self._journal.resume(self.server.state)
        if found is not None:
            self._progress = found.progress
            self._began = self._p.clock() - self._elapsed(found.progress)
            self.server.go_on_from(found.state)

    def _elapsed(self, before: Progress) -> float:
        """Seconds since round 1 began, those without a cloud pod too; a clock set back adds 0."""
        told = 0.0 if before.report is None else before.report.elapsed_seconds
        return max(told, self._p.wall_clock() - before.began_at) if before.began_at else told

    async def _gather(self) -> None:
        """Waits until every client is there, and says at growing intervals who is missing.

        With a quorum and a deadline only so long; a resumed job that need not repeat bit for bit
        goes on with those that came back within a minute.
        """
        waits = iter(_MISSING_LOG_S)
        began, next_log = self._p.clock(), _MISSING_LOG_S[0]
        participation, limit_s = self._p.job.participation, self._gather_limit_s()
        while missing := sorted(self._known - self.sessions.keys()):
            waited = self._p.clock() - began
            if may_begin(
                len(self.sessions), clients=len(self._known), quorum=participation.quorum,
                waited_s=waited, limit_s=limit_s,
            ):  # fmt: skip
                self._journal.notify(
                    "Warning", NoticeReason.CLIENTS_MISSING, _missing(missing, waited)
                )
                return
            if waited >= next_log:
                _log.info("waiting for clients", missing=missing, seconds=round(waited))
                next_log = waited + next(waits, _MISSING_LOG_S[-1])
            wake_s = min(next_log, limit_s if limit_s and waited < limit_s else next_log)
            await self._changed(max(0.1, wake_s - waited))

    def _gather_limit_s(self) -> float | None:
        participation = self._p.job.participation
        if participation.quorum is not None and participation.round_deadline_seconds is not None:
            return participation.round_deadline_seconds
        resumed = self._progress.round > 0 and not self._patient
        return _RETURN_WITHIN_S if resumed else None

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
            notices=self._journal.notices,
            checkpoint_problem=self._journal.problem,
        )
        within_s = None if progress.plan is None else _PLAN_WITHIN_S
        try:
            plan = await self._p.planner.plan(request, within_s=within_s)
        except PlannerUnreachable as error:
            if progress.plan is None:
                raise
            _log.warning("round goes on with the last plan", round=request.round, why=str(error))
            return repeat_plan(progress.plan, round_number=request.round)
        self._journal.told(request)
        return plan

    async def _play(self, plan: RoundPlan) -> Round:
        """One round, from handing out the model until it closes."""
        if self._began is None:
            self._began = self._p.clock()
            update = {"began_at": self._p.wall_clock()}
            self._progress = self._progress.model_copy(update=update)
        self.server.begin([p.client for p in plan.participants])
        self._logged.clear()
        self._p.metrics.model_bytes.set(len(self.server.body))
        self._p.metrics.began(plan)
        self.round = now = Round(plan, began_s=self._now(), patient=self._patient)
        for client in now.participants():
            if client not in self.sessions:
                self._disconnect(client, "it is not connected")
        self._tell_devices()
        while not now.is_closed(self._now()):
            deadline = now.deadline_s()
            left = None if deadline is None else deadline - self._now()
            await self._changed(left if left is not None and left > 0 else None)
        return now

    async def _settle(self, done: Round) -> bool:
        """Averages, evaluates, reports and saves a closed round; False when it has to be repeated.

        Raises:
            JobFailed: every update of the round was bad.
        """
        now_s, before = self._now(), self._progress
        self.round = None
        if not done.accepted:
            return self._repeat(done)
        self.server.aggregate(done)
        result = await self._evaluate()
        report = round_report(done, before, now_s=now_s, result=result)
        self._progress = before.after(report, done.plan)
        self._p.metrics.ended(report)
        _log.info(
            "round finished",
            round=report.round,
            seconds=round(report.seconds, 3),
            accuracy=report.accuracy,
            clients=len(report.clients),
            lost=report.lost,
        )
        await self._journal.finished(self._progress, self.server.state)
        return True

    def _repeat(self, done: Round) -> bool:
        """A round that no update reached changes nothing: it is planned anew, for who is there."""
        if done.all_rejected():
            raise JobFailed(f"round {done.number}: all updates were refused: {_why_lost(done)}")
        text = f"round {done.number} got no update and is repeated: {_why_lost(done)}"
        self._journal.notify("Warning", NoticeReason.ROUND_REPEATED, text)
        return False

    async def _evaluate(self) -> dict[str, float]:
        began = self._p.clock()
        result = await asyncio.to_thread(self.server.evaluate, self._p.test)
        self._p.metrics.evaluate_seconds.set(self._p.clock() - began)
        return {"accuracy": result.accuracy, "loss": result.loss}

    async def _end_well(self, result: Any, plan: RoundPlan | None) -> Outcome:
        """The job has reached its end; the model is written down.

        Raises:
            JobFailed: the volume has no room for the model.
        """
        report = self._progress.report
        assert report is not None
        assert plan is not None
        try:
            await asyncio.to_thread(self._p.store.save_model, self.server.model)
        except OSError as error:
            raise JobFailed(
                f"the final model cannot be written ({error.strerror}): raise cloud.storage.size; "
                f"the newest checkpoint on the volume is of round {self._journal.saved_round}"
            ) from error
        rounds = max(plan.rounds, report.round)
        message = f"accuracy {report.accuracy:.4f} after {report.round} of {rounds} rounds"
        return Outcome(result=result, message=message, report=report)


def _missing(clients: list[str], waited_s: float) -> str:
    return f"goes on without {_first(clients, ', ')}: not connected for {waited_s:.0f} s"


def _first(items: list[str], separator: str) -> str:
    return separator.join(items[:5]) + (f"{separator}…" if len(items) > 5 else "")


def _why_lost(done: Round) -> str:
    return _first([f"{client}: {why}" for client, why in sorted(done.lost.items())], "; ")
