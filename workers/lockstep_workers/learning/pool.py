"""The activations of a round that go on to the cloud: bounded, and the same whoever comes first.

An edge keeps those of its cluster in a `Reservoir`; the cloud puts the clusters' together
(`pooled`) for `distillation`, and forgets them after the round. Invariant: which examples are in
the pool, and in which order, depends on seed, round, clusters and steps alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_RESERVOIR, _WHOLE = 20, 21
"""What a generator is for: the last part of its seed but for the step."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Activations at the cut and what belongs to them."""

    activations: NDArray[np.float32]
    """(n, …)."""
    labels: NDArray[np.int64]
    """(n,)."""
    weights: NDArray[np.float32]
    """(n,) what each counts in a loss, in any unit: in a step's batch w_i/b_i times the examples of
    its cluster, so that the pool stands for the devices' examples as the rounds' loss does."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: NDArray[np.integer]) -> "Pool":
        """A copy of some of them."""
        return Pool(self.activations[chosen], self.labels[chosen], self.weights[chosen])


def pooled(pools: Iterable[Pool], *, most: int, seed: tuple[int, ...]) -> Pool:
    """The pools one after the other; drawn from, where they have too many.

    Args:
        pools: at least one, in the order of the clusters.
        most: examples, at most.
        seed: the job's, and the round.
    """
    every = list(pools)
    whole = Pool(
        np.concatenate([one.activations for one in every]),
        np.concatenate([one.labels for one in every]),
        np.concatenate([one.weights for one in every]),
    )
    if len(whole) <= most:
        return whole
    chosen = _generator(*seed, _WHOLE).permutation(len(whole))[:most]
    return whole.part(np.sort(chosen))


@dataclass(slots=True)
class Reservoir:
    """At most so many of a cluster's examples, each as likely to stay as any other.

    Every example draws a number, by seed and step, and those with the smallest stay: a step that is
    told again changes nothing.
    """

    most: int
    seed: tuple[int, ...]
    """The job's, the round, and the place of the cluster's first client among the job's."""
    _steps: dict[int, tuple[NDArray[np.float64], Pool]] = field(default_factory=dict)

    def add(self, step: int, batch: Pool) -> None:
        """Takes a step's batch in, as a copy."""
        drawn = _generator(*self.seed, _RESERVOIR, step).random(len(batch))
        self._steps[step] = (drawn, batch.part(np.arange(len(batch))))
        every = np.concatenate([numbers for numbers, _ in self._steps.values()])
        if len(every) > self.most:
            self._drop(np.partition(every, self.most)[self.most])

    def take(self) -> Pool | None:
        """What stayed, in the order of the steps; None: there is nothing."""
        kept = [pool for _, (_, pool) in sorted(self._steps.items()) if len(pool)]
        return pooled(kept, most=self.most, seed=self.seed) if kept else None

    def _drop(self, first_out: float) -> None:
        for step, (drawn, pool) in self._steps.items():
            stay = np.flatnonzero(drawn < first_out)
            if len(stay) < len(drawn):
                self._steps[step] = (drawn[stay], pool.part(stay))


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy))
