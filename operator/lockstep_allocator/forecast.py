"""Upload times as a distribution: who will be last, and the plan that expects it.

A small network gives each device a mixture of logistic distributions of log(u/û) from its own
history; devices are taken as independent. P(i is the last) is then a sum over a grid of moments,
without sampling noise, and the derivative of the expected round time by i's compute time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array
from lockstep_allocator.networks import Weights, forecast_network, sigmoid
from lockstep_allocator.observation import HISTORY_FEATURES, Observation, Seen, see

N_FEATURES = len(HISTORY_FEATURES) + 2
"""Of `forecast_features`."""
COMPONENTS = 5
CENTRES = np.linspace(-1, 1, COMPONENTS, dtype=np.float32)
LEAST_SCALE = 0.015

_GRID = np.exp(np.linspace(-0.6, 1.6, 56))
"""Moments relative to the equaliser's T."""
_LEAST = 1e-6
_MOST_SCALE = 0.5
"""e to the power of a logistic variable has the mean πs/sin(πs) for s < 1."""

Mixture = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""(E, N, K) weights, locations and scales of log(u/û)."""


def forecast_features(history: Array, upload_s: Array, *, compute_s: Array) -> NDArray[np.float32]:
    """(…, N_FEATURES) history, the scale of the upload, and how long until it begins."""
    scale = np.log(np.maximum(upload_s, 1e-3))[..., None]
    return (
        np.concatenate([history, scale, compute_s[..., None] / 4 - 1], -1)
        .clip(-6, 6)
        .astype(np.float32)
    )


@dataclass(frozen=True, slots=True)
class Forecaster:
    """The network's weights."""

    weights: Weights

    def mixture(self, seen: Seen) -> Mixture:
        """The distribution of every device's upload time, as if it computed like the equaliser."""
        x = forecast_features(seen.history, seen.upload_s, compute_s=seen.even.compute_s)
        mix, centre, scale = np.split(forecast_network(self.weights, x), 3, axis=-1)
        mix = np.exp(mix - mix.max(-1, keepdims=True))
        softplus = np.logaddexp(np.float32(0), scale - 1).astype(np.float32)
        return (
            mix / mix.sum(-1, keepdims=True),
            centre + CENTRES,
            softplus + np.float32(LEAST_SCALE),
        )


@dataclass(frozen=True, slots=True)
class Outlook:
    """The chances of a round, for fleets that were seen."""

    seen: Seen
    mixture: Mixture

    def last_probability(self, compute_s: Array) -> Array:
        """(E, N) P(i is the last) when devices compute for `compute_s`; rows sum to 1."""
        moments = self.seen.even.finish_s * _GRID  # (E, G)
        left = (moments[:, None, :] - compute_s[..., None]) / self.seen.upload_s[..., None]
        arrived = self._arrived(np.maximum(left, 1e-9))  # (E, N, G)
        log_all = np.log(arrived).sum(1, keepdims=True)
        others = np.exp(log_all - np.log(arrived))
        between = np.diff(arrived, axis=-1) * 0.5 * (others[..., 1:] + others[..., :-1])
        # What comes before and after the grid.
        share = between.sum(-1) + arrived[..., 0] * others[..., 0] + (1 - arrived[..., -1])
        return np.asarray(share / share.sum(-1, keepdims=True), dtype=np.float64)

    def _arrived(self, relative: Array) -> NDArray[np.float32]:
        """(E, N, G) P(u <= relative · û)."""
        mix, centre, scale = (part[..., None] for part in self.mixture)  # (E, N, K, 1)
        log = np.log(relative).astype(np.float32)[..., None, :]
        chance = (mix * sigmoid((log - centre) / scale)).sum(-2)
        return np.clip(chance, np.float32(_LEAST), np.float32(1 - _LEAST))

    def plan(self, turns: int) -> Array:
        """(E, N) compute times of least expected cost, by fixed-point steps.

        At the optimum a·P(i is the last) = λ·marginal energy of i: where certainty costs more than
        it is worth a device slows down, and the other way round. Steps shrink, as P is steep.
        """
        devices = self.seen.devices
        shortest, longest = devices.shortest, devices.longest
        price = devices.weight / devices.second_cost
        compute_s = self.seen.even.compute_s
        for turn in range(turns):
            worth = np.log(self.last_probability(compute_s) + _LEAST)
            asked = np.log(price * devices.marginal(compute_s) + _LEAST)
            step = 0.25 * (1 - 0.9 * turn / turns)
            moved = compute_s * np.exp(step * np.clip(asked - worth, -2, 2))
            compute_s = np.clip(moved, shortest, longest)
        return compute_s


def expected_upload_s(forecaster: Forecaster, observation: Observation) -> Array:
    """(E, N) means of the upload times that are expected; far tails count as nearer."""
    seen = see(observation)
    mix, centre, scale = (part.astype(float) for part in forecaster.mixture(seen))
    scale = np.minimum(scale, _MOST_SCALE) * np.pi
    return seen.upload_s * (mix * np.exp(centre) * scale / np.sin(scale)).sum(-1)


def look_ahead(forecaster: Forecaster, seen: Seen) -> Outlook:
    """The outlook of the next round."""
    return Outlook(seen, forecaster.mixture(seen))
