"""The state of a job's rounds: who is in, who is done, when a round closes. No I/O, no clock.

The cloud role feeds it and acts on what it says; time comes in as seconds since the job's start.
Invariant: a client of a round is exactly one of waiting, accepted or lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lockstep_api.status import EnergyJoules
from lockstep_api.wire import (
    ClientPlan,
    ClientReport,
    Refusal,
    RoundPlan,
    RoundReport,
    UpdateReport,
)
from lockstep_workers.energy import add_energy
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.strategies import Totals
from lockstep_workers.wire import Flat

_BLOCK = 1 << 16


class Accumulator:
    """The weighted sum of a round's updates, (n,) float32; an update is added as it arrives."""

    def __init__(self, n_values: int) -> None:
        """Room for vectors of `n_values` values; kept for all rounds."""
        self._sum = np.zeros(n_values, np.float32)
        self._scratch = np.empty(min(n_values, _BLOCK), np.float32)
        self.weight = 0.0

    def reset(self) -> None:
        """Starts a round."""
        self._sum.fill(0.0)
        self.weight = 0.0

    def add(self, flat: Flat, weight: float) -> None:
        """Adds `weight · flat` in place, a block that fits the cache at a time."""
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            scaled = np.multiply(block, np.float32(weight), out=self._scratch[: block.size])
            self._sum[start : start + _BLOCK] += scaled
        self.weight += weight

    def mean(self) -> Flat:
        """Turns the sum into the weighted mean, in place; the vector is valid until `reset`."""
        return np.divide(self._sum, np.float32(self.weight), out=self._sum)

    def holds(self, vector: Flat) -> bool:
        """Whether `vector` lies in the memory that `reset` overwrites."""
        return bool(np.may_share_memory(vector, self._sum))


@dataclass(slots=True)
class Round:
    """One round under way."""

    plan: RoundPlan
    began_s: float
    accepted: dict[str, ClientReport] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    refused: dict[Refusal, int] = field(default_factory=dict)
    _waiting: dict[str, ClientPlan] = field(init=False)

    def __post_init__(self) -> None:
        """At first all participants are waited for."""
        self._waiting = {p.client: p for p in self.plan.participants}

    @property
    def number(self) -> int:
        """The round's number, from 1."""
        return self.plan.round

    def participants(self) -> list[str]:
        """The clients of the round's plan."""
        return [p.client for p in self.plan.participants]

    def waiting(self) -> list[str]:
        """Clients that are neither in nor lost."""
        return list(self._waiting)

    def waits_for(self, client: str) -> ClientPlan | None:
        """The plan of a client that is neither in nor lost."""
        return self._waiting.get(client)

    def lose(self, client: str, why: str) -> bool:
        """A client that will give no update any more; False when it was not waited for."""
        if self._waiting.pop(client, None) is None:
            return False
        self.lost[client] = why
        return True

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

    def accept(self, report: ClientReport) -> None:
        """Notes an update that was added."""
        del self._waiting[report.update.client]
        self.accepted[report.update.client] = report

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
        everyone = len(self.plan.participants)
        return len(self.accepted) >= min(self.plan.quorum or everyone, everyone)


def totals(done: Round, *, clients: int, weights: Mapping[str, float]) -> Totals:
    """What a strategy's server side may need of a closed round beside the mean."""
    everything = sum(weights.values())
    steps = {name: report.update.steps for name, report in done.accepted.items()}
    mean_steps = sum(weights[name] * n for name, n in steps.items()) / everything
    return Totals(accepted=len(steps), clients=clients, mean_steps=mean_steps)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job carries from round to round beside the strategy's state; could be saved."""

    round: int = 0
    """Finished rounds."""
    energy: EnergyJoules = field(default_factory=EnergyJoules)
    report: RoundReport | None = None
    plan: RoundPlan | None = None


def round_report(
    done: Round, before: Progress, *, now_s: float, result: Mapping[str, float]
) -> RoundReport:
    """The report of a closed round; `result` holds accuracy and loss."""
    energy = before.energy
    for client in done.accepted.values():
        energy = add_energy(energy, client.update.energy_joules)
    return RoundReport(
        round=done.number,
        planned=done.plan.planned,
        seconds=now_s - done.began_s,
        elapsed_seconds=now_s,
        clients=list(done.accepted.values()),
        lost=sorted([*done.lost, *done.waiting()]),
        refused=done.refused,
        accuracy=result["accuracy"],
        loss=result["loss"],
        energy_joules=energy,
    )


def target_reached(plan: RoundPlan, report: RoundReport) -> bool:
    """Whether the result ends the job early."""
    target = plan.target
    if target is None:
        return False
    if target.metric == "accuracy":
        return report.accuracy is not None and report.accuracy >= target.value
    return report.loss is not None and report.loss <= target.value


def repeat_plan(last: RoundPlan, *, round_number: int) -> RoundPlan:
    """The plan of a round that the planner could not be asked for: the last one again."""
    return last.model_copy(update={"round": round_number, "planned": False})
