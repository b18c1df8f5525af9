"""The devices' frequencies for a round, and the CPU limits that stand for them.

`plan` calls it; the planner enforces the result.
"""

from collections.abc import Sequence

from lockstep_api.energy import limit_cores
from lockstep_api.names import client_name
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import AllocationPolicy, DeviceGroup, FederatedJobSpec


def groups_by_client(spec: FederatedJobSpec) -> dict[str, DeviceGroup]:
    """Each client of the job with its group, in the order of the partition."""
    return {
        client_name(group.name, index): group
        for group in spec.devices
        for index in range(group.replicas)
    }


def allocate(spec: FederatedJobSpec, clients: Sequence[str]) -> dict[str, float]:
    """The frequency of each of `clients` in GHz.

    Raises:
        KeyError: a client is not of this job.
        ValueError: this version has no such policy (`unsupported` refuses it before).
    """
    groups = groups_by_client(spec)
    match spec.allocation.policy:
        case AllocationPolicy.MAX:
            return {client: groups[client].frequency.max_ghz for client in clients}
        case AllocationPolicy.STATIC:
            slowest = min(parse_quantity(group.cpu_at_max) for group in spec.devices)
            return {client: _level(groups[client], slowest) for client in clients}
    raise ValueError(f"allocation.policy {spec.allocation.policy} is not supported yet")


def _level(group: DeviceGroup, cores: float) -> float:
    """The frequency at which `group` has as many `cores` as the slowest group at its maximum."""
    frequency = group.frequency
    ghz = frequency.max_ghz * cores / parse_quantity(group.cpu_at_max)
    return min(max(ghz, frequency.min_ghz), frequency.max_ghz)


def cpu_milli(group: DeviceGroup, ghz: float) -> int:
    """The CPU limit in millicores that stands for `ghz` on a device of `group`, at least 1."""
    cores = limit_cores(ghz, parse_quantity(group.cpu_at_max), group.frequency.max_ghz)
    return max(1, round(1000 * cores))
