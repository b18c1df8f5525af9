"""A simulation in figures: of each round and of the whole, for people and as JSON.

The JSON is for programs: one object a round, then one with `summary`. Invariant: it holds nothing
of the machine that simulated but the work per step, so that it repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lockstep_simulator.simulated import SimulatedRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a simulation."""

    result: str
    """RoundsCompleted, TargetReached, PrivacyBudgetSpent, PlansEnded, Failed or Interrupted."""
    message: str
    """The same in a sentence."""
    rounds: int
    accuracy: float
    best_accuracy: float
    loss: float
    time_s: float
    energy_j: float
    bytes: int
    work_per_step: float
    """Median over the devices, in core-seconds."""
    cloud_accuracy: float | None = None
    """Of front half and cloud model; None: nothing was distilled."""
    epsilon: float | None = None
    """That the job would come to on its devices; None: it hides no clients, or nobody reckoned."""
    delta: float | None = None
    """δ of it."""


def summed_up(
    rounds: Sequence[SimulatedRound], *, result: str, message: str, work_per_step: float
) -> Summary:
    """What came of rounds, at least one."""
    last = rounds[-1]
    account = last.report.privacy
    return Summary(
        result=result,
        message=message,
        rounds=len(rounds),
        accuracy=last.accuracy,
        best_accuracy=max(one.accuracy for one in rounds),
        loss=last.loss,
        time_s=last.time_s,
        energy_j=last.energy_j,
        bytes=last.bytes,
        work_per_step=work_per_step,
        cloud_accuracy=last.cloud_accuracy,
        epsilon=None if account is None else account.epsilon,
        delta=None if account is None else account.delta,
    )


def round_json(done: SimulatedRound) -> dict[str, Any]:
    """A round as one object."""
    account = done.report.privacy
    optional = {
        "divergence": done.divergence,
        "cloud_accuracy": done.cloud_accuracy,
        "epsilon": None if account is None else account.epsilon,
    }
    return {
        "round": done.round,
        "accuracy": _number(done.accuracy),
        "loss": _number(done.loss),
        "time_s": done.time_s,
        "energy_j": done.energy_j,
        "bytes": done.bytes,
        "steps": dict(done.steps),
        "clients": list(done.clients),
        **{name: value for name, value in optional.items() if value is not None},
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """The last object."""
    told = asdict(summary) | {"loss": _number(summary.loss)}
    optional = ("cloud_accuracy", "epsilon", "delta")
    without = {name for name in optional if told[name] is None}
    return {"summary": {name: value for name, value in told.items() if name not in without}}


def _number(value: float) -> float | None:
    """JSON has no other numbers than finite ones."""
    return value if math.isfinite(value) else None
