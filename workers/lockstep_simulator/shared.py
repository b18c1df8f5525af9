"""Memory that several processes of one simulation share; `processes` hands it out.

Objects travel through a pipe, their arrays and tensors through an arena beside it, which takes one
object at a time. Invariant: an array in it begins where its own alignment wants it to, so that what
is computed does not depend on where it came from.
"""

import io
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONTEXT = multiprocessing.get_context("forkserver")
"""Not from this process, whose other threads may hold locks and in which torch may have threads:
processes are forked from one that has done nothing but import what all of them need."""
CONTEXT.set_forkserver_preload(["lockstep_simulator.other_process"])
_ALIGNED = 64

Packed = tuple[bytes, tuple[tuple[int, int], ...]]
"""An object without its arrays, and where these begin and end in the arena."""


class SharedArray:
    """An array that is handed to a process when it is started."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Of zeros."""
        self._shape, self._dtype = shape, dtype
        self._bytes = _memory(int(np.prod(shape)) * dtype.itemsize)

    @classmethod
    def joined(cls, parts: Sequence[NDArray[Any]]) -> "SharedArray":
        """Copies of arrays, one after another."""
        made = cls((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
        np.concatenate(parts, out=made.array())
        return made

    def array(self) -> NDArray[Any]:
        """The array itself."""
        count = int(np.prod(self._shape))
        return np.frombuffer(self._bytes, self._dtype, count).reshape(self._shape)


class Arena:
    """Carries one object from one process to another; what does not fit travels with the rest."""

    def __init__(self, size: int) -> None:
        """Room for arrays of so many bytes."""
        self._bytes = _memory(size)

    def pack(self, value: object) -> Packed:
        """Puts an object in; the one before is overwritten."""
        room = memoryview(self._bytes).cast("B")
        spans: list[tuple[int, int]] = []

        def keep(buffer: pickle.PickleBuffer) -> bool:
            """Whether a buffer is to be pickled instead."""
            raw, begin = buffer.raw(), -(-(spans[-1][1] if spans else 0) // _ALIGNED) * _ALIGNED
            if begin + raw.nbytes > room.nbytes:
                return True
            room[begin : begin + raw.nbytes] = raw
            spans.append((begin, begin + raw.nbytes))
            return False

        out = io.BytesIO()
        _Pickler(out, keep).dump(value)
        return out.getvalue(), tuple(spans)

    def unpack(self, packed: Packed, *, copy: bool) -> Any:
        """Takes an object out; without a copy, its arrays change when the next one is put in."""
        body, spans = packed
        room = memoryview(self._bytes).cast("B")
        buffers = (room[begin:end] for begin, end in spans)
        return pickle.loads(body, buffers=map(bytearray, buffers) if copy else buffers)


class _Pickler(pickle.Pickler):
    """Treats tensors as arrays."""

    def __init__(self, out: io.BytesIO, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(out, protocol=5, buffer_callback=keep)

    def reducer_override(self, value: object) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _memory(size: int) -> Any:
    return CONTEXT.RawArray("c", max(1, size))
