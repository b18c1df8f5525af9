"""A round's updates, each kept until the round closes, for what no running sum can tell. No logic
of HTTP or jobs; its only I/O is a file without a name, in the folder for temporary files.

`learning.server` uses it in the place of a sum where `strategy.aggregation` is not `mean`. In
memory are one result and a block of every update (16 MB in all), on disk 4 bytes for each value of
each update of the round. Every update counts the same, whatever its client holds: a weight would
be one more thing to win by.

trimmedMean: of each value the f smallest and the f largest are left out (Yin et al. 2018); f is
the share `trim` of the updates, rounded up, and less than half of them. median: all but the middle
one or two. krum: the mean of the n − f updates that lie closest to their n − f − 2 neighbours
(multi-Krum, Blanchard et al. 2017).
Invariant: what comes out follows from the updates and their clients' names, not from their order.
"""

import math
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep_api.sessions import Refusal
from lockstep_api.spec import Aggregation
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.sums import Share, Shares, SumPart
from lockstep_workers.tensors import Flat

_BLOCK_VALUES = 1 << 22
"""Values of all updates that are in memory at once."""

Rows = NDArray[Any]
"""(updates, values) of a block, in the order of the clients' names."""


class KeptUpdates(Shares):
    """A round's updates of one vector each, and what they come to."""

    n_bytes = 0
    """Of sums that travel: there are none."""

    def __init__(
        self, n_values: int, *, how: Aggregation, trim: float, block_values: int = _BLOCK_VALUES
    ) -> None:
        """Room for updates of `n_values` values; of all of them so many are in memory at once."""
        super().__init__()
        self._block_values = block_values
        self._n, self._how, self._trim = n_values, how, trim
        self._file, name = tempfile.mkstemp(prefix="updates-")
        os.unlink(name)  # its room is free when this process ends, however it does
        weakref.finalize(self, os.close, self._file)

    def reset(self) -> None:
        """Starts a round; the file's room is free again."""
        os.ftruncate(self._file, 0)
        self.shares = {}

    def add(self, client: str, flat: Flat, *, share: Share) -> None:
        """Keeps a client's update.

        Raises:
            OSError: there is no room for it; nothing has changed.
        """
        data, at = flat.data.cast("B"), len(self.shares) * self._row_bytes
        while data:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written
        self.shares[client] = share

    def merge(self, part: SumPart) -> None:
        """Never of use: each update has to be here.

        Raises:
            RefusedUpdate: always.
        """
        raise RefusedUpdate(Refusal.SHAPE, f"aggregation {self._how} takes no sums of edges")

    def holds(self, vector: Flat) -> bool:
        """Never: each result has memory of its own."""
        return False

    def mean(self, origin: Flat) -> Flat:
        """What at least one update comes to; `origin` is the model that they began with."""
        if self._how is Aggregation.KRUM:
            chosen = self._closest(origin)
            return self._of_each_block(lambda rows: rows[chosen].mean(axis=0, dtype=np.float64))
        count = len(self.shares)
        left_out = (count - 1) // 2
        if self._how is Aggregation.TRIMMED_MEAN:
            left_out = min(self._dishonest(), left_out)
        return self._of_each_block(lambda rows: _middle(rows, left_out))

    def _dishonest(self) -> int:
        """f: how many updates may be anything."""
        return math.ceil(self._trim * len(self.shares))

    def _closest(self, origin: Flat) -> NDArray[np.int64]:
        """Places of the n − f updates that krum trusts."""
        count = len(self.shares)
        f = max(0, min(self._dishonest(), (count - 3) // 2))
        products = np.zeros((count, count))
        for start, rows in self._blocks():
            apart = rows - origin[start : start + rows.shape[1]].astype(np.float64)
            products += apart @ apart.T
        squares = np.diag(products)
        between = np.maximum(squares[:, None] + squares[None] - 2 * products, 0.0)
        np.fill_diagonal(between, np.inf)
        near = np.sort(between, axis=1)[:, : max(1, count - f - 2)]
        scores = np.where(np.isfinite(near), near, 0.0).sum(axis=1)
        return np.sort(np.argsort(scores, kind="stable")[: count - f])

    @property
    def _row_bytes(self) -> int:
        return 4 * self._n

    def _of_each_block(self, combine: Any) -> Flat:
        result = np.empty(self._n, np.float32)
        for start, rows in self._blocks():
            result[start : start + rows.shape[1]] = combine(rows)
        return result

    def _blocks(self) -> Iterator[tuple[int, Rows]]:
        """Where a block begins, and what each update has there."""
        kept = list(self.shares)
        places = [kept.index(client) for client in sorted(kept)]
        size = max(1, min(self._n, self._block_values // len(places)))
        buffer = np.empty((len(places), size), np.float32)
        for start in range(0, self._n, size):
            width = min(size, self._n - start)
            for row, place in enumerate(places):
                part = buffer[row, :width].data.cast("B")
                _read(self._file, part, at=place * self._row_bytes + 4 * start)
            yield start, buffer[:, :width]


def _middle(rows: Rows, left_out: int) -> Rows:
    """(values,) the mean of what is left of each value without the outermost ones."""
    by_value = np.sort(np.ascontiguousarray(rows.T), axis=1)
    middle: Rows = by_value[:, left_out : len(rows) - left_out]
    means: Rows = middle.mean(axis=1, dtype=np.float64)
    return means


def _read(file: int, into: memoryview, *, at: int) -> None:
    while into:
        got = os.preadv(file, [into], at)
        into, at = into[got:], at + got
