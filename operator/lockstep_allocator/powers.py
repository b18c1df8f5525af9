"""What more work in the same time costs a device, and the clock at which it costs a given price.

`planned` chooses steps by it. Energy is that of `devices`, seen as power over frequency: κf³ and
the highest of a table's lines, beyond idle power, which is convex; a device that waits for a part
of the time draws in proportion to how long it computes.
"""

from dataclasses import dataclass

import numpy as np

from lockstep_allocator.devices import Array, Devices

_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """The power of N devices."""

    kappa: Array
    """(N, 1) W/GHz³."""
    alpha: Array
    """(N, L) lines in W/GHz, from the one of the highest frequencies on."""
    beta: Array
    """(N, L) and what they begin with, in W."""
    low: Array
    """(N, L) GHz from which on a line is the highest."""
    high: Array
    """(N, L) GHz up to which it is."""

    @classmethod
    def of(cls, devices: Devices) -> "Powers":
        """Of one fleet."""
        bottom, top = devices.min_ghz[0][:, None], devices.max_ghz[0][:, None]
        alpha, beta = _without_padding(devices.alpha[0], devices.beta[0])
        fall = alpha[:, :-1] - alpha[:, 1:]
        meet = np.where(fall > 0, np.diff(beta, axis=1) / np.maximum(fall, _TINY), 0.0)
        meet = np.clip(meet, bottom, top)
        return cls(
            kappa=devices.kappa[0][:, None],
            alpha=alpha,
            beta=beta,
            low=np.hstack([meet, bottom]),
            high=np.hstack([top, meet]),
        )

    @property
    def bottom(self) -> Array:
        """(N,) GHz of the lowest clock."""
        return self.low[:, -1]

    @property
    def least_price(self) -> Array:
        """(N,) J of a Gcycle at the lowest clock."""
        return self.watts(self.bottom) / self.bottom

    def watts(self, ghz: Array) -> Array:
        """(N,) at clocks within the range."""
        at = ghz[:, None]
        return np.asarray((self.kappa * at**3 + self.alpha * at + self.beta).max(-1))

    def joules(self, gcycles: Array, *, seconds: Array) -> Array:
        """(N,) energy of so many cycles in so many seconds."""
        ghz = np.maximum(gcycles / seconds, self.bottom)
        return gcycles * self.watts(ghz) / ghz

    def price(self, ghz: Array) -> Array:
        """(N,) J that one more Gcycle takes in the same time, at this many Gcycles a second."""
        at = np.maximum(ghz, self.bottom)[:, None]
        line = (self.alpha * at + self.beta).argmax(-1)[:, None]
        busy = (3 * self.kappa * at**2 + np.take_along_axis(self.alpha, line, -1))[:, 0]
        return np.where(ghz < self.bottom, self.least_price, busy)

    def clock(self, price: Array) -> Array:
        """(N,) GHz at which one more Gcycle takes `price` J; 0: none is worth it."""
        gain = price[:, None] - self.alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            free = np.sqrt(np.maximum(gain, 0) / (3 * self.kappa))
            ghz = np.clip(np.where(gain > 0, free, 0.0), self.low, self.high)
            value = gain * ghz - self.kappa * ghz**3 - self.beta
        best = np.take_along_axis(ghz, value.argmax(-1)[:, None], -1)[:, 0]
        return np.where(price < self.least_price, 0.0, best)


def _without_padding(alpha: Array, beta: Array) -> tuple[Array, Array]:
    """(N, L) lines, L > 0: what `stack_curves` filled up is the last line once more."""
    if not alpha.shape[1]:
        nothing = np.zeros((len(alpha), 1))
        return nothing, nothing
    last = np.isfinite(alpha).sum(-1, keepdims=True) - 1
    line = np.minimum(np.arange(alpha.shape[1]), last)
    return np.take_along_axis(alpha, line, -1), np.take_along_axis(beta, line, -1)
