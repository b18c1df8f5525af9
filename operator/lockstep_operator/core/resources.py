"""CPU and memory that a job's pods ask for, within what their namespace allows; `pods` calls it.

Lockstep's own choices (the boost of a starting device, half of its least as a request, a trainer's
limit) keep to the LimitRanges and ResourceQuotas of the namespace. What the user asked for is never
made less: where that is not allowed, Kubernetes refuses the pod and the job says so.
"""

import math

from lockstep_api.energy import limit_cores
from lockstep_api.quantity import format_cpu, parse_quantity
from lockstep_api.spec import Cloud, DeviceGroup, Edge, FederatedJobSpec
from lockstep_operator.core.model import Manifest, Settings

TRAINER_MEMORY = "1Gi"
_TRAINER_REQUEST = 0.1
_TRAINER_LIMIT = 1.0
_SCRATCH = 4.0
_OF_A_SENDER = 2 * 0.25


def server_resources(server: Cloud | Edge) -> Manifest:
    limits = {"memory": server.memory}
    if server.cpu_limit is not None:
        limits["cpu"] = server.cpu_limit
    return {"requests": {"cpu": server.cpu, "memory": server.memory}, "limits": limits}


def server_threads(server: Edge) -> int:
    """Threads that compute in such a pod: as many as it has whole cores, one at least."""
    return max(1, math.floor(parse_quantity(server.cpu_limit or server.cpu)))


def scratch_size(memory: str, senders: int = 0) -> str:
    """The room of /tmp, for a pod of so much memory that so many clients and edges send to.

    A server writes there a body of each sender that is slow and, where the aggregation takes all
    updates together, an update of each; a model is a quarter of its memory at the most: beside the
    model that it hands out it holds three as large. What a strategy remembers on a device fits into
    the device's memory. Four times the memory are for the user's own code.
    """
    mebibytes = math.ceil(parse_quantity(memory) * (_SCRATCH + senders * _OF_A_SENDER) / 2**20)
    return f"{mebibytes}Mi"


def trainer_resources(settings: Settings) -> Manifest:
    bounds = settings.bounds
    request = max(_TRAINER_REQUEST, bounds.least_cpu)
    limit = max(request, min(_TRAINER_LIMIT, bounds.most_cpu, request * bounds.ratio))
    return {
        "requests": {"cpu": format_cpu(request), "memory": TRAINER_MEMORY},
        "limits": {"cpu": format_cpu(limit), "memory": TRAINER_MEMORY},
    }


def device_resources(spec: FederatedJobSpec, group: DeviceGroup, *, settings: Settings) -> Manifest:
    request = _request(group, settings)
    start = _start_cores(spec, group, settings=settings, request=request)
    return {
        "requests": {"cpu": format_cpu(request), "memory": group.memory},
        "limits": {"cpu": format_cpu(start), "memory": group.memory},
    }


def _request(group: DeviceGroup, settings: Settings) -> float:
    """Half of the limit at minGHz, so that no resize of the limit is infeasible.

    More where a LimitRange demands it, but less than that limit: else the pod would be in another
    class of service there, which no resize may change.
    """
    bounds, at_max = settings.bounds, parse_quantity(group.cpu_at_max)
    lowest = limit_cores(
        group.frequency.min_ghz, cpu_at_max=at_max, max_ghz=group.frequency.max_ghz
    )
    half = parse_quantity(format_cpu(lowest / 2))
    wanted = max(half, bounds.least_cpu, math.ceil(at_max / bounds.ratio * 1000) / 1000)
    return min(wanted, max(half, lowest - 0.001))


def _start_cores(
    spec: FederatedJobSpec, group: DeviceGroup, *, settings: Settings, request: float
) -> float:
    """What a device starts with: as the job says, else the boost as far as it is allowed."""
    at_max = parse_quantity(group.cpu_at_max)
    if group.cpu_at_start is not None:
        return max(at_max, parse_quantity(group.cpu_at_start))
    bounds = settings.bounds
    allowed = (bounds.most_cpu, request * bounds.ratio, at_max + _share(spec, settings))
    return max(at_max, _milli_down(min(settings.boost_cores, *allowed)))


def _milli_down(cores: float) -> float:
    return math.floor(cores * 1000 + 1e-6) / 1000


def _share(spec: FederatedJobSpec, settings: Settings) -> float:
    """Cores for one device's boost, when all of the job's pods share a quota of limits alone."""
    if math.isinf(settings.bounds.total_cpu):
        return math.inf
    cloud = parse_quantity(spec.cloud.cpu_limit or spec.cloud.cpu)
    edges = sum(
        parse_quantity(group.cpu_limit or group.cpu) * group.replicas
        for group in spec.edge_groups()
    )
    devices = sum(parse_quantity(group.cpu_at_max) * group.replicas for group in spec.devices)
    return max(0.0, settings.bounds.total_cpu - cloud - edges - devices) / spec.clients()
