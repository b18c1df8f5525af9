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
    """RoundsCompleted, TargetReached, PlansEnded, Failed or Interrupted."""
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


def summed_up(
    rounds: Sequence[SimulatedRound], *, result: str, message: str, work_per_step: float
) -> Summary:
    """What came of rounds, at least one."""
    last = rounds[-1]
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
    )


def round_json(done: SimulatedRound) -> dict[str, Any]:
    """A round as one object."""
    tiers = {"divergence": done.divergence, "cloud_accuracy": done.cloud_accuracy}
    return {
        "round": done.round,
        "accuracy": _number(done.accuracy),
        "loss": _number(done.loss),
        "time_s": done.time_s,
        "energy_j": done.energy_j,
        "bytes": done.bytes,
        "steps": dict(done.steps),
        "clients": list(done.clients),
        **{name: value for name, value in tiers.items() if value is not None},
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """The last object."""
    told = asdict(summary) | {"loss": _number(summary.loss)}
    if summary.cloud_accuracy is None:
        del told["cloud_accuracy"]
    return {"summary": told}


def _number(value: float) -> float | None:
    """JSON has no other numbers than finite ones."""
    return value if math.isfinite(value) else None
