"""What curves come to: final accuracy, the best learning rate, differences by seed. Pure.

Invariant: a difference is always between runs of one seed, which have partition, initial weights
and mini-batches in common.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.strategies.figures import Mean, mean

LAST = 10
"""Evaluations whose mean is the final accuracy: those of the last rounds."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A run, by evaluated round."""

    rounds: tuple[int, ...]
    edge: tuple[float, ...]
    """Accuracy of the whole model, or of front and aggregated back half."""
    cloud: tuple[float, ...]
    """Of front and the cloud's half; empty: there is none."""
    divergence: float
    """Mean KL of the clusters' labels from the round's, in nats."""
    edge_taught: int
    """Rounds in which the edges' half learnt from the cloud's."""
    cloud_taught: int

    @property
    def final(self) -> float:
        """Mean accuracy of the last rounds."""
        return statistics.fmean(self.edge[-LAST:])

    @property
    def final_cloud(self) -> float:
        """The same of the cloud's model."""
        return statistics.fmean(self.cloud[-LAST:])


BySeed = Mapping[int, Curve]


def accuracy(runs: BySeed, *, cloud: bool = False) -> Mean:
    """In percent, with its standard error over seeds."""
    return mean(100 * (curve.final_cloud if cloud else curve.final) for curve in runs.values())


def difference(of: BySeed, against: BySeed, *, cloud: bool = False) -> Mean | None:
    """In points, paired by seed; None: they have no seed in common."""
    found = [
        (of[seed].final_cloud - against[seed].final_cloud)
        if cloud
        else (of[seed].final - against[seed].final)
        for seed in of
        if seed in against
    ]
    return mean(100 * value for value in found) if found else None


def best(by_rate: Mapping[float, Curve], *, rates: Sequence[float]) -> float | None:
    """The learning rate with the best final accuracy, when all of them were tried."""
    if not rates or not set(rates) <= set(by_rate):
        return None
    return max(rates, key=lambda rate: by_rate[rate].final)
