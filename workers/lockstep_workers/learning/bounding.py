"""How far an update may be from what it began with, and what is done with one that is further.

Pure functions over flat vectors, a block that fits the cache at a time. Whoever adds updates calls
them before it weighs one (`learning.clipping`). Invariant: every value of a result is computed by
itself, and a distance in one fixed order, so that both have the same bits wherever they are made.
"""

import math

import numpy as np

from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16


def distance(vector: Flat, origin: Flat | None = None) -> float:
    """‖vector − origin‖, from 0 where there is no origin; in float64, which holds any square."""
    total, scratch = 0.0, np.empty(min(vector.size, _BLOCK), np.float64)
    for start in range(0, vector.size, _BLOCK):
        block = vector[start : start + _BLOCK]
        apart = scratch[: block.size]
        if origin is None:
            np.copyto(apart, block)
        else:
            np.subtract(block, origin[start : start + _BLOCK], out=apart, dtype=np.float64)
        np.square(apart, out=apart)
        total += float(np.sum(apart))
    return math.sqrt(total)


def scale(vector: Flat, factor: float, *, origin: Flat | None = None) -> None:
    """vector ← origin + factor · (vector − origin), in place."""
    scratch = np.empty(min(vector.size, _BLOCK), np.float64)
    for start in range(0, vector.size, _BLOCK):
        block = vector[start : start + _BLOCK]
        part = scratch[: block.size]
        if origin is None:
            np.multiply(block, factor, out=block)
            continue
        begun = origin[start : start + _BLOCK]
        np.subtract(block, begun, out=part, dtype=np.float64)
        np.multiply(part, factor, out=part)
        np.add(part, begun, out=part)
        np.copyto(block, part, casting="same_kind")


def clip(vector: Flat, bound: float, *, origin: Flat | None = None) -> float:
    """Brings a vector that is further than `bound` from its origin back to it, in place.

    Returns:
        The share of the difference that is left: 1 where nothing was changed.
    """
    apart = distance(vector, origin)
    if apart <= bound:
        return 1.0
    factor = bound / apart
    scale(vector, factor, origin=origin)
    return factor
