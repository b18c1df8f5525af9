"""Data files in the IDX format, gzipped: read in pieces, of which only the wanted rows are kept.

Called by `data`. Invariant: beside what is returned no more than a piece of a file is held, and a
file makes nobody reserve more than it could unfold to.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockstep_workers.errors import InvalidJob

_UBYTE = bytes((0, 0, 8))
"""How a file of unsigned bytes begins."""
_PIECE_BYTES = 1 << 18
_MOST_UNFOLDED = 1032
"""Bytes that DEFLATE makes of one, at most (zlib's own figure)."""


@dataclass(frozen=True, slots=True)
class IdxFile:
    """An array of unsigned bytes in a file: its shape is known, its rows are read when wanted."""

    path: Path
    shape: tuple[int, ...]
    """(rows, …), none of them 0."""

    @classmethod
    def at(cls, path: Path) -> "IdxFile":
        """Reads the head of a file.

        Raises:
            InvalidJob: the file is missing, or not such an array.
        """
        with _opened(path) as file:
            shape = _shape_of(file)
            if not shape or 0 in shape:
                raise _not_idx(path)
            if math.prod(shape) > path.stat().st_size * _MOST_UNFOLDED:
                raise _not_idx(path)
        return cls(path, shape)

    def read(self) -> NDArray[np.uint8]:
        """All rows, without a list of which; errors as `rows`."""
        found = np.empty(self.shape, np.uint8)
        begin = 0
        for piece in self._pieces():
            found[begin : begin + len(piece)] = piece
            begin += len(piece)
        return found

    def rows(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen rows, in their order.

        Raises:
            InvalidJob: the file cannot be read to its end, or ends elsewhere than its head says.
        """
        order = np.argsort(chosen, kind="stable")
        wanted = chosen[order]
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        begin = 0
        for piece in self._pieces():
            here = slice(*np.searchsorted(wanted, (begin, begin + len(piece))))
            found[order[here]] = piece[wanted[here] - begin]
            begin += len(piece)
        return found

    def _pieces(self) -> Iterator[NDArray[np.uint8]]:
        """All rows, some at a time."""
        row_bytes = math.prod(self.shape[1:])
        most = max(1, _PIECE_BYTES // row_bytes)
        with _opened(self.path) as file:
            _shape_of(file)
            for begin in range(0, self.shape[0], most):
                count = min(most, self.shape[0] - begin)
                data = file.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise _not_idx(self.path)
                yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
            if file.read(1):
                raise _not_idx(self.path)


def _shape_of(file: gzip.GzipFile) -> tuple[int, ...]:
    """The shape in a head, behind which the file is read from now on; (): it has none."""
    head = file.read(4)
    if len(head) != 4 or head[:3] != _UBYTE:
        return ()
    sizes = file.read(4 * head[3])
    return tuple(map(int, np.frombuffer(sizes, ">u4"))) if len(sizes) == 4 * head[3] else ()


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile]:
    try:
        with gzip.open(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidJob(f"cannot read the data file {path}: {error}") from error


def _not_idx(path: Path) -> InvalidJob:
    return InvalidJob(f"{path} is not an IDX file of unsigned bytes")
