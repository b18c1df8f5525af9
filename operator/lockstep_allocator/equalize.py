"""The cheapest round for upload times that are known: everyone finishes together.

minimise over T   a·T + λ·Σ e_i(c_i),   c_i = clip(T - u_i, W_i/fmax_i, W_i/fmin_i)

CN113312169B [0067]: a reference device fixes T, the others get T - t_com. The reference is the
argmax of W_i/fmax_i + u_i, which the smallest bandwidth need not be. The cost is convex in T.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array, Devices

_TURNS = 100
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Equalized:
    """The result for E fleets."""

    compute_s: Array
    """(E, N) compute times."""
    finish_s: Array
    """(E, 1) T, when the last device is done."""


def equalize(devices: Devices, upload_s: Array) -> Equalized:
    """The optimum for known upload times (E, N), by Newton's method in T within a bracket.

    The derivative of the cost rises in T and jumps where a device reaches its lowest frequency.
    Newton comes from the left and does not overshoot; every third step halves the bracket, for the
    jumps. Where the derivative is positive from the start, T is the least that is possible.
    """
    shortest, longest = devices.shortest, devices.longest
    low = (upload_s + shortest).max(-1, keepdims=True)
    finish_s = np.maximum((upload_s + longest).max(-1, keepdims=True), low)
    rows = np.arange(len(low))
    left = _Search(
        devices=devices,
        upload_s=upload_s,
        shortest=shortest,
        longest=longest,
        low=low,
        high=finish_s.copy(),
        at=low,
    )
    for turn in range(_TURNS):
        left = left.step(halve=turn % 3 == 2)
        finish_s[rows] = left.high
        going = (left.high - left.low > _TOLERANCE * left.high)[:, 0]
        if not going.any():
            break
        if 2 * going.sum() < len(going):
            rows, left = rows[going], left.rows(going)
    return Equalized(np.clip(finish_s - upload_s, shortest, longest), finish_s)


def levelled(devices: Devices, upload_s: Array) -> Array:
    """(E, N) the frequencies of that optimum, in GHz."""
    return devices.frequency(equalize(devices, upload_s).compute_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """The fleets whose T is still sought: low <= T <= high, and where to look next."""

    devices: Devices
    upload_s: Array
    shortest: Array
    longest: Array
    low: Array
    high: Array
    at: Array

    def step(self, *, halve: bool) -> "_Search":
        slope, bend = _derivatives(self)
        rising = slope >= 0
        high = np.where(rising, self.at, self.high)
        low = np.where(rising, self.low, self.at)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = (self.at - slope / bend) * (1 + _TOLERANCE / 2)
        good = (newton > low) & (newton < high) & (not halve)
        return replace(self, low=low, high=high, at=np.where(good, newton, 0.5 * (low + high)))

    def rows(self, index: NDArray[np.bool_]) -> "_Search":
        arrays = {name: getattr(self, name)[index] for name in _Search.__slots__[1:]}
        return _Search(devices=self.devices.rows(index), **arrays)


def _derivatives(search: _Search) -> tuple[Array, Array]:
    """(E, 1) first and second derivative of the cost in T; the second of the κ part only."""
    devices, left_s = search.devices, search.at - search.upload_s
    compute_s = np.clip(left_s, search.shortest, search.longest)
    free = left_s < search.longest
    saved = np.where(free, devices.marginal(compute_s), 0.0)
    slope = devices.second_cost - devices.weight * saved.sum(-1, keepdims=True)
    cubic = np.where(free, 2 * devices.kappa * (devices.work / compute_s) ** 3, 0.0)
    bend = devices.weight * (3 * cubic / compute_s).sum(-1, keepdims=True)
    return slope, bend
