"""The figures that a round's frequencies were made of, as the plan tells them; pure.

`allocate` and `tiers` say them of the very devices that they gave frequencies to; `explain` makes
these devices of them again. Invariant: nothing is estimated here a second time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array
from lockstep_api.wire import PlanBasis
from lockstep_api.wire_types import MOST_SECONDS
from lockstep_operator.core.insight import LEAST_MBIT, NO_UPLOAD_MBPS, Member

_FIGURES = 6
"""Significant ones: more are no better known, and only make plans longer."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """The devices' frequencies for a round."""

    ghz: Mapping[str, float]
    """Client → GHz."""
    basis: Mapping[str, PlanBasis] = field(default_factory=dict)
    """Client → what they were made of; empty: nothing was measured yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a round's devices are counted on, in their order; all arrays (N,)."""

    mbps: Array
    """Of the uplink; `NO_UPLOAD_MBPS`: not known."""
    upload_mbit: Array
    """Sent in the round; `LEAST_MBIT`: not known."""
    work_cores: Array
    """Core-seconds of a step."""
    finish_s: Array
    """When each one's part of the round is in."""


def had_ghz(members: Sequence[Member], asked: Mapping[str, float]) -> Array:
    """The frequencies that devices have when they are asked for these."""
    return np.array([member.fixed_ghz or asked[member.client] for member in members])


def told(members: Sequence[Member], counted: Counted) -> dict[str, PlanBasis]:
    """What the plan says of each device."""
    rows = zip(
        members,
        _known(counted.mbps, counted.mbps < NO_UPLOAD_MBPS),
        _known(counted.upload_mbit, counted.upload_mbit > LEAST_MBIT),
        _figures(counted.work_cores).tolist(),
        _figures(np.minimum(counted.finish_s, MOST_SECONDS)).tolist(),
        strict=True,
    )
    return {
        member.client: PlanBasis(
            mbps=mbps,
            upload_mbit=mbit,
            work_per_step=work,
            finish_seconds=finish_s,
            has_ghz=member.fixed_ghz,
        )
        for member, mbps, mbit, work, finish_s in rows
    }


def _known(values: Array, known: NDArray[np.bool_]) -> list[float | None]:
    pairs = zip(_figures(values).tolist(), known.tolist(), strict=True)
    return [value if is_known else None for value, is_known in pairs]


def _figures(values: Array) -> Array:
    """With so many significant figures."""
    with np.errstate(divide="ignore"):
        digits = _FIGURES - 1 - np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.where(np.isfinite(digits), digits, 0.0)
    return np.rint(values * scale) / scale
