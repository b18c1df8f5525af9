"""A finished round of a simulation, as whoever simulates gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from lockstep_api.records import RoundRecord
from lockstep_api.wire import RoundPlan, RoundReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRound:
    """A finished round; what it took counts from the job's start."""

    round: int
    accuracy: float
    loss: float
    time_s: float
    """Virtual seconds since round 1 began."""
    energy_j: float
    """Modelled energy of all devices, as their updates told it."""
    bytes: int
    """Of all accepted updates."""
    steps: Mapping[str, int]
    """Client → steps done, of the round's accepted updates."""
    clients: tuple[str, ...]
    """The round's participants."""
    plan: RoundPlan
    report: RoundReport

    @property
    def record(self) -> RoundRecord:
        """The round as a cloud pod writes it down."""
        return RoundRecord.of(self.report, self.plan)

    @property
    def divergence(self) -> float | None:
        """Mean KL of the clusters' labels from the round's, in nats; None: there are none."""
        told = [one.divergence for one in self.plan.clusters if one.divergence is not None]
        return fmean(told) if told else None

    @property
    def cloud_accuracy(self) -> float | None:
        """Of front half and cloud model; None: nothing was distilled."""
        done = self.report.distillation
        return None if done is None else done.cloud_accuracy
