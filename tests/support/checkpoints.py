"""A small checkpoint of two vectors and a number, and its round's report."""

import numpy as np

from lockstep_api.records import RoundRecord
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_workers.cloud.checkpoint import Checkpoint
from lockstep_workers.learning.rounds import Progress
from lockstep_workers.learning.strategy import ServerState

LIKE = ServerState(
    {"model": np.zeros(5, np.float32), "control": np.zeros(5, np.float32)}, {"seen": 0.0}
)


def report(number: int) -> RoundReport:
    """A finished round."""
    return RoundReport(
        round=number, planned=True, seconds=1, elapsed_seconds=number, clients=[],
        accuracy=0.5, loss=float(number), energy_joules=EnergyJoules(model=float(number)),
    )  # fmt: skip


def plan(number: int) -> RoundPlan:
    """Its plan."""
    return RoundPlan(round=number, rounds=9, participants=[])


def record(number: int) -> RoundRecord:
    """Both, as the history has them."""
    return RoundRecord.of(report(number), plan(number))


def checkpoint(number: int) -> Checkpoint:
    """The checkpoint after a round."""
    vectors = {name: vector + number for name, vector in LIKE.vectors.items()}
    state = ServerState(vectors, {"seen": number / 3})
    return Checkpoint(Progress(began_at=7.0).after(report(number), plan(number)), state)
