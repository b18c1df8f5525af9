"""Runs a job's rounds: gather, plan, play, average, evaluate, report, checkpoint, end.

Owned by `cloud.main`. Devices are the matter of its reception, vectors of its server, files of its
journal.
Invariant: `server.state` is the state after round `_progress.round` whenever `_settling` is done.
"""

import asyncio
from typing import Any

import structlog

from lockstep_api.sessions import Registration
from lockstep_api.text import few
from lockstep_api.wire import (
    NoticeReason,
    Outcome,
    PlanRequest,
    RoundPlan,
)
from lockstep_workers.cloud.account import MODELS_LOST, Account
from lockstep_workers.cloud.assembly import Assembly
from lockstep_workers.cloud.parts import Parts
from lockstep_workers.cloud.server import Server
from lockstep_workers.cloud.tiers import Tiers
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import JobFailed, PlannerUnreachable, WorkerError
from lockstep_workers.hosting.reception import Reception
from lockstep_workers.learning.energy_bounds import powers_of
from lockstep_workers.learning.evaluation import Evaluation
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.rollback import Ruling, mistrusted, ruling
from lockstep_workers.learning.rounds import (
    SHOWN,
    Base,
    Progress,
    Round,
    Tries,
    is_over,
    repeat_plan,
    round_report,
)
from lockstep_workers.learning.troubles import too_few

_log = structlog.get_logger()
_PLAN_WITHIN_S = 15.0


class Job:
    """The rounds of one job."""

    def __init__(self, parts: Parts) -> None:
        """Nothing happens until `run`."""
        self._p, self._journal = parts, parts.journal
        self._patient = parts.job.training.deterministic
        clients = parts.job.clients()
        self.server = parts.split or Server(
            parts.strategy,
            parts.module,
            examples=parts.examples,
            deterministic=self._patient,
            noise=parts.noise,
            constants=parts.constants,
            safeguards=parts.safeguards,
        )
        self.reception = Reception(clients, self.server, tally=parts.metrics, now=self._now)
        self.tiers = self._build_tiers() if parts.job.edge_urls else None
        """The edges, in a mode that has some."""
        self.outcome: Outcome | None = None
        self._assembly = Assembly(
            parts.job,
            self.reception,
            tiers=self.tiers,
            journal=parts.journal,
            check=self._check_clients,
            clock=parts.clock,
        )
        self._began: float | None = None
        self._progress = Progress()
        self._powers = powers_of(parts.job)
        self._account = Account(parts.journal.store, private=parts.job.privacy is not None)
        self._settling: asyncio.Future[bool] | None = None
        self._tries = Tries()

    def _build_tiers(self) -> Tiers:
        return Tiers(
            self._p.job.edge_urls,
            self.reception,
            sink=self.server,
            tally=self._p.metrics,
            now=self._now,
            tell=lambda text: self._journal.notify("Warning", NoticeReason.EDGE_LOST, message=text),
        )

    def _now(self) -> float:
        """Seconds since round 1 began."""
        return 0.0 if self._began is None else self._p.clock() - self._began

    async def run(self) -> None:
        """Runs the job to its end and tells the planner; a job that ended before is told again."""
        ended = self._journal.outcome()
        if ended is None:
            ended = self._account.told_at_end(await self._outcome())
            self._journal.end(ended)
        self.end(ended)
        await self._p.planner.tell_outcome(ended)
        _log.info("outcome taken", result=ended.result)

    async def stop(self) -> None:
        """After `run` was cancelled: the last finished round is written down, unless it is."""
        if self._settling is not None and not self._settling.done():
            await asyncio.wait({self._settling})
        if self.outcome is None and self._progress.round > self._journal.saved_round:
            await self._journal.save(self._progress, self.server.state)

    def end(self, outcome: Outcome) -> None:
        """The job is over: everything that waits is told."""
        self.outcome = outcome
        _log.info("job over", result=outcome.result, message=outcome.message)
        self.reception.end(outcome.result)
        if self.tiers is not None:
            self.tiers.end(outcome.result)

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
                await self._assembly.everyone(resumed=self._progress.round > 0)
            self._check_clients()
            await self._assembly.anybody()
            await self._journal.met(self._known())
            plan = await self._plan(self._progress)
            if plan.rounds < plan.round:  # fewer rounds than are done were asked for meanwhile
                return await self._end_well("RoundsCompleted", plan)
            if not self._account.allows(plan):
                return await self._end_well("PrivacyBudgetSpent", plan)
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
        like = self.server.state
        if (split := self._p.split) is not None:
            like = await asyncio.to_thread(split.as_cut_at, self._journal.store.cut())
        found = await self._journal.resume(like)
        if found is not None:
            self._progress = found.progress
            self._account.resume(found.progress)
            self._began = self._p.clock() - self._elapsed(found.progress)
            self.reception.troubles.told.update(found.progress.troubles)
            self.server.go_on_from(found.state)

    def _elapsed(self, before: Progress) -> float:
        """Seconds since round 1 began, those without a cloud pod too; a clock set back adds 0."""
        told = 0.0 if before.report is None else before.report.elapsed_seconds
        return max(told, self._p.wall_clock() - before.began_at) if before.began_at else told

    def _check_clients(self) -> None:
        """Tells people of clients on which the user's code failed.

        Raises:
            JobFailed: too many of them are given up.
        """
        troubles, plan = self.reception.troubles, self._progress.plan
        while troubles.news:
            text = troubles.news.pop(0)
            self._journal.notify("Warning", NoticeReason.CLIENT_FAILED, message=text)
        quorum = self._p.job.participation.quorum if plan is None else plan.quorum
        given_up = len(troubles.given_up())
        if why := too_few(len(self._p.job.clients()), given_up=given_up, quorum=quorum):
            raise JobFailed(f"{troubles.account()}; {why}")

    async def _plan(self, progress: Progress) -> RoundPlan:
        """The next round's plan; without a planner the last one again, except for round 1."""
        request = PlanRequest(
            round=progress.round + 1,
            clients=self._registrations(),
            edges=[] if self.tiers is None else self.tiers.registrations(),
            cuts=[] if self._p.split is None else self._p.split.candidates,
            cut=None if progress.plan is None else progress.plan.cut,
            report=progress.report,
            notices=self._journal.notices,
            checkpoint_problem=self._journal.problem,
            private_rounds=self._account.rounds,
            ledger=self._account.mark,
            given_up=self.reception.troubles.account(),
        )
        within_s = None if progress.plan is None else _PLAN_WITHIN_S
        try:
            plan = await self._p.planner.plan(request, within_s=within_s)
        except PlannerUnreachable as error:
            if progress.plan is None:
                raise
            _log.warning("round goes on with the last plan", round=request.round, why=str(error))
            out = progress.sitting_out()
            return repeat_plan(progress.plan, round_number=request.round, without=out)
        self._journal.told(request)
        return plan

    def _known(self) -> list[Registration]:
        """The clients that are there and do not sit out, with the examples that they were dealt."""
        held, out = self._p.examples, self._progress.sitting_out()
        there = self.reception.registrations()
        return [
            one.model_copy(update={"examples": held[one.client]})
            for one in [one for one in there if one.client not in out] or there
        ]

    def _registrations(self) -> list[Registration]:
        """The clients that are there; their labels are the planner's matter only with clusters."""
        there = self._known()
        return there if self.tiers is not None else [one.without_labels() for one in there]

    async def _play(self, plan: RoundPlan) -> Round:
        """One round, from handing out the model until it closes."""
        if self._began is None:
            self._began = self._p.clock()
            update = {"began_at": self._p.wall_clock()}
            self._progress = self._progress.model_copy(update=update)
        if self._p.split is not None and plan.cut is not None:
            await asyncio.to_thread(self._p.split.cut_at, plan.cut)
        self.server.begin(plan.round, [p.client for p in plan.participants])
        self._p.metrics.model_bytes.set(len(self.server.body))
        self._p.metrics.began(plan, now=self._p.wall_clock(), job_began=self._progress.began_at)
        base = Base(
            counted=self._progress.counted,
            saved_round=self._journal.saved_round,
            examples=self._p.examples,
            numbers=self.server.state.numbers,
            bounds=self.server.bounds,
        )
        player = self.reception if self.tiers is None else self.tiers
        done = await player.play(plan, patient=self._patient, base=base)
        if not done.has_quorum():
            self._p.metrics.without_quorum()
        return done

    async def _settle(self, done: Round) -> bool:
        """Averages, evaluates, reports and saves a closed round; False when it has to be repeated.

        Raises:
            JobFailed: the round has come to nothing so often that another try is of no use.
        """
        if self._p.split is not None and done.failures:
            return self._try_again(f"round {done.number}: {few(done.failures, SHOWN, comma='; ')}")
        if not done.accepted:
            return self._repeat(done)
        before, state, taken_back = self._progress, self.server.state, None
        try:
            taken_back = await self._finish(done)
        except WorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - nobody foresaw it: it costs a round, not the job
            _log.error("round not settled", round=done.number, exc_info=error)
            if self._progress is before:
                self.server.go_on_from(state)
                why = f"{type(error).__name__}: {error}"
                return self._try_again(f"round {done.number}: its updates could not be used: {why}")
        if taken_back is not None:
            self.server.go_on_from(state)
            self._progress = before.model_copy(update={"sit_out": dict(taken_back.sit_out)})
            return False
        self._tries = Tries()
        return True

    async def _finish(self, done: Round) -> Ruling | None:
        """The end of a round; what is ruled where its loss takes it back."""
        now_s, before = self._now(), self._progress
        await asyncio.to_thread(self._account.spend, done.accepted)
        seconds = await self._aggregate()
        result = await self._evaluate()
        ruled = self._judge(result["loss"])
        if ruled is not None and ruled.back:
            return ruled
        report = round_report(done, before, now_s=now_s, result=result, powers=self._powers)
        more = {"privacy": self._account.report(done.plan)}
        report = report.model_copy(
            update=more | {"mistrusted": mistrusted(done, before, tries=self._tries)}
        )
        if self._p.split is not None:
            told = self._p.split.distillation(seconds)
            report = report.model_copy(update={"distillation": told})
        self._p.metrics.ended(report, done.plan)
        _log.info(
            "round finished",
            round=report.round,
            seconds=round(report.seconds, 3),
            accuracy=report.accuracy,
            clients=len(report.clients),
            lost=report.lost,
        )
        self._progress = before.after(report, done.plan, troubles=self.reception.troubles.told)
        await self._journal.finished(self._progress, self.server.state)
        return None

    def _judge(self, loss: float) -> Ruling | None:
        """What is ruled where a round's loss is not as it should be; people are told."""
        last = self._progress
        before = None if last.report is None else last.report.loss
        why = self._p.safeguards.judge.problem(loss, before)
        if why is None:
            return None
        suspects, clients = self.server.suspects(), len(self._p.job.clients())
        ruled = ruling(why, last, suspects=suspects, clients=clients, tries=self._tries)
        self._journal.notify("Warning", NoticeReason.ROUND_ROLLED_BACK, message=ruled.text)
        if ruled.back:
            self._p.metrics.rolled_back.inc()
        return ruled

    async def _aggregate(self) -> float:
        """Makes the next model; with distillation that takes a while. The seconds that it took."""
        began = self._p.clock()
        if self._p.split is None:
            self.server.aggregate()
        else:
            await asyncio.to_thread(self._p.split.distilled)
        return self._p.clock() - began

    def _repeat(self, done: Round) -> bool:
        """A round that no update reached changes nothing: it is planned anew, for who is there."""
        text = self._tries.fruitless(done)
        self._journal.notify("Warning", NoticeReason.ROUND_REPEATED, message=text)
        return False

    def _try_again(self, why: str) -> bool:
        text = self._tries.again(why)
        self._journal.notify("Warning", NoticeReason.ROUND_REPEATED, message=text)
        return False

    async def _evaluate(self) -> dict[str, float]:
        began = self._p.clock()
        result = await asyncio.to_thread(self._evaluated)
        self._p.metrics.evaluate_seconds.set(self._p.clock() - began)
        return {"accuracy": result.accuracy, "loss": result.loss}

    def _evaluated(self) -> Evaluation:
        what = f"evaluating the model after round {self._progress.round + 1} raised"
        with explained(what, own=self._p.job.model.entrypoint):
            return self.server.evaluate(self._p.test)

    def _cloud_half(self) -> FlatModel | None:
        """The cloud's half of the model, in mode split with distillation."""
        return None if self._p.split is None else self._p.split.cut.cloud

    async def _end_well(self, result: Any, plan: RoundPlan | None) -> Outcome:
        """The job has reached its end; the model is written down.

        Raises:
            JobFailed: the volume has no room for the model, or there is none.
        """
        report = self._progress.report
        assert plan is not None
        if report is None:
            raise JobFailed(MODELS_LOST)
        try:
            await self._journal.save_model(self.server.model, self._cloud_half())
        except OSError as error:
            raise JobFailed(
                f"the final model cannot be written ({error.strerror}): raise cloud.storage.size; "
                f"the newest checkpoint on the volume is of round {self._journal.saved_round}"
            ) from error
        rounds = max(plan.rounds, report.round)
        message = f"accuracy {report.accuracy:.4f} after {report.round} of {rounds} rounds"
        return Outcome(result=result, message=message, report=report)
