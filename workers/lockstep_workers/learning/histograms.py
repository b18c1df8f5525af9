"""Label histograms with noise: what a device tells of its labels where clusters are made of them.

Used by devices and the simulator. Noise of the Laplace distribution with scale 1/ε is added to each
count before it leaves the device: one example more or less changes one count by one, so that what
is told is ε-differentially private. How many examples there are is told as it is; what is left to
hide is the label of each, and another label changes two counts: 2ε. Rounding and leaving out
negative counts takes nothing of that away; telling counts with fresh noise again and again would,
so noise is drawn once.
"""

import math
import random
from collections.abc import Callable, Sequence

from lockstep_api.wire_types import MOST_INT

Draw = Callable[[], float]
"""Uniform in [0, 1)."""


def noised(counts: Sequence[int], *, epsilon: float, draw: Draw) -> list[int]:
    """The counts with noise, as whole numbers from 0 to what can be told."""
    return [_whole(count + _laplace(draw) / epsilon) for count in counts]


def _whole(value: float) -> int:
    return round(min(max(value, 0.0), float(MOST_INT)))


def drawn_by_seed(seed: int, client: str) -> Draw:
    """Draws that repeat: they hide nothing from who knows the seed."""
    return random.Random(f"labels/{seed}/{client}").random


def drawn_by_chance() -> Draw:
    """Draws that nobody repeats."""
    return random.SystemRandom().random


def _laplace(draw: Draw) -> float:
    """The difference of two exponential draws has the Laplace distribution of scale 1."""
    return math.log1p(-draw()) - math.log1p(-draw())
