"""The devices' frequencies for a round, and the CPU limits that stand for them.

`plan` calls it; the planner enforces the result.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lockstep_allocator.baselines import equalize_10s, equalize_steady, static
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Method
from lockstep_api.energy import limit_cores
from lockstep_api.names import client_name
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import AllocationPolicy, DeviceGroup, FederatedJobSpec
from lockstep_operator.core.insight import Insight, Member, observation_of


class NotComputable(Exception):
    """There are no frequencies for what is known; the message is for people."""


def groups_by_client(spec: FederatedJobSpec) -> dict[str, DeviceGroup]:
    """Each client of the job with its group, in the order of the partition."""
    return {
        client_name(group.name, index): group
        for group in spec.devices
        for index in range(group.replicas)
    }


def allocate(
    spec: FederatedJobSpec,
    steps: Mapping[str, int],
    *,
    insight: Insight,
    policy: Method | None = None,
    fixed: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The frequency of each client in GHz.

    Until work was measured once, `static` levels the devices by cpuAtMax and steps, and every other
    policy lets them run at their maximum.

    Args:
        spec: of the job.
        steps: who takes part → local steps.
        insight: what is known of them.
        policy: the trained policy; None stands for the equaliser.
        fixed: client → the frequency that it has, whatever is asked, in GHz.

    Raises:
        KeyError: a client is not of this job.
        NotComputable: what is known has no answer.
    """
    groups = groups_by_client(spec)
    fixed = fixed or {}
    if spec.allocation.policy is AllocationPolicy.MAX:
        return {client: groups[client].frequency.max_ghz for client in steps}
    members = [Member(client, groups[client], k, fixed.get(client)) for client, k in steps.items()]
    asked = _asked(spec, members, insight=insight, policy=policy)
    if asked is None:
        return _before_measured(spec, steps)
    return {
        client: within(groups[client], float(ghz)) for client, ghz in zip(steps, asked, strict=True)
    }


def _asked(
    spec: FederatedJobSpec, members: Sequence[Member], *, insight: Insight, policy: Method | None
) -> Array | None:
    """A frequency for each member, as the method gives it; None: no work was ever measured."""
    name = spec.allocation.policy
    try:
        with np.errstate(all="ignore"):
            seen = observation_of(members, insight, energy_weight=spec.allocation.energy_weight)
            asked = None if seen is None else _method(spec, policy)(seen)[0]
    except (ArithmeticError, ValueError, IndexError) as error:
        raise NotComputable(f"policy {name} has no answer to what is known ({error})") from error
    if asked is not None and not np.isfinite(asked).all():
        raise NotComputable(f"policy {name} gives frequencies that are no numbers")
    return asked


def within(group: DeviceGroup, ghz: float) -> float:
    """Within the group's range; a tenth of a MHz is less than a millicore stands for."""
    frequency = group.frequency
    return min(max(round(ghz, 4), frequency.min_ghz), frequency.max_ghz)


def _method(spec: FederatedJobSpec, policy: Method | None) -> Method:
    if spec.allocation.policy is AllocationPolicy.STATIC:
        return static
    if spec.allocation.policy is AllocationPolicy.PPO and policy is not None:
        return policy
    planned = spec.training.local_steps.planned is not None
    return equalize_steady if planned else equalize_10s


def _before_measured(spec: FederatedJobSpec, steps: Mapping[str, int]) -> dict[str, float]:
    groups = groups_by_client(spec)
    if spec.allocation.policy is not AllocationPolicy.STATIC:
        return {client: groups[client].frequency.max_ghz for client in steps}
    slowest = min(parse_quantity(group.cpu_at_max) for group in spec.devices)
    length = {client: k / parse_quantity(groups[client].cpu_at_max) for client, k in steps.items()}
    longest = max([*length.values(), min(steps.values(), default=0) / slowest])
    return {client: _level(groups[client], length[client] / longest) for client in steps}


def _level(group: DeviceGroup, share: float) -> float:
    """The frequency at which `group` computes for 1/`share` of the time that it does at most."""
    return within(group, group.frequency.max_ghz * share)


def cpu_milli(group: DeviceGroup, ghz: float) -> int:
    """The CPU limit in millicores that stands for `ghz` on a device of `group`, at least 1."""
    cores = limit_cores(
        ghz, cpu_at_max=parse_quantity(group.cpu_at_max), max_ghz=group.frequency.max_ghz
    )
    return max(1, round(1000 * cores))
