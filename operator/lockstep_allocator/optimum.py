"""The hindsight optimum of a round: the least cost for one who knows its bandwidth.

No causal policy can finish a round cheaper. For a finish T a device may compute until the latest
moment from which its upload still arrives by T; its energy does not rise in T. So on an interval
[T1, T2] the cost is at least second_cost·T1 + λ·Σ e_i(T2): intervals whose bound is above the best
cost found are dropped, the others are cut, until bound and cost meet within the tolerance. That
holds for every energy model that does not rise with slower computing and for every trace; the cost
need not be convex in T (it is not, when uploads follow a trace).

Where sending takes energy, a device may do better to send before that moment, at a better
bandwidth: its e_i(T) is then the least over all compute times that arrive by T (`sending`).
"""

from dataclasses import dataclass

import numpy as np

from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet, run_round
from lockstep_allocator.sending import BestSending, best_sending
from lockstep_allocator.traces import Index

_FIRST, _CUT = 48, 8
_CHUNK = 400_000
"""Numbers looked at at once: bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The optimum of E rounds."""

    cost: Array
    """(E,)."""
    finish_s: Array
    """(E,) T*."""
    compute_s: Array
    """(E, N)."""
    bound: Array
    """(E,) proof: no allocation costs less than this."""


def optimum(fleet: Fleet, start_s: Array, *, tolerance: float = 1e-4) -> Optimum:
    """The hindsight optimum of the round from `start_s` (E, 1).

    Args:
        fleet: the devices and their traces.
        start_s: when the round begins.
        tolerance: how far cost and bound may be apart, relative to the cost.
    """
    search = _Search(fleet, start_s)
    search.begin()
    while search.refine(tolerance):
        pass
    search.polish()
    compute_s, _ = search.spend(np.arange(len(start_s)), search.best_s)
    # Who sends early may make the round shorter than it was allowed to be.
    played = run_round(fleet, start_s, ghz=fleet.devices.work / compute_s)
    bound = np.minimum(search.bound, played.cost)
    return Optimum(cost=played.cost, finish_s=played.seconds, compute_s=compute_s, bound=bound)


class _Search:
    """Branch and bound over T for E rounds at once."""

    def __init__(self, fleet: Fleet, start_s: Array) -> None:
        self.fleet, self.start_s = fleet, start_s
        devices = fleet.devices
        self.sending: BestSending | None = None
        if devices.transmit_watts.any():
            self.sending = best_sending(fleet, start_s)
        self.second = devices.second_cost[:, 0]
        self.weight = devices.weight[:, 0]
        shortest, longest = devices.shortest, devices.longest
        self.low = (shortest + fleet.upload_s(start_s, shortest)).max(-1)
        self.high = (longest + fleet.upload_s(start_s, longest)).max(-1)
        self.best = np.full(len(self.low), np.inf)
        self.best_s = self.low.copy()
        self.bound = np.full(len(self.low), np.inf)
        self.row: Index = np.zeros(0, dtype=np.int64)
        self.left = self.right = self.energy_right = np.zeros(0)

    def begin(self) -> None:
        """The first grid."""
        grid = np.linspace(0, 1, _FIRST + 1)
        at = self.low[:, None] + (self.high - self.low)[:, None] * grid
        row = np.repeat(np.arange(len(at)), _FIRST + 1)
        spent = self._try(row, at.ravel()).reshape(at.shape)
        self.row = np.repeat(np.arange(len(at)), _FIRST)
        self.left, self.right = at[:, :-1].ravel(), at[:, 1:].ravel()
        self.energy_right = spent[:, 1:].ravel()

    def refine(self, tolerance: float) -> bool:
        """Drop what cannot be better, cut the rest; False when nothing is left."""
        lower = self.second[self.row] * self.left + self.energy_right
        open_ = lower < self.best[self.row] * (1 - tolerance)
        closed = ~open_
        np.minimum.at(self.bound, self.row[closed], lower[closed])
        self.bound = np.minimum(self.bound, self.best)
        if not open_.any():
            return False
        row, left, right = self.row[open_], self.left[open_], self.right[open_]
        at = left[:, None] + (right - left)[:, None] * (np.arange(1, _CUT) / _CUT)
        spent = self._try(np.repeat(row, _CUT - 1), at.ravel()).reshape(at.shape)
        self.row = np.repeat(row, _CUT)
        self.left = np.column_stack([left, at]).ravel()
        self.energy_right = np.column_stack([spent, self.energy_right[open_]]).ravel()
        self.right = np.column_stack([at, right]).ravel()
        return True

    def polish(self, turns: int = 3, points: int = 17) -> None:
        """Zoom in around the best moment; the bound stands already."""
        row = np.repeat(np.arange(len(self.best)), points)
        width = np.maximum(self.best * 1e-3 / self.second, 1e-9)
        for _ in range(turns):
            at = self.best_s[:, None] + width[:, None] * np.linspace(-1, 1, points)
            at = np.clip(at, self.low[:, None], self.high[:, None])
            self._try(row, at.ravel())
            width = width * 3 / points

    def _try(self, row: Index, at_s: Array) -> Array:
        """Weighted energy when rounds `row` end at `at_s`; remembers the best cost."""
        looked_at = 1 if self.sending is None else self.sending.until_s.shape[-1]
        step = max(1, _CHUNK // (self.fleet.devices.shape[1] * looked_at))
        parts = [
            self.spend(row[i : i + step], at_s[i : i + step])[1].sum(-1)
            for i in range(0, len(row), step)
        ]
        spent = self.weight[row] * np.concatenate(parts)
        cost = self.second[row] * at_s + spent
        order = np.lexsort((cost, row))
        rows, firsts = np.unique(row[order], return_index=True)
        chosen = order[firsts]
        better = cost[chosen] < self.best[rows]
        self.best[rows[better]] = cost[chosen][better]
        self.best_s[rows[better]] = at_s[chosen][better]
        return spent

    def spend(self, row: Index, at_s: Array) -> tuple[Array, Array]:
        """Compute times (R, N) of least energy that arrive by `at_s` (R,), and that energy."""
        some, start_s = self.fleet.rows(row), self.start_s[row]
        latest = some.latest_compute_s(start_s, at_s[:, None, None])[..., 0]
        compute_s = np.clip(latest, some.devices.shortest, some.devices.longest)
        spent = some.devices.joules(compute_s)
        if self.sending is None:
            return compute_s, spent
        spent = spent + some.devices.sending(some.upload_s(start_s, compute_s))
        return self.sending.rows(row).until(compute_s, spent)
