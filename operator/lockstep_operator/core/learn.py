"""What a job's rounds say to its policy: records of rounds, and which of policies is better; pure.

`policy_learning` keeps them and starts the trainer.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lockstep_allocator.experience import Experience, costs
from lockstep_allocator.networks import Weights
from lockstep_allocator.policy import Policy
from lockstep_allocator.records import Record
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import Member, observation_of
from lockstep_operator.core.state import FinishedRound

WINDOW = 20
"""Rounds between two updates (N in CN113312169B)."""
PLAYED_AT_ONCE = 500
"""Devices of recorded rounds."""


class Verdict(StrEnum):
    """Which policy a job has from now on."""

    OFFERED = "offered"
    KEPT = "kept"
    BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Judged:
    """A policy that is offered, beside the one that the job has."""

    rounds: int
    cost_before: float
    """Mean time + λ·energy of the recorded rounds with the policy that the job has, in s."""
    cost: float
    """The same with the policy that is offered."""
    cost_begun: float
    """The same with the policy that the job began with."""
    changed: bool
    """Whether the weights of the offered one are others than those that the job has."""

    @property
    def verdict(self) -> Verdict:
        """A policy is taken only if the recorded rounds had not cost more with it."""
        if self.cost_begun < min(self.cost_before, self.cost):
            return Verdict.BEGUN  # what was learnt has turned out to be worse
        if self.changed and self.cost <= self.cost_before:
            return Verdict.OFFERED
        return Verdict.KEPT

    @property
    def message(self) -> str:
        """For people."""
        if self.verdict is Verdict.KEPT and not self.changed:
            return f"{self.rounds} rounds taught nothing that is surely better: the policy stays"
        cost = self.cost_begun if self.verdict is Verdict.BEGUN else self.cost
        share = 100 * (cost / self.cost_before - 1)
        return (
            f"{_WHICH[self.verdict]}: the last {self.rounds} rounds had cost {cost:.3f} s with it "
            f"instead of {self.cost_before:.3f} s each ({share:+.1f} %)"
        )


_WHICH = {
    Verdict.OFFERED: "the policy that was learnt is used from now on",
    Verdict.KEPT: "the policy stays, the one that was learnt is worse",
    Verdict.BEGUN: "back to the policy that the job began with",
}


def record_of(finished: FinishedRound) -> Record | None:
    """The round as it went; None: not all devices finished it, or no work was measured before."""
    before, report = finished.planned, finished.report
    planned = before.plan.participants
    done = {one.update.client: one for one in report.clients}
    if not {one.client for one in planned} <= done.keys():
        return None
    ours = [done[one.client] for one in planned]
    ghz = np.array([one.update.frequency_ghz for one in ours])
    groups = groups_by_client(before.spec)
    members = [Member(one.client, groups[one.client], one.steps) for one in planned]
    weight = before.spec.allocation.energy_weight
    seen = observation_of(members, before.insight, energy_weight=weight)
    if seen is None or (ghz <= 0).any():
        return None
    return Record(
        round=before.plan.round,
        at_s=before.at_s,
        clients=tuple(one.client for one in planned),
        observation=seen,
        ghz=ghz,
        seconds=report.seconds,
        joules=np.array([one.update.energy_joules.model or 0.0 for one in ours]),
        upload_s=np.array([one.upload_seconds for one in ours]),
    )


def judge(experience: Experience, *, has: Policy, offered: Policy, begun: Policy) -> Judged:
    """Plays the recorded rounds with the three policies."""
    replays = experience.replays(most=PLAYED_AT_ONCE)
    before, after, first = (float(costs(replays, one).mean()) for one in (has, offered, begun))
    return Judged(len(experience), before, after, first, changed=_differ(has, offered))


def _differ(one: Policy, other: Policy) -> bool:
    return not (
        _same(one.weights, other.weights)
        and _same(one.forecaster.weights, other.forecaster.weights)
    )


def _same(mine: Weights, theirs: Weights) -> bool:
    return mine.keys() == theirs.keys() and all(
        np.array_equal(mine[name], theirs[name]) for name in mine
    )
