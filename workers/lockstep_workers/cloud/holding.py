"""Keeps updates that are ahead of their turn: in memory up to a budget, then in temporary files.

Made by the cloud role's `server` for `training.deterministic`, emptied in client order by
`learning.sums`. What that costs: each early update is copied
once, and one beyond the budget is written to the pod's /tmp and read back when its turn comes.
"""

import tempfile
from contextlib import suppress

import numpy as np

from lockstep_workers.learning.sums import Take
from lockstep_workers.tensors import Flat

BUDGET_BYTES = 64 << 20


class Holding:
    """A place for updates until they are taken."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        """At most `budget_bytes` of updates are held in memory."""
        self._budget, self._in_memory = budget_bytes, 0

    def put(self, flat: Flat) -> Take:
        """Copies a vector of shape (n,); the result gives the copy back, once.

        When the temporary folder is full, memory has to do.
        """
        if self._in_memory + flat.nbytes > self._budget:
            with suppress(OSError):
                return _spooled(flat)
        self._in_memory += flat.nbytes
        copy = flat.copy()

        def take() -> Flat:
            self._in_memory -= copy.nbytes
            return copy

        return take


def _spooled(flat: Flat) -> Take:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the vector is taken
    try:
        flat.tofile(file)
        file.seek(0)
    except OSError:
        file.close()
        raise

    def take() -> Flat:
        with file:
            return np.fromfile(file, np.float32, flat_size)

    flat_size = flat.size
    return take
