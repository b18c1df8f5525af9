"""What a round costs: the devices of a fleet, their times and their energy.

One definition for simulator, optimum, baselines, policies and planner, batched and convex.
`lockstep_api.energy` has it for one device without NumPy, which is what workers report; it takes
tables as they are, where this takes their convex hull. A property test holds them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lockstep_api.energy import EnergyModel, busy_watts

Array = NDArray[np.float64]

_KAPPA_UNIT = 1e27
"""κ in J/(cycle·Hz²) times this is κ in J/(Gcycle·GHz²)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyCurve:
    """Energy of a Gcycle beyond idle power: κ·f² + max_k(alpha_k + beta_k/f), in J.

    The lines are the lower convex hull of a measured frequency→power table: power that is linear
    between two frequencies makes energy linear in the time per cycle, 1/f.
    """

    kappa: float
    """J/(Gcycle·GHz²)."""
    alpha: tuple[float, ...]
    """J/Gcycle."""
    beta: tuple[float, ...]
    """W."""
    idle_watts: float
    """Drawn all the time that a round lasts."""
    transmit_watts: float
    """Drawn besides while uploading."""
    efficient_ghz: float
    """Below this frequency a Gcycle takes more energy and more time: nobody should go there."""


def energy_curve(model: EnergyModel, *, min_ghz: float, max_ghz: float) -> EnergyCurve:
    """The curve of an energy model between two frequencies."""
    if not model.table:
        kappa = model.kappa * _KAPPA_UNIT
        return EnergyCurve(
            kappa=kappa,
            alpha=(),
            beta=(),
            idle_watts=model.idle_watts,
            transmit_watts=model.transmit_watts,
            efficient_ghz=min_ghz,
        )
    inside = {p.ghz for p in model.table if min_ghz < p.ghz < max_ghz}
    points = [
        (1 / ghz, (busy_watts(model.table, ghz) - model.idle_watts) / ghz)
        for ghz in sorted(inside | {min_ghz, max_ghz}, reverse=True)
    ]
    hull = _lower_hull(points)
    if len(hull) == 1:  # one frequency only
        return EnergyCurve(
            kappa=0.0,
            alpha=(hull[0][1],),
            beta=(0.0,),
            idle_watts=model.idle_watts,
            transmit_watts=model.transmit_watts,
            efficient_ghz=max_ghz,
        )
    beta = [(g1 - g0) / (s1 - s0) for (s0, g0), (s1, g1) in pairwise(hull)]
    alpha = [g - b * s for (s, g), b in zip(hull, beta, strict=False)]
    best_s = min(hull, key=lambda point: (point[1], point[0]))[0]
    return EnergyCurve(
        kappa=0.0,
        alpha=tuple(alpha),
        beta=tuple(beta),
        idle_watts=model.idle_watts,
        transmit_watts=model.transmit_watts,
        efficient_ghz=1 / best_s,
    )


def _lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points sorted by x (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2], hull[-1]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """E fleets of N devices that share a round each, and the weight of their energy."""

    work: Array
    """(E, N) W, Gcycles of local training."""
    upload: Array
    """(E, N) Mbit to upload."""
    min_ghz: Array
    """(E, N) lowest frequency that makes sense (see `EnergyCurve.efficient_ghz`)."""
    max_ghz: Array
    """(E, N) highest frequency."""
    kappa: Array
    """(E, N) J/(Gcycle·GHz²)."""
    alpha: Array
    """(E, N, L) lines of the energy curves in J/Gcycle; L may be 0."""
    beta: Array
    """(E, N, L) and their slopes in W."""
    idle_watts: Array
    """(E, N) W."""
    transmit_watts: Array
    """(E, N) W besides while uploading."""
    weight: Array
    """(E, 1) λ in s/J."""

    @property
    def shape(self) -> tuple[int, int]:
        """(E, N)."""
        return self.work.shape[0], self.work.shape[1]

    @property
    def shortest(self) -> Array:
        """(E, N) seconds of computing at the highest frequency."""
        return self.work / self.max_ghz

    @property
    def longest(self) -> Array:
        """(E, N) seconds of computing at the lowest frequency."""
        return self.work / self.min_ghz

    @property
    def second_cost(self) -> Array:
        """(E, 1) cost of one second of round: itself, and the idle power of all devices."""
        return 1 + self.weight * self.idle_watts.sum(-1, keepdims=True)

    def frequency(self, compute_s: Array) -> Array:
        """(E, N) the frequency for these compute times, within each device's range."""
        ghz = self.work / np.maximum(compute_s, 1e-12)
        return np.clip(ghz, self.min_ghz, self.max_ghz)

    def joules(self, compute_s: Array) -> Array:
        """Energy of computing beyond idle, for compute times of shape (E, N) or (E, N, K)."""
        return _joules(self, compute_s)

    def sending(self, upload_s: Array) -> Array:
        """Energy of uploads beyond idle, for upload times of shape (E, N) or (E, N, K)."""
        return _spread(self.transmit_watts, upload_s) * upload_s

    def marginal(self, compute_s: Array) -> Array:
        """Joules saved by a second more of computing, -dE/dc >= 0, of shape (E, N) or (E, N, K)."""
        return _marginal(self, compute_s)

    def energy(self, seconds: Array, compute_s: Array, *, upload_s: Array) -> Array:
        """(E,) J of all devices in a round of (E,) `seconds`: computing, sending, idling."""
        idle = seconds * self.idle_watts.sum(-1)
        own = self.joules(compute_s) + self.sending(upload_s)
        return np.asarray(own.sum(-1) + idle)

    def rows(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Devices":
        """Some of the environments."""
        return Devices(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


def _spread(values: Array, like: Array) -> Array:
    """(E, N) → (E, N, 1) where `like` has a third axis."""
    return values if like.ndim == 2 else values[..., None]


def _joules(devices: Devices, compute_s: Array) -> Array:
    work = _spread(devices.work, compute_s)
    spent = _spread(devices.kappa, compute_s) * work**3 / compute_s**2
    if devices.alpha.shape[-1]:
        per_cycle = (compute_s / work)[..., None]
        alpha, beta = _lines(devices, compute_s)
        spent = spent + work * (alpha + beta * per_cycle).max(-1)
    return spent


def _marginal(devices: Devices, compute_s: Array) -> Array:
    work = _spread(devices.work, compute_s)
    saved = 2 * _spread(devices.kappa, compute_s) * (work / compute_s) ** 3
    if devices.alpha.shape[-1]:
        per_cycle = (compute_s / work)[..., None]
        alpha, beta = _lines(devices, compute_s)
        line = (alpha + beta * per_cycle).argmax(-1)[..., None]
        slope = np.take_along_axis(
            np.broadcast_to(beta, (*line.shape[:-1], beta.shape[-1])), line, -1
        )
        saved = saved + np.maximum(-slope[..., 0], 0.0)
    return saved


def _lines(devices: Devices, like: Array) -> tuple[Array, Array]:
    if like.ndim == 2:
        return devices.alpha, devices.beta
    return devices.alpha[:, :, None, :], devices.beta[:, :, None, :]


def stack_curves(curves: Sequence[EnergyCurve]) -> tuple[Array, Array]:
    """(n, L) alpha and beta of n curves, padded with lines that are never the highest."""
    length = max((len(curve.alpha) for curve in curves), default=0)
    alpha, beta = np.full((2, len(curves), length), -np.inf)
    beta[:] = 0.0
    for row, curve in enumerate(curves):
        alpha[row, : len(curve.alpha)] = curve.alpha
        beta[row, : len(curve.beta)] = curve.beta
        if length and not curve.alpha:
            alpha[row, 0] = 0.0
    return alpha, beta
