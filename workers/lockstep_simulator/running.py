"""Runs a simulation to its end, or to where it was stopped or failed; the CLI's commands call it.

Invariant: what was done until then is kept: the rounds, and the model if it is wanted.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType

from lockstep_simulator.recording import Recording
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import Setup, Simulation, simulation
from lockstep_workers.errors import JobFailed
from lockstep_workers.files import write_whole
from lockstep_workers.learning.rounds import is_over
from lockstep_workers.learning.saving import model_file
from lockstep_workers.stopping import Stopped

PLANS_ENDED = "PlansEnded"
BUDGET_SPENT = "PrivacyBudgetSpent"
INTERRUPTED = "Interrupted"
FAILED = "Failed"


@dataclass(slots=True)
class Ended:
    """How a simulation ended, and its rounds."""

    rounds: list[SimulatedRound] = field(default_factory=list)
    result: str = PLANS_ENDED
    """RoundsCompleted, TargetReached, PrivacyBudgetSpent, PlansEnded, Failed or Interrupted."""
    message: str = ""
    work_per_step: float = 0.0
    """Median over the devices, in core-seconds."""


def run(
    setup: Setup,
    *,
    show: Callable[[SimulatedRound], None],
    model: Path | None = None,
    records: Path | None = None,
) -> Ended:
    """Simulates a job.

    Args:
        setup: the simulation.
        show: told of each round.
        model: where the model is written at the end, also after Ctrl-C.
        records: the folder in which clients and rounds are written down.

    Raises:
        InvalidJob: it cannot begin.
        OSError: the model, or a record, cannot be written.
    """
    with _stoppable(), simulation(setup) as job:
        ended = Ended(work_per_step=median(job.work.values()))
        recording = None if records is None else Recording(records, job.clients)
        try:
            for done in job.rounds():
                ended.rounds.append(done)
                if recording is not None:
                    recording.add(done.record)
                show(done)
            ended.result = BUDGET_SPENT if job.budget_spent else _result(ended.rounds)
        except JobFailed as error:
            ended.result, ended.message = FAILED, str(error)
        except Stopped:
            ended.result = INTERRUPTED
        if model is not None and ended.rounds:
            save(job, model)
    ended.message = ended.message or _message(setup, ended)
    return ended


def _result(rounds: list[SimulatedRound]) -> str:
    over = is_over(rounds[-1].plan, rounds[-1].report) if rounds else None
    return over or PLANS_ENDED


def _message(setup: Setup, ended: Ended) -> str:
    if not ended.rounds:
        return "no round was finished"
    last, planned = ended.rounds[-1], setup.spec.training.rounds
    how = {
        INTERRUPTED: "interrupted: ",
        PLANS_ENDED: "the plans have ended: ",
        BUDGET_SPENT: "privacy.epsilonBudget is spent: ",
    }
    begin = how.get(ended.result, "")
    return f"{begin}accuracy {last.accuracy:.4f} after {last.round} of {planned} rounds"


def save(job: Simulation, path: Path) -> None:
    """Writes the model as the cloud pod does: the state_dict as safetensors.

    Raises:
        OSError: it cannot be written.
    """
    file = model_file(job.server.model.module)
    write_whole(path, file.head, *file.values)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise `Stopped`, which passes through the user's code, once."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # what is there is written down in peace
        raise Stopped(0)

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
