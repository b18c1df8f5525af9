"""What a round's plan is expected to cost, and what others would have cost; pure.

Made of the figures that the plan tells (`basis`), by the allocator's own functions: the equaliser
gives the frequencies of alternative `equalize`, `Devices` says times and joules. `explain` shows
them to people. Invariant: for a plan of the equaliser, planned and equalize are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.equalize import levelled
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanBasis, RoundPlan
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import Member, devices_of


class Method(StrEnum):
    """Whose frequencies they are."""

    PLANNED = "planned"
    """Those of the plan."""
    EQUALIZE = "equalize"
    """Everyone finishes together at the least cost, if all is as the plan counts on."""
    MAXIMUM = "maximum"
    """Everyone at maxGHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is expected of a device in a round."""

    ghz: float
    compute_s: float
    away_s: float
    """What of the round is no work of it: the upload; in mode split also what it receives, and its
    edge's back half."""
    finish_s: float
    """When its part of the round is in."""
    joules: float
    """Computing, sending, and idling until the round's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A round with the frequencies of a method."""

    method: Method
    clients: Mapping[str, Expected]
    seconds: float
    joules: float
    cost: float
    """Seconds + energyWeight · joules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The devices of a plan, as it counts on them: one fleet."""

    members: tuple[Member, ...]
    devices: Devices
    """Those whose limits are not in force have one frequency."""
    ghz: Array
    """(1, N) frequencies of the plan."""
    away_s: Array
    """(1, N)."""
    sending_s: Array
    """(1, N) what of that is sending."""

    def with_method(self, method: Method) -> Alternative:
        """The round with a method's frequencies."""
        match method:
            case Method.PLANNED:
                return self._with(method, self.ghz)
            case Method.EQUALIZE:
                return self._with(method, levelled(self.devices, self.away_s))
            case Method.MAXIMUM:
                return self._with(method, self.devices.max_ghz)

    def _with(self, method: Method, ghz: Array) -> Alternative:
        devices, compute_s = self.devices, self.devices.work / ghz
        finish_s = compute_s + self.away_s
        seconds = finish_s.max(-1)
        own = devices.joules(compute_s) + devices.sending(self.sending_s)
        joules = own + devices.idle_watts * seconds[:, None]
        spent = devices.energy(seconds, compute_s, upload_s=self.sending_s)
        rows = np.stack([ghz, compute_s, self.away_s, finish_s, joules])[:, 0].T.tolist()
        names = ("ghz", "compute_s", "away_s", "finish_s", "joules")
        return Alternative(
            method=method,
            clients={
                member.client: Expected(**dict(zip(names, row, strict=True)))
                for member, row in zip(self.members, rows, strict=True)
            },
            seconds=float(seconds[0]),
            joules=float(spent[0]),
            cost=float(seconds[0] + devices.weight[0, 0] * spent[0]),
        )


def counted_of(spec: FederatedJobSpec, plan: RoundPlan) -> Counted | None:
    """The devices of a plan of the job; None: nothing was measured when it was made."""
    made_of = [(one, one.basis) for one in plan.participants if one.basis is not None]
    if not made_of:
        return None
    groups = groups_by_client(spec)
    members = tuple(
        Member(one.client, groups[one.client], one.steps, basis.has_ghz) for one, basis in made_of
    )
    every = [basis for _, basis in made_of]
    devices = devices_of(
        members,
        np.array([basis.work_per_step for basis in every]),
        sizes=np.array([basis.upload_mbit or 0.0 for basis in every]),
        energy_weight=spec.allocation.energy_weight,
    )
    planned = np.array([[basis.has_ghz or one.frequency_ghz for one, basis in made_of]])
    finish_s = np.array([[basis.finish_seconds for basis in every]])
    return Counted(
        members=members,
        devices=devices,
        ghz=planned,
        away_s=np.maximum(finish_s - devices.work / planned, 0.0),
        sending_s=_sending_s(every),
    )


def _sending_s(every: Sequence[PlanBasis]) -> Array:
    known = [(one.upload_mbit, one.mbps) for one in every]
    return np.array([[0.0 if not mbit or not mbps else mbit / mbps for mbit, mbps in known]])


def alternatives(spec: FederatedJobSpec, plan: RoundPlan) -> tuple[Alternative, ...]:
    """A plan beside what it could have been; empty: nothing was measured when it was made."""
    counted = counted_of(spec, plan)
    if counted is None:
        return ()
    with np.errstate(all="ignore"):  # as when it was planned
        return tuple(counted.with_method(one) for one in Method)
