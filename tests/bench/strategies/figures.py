"""What curves of accuracy come to: tuned learning rates, differences, cost to a target. Pure.

Invariant: a difference is always between runs of one seed, which have partition, initial weights,
local steps and mini-batches in common.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LAST = 10
"""Rounds whose mean is the final accuracy."""
PROMISING = 0.04
"""A learning rate goes on to other seeds if its first was at most so far from the best one's."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A run, round by round; seconds, joules and bytes since its start."""

    accuracy: tuple[float, ...]
    seconds: tuple[float, ...]
    joules: tuple[float, ...]
    bytes: tuple[float, ...]

    @property
    def final(self) -> float:
        """Mean accuracy of the last rounds."""
        return statistics.fmean(self.accuracy[-LAST:])

    def rounds_to(self, target: float) -> int | None:
        """The first round at or above an accuracy; None: there is none."""
        reached = (n for n, value in enumerate(self.accuracy, start=1) if value >= target)
        return next(reached, None)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a target accuracy took in the mean, over the runs that reached it."""

    reached: int
    rounds: float
    rounds_error: float
    seconds: float
    joules: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error; of one value the error is not known."""

    value: float
    error: float

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" ± {self.error:.2f}"
        return f"{self.value:.2f}{error}"


BySeed = Mapping[int, Curve]


def mean(values: Iterable[float]) -> Mean:
    """Of at least one value."""
    some = list(values)
    error = statistics.stdev(some) / math.sqrt(len(some)) if len(some) > 1 else math.nan
    return Mean(statistics.fmean(some), error)


def points(share: float) -> float:
    """A share in percent."""
    return 100 * share


def best_rate(by_rate: Mapping[float, BySeed], seeds: Sequence[int]) -> float | None:
    """The learning rate with the best mean final accuracy, of those run with all seeds."""
    whole = {rate: runs for rate, runs in by_rate.items() if set(seeds) <= set(runs)}
    if not whole:
        return None
    return max(whole, key=lambda rate: statistics.fmean(whole[rate][s].final for s in seeds))


def fastest_rate(
    by_rate: Mapping[float, BySeed], seeds: Sequence[int], *, target: float
) -> float | None:
    """The learning rate with the fewest rounds to a target, of those run with all seeds."""
    whole = {rate: runs for rate, runs in by_rate.items() if set(seeds) <= set(runs)}
    if not whole:
        return None
    return min(whole, key=lambda rate: mean_rounds(whole[rate], target))


def mean_rounds(runs: BySeed, target: float) -> float:
    """Mean rounds to a target; a run that did not reach it counts with all its rounds."""
    found = ((curve.rounds_to(target), len(curve.accuracy)) for curve in runs.values())
    return statistics.fmean(most if rounds is None else rounds for rounds, most in found)


def promising(first: Mapping[float, Curve]) -> list[float]:
    """The learning rates that are worth other seeds, from the runs of the first."""
    top = max((curve.final for curve in first.values()), default=0.0)
    return [rate for rate, curve in first.items() if curve.final >= top - PROMISING]


def differences(of: BySeed, against: BySeed) -> dict[int, float]:
    """Final accuracy in points against runs of the same seeds."""
    return {
        seed: points(of[seed].final - against[seed].final) for seed in of if seed in against
    }  # fmt: skip


def cost_to(target: float, runs: BySeed) -> Cost | None:
    """What the runs took that reached a target; None: none did."""
    found = [(curve, curve.rounds_to(target)) for curve in runs.values()]
    reached = [(curve, rounds) for curve, rounds in found if rounds is not None]
    if not reached:
        return None
    rounds = mean(n for _, n in reached)
    return Cost(
        len(reached),
        rounds.value,
        rounds.error,
        statistics.fmean(curve.seconds[n - 1] for curve, n in reached),
        statistics.fmean(curve.joules[n - 1] for curve, n in reached),
        statistics.fmean(curve.bytes[n - 1] for curve, n in reached) / 1e6,
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """Rounds to a target against another method's."""

    value: float
    censored: bool
    """The other did not always reach it: the ratio is at most this."""

    def __str__(self) -> str:
        return f"{'≤ ' if self.censored else ''}{self.value:.2f}"


def rounds_ratio(of: BySeed, against: BySeed, *, target: float) -> Ratio | None:
    """Mean rounds to a target of two methods' runs; None: the first did not always reach it.

    A run of the other that did not reach it counts with all its rounds.
    """
    mine = [curve.rounds_to(target) for curve in of.values()]
    reached = [rounds for rounds in mine if rounds is not None]
    if not reached or len(reached) < len(mine):
        return None
    censored = any(curve.rounds_to(target) is None for curve in against.values())
    return Ratio(statistics.fmean(reached) / mean_rounds(against, target), censored)
