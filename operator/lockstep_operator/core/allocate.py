"""The devices' frequencies for a round, and the CPU limits that stand for them.

`plan` calls it; the planner enforces the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from lockstep_allocator.baselines import equalize_10s, equalize_steady, maximum, static
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Method
from lockstep_allocator.observation import Observation
from lockstep_api.energy import limit_cores
from lockstep_api.names import client_name
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import AllocationPolicy, DeviceGroup, FederatedJobSpec
from lockstep_operator.core.basis import Allocation, Counted, had_ghz, told
from lockstep_operator.core.insight import Insight, Member, observation_of, work_per_step


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
) -> Allocation:
    """The frequency of each client, and what it was made of.

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
    members = [Member(client, groups[client], k, fixed.get(client)) for client, k in steps.items()]
    work_cores = work_per_step([*steps], insight)
    if work_cores is None or not members:
        return Allocation(_before_measured(spec, steps))
    rule = _rule(spec, policy)
    seen, asked = _asked(spec, members, insight=insight, method=rule.method)
    ghz = {one.client: within(one.group, float(f)) for one, f in zip(members, asked, strict=True)}
    mbps = rule.counts_on(seen)
    counted = Counted(
        mbps=mbps[0],
        upload_mbit=seen.devices.upload[0],
        work_cores=work_cores,
        finish_s=seen.devices.work[0] / had_ghz(members, ghz) + seen.upload_s(mbps)[0],
    )
    return Allocation(ghz, told(members, counted))


def _asked(
    spec: FederatedJobSpec, members: Sequence[Member], *, insight: Insight, method: Method
) -> tuple[Observation, Array]:
    """What is seen of the members, whose work was measured; a frequency for each."""
    name = spec.allocation.policy
    try:
        with np.errstate(all="ignore"):
            seen = observation_of(members, insight, energy_weight=spec.allocation.energy_weight)
            assert seen is not None
            asked = method(seen)[0]
    except (ArithmeticError, ValueError, IndexError) as error:
        raise NotComputable(f"policy {name} has no answer to what is known ({error})") from error
    if not np.isfinite(asked).all():
        raise NotComputable(f"policy {name} gives frequencies that are no numbers")
    return seen, asked


def within(group: DeviceGroup, ghz: float) -> float:
    """Within the group's range; a tenth of a MHz is less than a millicore stands for."""
    frequency = group.frequency
    if ghz >= frequency.max_ghz:
        return frequency.max_ghz
    return min(max(round(ghz, 4), frequency.min_ghz), frequency.max_ghz)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a job's frequencies are found, and the bandwidth (1, N) that this counts on."""

    method: Method
    counts_on: Callable[[Observation], Array]


def _rule(spec: FederatedJobSpec, policy: Method | None) -> _Rule:
    name = spec.allocation.policy
    if name is AllocationPolicy.MAX:
        return _Rule(maximum, attrgetter("recent_mbps"))
    if name is AllocationPolicy.STATIC:
        return _Rule(static, attrgetter("mean_mbps"))
    if name is AllocationPolicy.PPO and policy is not None:
        return _Rule(policy, attrgetter("recent_mbps"))
    if spec.training.local_steps.planned is not None:
        return _Rule(equalize_steady, attrgetter("steady_mbps"))
    return _Rule(equalize_10s, attrgetter("recent_mbps"))


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
