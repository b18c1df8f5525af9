"""What hides a client in a round's mean: one weight for all, a bound on each update, noise.

Used by `learning.server` and edges. DP-FedAvg (McMahan et al. 2018, "Learning differentially
private recurrent language models") with the number of updates in the mean as denominator.
Invariant: an update moves the sum by no more than the norm, whatever is in it; what `Noise.add` was
given is used nowhere without its noise.

Floats. A norm is computed in float64 of the update as it is after clipping, and an update that is
still too long is shortened again. Noise is drawn and added in float64 and rounded once, to the
float32 of the model, far coarser than what the draw is made of: attacks on the lowest bits of
noise (Mironov 2012; Jin et al. 2022) need those. That is no proof; nor is the rounding of float32
sums, some 2^-24 of a weight, in the bound.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep_api.settings import JobSettings
from lockstep_workers.learning.bounding import distance, scale
from lockstep_workers.learning.strategy import MODEL, Strategy, Vector, uniformly
from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16
_CUTS = [2.0**-exponent for exponent in range(20, -1, -1)]
"""By which share an update becomes shorter than asked for, try after try.

float32 rounds what is small beside the model, and may round it longer: the larger the model's
values, the more has to go. The last try leaves nothing.
"""

Normals = Callable[[int], NDArray[np.float64]]
"""So many draws from the standard normal distribution."""


def drawn_from(randomness: Callable[[int], bytes]) -> Normals:
    """Draws that are made of so many random bytes (Box, Muller 1958)."""

    def draw(count: int) -> NDArray[np.float64]:
        half = (count + 1) // 2
        words = np.frombuffer(randomness(16 * half), np.uint64) >> np.uint64(11)
        uniform = (words.astype(np.float64) + 1.0) * 2.0**-53  # in (0, 1]
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:half])), 2.0 * np.pi * uniform[half:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    return draw


by_chance = drawn_from(os.urandom)
"""Draws that nobody can know."""


def by_seed(seed: int) -> Normals:
    """Draws that repeat: they hide nothing from who knows the seed."""
    return np.random.default_rng(np.random.SeedSequence((seed, 0xD9))).standard_normal


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What a server adds to each mean."""

    clip_norm: float
    multiplier: float
    normals: Normals = by_chance

    def deviation(self, updates: int) -> float:
        """The standard deviation of the noise in the mean of so many updates."""
        return self.multiplier * self.clip_norm / updates

    def add(self, mean: Vector, *, updates: int) -> None:
        """Adds it to the mean of so many updates, in place."""
        deviation = self.deviation(updates)
        for start in range(0, mean.size, _BLOCK):
            block = mean[start : start + _BLOCK]
            block[:] = block + deviation * self.normals(block.size)


def noise_of(job: JobSettings, *, normals: Normals = by_chance) -> Noise | None:
    """The noise of a job's means; None: it hides no clients."""
    if (asked := job.privacy) is None:
        return None
    return Noise(clip_norm=asked.clip_norm, multiplier=asked.noise_multiplier, normals=normals)


@dataclass(frozen=True, slots=True)
class Bound:
    """How far updates of one round may go from its model."""

    model: Vector
    norm: float

    def keep(self, update: Flat) -> None:
        """Clips an update, in place."""
        clip(update, self.model, norm=self.norm)


def clip(update: Flat, model: Flat, *, norm: float) -> None:
    """Shortens, in place, what an update changes the model by to the norm.

    One of no finite length is no change.
    """
    for cut in _CUTS:
        length = distance(update, model)
        if length <= norm:
            return
        if not np.isfinite(length):
            break
        scale(update, norm * (1 - cut) / length, origin=model)
    update[:] = model


def with_equal_weights(strategy: Strategy) -> Strategy:
    """Every update counts the same, whatever its client says of itself."""
    return replace(strategy, uploads={MODEL: uniformly})
