"""How the examples of a step are dealt out to a cluster's devices, and their frequencies; pure.

`tiers` and `plan` call it. Batches come first: with them all devices of a cluster finish each step
together at the highest frequency, which is the least time that a step can have. Frequencies are for
what rounding and bounds leave over, and for clusters that are not the longest: one call of the
allocator's equaliser over all devices of the round, in which whatever is no work of the device
(transfers, latency, its cluster's back half) counts as the upload.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.equalize import levelled
from lockstep_operator.core.insight import Member, devices_of
from lockstep_operator.core.split_steps import (
    Load,
    Paces,
    of_a_round,
    of_a_step,
    of_an_example,
    sent_of_an_example,
)

LEAST_SHARE = 0.25
"""Of training.batchSize: a device takes no fewer of a step's examples."""
MOST_SHARE = 2.0
"""It takes no more."""
_TURNS = 60
_SAME = 1e-10

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many examples of a step each device may take."""

    low: Numbers
    high: Numbers


def bounds_of(batch_size: int, most: Sequence[int]) -> Bounds:
    """From a quarter of training.batchSize to twice as many, or what fits into memory (`most`).

    training.batchSize itself is always allowed: who asks for it is taken at his word.
    """
    low, high = max(1, round(LEAST_SHARE * batch_size)), round(MOST_SHARE * batch_size)
    fits = np.maximum(np.array(most, np.int64), batch_size)
    return Bounds(np.full(len(most), low), np.minimum(fits, high))


def equal_batches(count: int, batch_size: int) -> Numbers:
    """The same for all."""
    return np.full(count, batch_size)


def proportional_batches(paced: Paces, load: Load, *, batch_size: int, bounds: Bounds) -> Numbers:
    """Batches with which all finish a step together; their sum is that of equal ones.

    Device i takes s_i + p_i·b_i seconds of a step. With b_i = (T - s_i)/p_i within bounds the sum
    rises with T. Rounded down, what is missing goes one by one to who is done first with it.
    """
    each, once = of_an_example(paced, load), of_a_step(paced, load)
    total = batch_size * len(each)
    low_s, high_s = 0.0, float((once + each * bounds.high).max())
    for _ in range(_TURNS):
        middle_s = 0.5 * (low_s + high_s)
        enough = _within(middle_s, each, once=once, bounds=bounds).sum() >= total
        low_s, high_s = (low_s, middle_s) if enough else (middle_s, high_s)
        if high_s - low_s <= _SAME * high_s:
            break
    shares = _within(low_s, each, once=once, bounds=bounds)
    return _rounded(shares, total, each=each, once=once, bounds=bounds)


def _within(seconds: float, each: Array, *, once: Array, bounds: Bounds) -> Array:
    return np.clip((seconds - once) / each, bounds.low, bounds.high)


def _rounded(shares: Array, total: int, *, each: Array, once: Array, bounds: Bounds) -> Numbers:
    numbers = np.maximum(np.floor(shares + 1e-9).astype(np.int64), bounds.low)
    missing = total - int(numbers.sum())
    while missing > len(numbers):  # no device takes time that can be told from another's
        room = bounds.high - numbers
        part = np.minimum(room, missing // int((room > 0).sum()))
        numbers += part
        missing -= int(part.sum())
    for _ in range(missing):
        done_s = np.where(numbers < bounds.high, once + each * (numbers + 1), np.inf)
        numbers[int(done_s.argmin())] += 1
    return numbers


def step_seconds(batches: Numbers, *, paced: Paces, load: Load) -> float:
    """What a step takes at the highest frequency, without the back half."""
    return float((of_a_step(paced, load) + batches * of_an_example(paced, load)).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRound:
    """A round of split training, as the equaliser sees its devices."""

    devices: Devices
    """With the work of their steps."""
    away_s: Array
    """(N,) what of the round is no work of each device."""
    sent_mbit: Array
    """(N,) what each sends in the round."""

    def equalized(self) -> Array:
        """(N,) frequencies in GHz."""
        return np.asarray(levelled(self.devices, self.away_s[None])[0])


def split_round(
    members: Sequence[Member],
    batches: Numbers,
    *,
    paced: Paces,
    load: Load,
    back_s: Array,
    energy_weight: float,
) -> SplitRound:
    """What a round asks of its devices.

    Args:
        members: the devices, with their steps.
        batches: examples of a step of each.
        paced: how fast they are.
        load: what the cut asks.
        back_s: what the back half of each one's cluster takes in a step.
        energy_weight: λ of the cost time + λ · energy.
    """
    steps = np.array([member.steps for member in members])
    away_s = of_a_step(paced, load) + batches * sent_of_an_example(paced, load) + back_s
    work, sizes = paced.core_s * batches, np.ones(len(members))
    fronts = steps if load.every_step else 1
    return SplitRound(
        devices=devices_of(members, work, sizes=sizes, energy_weight=energy_weight),
        away_s=steps * away_s + of_a_round(paced, load),
        sent_mbit=np.asarray(steps * batches * load.up_mbit + fronts * load.front_mbit, float),
    )
