"""How far an update may be from what it began with, and what is done with one that is further.

Pure functions over flat vectors, a block that fits the cache at a time. Whoever adds updates calls
them before it weighs one (`learning.clipping`). Invariant: every value of a result is computed by
itself, and a distance in one fixed order, so that both have the same bits wherever they are made.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lockstep_workers.tensors import Flat

_BLOCK = 1 << 16
_PLACES = 256


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


class Sketch:
    """Directions in a few numbers: the cosine of two is that of the vectors, give or take 1/16.

    A vector's values are added up in 256 places, each with a sign that is drawn once (a count
    sketch, Charikar et al. 2002).
    """

    def __init__(self, n_values: int) -> None:
        """Of vectors of so many values."""
        rng = np.random.default_rng(0x51D)
        self._signs = rng.choice([-1.0, 1.0], _BLOCK)
        self._of_block = rng.choice([-1.0, 1.0], (-(-n_values // _BLOCK), _PLACES))

    def direction(self, vector: Flat, origin: Flat) -> NDArray[np.float64]:
        """(256,) of length 1: where `vector` lies from its origin; zeros when it is there."""
        places = np.zeros(_PLACES)
        for number, start in enumerate(range(0, vector.size, _BLOCK)):
            apart = np.zeros(_BLOCK)
            end = min(start + _BLOCK, vector.size)
            np.subtract(vector[start:end], origin[start:end], out=apart[: end - start])
            apart *= self._signs
            places += self._of_block[number] * apart.reshape(-1, _PLACES).sum(axis=0)
        length = float(np.sqrt(np.sum(np.square(places))))
        return places / length if length > 0 else places
