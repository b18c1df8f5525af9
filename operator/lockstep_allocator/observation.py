"""What is known when a round is planned: the devices and their bandwidth so far; and its features.

Features of a device are relative to the equaliser's round, so that a policy that has seen one scale
works at another; a few absolute ones stand beside them (see docs/allocation.md).
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.equalize import Equalized, equalize

EDGES_S: tuple[float, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 45, 60)
"""Borders of the history's slots in seconds before now."""
WINDOW_S = 10.0
"""The patent's window: bandwidth is the mean over the previous 10 s (CN113312169B [0042])."""
LEAST_MBPS = 1e-3
"""Bandwidths below count as this: a device that stands still still has an upload time."""

_WIDTHS = np.diff(np.array(EDGES_S))
_RECENT = EDGES_S.index(WINDOW_S)
_LIMIT = 6.0

HISTORY_FEATURES = (
    *(f"log slot {a:g}-{b:g} s" for a, b in pairwise(EDGES_S)),
    "log level", "variation", "least slot", "greatest slot",
)  # fmt: skip
ROUND_FEATURES = (
    "upload / T", "shortest / T", "longest / T", "position", "finish / T", "finish at max / T",
    "log T", "log shortest", "log marginal at max", "log marginal", "log marginal at min",
    "log energy share", "log fleet's energy share", "log N",
)  # fmt: skip


def recent_mbps(slots_mbps: Array) -> Array:
    """(…) the mean over the previous 10 s, from slots (…, 16)."""
    means = (slots_mbps[..., :_RECENT] * _WIDTHS[:_RECENT]).sum(-1) / WINDOW_S
    return np.maximum(means, LEAST_MBPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """E fleets before a round."""

    devices: Devices
    """What they have to do."""
    slots_mbps: Array
    """(E, N, 16) mean bandwidth in the slots of `EDGES_S`, newest first."""
    last_mbps: Array
    """(E, N) bandwidth of the last upload; the 10-s mean before the first."""
    mean_mbps: Array
    """(E, N) mean bandwidth over all that is known."""

    @property
    def newest_mbps(self) -> Array:
        """(E, N, …) mean bandwidth in the slots of the previous 10 s, newest first."""
        return np.maximum(self.slots_mbps[..., :_RECENT], LEAST_MBPS)

    @property
    def recent_mbps(self) -> Array:
        """(E, N) the mean over the previous 10 s."""
        return recent_mbps(self.slots_mbps)

    @property
    def steady_mbps(self) -> Array:
        """(E, N) half way, in logarithms, from the middle to the greatest of the means over 10 s,
        over a minute and over all uploads: a link that stands still now will not for long, and one
        slow upload is not all that it can do."""
        minute = (self.slots_mbps * _WIDTHS).sum(-1) / _WIDTHS.sum()
        every = np.stack([self.recent_mbps, np.maximum(minute, LEAST_MBPS), self.mean_mbps])
        return np.sqrt(np.median(every, axis=0) * every.max(axis=0))

    def upload_s(self, mbps: Array) -> Array:
        """(E, N) seconds of an upload at this bandwidth."""
        return self.devices.upload / np.maximum(mbps, LEAST_MBPS)

    def with_steps(self, steps: NDArray[np.int64]) -> "Observation":
        """Where the work is that of a step: devices that do so many (N,)."""
        return replace(self, devices=replace(self.devices, work=self.devices.work * steps))

    def rows(self, index: NDArray[np.int64]) -> "Observation":
        """Some of the environments."""
        return Observation(
            devices=self.devices.rows(index),
            slots_mbps=self.slots_mbps[index],
            last_mbps=self.last_mbps[index],
            mean_mbps=self.mean_mbps[index],
        )


def history_features(slots_mbps: Array, recent_mbps: Array) -> Array:
    """(…, 20) logarithms of the slots relative to the 10-s mean, its level, and the variation."""
    slots = np.maximum(slots_mbps, LEAST_MBPS)
    relative = np.log(slots / recent_mbps[..., None])
    spread = ((slots - recent_mbps[..., None]) ** 2 * _WIDTHS).sum(-1) / _WIDTHS.sum()
    return np.concatenate(
        [
            relative,
            np.log(recent_mbps)[..., None] - 2,
            np.sqrt(spread)[..., None] / recent_mbps[..., None],
            relative.min(-1, keepdims=True),
            relative.max(-1, keepdims=True),
        ],
        -1,
    )


def round_features(devices: Devices, upload_s: Array, *, even: Equalized) -> Array:
    """(E, N, 14) the equaliser's round seen from each device."""
    finish, compute = even.finish_s, even.compute_s
    shortest, longest = devices.shortest, devices.longest
    # At the optimum of independent devices P(i is the last) = λ · marginal energy / cost of a
    # second (docs/allocation.md): these three are the prices of certainty.
    price = devices.weight / devices.second_cost
    marginals = [price * devices.marginal(at) for at in (shortest, compute, longest)]
    share = devices.weight * devices.joules(compute) / finish
    ones = np.ones_like(upload_s)
    columns = [
        upload_s / finish, shortest / finish, longest / finish,
        (compute - shortest) / np.maximum(longest - shortest, 1e-9),
        (upload_s + compute) / finish, (upload_s + shortest) / finish,
        ones * np.log(finish) - 2, np.log(shortest) - 1,
        *(np.log(m + 1e-6) + 3 for m in marginals),
        np.log(share + 1e-6) + 4, ones * np.log(share.sum(-1, keepdims=True) + 1e-6) + 2,
        ones * np.log(upload_s.shape[1]) / 2 - 1,
    ]  # fmt: skip
    return np.stack(columns, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An observation with what every policy derives from it."""

    observation: Observation
    upload_s: Array
    """(E, N) û, upload times at the 10-s mean."""
    even: Equalized
    """The equaliser's round for û."""
    history: Array
    """(E, N, 20) `history_features`."""

    @property
    def devices(self) -> Devices:
        """The devices observed."""
        return self.observation.devices

    def features(self) -> Array:
        """(E, N, 34) history and round."""
        around = round_features(self.devices, self.upload_s, even=self.even)
        return np.concatenate([self.history, around], -1).clip(-_LIMIT, _LIMIT)


def see(observation: Observation) -> Seen:
    """Derives upload times, the equaliser's round and the history's features."""
    recent = observation.recent_mbps
    upload_s = observation.upload_s(recent)
    return Seen(
        observation=observation, upload_s=upload_s, even=equalize(observation.devices, upload_s),
        history=history_features(observation.slots_mbps, recent),
    )  # fmt: skip
