"""The weighted sums of a round's updates, added as they arrive. No I/O.

`learning.server` adds to them, and so does an edge, whose sum goes up whole (`SumPart`) and is
merged there. The parts of an update's vector are its named vectors, each with a weight of its own.

Two kinds, with one surface. `Accumulator` is a float32 sum: small and quick, and its last bits
depend on the order of what was added. `ExactSum` (`training.deterministic`) has the same bits
whatever the order and however the updates were grouped into partial sums.

Why it has. Each product w·x is rounded to float64, and cut into three slices that are whole
multiples of fixed powers of two, `_GRIDS`; what is left below the last is dropped, for each product
by itself. Slices of one grid are added in a float64 of their own: as long as a sum has less than
53 bits above its grid, adding rounds nothing, and so has no order. That is the error-free
transformation of Demmel & Nguyen, "Parallel Reproducible Summation" (IEEE Trans. Comput. 2015),
with grids that are fixed beforehand, so that none depends on what is added.

Bounds: the bits are the same for up to 2^19 updates with |w·x| ≤ 2^57 each and Σ|w·x| ≤ 2^58. A
product loses at most 2^-65 by the cut (and 2^-53 of itself by its rounding). Beyond the bounds the
sum is still one, right to some 2^-53 of its terms, but its last bits may depend on the order.
Invariant: no sum depends on what stood in its memory in an earlier round.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.strategy import Contribution, Strategy
from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16
_SMALL_BLOCK = 1 << 13
"""Blocks that fit the cache: of one float32 buffer, and of three of float64."""
_GRIDS = (2.0**6, 2.0**-29, 2.0**-64)
"""The slices of an exact sum are multiples of these, coarsest first."""
_ROUNDERS = tuple(1.5 * 2.0**52 * grid for grid in _GRIDS)
"""x + r - r is x rounded to a multiple of r's grid."""

SUMS = "sums"
"""What partial sums are called on their way."""

Sums = NDArray[Any]
"""(slices, values): one row of float32, or the slices of an exact sum in float64."""


@dataclass(frozen=True, slots=True)
class Share:
    """What an update counts."""

    weights: tuple[float, ...]
    """Its weight in the mean of each of its vectors."""
    contribution: Contribution
    """What it comes from."""


def share_of(strategy: Strategy, contribution: Contribution) -> Share:
    """What an update counts in a method's means."""
    weighs = strategy.uploads.values()
    examples, steps = contribution.examples, contribution.steps
    weights = tuple(weigh(examples=examples, steps=steps) for weigh in weighs)
    return Share(weights, contribution)


@dataclass(frozen=True, slots=True)
class SumPart:
    """The sum of some of a round's updates."""

    sums: Sums
    """As they are: valid until whoever made them adds more."""
    shares: Mapping[str, Share]
    """What is in it, by client."""


class Sum(Protocol):
    """Where weighted vectors are added up."""

    @property
    def sums(self) -> Sums:
        """All that has been added, for another one to merge."""

    def reset(self) -> None:
        """Forgets what was added."""

    def add(self, flat: Flat, weights: Sequence[float]) -> None:
        """Adds each vector of an update times its weight."""

    def merge(self, sums: Sums) -> None:
        """Adds what another sum of the same kind holds."""

    def mean(self, weights: Sequence[float]) -> Flat:
        """Each sum by its weight, (n,); it may lie in the sum's memory, which is then used up."""

    def holds(self, vector: Flat) -> bool:
        """Whether `vector` lies in memory that `reset` overwrites."""


class Accumulator:
    """A float32 sum, (1, n), in memory of its own for all rounds."""

    def __init__(self, n_values: int, *, vectors: int = 1) -> None:
        """Room for updates of `n_values` values, so many vectors of one length."""
        self.sums: Sums = np.zeros((1, n_values), np.float32)
        self._sum: Flat = self.sums[0]
        self._parts = np.split(self._sum, vectors)
        self._scratch = np.empty(min(n_values, _BLOCK), np.float32)

    def reset(self) -> None:
        """As `Sum`."""
        self._sum.fill(0.0)

    def add(self, flat: Flat, weights: Sequence[float]) -> None:
        """As `Sum`, in place, a block that fits the cache at a time."""
        for part, vector, weight in zip(self._parts, _split(flat, weights), weights, strict=True):
            for here, block in zip(_blocks(part, _BLOCK), _blocks(vector, _BLOCK), strict=True):
                scaled = np.multiply(block, np.float32(weight), out=self._scratch[: block.size])
                np.add(here, scaled, out=here)

    def merge(self, sums: Sums) -> None:
        """As `Sum`."""
        np.add(self.sums, sums, out=self.sums)

    def mean(self, weights: Sequence[float]) -> Flat:
        """As `Sum`: in place, valid until `reset`."""
        for part, weight in zip(self._parts, weights, strict=True):
            np.divide(part, np.float32(weight), out=part)
        return self._sum

    def holds(self, vector: Flat) -> bool:
        """As `Sum`."""
        return bool(np.may_share_memory(vector, self.sums))


class ExactSum:
    """A sum that no order changes, within the bounds of the module's head: (3, n) in float64."""

    def __init__(self, n_values: int, *, vectors: int = 1) -> None:
        """Room for updates of `n_values` values, so many vectors of one length."""
        self.sums: Sums = np.zeros((len(_GRIDS), n_values), np.float64)
        self._parts = np.split(self.sums, vectors, axis=1)
        self._rest, self._slice = np.empty((2, min(n_values, _SMALL_BLOCK)), np.float64)

    def reset(self) -> None:
        """As `Sum`."""
        self.sums.fill(0.0)

    def add(self, flat: Flat, weights: Sequence[float]) -> None:
        """As `Sum`."""
        for part, vector, weight in zip(self._parts, _split(flat, weights), weights, strict=True):
            for start in range(0, vector.size, _SMALL_BLOCK):
                block = vector[start : start + _SMALL_BLOCK]
                self._add(part[:, start : start + block.size], block, weight=weight)

    def _add(self, into: Sums, block: Flat, *, weight: float) -> None:
        """Cuts the products into slices; each cut leaves exactly the rest."""
        rest, cut = self._rest[: block.size], self._slice[: block.size]
        np.multiply(block, weight, out=rest, dtype=np.float64)
        for row, rounder in zip(into, _ROUNDERS, strict=True):
            np.add(rest, rounder, out=cut)
            np.subtract(cut, rounder, out=cut)
            np.subtract(rest, cut, out=rest)
            np.add(row, cut, out=row)

    def merge(self, sums: Sums) -> None:
        """As `Sum`: slices of one grid, so nothing is rounded here either."""
        np.add(self.sums, sums, out=self.sums)

    def mean(self, weights: Sequence[float]) -> Flat:
        """As `Sum`, in memory of its own; the finest slices come first."""
        mean = np.empty(self.sums.shape[1], np.float32)
        for part, out, weight in zip(
            self._parts, np.split(mean, len(self._parts)), weights, strict=True
        ):
            for start in range(0, out.size, _SMALL_BLOCK):
                coarse, middle, fine = part[:, start : start + _SMALL_BLOCK]
                whole = np.add(coarse, np.add(middle, fine))
                out[start : start + _SMALL_BLOCK] = np.divide(whole, weight)
        return mean

    def holds(self, vector: Flat) -> bool:
        """As `Sum`: no mean lies in it."""
        return bool(np.may_share_memory(vector, self.sums))


class Shares:
    """What each of a round's updates counts."""

    def __init__(self, vectors: int = 1) -> None:
        """Of none; an update has so many vectors."""
        self._vectors = vectors
        self.shares: dict[str, Share] = {}
        """Of what was added, by client."""

    @property
    def weights(self) -> list[float]:
        """The sum of the weights, by vector: rounded once, so that it has no order either."""
        columns = [[s.weights[i] for s in self.shares.values()] for i in range(self._vectors)]
        return [math.fsum(column) for column in columns]

    def contributions(self, order: Sequence[str]) -> tuple[Contribution, ...]:
        """What the updates come from, as `order` names their clients, whoever else it names."""
        place = {client: index for index, client in enumerate(order)}
        clients = sorted(self.shares, key=lambda client: place.get(client, len(place)))
        return tuple(self.shares[client].contribution for client in clients)


class RoundSum(Shares):
    """A round's updates: their sums, and what each of them counts."""

    def __init__(self, n_values: int, *, vectors: int = 1, exact: bool = False) -> None:
        """Room for updates of `n_values` values, so many vectors of one length; kept for ever."""
        super().__init__(vectors)
        self._sum: Sum = (ExactSum if exact else Accumulator)(n_values, vectors=vectors)

    def reset(self) -> None:
        """Starts a round."""
        self._sum.reset()
        self.shares = {}

    def add(self, client: str, flat: Flat, *, share: Share) -> None:
        """Adds a client's update."""
        self._sum.add(flat, share.weights)
        self.shares[client] = share

    def merge(self, part: SumPart) -> None:
        """Adds all that somebody else has summed up, of other clients.

        Raises:
            RefusedUpdate: it has a client that is in already, or other sums than these, or values
                that are not finite.
        """
        if twice := self.shares.keys() & part.shares.keys():
            raise RefusedUpdate(Refusal.DUPLICATE, f"{sorted(twice)} are in the sum already")
        mine, sums = self._sum.sums, part.sums
        if sums.dtype != mine.dtype:
            raise RefusedUpdate(Refusal.DTYPE, f"sums are {sums.dtype}, not {mine.dtype}")
        if sums.shape != mine.shape:
            raise RefusedUpdate(Refusal.SHAPE, f"sums are {sums.shape}, not {mine.shape}")
        if not all(np.isfinite(block).all() for row in sums for block in _blocks(row, _BLOCK)):
            raise RefusedUpdate(Refusal.NON_FINITE, "the sums have values that are not finite")
        self._sum.merge(sums)
        self.shares.update(part.shares)

    @property
    def n_bytes(self) -> int:
        """Of the sums, as they travel."""
        return self._sum.sums.nbytes

    def part(self) -> SumPart:
        """All of it, as something to merge; a view, valid until more is added."""
        return SumPart(self._sum.sums, dict(self.shares))

    def mean(self, origin: Flat | None = None) -> Flat:
        """The weighted means of at least one update, valid until `reset`, which comes next; where
        they began changes nothing."""
        return self._sum.mean(self.weights)

    def holds(self, vector: Flat) -> bool:
        """Whether `vector` lies in the memory that `reset` overwrites."""
        return self._sum.holds(vector)


def _split(flat: Flat, weights: Sequence[float]) -> list[Flat]:
    return np.split(flat, len(weights))


def _blocks(vector: Sums, size: int) -> Iterator[Sums]:
    for start in range(0, vector.size, size):
        yield vector[start : start + size]
