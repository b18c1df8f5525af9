"""The state of a job's rounds: who is in, who is done, when a round closes. No I/O, no clock.

The cloud role feeds it and acts on what it says; time comes in as seconds since the job's start.
Invariant: a client of a round is exactly one of waiting, accepted or lost.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.text import few
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import (
    ClientPlan,
    ClientReport,
    RoundPlan,
    RoundReport,
    Task,
    UpdateReport,
    told_loss,
)
from lockstep_api.wire_types import Finite
from lockstep_workers.errors import JobFailed, RefusedUpdate
from lockstep_workers.learning.clipping import UNSEEN, Measured
from lockstep_workers.learning.energy_bounds import Powers, believed
from lockstep_workers.learning.strategy import Contribution

SHOWN = 5
"""Clients that a message names."""
_TRIES = 3
"""How often a round is played in which all updates are bad, or that cannot be settled."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a round builds on, of which tasks tell their clients."""

    counted: Mapping[str, int] = field(default_factory=dict)
    """The round of each client's last update that is in the model."""
    saved_round: int = 0
    """The round that the job goes on from, should it end now."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Training examples by client, as the job deals them out, whatever a client says that it holds;
    one that is missing counts as one."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Of the strategy's state."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """How far updates may go (`learning.clipping`), for those who clip them elsewhere."""
    mean_steps_of_all: float | None = None
    """At an edge, whose plan is a part of the round's: what the whole round's says."""

    def held_by(self, client: str) -> int:
        """Training examples of a client."""
        return self.examples.get(client, 1)

    def mean_steps(self, plan: RoundPlan) -> float:
        """Mean of the steps that a plan asks for, weighted by examples."""
        if self.mean_steps_of_all is not None:
            return self.mean_steps_of_all
        weights = [self.held_by(one.client) for one in plan.participants]
        steps = (w * one.steps for w, one in zip(weights, plan.participants, strict=True))
        return sum(steps) / sum(weights)


NO_BASE = Base()
"""Of a round that builds on nothing but its model."""


@dataclass(slots=True)
class Round:
    """One round under way.

    A patient round waits for a participant whose connection closed, until it comes back or the
    deadline passes; any other loses it at once.
    """

    plan: RoundPlan
    began_s: float
    patient: bool = False
    base: Base = NO_BASE
    turn: int = 1
    """Tells it from the rounds before it, also from one of the same number that is done again."""
    accepted: dict[str, ClientReport] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    """The lost clients whose update was bad."""
    refused: dict[Refusal, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """What failed at edges, in their words."""
    _plans: dict[str, ClientPlan] = field(init=False)
    _waiting: dict[str, ClientPlan] = field(init=False)
    _mean_steps: float = field(init=False)

    def __post_init__(self) -> None:
        """At first all participants are waited for."""
        self._plans = {p.client: p for p in self.plan.participants}
        self._waiting = dict(self._plans)
        self._mean_steps = self.base.mean_steps(self.plan) if self._waiting else 0.0

    @property
    def number(self) -> int:
        """The round's number, from 1."""
        return self.plan.round

    def participants(self) -> list[str]:
        """The clients of the round's plan."""
        return [p.client for p in self.plan.participants]

    def has(self, client: str) -> bool:
        """Whether a client is of the round."""
        return client in self._waiting or client in self.accepted or client in self.lost

    def waiting(self) -> list[str]:
        """Clients that are neither in nor lost."""
        return list(self._waiting)

    def waits_for(self, client: str) -> ClientPlan | None:
        """The plan of a client that is neither in nor lost."""
        return self._waiting.get(client)

    def task_of(self, client: str) -> Task | None:
        """What a client that is neither in nor lost has to do."""
        plan = self.waits_for(client)
        if plan is None:
            return None
        return Task(
            round=self.number,
            turn=self.turn,
            steps=plan.steps,
            budget_seconds=plan.budget_seconds,
            frequency_ghz=plan.frequency_ghz,
            throttle_milli=plan.throttle_milli(),
            base_round=self.base.counted.get(client),
            saved_round=self.base.saved_round,
            mean_steps=self._mean_steps,
            numbers=dict(self.base.numbers),
        )

    def lose(self, client: str, why: str) -> bool:
        """A client that will give no update any more; False when it was not waited for."""
        if self._waiting.pop(client, None) is None:
            return False
        self.lost[client] = why
        return True

    def disconnect(self, client: str, why: str) -> bool:
        """A client's connection closed; whether it is lost by that."""
        return not self.patient and self.lose(client, why)

    def reject(self, client: str, why: str) -> bool:
        """A client's update was bad; False when it was not waited for."""
        if not self.lose(client, why):
            return False
        self.rejected.add(client)
        return True

    def all_rejected(self) -> bool:
        """Whether every participant gave an update, and all were bad."""
        return len(self.rejected) == len(self.plan.participants)

    def count_refusal(self, reason: Refusal) -> None:
        """Counts a refused update."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def check(self, report: UpdateReport) -> None:
        """Whether an update with this report may be added now.

        Raises:
            RefusedUpdate: for another round, a client that is not in it, or a second update.
        """
        if report.round != self.number:
            message = f"this is round {self.number}, the update is for round {report.round}"
            raise RefusedUpdate(Refusal.WRONG_ROUND, message)
        if report.client in self.accepted:
            raise RefusedUpdate(Refusal.DUPLICATE, f"{report.client} has already been added")
        if report.client not in self._waiting:
            message = f"{report.client} is not waited for: {self.lost.get(report.client, 'not in')}"
            raise RefusedUpdate(Refusal.NOT_IN_ROUND, message)

    def contribution(self, report: UpdateReport) -> Contribution:
        """What an update with this report comes from: what it weighs is not its client's to say."""
        return Contribution(
            examples=self.base.held_by(report.client),
            steps=self._steps(report),
            memory_round=report.memory_round,
            counted_round=self.base.counted.get(report.client),
        )

    def _steps(self, report: UpdateReport) -> int:
        """The steps that an update counts: those that were asked for; where a budget or others of
        its cluster may have ended them, as many as it says, and never more."""
        plan = self._plans[report.client]
        may_be_fewer = plan.budget_seconds is not None or plan.batch_size is not None
        return min(report.steps, plan.steps) if may_be_fewer else plan.steps

    def accept(self, report: ClientReport, measured: Measured = UNSEEN) -> None:
        """Notes an update that was added, with what was found of it; what it says of itself is told
        on as far as it can be."""
        update, plan = report.update, self._waiting.pop(report.update.client)
        steps = min(update.steps, plan.steps)
        counted = {"examples": self.base.held_by(update.client), "steps": steps}
        told: dict[str, object] = {"asked_steps": plan.asked_steps()}
        told["update"] = update.model_copy(update=counted)
        if measured is not UNSEEN:
            told |= {"distances": list(measured.distances), "kept": list(measured.kept)}
        self.accepted[update.client] = report.model_copy(update=told)

    def cluster_reports(self) -> list[ClusterReport]:
        """Of its clusters, in a mode with edges (`learning.cluster_rounds`)."""
        return []

    def deadline_s(self) -> float | None:
        """When the round may close with the quorum; None when there is no deadline."""
        seconds = self.plan.deadline_seconds
        return None if seconds is None else self.began_s + seconds

    def is_closed(self, now_s: float) -> bool:
        """All are in or lost; or the deadline has passed and the quorum is in."""
        if not self._waiting:
            return True
        deadline = self.deadline_s()
        if deadline is None or now_s < deadline:
            return False
        return self.has_quorum()

    def has_quorum(self) -> bool:
        """Whether as many updates are in as suffice after the deadline."""
        everyone = len(self.plan.participants)
        return len(self.accepted) >= min(self.plan.quorum or everyone, everyone)


@dataclass(slots=True)
class Tries:
    """How often the round after the last finished one has come to nothing; new for each round."""

    count: int = 0
    taken_back: int = 0
    """How often it was played again without some clients (`learning.rollback`)."""
    whys: list[str] = field(default_factory=list)
    """Why it was taken back, each time."""
    stood_out: dict[str, str] = field(default_factory=dict)
    """The clients that were left out for it, and what of their updates stood out."""

    def took_back(self, why: str, suspects: Mapping[str, str]) -> None:
        """The round is to be played again, without these clients."""
        self.taken_back += bool(suspects)
        self.whys.append(why)
        self.stood_out.update(suspects)

    def fruitless(self, done: Round) -> str:
        """What is to be said of a closed round without an update, which is planned once more.

        Raises:
            JobFailed: every participant gave an update, all were bad, and not for the first time.
        """
        why = few([f"{client}: {why}" for client, why in sorted(done.lost.items())], SHOWN,
                  comma="; ")  # fmt: skip
        if done.all_rejected():
            return self.again(f"round {done.number}: all updates were refused: {why}")
        return f"round {done.number} got no update and is repeated: {why}"

    def again(self, why: str) -> str:
        """A round of which everybody did his part came to nothing; so will others, but for luck.

        Raises:
            JobFailed: another try is of no use.
        """
        self.count += 1
        if self.count >= _TRIES:
            raise JobFailed(f"{why} (tried {self.count} times)")
        return f"{why}; it is repeated (try {self.count} of {_TRIES})"


class Progress(WireModel):
    """What a job carries from round to round beside the strategy's state; checkpoints hold it."""

    round: int = Field(default=0, ge=0)
    """Finished rounds."""
    began_at: Finite = 0.0
    """When round 1 began, in seconds since the epoch; 0: it has not."""
    resumed: int = Field(default=0, ge=0)
    """How often the job went on from a checkpoint."""
    repeated: int = Field(default=0, ge=0)
    """Finished rounds that were done again after that."""
    report: RoundReport | None = None
    """The last finished round."""
    plan: RoundPlan | None = None
    """Its plan."""
    counted: dict[str, int] = Field(default_factory=dict)
    """The round of each client's last update."""
    told_since: dict[str, Finite] = Field(default_factory=dict)
    """When the round of each client's last update began, in seconds since the job's start: what it
    has spent before then is told."""
    sit_out: dict[str, int] = Field(default_factory=dict)
    """Clients that are left out, and the round from which they may return (`learning.rollback`)."""
    troubles: dict[str, list[str]] = Field(default_factory=dict)
    """Errors of the user's code on clients (`learning.troubles`)."""

    def energy(self) -> EnergyJoules:
        """Energy of all devices since round 1."""
        return EnergyJoules() if self.report is None else self.report.energy_joules

    def after(
        self,
        report: RoundReport,
        plan: RoundPlan,
        *,
        troubles: Mapping[str, list[str]] | None = None,
    ) -> "Progress":
        """The progress when one more round has finished."""
        clients = [one.update.client for one in report.clients]
        counted = self.counted | dict.fromkeys(clients, report.round)
        began_s = report.elapsed_seconds - report.seconds
        since = self.told_since | dict.fromkeys(clients, began_s)
        failed = {client: list(told) for client, told in (troubles or {}).items()}
        update = {"round": report.round, "report": report, "plan": plan, "counted": counted}
        return self.model_copy(update=update | {"told_since": since, "troubles": failed})

    def sitting_out(self) -> set[str]:
        """Clients that are left out of the next round."""
        return {client for client, until in self.sit_out.items() if until > self.round + 1}

    def again(self, finished: int) -> "Progress":
        """The progress of a job that goes on from here although `finished` rounds were done."""
        repeated = self.repeated + max(0, finished - self.round)
        return self.model_copy(update={"resumed": self.resumed + 1, "repeated": repeated})


def round_report(
    done: Round, before: Progress, *, now_s: float, result: Mapping[str, float], powers: Powers
) -> RoundReport:
    """The report of a closed round; `result` holds accuracy and loss, `powers` what devices may
    have drawn."""
    asked = {one.client: one for one in done.plan.participants}
    clients = [
        believed(
            told,
            asked[client],
            power=powers.get(client),
            seconds=done.began_s + told.arrived_seconds - before.told_since.get(client, 0.0),
            planned=done.plan.planned,
        )
        for client, told in done.accepted.items()
    ]
    energy = before.energy()
    for client in clients:
        energy = energy.plus(client.update.energy_joules)
    return RoundReport(
        round=done.number,
        planned=done.plan.planned,
        seconds=now_s - done.began_s,
        elapsed_seconds=now_s,
        clients=clients,
        lost=sorted([*done.lost, *done.waiting()]),
        refused=done.refused,
        accuracy=result["accuracy"],
        loss=told_loss(result["loss"]),
        energy_joules=energy,
        clusters=done.cluster_reports(),
    )


def target_reached(plan: RoundPlan, report: RoundReport) -> bool:
    """Whether the result ends the job early."""
    target = plan.target
    if target is None:
        return False
    if target.metric == "accuracy":
        return report.accuracy is not None and report.accuracy >= target.value
    return report.loss is not None and report.loss <= target.value


def is_over(plan: RoundPlan, report: RoundReport) -> str | None:
    """How the job ends after this round: TargetReached, RoundsCompleted, or not yet (None)."""
    if target_reached(plan, report):
        return "TargetReached"
    return "RoundsCompleted" if report.round >= plan.rounds else None


def may_begin(
    connected: int, *, clients: int, quorum: int | None, waited_s: float, limit_s: float | None
) -> bool:
    """Whether a job may (again) begin: everyone is there, or the quorum is and the time is up."""
    if connected >= clients:
        return True
    return limit_s is not None and waited_s >= limit_s and connected >= min(quorum or 1, clients)


def repeat_plan(last: RoundPlan, *, round_number: int, without: Collection[str] = ()) -> RoundPlan:
    """The plan of a round that the planner could not be asked for: the last one again, without
    these clients, unless nobody else is in it."""
    there = [one for one in last.participants if one.client not in without]
    update = {"round": round_number, "planned": False}
    return last.model_copy(update=update | {"participants": there or last.participants})
