"""What a finished round cost, beside the least that it could have cost; pure.

The planner asks for each report. A device's round is W/f of computing and the rest of the way to
its arrival, which is taken as it was met, whatever its frequency had been: for bandwidths that hold
for a round the least cost is a closed problem, the equaliser's (2 ms for 8 devices, 40 ms for
1,000). The allocator's own `optimum` follows a trace within the round, which nobody has of a real
one. Invariant: what was spent is never less than the optimum, and
what came after the last update is in both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lockstep_allocator.devices import Array
from lockstep_api.spec import DeviceGroup, FederatedJobSpec
from lockstep_api.wire import ClientReport, RoundReport
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.alternatives import Counted, Method
from lockstep_operator.core.insight import Member, devices_of

_LEAST_WORK = 1e-9
"""Core-seconds of a step: none takes nothing."""


@dataclass(frozen=True, slots=True)
class RoundCost:
    """Seconds + energyWeight · joules of a round."""

    spent: float
    """With the frequencies that its devices had."""
    optimum: float
    """With those that one had chosen who knew what it met."""


def round_cost(spec: FederatedJobSpec, report: RoundReport) -> RoundCost | None:
    """What a round of the job cost; None: no update of its devices is in, or figures that have no
    answer are."""
    groups = groups_by_client(spec)
    clients = [one for one in report.clients if one.update.client in groups]
    if not clients:
        return None
    with np.errstate(all="ignore"):  # figures of devices: what has no answer is not told
        met = _met(spec, clients, groups=groups)
        planned, best = met.with_method(Method.PLANNED), met.with_method(Method.EQUALIZE)
        after_s = max(0.0, report.seconds - planned.seconds)
        after = after_s * float(met.devices.second_cost[0, 0])
    found = RoundCost(planned.cost + after, min(best.cost, planned.cost) + after)
    return found if np.isfinite([found.spent, found.optimum]).all() else None


def _met(
    spec: FederatedJobSpec, clients: Sequence[ClientReport], *, groups: Mapping[str, DeviceGroup]
) -> Counted:
    """The devices as they were in the round."""
    updates = [one.update for one in clients]
    members = tuple(Member(one.client, groups[one.client], one.steps) for one in updates)
    devices = devices_of(
        members,
        np.array([max(one.cpu_seconds / one.steps, _LEAST_WORK) for one in updates]),
        sizes=np.array([one.bytes * 8e-6 for one in clients]),
        energy_weight=spec.allocation.energy_weight,
    )
    had = _row([one.frequency_ghz for one in updates])
    had = np.clip(had, devices.min_ghz, devices.max_ghz)
    arrived_s = _row([one.arrived_seconds for one in clients])
    away_s = np.maximum(arrived_s - devices.work / had, 0.0)
    sending_s = np.minimum(_row([one.upload_seconds for one in clients]), away_s)
    return Counted(members=members, devices=devices, ghz=had, away_s=away_s, sending_s=sending_s)


def _row(values: Sequence[float]) -> Array:
    return np.array([values])
