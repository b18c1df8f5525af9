"""The weighted sums of a round's updates, in the order they come or in the plan's. No I/O.

`learning.server` adds to them. Invariant: one vector of the update's size, kept for all rounds; its
parts are the vectors of an update, each with weights of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Share:
    """What an update counts."""

    weights: tuple[float, ...]
    """Its weight in the mean of each of its vectors."""
    contribution: Contribution
    """What it comes from."""


class Accumulator:
    """The weighted sums of a round's updates, (n,) float32; an update is added as it arrives."""

    def __init__(self, n_values: int, *, vectors: int = 1) -> None:
        """Room for updates of `n_values` values, so many vectors of one length; kept for ever."""
        self._sum = np.zeros(n_values, np.float32)
        self._parts = np.split(self._sum, vectors)
        self._scratch = np.empty(min(n_values, _BLOCK), np.float32)
        self.weights: list[float] = []
        """The sum of the weights, by vector."""
        self.contributions: list[Contribution] = []
        """What the updates come from, in the order in which they were added."""
        self.reset()

    def reset(self) -> None:
        """Starts a round."""
        self._sum.fill(0.0)
        self.weights = [0.0] * len(self._parts)
        self.contributions = []

    def add(self, flat: Flat, share: Share) -> None:
        """Adds each vector times its weight in place, a block that fits the cache at a time."""
        weighted = zip(self._parts, np.split(flat, len(self._parts)), share.weights, strict=True)
        for index, (part, vector, weight) in enumerate(weighted):
            for here, block in zip(_blocks(part), _blocks(vector), strict=True):
                scaled = np.multiply(block, np.float32(weight), out=self._scratch[: block.size])
                np.add(here, scaled, out=here)
            self.weights[index] += weight
        self.contributions.append(share.contribution)

    def mean(self) -> Flat:
        """Turns the sums into weighted means, in place; the vector is valid until `reset`."""
        for part, weight in zip(self._parts, self.weights, strict=True):
            np.divide(part, np.float32(weight), out=part)
        return self._sum

    def holds(self, vector: Flat) -> bool:
        """Whether `vector` lies in the memory that `reset` overwrites."""
        return bool(np.may_share_memory(vector, self._sum))


def _blocks(vector: Flat) -> Iterator[Flat]:
    for start in range(0, vector.size, _BLOCK):
        yield vector[start : start + _BLOCK]


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
    _held: dict[str, tuple[Take, Share]] = field(default_factory=dict)

    def begin(self, order: list[str]) -> None:
        """Starts a round of these clients."""
        self._order = list(order)
        self._held.clear()
        self.into.reset()

    def is_next(self, client: str) -> bool:
        """Whether a client's update can be added now, without being put aside."""
        return bool(self._order) and self._order[0] == client

    def add(self, client: str, flat: Flat, *, share: Share) -> None:
        """Adds the update whose turn it is, and those that waited for it."""
        self._order.remove(client)
        self.into.add(flat, share)
        self._catch_up()

    def hold(self, client: str, take: Take, *, share: Share) -> None:
        """Keeps an update for its turn."""
        self._held[client] = (take, share)

    def skip(self, client: str) -> None:
        """A client that will give nothing: those behind it need not wait for it."""
        if client in self._order:
            self._order.remove(client)
            self._catch_up()

    def _catch_up(self) -> None:
        while self._order and self._order[0] in self._held:
            take, share = self._held.pop(self._order.pop(0))
            self.into.add(take(), share)
