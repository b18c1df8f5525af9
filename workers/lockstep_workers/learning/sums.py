"""The weighted sum of a round's updates, in the order they come or in the plan's. No I/O.

The server side of a strategy adds to it. Invariant: one vector of the update's size, kept for all
rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16


class Accumulator:
    """The weighted sum of a round's updates, (n,) float32; an update is added as it arrives."""

    def __init__(self, n_values: int) -> None:
        """Room for vectors of `n_values` values; kept for all rounds."""
        self._sum = np.zeros(n_values, np.float32)
        self._scratch = np.empty(min(n_values, _BLOCK), np.float32)
        self.weight = 0.0

    def reset(self) -> None:
        """Starts a round."""
        self._sum.fill(0.0)
        self.weight = 0.0

    def add(self, flat: Flat, weight: float) -> None:
        """Adds `weight · flat` in place, a block that fits the cache at a time."""
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            scaled = np.multiply(block, np.float32(weight), out=self._scratch[: block.size])
            self._sum[start : start + _BLOCK] += scaled
        self.weight += weight

    def mean(self) -> Flat:
        """Turns the sum into the weighted mean, in place; the vector is valid until `reset`."""
        return np.divide(self._sum, np.float32(self.weight), out=self._sum)

    def holds(self, vector: Flat) -> bool:
        """Whether `vector` lies in the memory that `reset` overwrites."""
        return bool(np.may_share_memory(vector, self._sum))


Take = Callable[[], Flat]
"""Gives a vector that was put aside back, once."""


@dataclass(slots=True)
class InOrder:
    """Adds updates in the order of the plan, whatever order they arrive in.

    Sums of floats depend on their order; this one repeats bit for bit. An update ahead of its turn
    is put aside by the caller (`hold`) and taken back when all before it are added or lost.
    """

    into: Accumulator
    _order: list[str] = field(default_factory=list)
    _held: dict[str, tuple[Take, float]] = field(default_factory=dict)

    def begin(self, order: list[str]) -> None:
        """Starts a round of these clients."""
        self._order = list(order)
        self._held.clear()
        self.into.reset()

    def is_next(self, client: str) -> bool:
        """Whether a client's update can be added now, without being put aside."""
        return bool(self._order) and self._order[0] == client

    def add(self, client: str, flat: Flat, weight: float) -> None:
        """Adds the update whose turn it is, and those that waited for it."""
        self._order.remove(client)
        self.into.add(flat, weight)
        self._catch_up()

    def hold(self, client: str, take: Take, weight: float) -> None:
        """Keeps an update for its turn."""
        self._held[client] = (take, weight)

    def skip(self, client: str) -> None:
        """A client that will give nothing: those behind it need not wait for it."""
        if client in self._order:
            self._order.remove(client)
            self._catch_up()

    def _catch_up(self) -> None:
        while self._order and self._order[0] in self._held:
            take, weight = self._held.pop(self._order.pop(0))
            self.into.add(take(), weight)
