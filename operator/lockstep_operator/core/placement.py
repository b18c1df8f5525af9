"""Which nodes the pods of a job may use, by compute capacity; `decide` calls it once a job.

The result becomes node affinity: kube-scheduler still binds every pod. What does not fit is
refused in numbers, so that no pod waits without a word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lockstep_api.names import CLOCK_LABEL, TIER_LABEL, Role, Tier
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import DeviceGroup, FederatedJobSpec, PodTemplate, Toleration
from lockstep_operator.core.model import NodeView

MAX_NODES = 200
_SLACK = 1e-9
_MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class PodSet:
    """Names one set of equal pods of a job."""

    role: Role
    group: str = ""
    """The group within its role; empty for the only one."""

    @property
    def shown(self) -> str:
        """As status.placement names it: device groups by their bare names."""
        if self.role is Role.DEVICE or not self.group:
            return self.group or self.role
        return f"{self.role}/{self.group}"


CLOUD_POD = PodSet(Role.CLOUD)


def pod_sets(spec: FederatedJobSpec) -> tuple[PodSet, ...]:
    """All that a job has placed, in the order of its status."""
    return (CLOUD_POD, *(PodSet(Role.DEVICE, group.name) for group in spec.devices))


@dataclass(frozen=True, slots=True)
class Placement:
    """The nodes chosen for each set of pods."""

    by_set: Mapping[PodSet, tuple[str, ...]]

    def __getitem__(self, pods: PodSet) -> tuple[str, ...]:
        return self.by_set[pods]

    def nodes(self) -> set[str]:
        """All of them."""
        return {node for nodes in self.by_set.values() for node in nodes}


@dataclass(frozen=True, slots=True)
class DoesNotFit:
    """The job does not fit; the message says by how much and what to change."""

    message: str


@dataclass(frozen=True, slots=True)
class _Need:
    cpu: float
    memory: float

    def times(self, count: int) -> "_Need":
        return _Need(self.cpu * count, self.memory * count)


@dataclass(slots=True)
class _Room:
    """What is still free on a node while pods are being placed."""

    node: NodeView
    cpu: float
    memory: float

    def fits(self, need: _Need) -> int:
        """How many pods of this size fit."""
        count = min(self.cpu / need.cpu, self.memory / need.memory)
        return max(0, int(count + _SLACK))

    def take(self, need: _Need) -> None:
        self.cpu -= need.cpu
        self.memory -= need.memory


@dataclass(frozen=True, slots=True)
class _Filter:
    """What a pod asks of its node beside room."""

    tier: Tier
    selector: Mapping[str, str]
    tolerations: Sequence[Toleration]

    def admits(self, node: NodeView) -> bool:
        matches = all(node.labels.get(key) == value for key, value in self.selector.items())
        return matches and all(_tolerated(taint, self.tolerations) for taint in node.taints)


def _tolerated(taint: Mapping[str, str], tolerations: Sequence[Toleration]) -> bool:
    if taint.get("effect") not in ("NoSchedule", "NoExecute"):
        return True
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Mapping[str, str]) -> bool:
    if toleration.effect is not None and toleration.effect != taint.get("effect"):
        return False
    if toleration.operator == "Exists":
        return not toleration.key or toleration.key == taint.get("key")
    same_value = (toleration.value or "") == (taint.get("value") or "")
    return toleration.key == taint.get("key") and same_value


def capacity(node: NodeView) -> float:
    """Compute capacity of a node: allocatable cores × clock in GHz (1 when not labelled)."""
    try:
        clock = float(node.labels.get(CLOCK_LABEL, "1"))
    except ValueError:
        clock = 1.0
    return node.cpu * clock


def place(
    spec: FederatedJobSpec, nodes: Sequence[NodeView], *, cloud_nodes: Sequence[str] = ()
) -> Placement | DoesNotFit:
    """The strongest cloud node with room, and device nodes whose free cores hold `cpuAtMax`.

    With `cloud_nodes` the cloud pod goes to one of them: its volume is there.
    """
    ranked = sorted(nodes, key=lambda node: (-capacity(node), node.name))
    rooms = [_Room(node, node.free_cpu, node.free_memory) for node in ranked]
    cloud = _place_cloud(spec, rooms, only=cloud_nodes)
    if isinstance(cloud, DoesNotFit):
        return cloud
    groups = _place_groups(spec, rooms)
    if isinstance(groups, DoesNotFit):
        return groups
    placed = {CLOUD_POD: cloud} | groups
    return Placement({pods: placed[pods] for pods in pod_sets(spec)})


def _filter(spec: FederatedJobSpec, tier: Tier, *, own: Mapping[str, str]) -> _Filter:
    template = spec.pod_template or PodTemplate()
    return _Filter(tier, {**template.node_selector, **own}, template.tolerations)


def _tier_rooms(rooms: Sequence[_Room], tier: Tier) -> list[_Room]:
    """The ready nodes of a tier; all of them where no node has a tier label."""
    tiered = any(TIER_LABEL in room.node.labels for room in rooms)
    ready = [room for room in rooms if room.node.ready]
    return [room for room in ready if not tiered or room.node.labels.get(TIER_LABEL) == tier]


def _eligible(rooms: Sequence[_Room], wanted: _Filter) -> list[_Room] | DoesNotFit:
    of_tier = _tier_rooms(rooms, wanted.tier)
    if not of_tier:
        label = f"{TIER_LABEL}={wanted.tier}"
        if not any(TIER_LABEL in room.node.labels for room in rooms):
            return DoesNotFit(f"no node is ready: needs one for tier {wanted.tier}")
        return DoesNotFit(f"no ready node has label {label}: set it with kubectl label node")
    admitting = [room for room in of_tier if wanted.admits(room.node)]
    if admitting:
        return admitting
    return DoesNotFit(
        f"no ready node of tier {wanted.tier} has the labels of nodeSelector and only taints "
        "that podTemplate.tolerations tolerate: change one of the two"
    )


def _place_cloud(
    spec: FederatedJobSpec, rooms: Sequence[_Room], *, only: Sequence[str]
) -> tuple[str, ...] | DoesNotFit:
    eligible = _eligible(rooms, _filter(spec, Tier.CLOUD, own={}))
    if isinstance(eligible, DoesNotFit):
        return eligible
    if only:
        eligible = [room for room in eligible if room.node.name in only]
        if not eligible:
            return DoesNotFit(f"the cloud pod's volume is on {only[0]}, which is not ready for it")
    need = _Need(parse_quantity(spec.cloud.cpu), parse_quantity(spec.cloud.memory))
    chosen = next((room for room in eligible if room.fits(need)), None)
    if chosen is not None:
        chosen.take(need)
        return (chosen.node.name,)
    most = _Need(max(r.cpu for r in eligible), max(r.memory for r in eligible))
    advice = "lower cloud.cpu or cloud.memory, or add a larger node"
    return _too_little(Tier.CLOUD, need, free=most, advice=advice)


def _group_need(group: DeviceGroup) -> _Need:
    return _Need(parse_quantity(group.cpu_at_max), parse_quantity(group.memory))


def _place_groups(
    spec: FederatedJobSpec, rooms: Sequence[_Room]
) -> dict[PodSet, tuple[str, ...]] | DoesNotFit:
    """The largest devices first."""
    free = _total(rooms)
    placed: dict[PodSet, tuple[str, ...]] = {}
    order = sorted(spec.devices, key=lambda g: (-_group_need(g).cpu, -_group_need(g).memory))
    for group in order:
        eligible = _eligible(rooms, _filter(spec, Tier.DEVICE, own=group.node_selector))
        if isinstance(eligible, DoesNotFit):
            return eligible
        nodes = _pack(eligible, _group_need(group), count=group.replicas)
        if nodes is None:
            return _devices_refused(spec, group, free=free)
        placed[PodSet(Role.DEVICE, group.name)] = nodes
    return placed


def _pack(rooms: Sequence[_Room], need: _Need, *, count: int) -> tuple[str, ...] | None:
    """First fit of `count` pods of one size; None when some are left over."""
    used: list[str] = []
    for room in rooms:
        here = min(count, room.fits(need))
        if here and len(used) < MAX_NODES:
            room.take(need.times(here))
            used.append(room.node.name)
            count -= here
    return tuple(used) if count == 0 else None


def _total(rooms: Sequence[_Room]) -> _Need:
    of_tier = _tier_rooms(rooms, Tier.DEVICE)
    cpu = sum(max(0.0, room.cpu) for room in of_tier)
    return _Need(cpu, sum(max(0.0, room.memory) for room in of_tier))


def _devices_refused(spec: FederatedJobSpec, group: DeviceGroup, *, free: _Need) -> DoesNotFit:
    """In total when the tier is too small, else for the group whose devices fit no node."""
    all_needs = [_group_need(g).times(g.replicas) for g in spec.devices]
    need = _Need(sum(n.cpu for n in all_needs), sum(n.memory for n in all_needs))
    if need.cpu > free.cpu + _SLACK or need.memory > free.memory + _SLACK:
        advice = "lower devices[].cpuAtMax, memory or replicas, or add nodes"
        return _too_little(Tier.DEVICE, need, free=free, advice=advice)
    return DoesNotFit(
        f"device group {group.name} needs {group.replicas} × {_cores(group)} cores and "
        f"{_mib(group)} MiB each on tier device, which its nodes cannot hold beside the other "
        f"pods ({free.cpu:.1f} cores and {free.memory / _MIB:.0f} MiB free in all, on up to "
        f"{MAX_NODES} nodes a group): lower cpuAtMax or memory, or widen nodeSelector"
    )


def _cores(group: DeviceGroup) -> str:
    return f"{_group_need(group).cpu:g}"


def _mib(group: DeviceGroup) -> str:
    return f"{_group_need(group).memory / _MIB:.0f}"


def _too_little(tier: Tier, need: _Need, *, free: _Need, advice: str) -> DoesNotFit:
    """The sentence in numbers, about cores when they are short, else about memory."""
    where = f"on tier {tier}"
    if need.cpu > free.cpu + _SLACK:
        wanted, left = _apart(need.cpu, free.cpu)
        return DoesNotFit(f"needs {wanted} cores {where}, {left} free: {advice}")
    if need.memory > free.memory + _SLACK:
        wanted, left = _apart(need.memory / _MIB, free.memory / _MIB, digits=0)
        return DoesNotFit(f"needs {wanted} MiB {where}, {left} MiB free: {advice}")
    both = f"{need.cpu:.1f} cores and {need.memory / _MIB:.0f} MiB"
    return DoesNotFit(f"needs {both} {where}, no node has both free: {advice}")


def _apart(need: float, free: float, *, digits: int = 1) -> tuple[str, str]:
    """Both numbers with as few digits as tell them apart."""
    for places in range(digits, 7):
        wanted, left = f"{need:.{places}f}", f"{free:.{places}f}"
        if wanted != left:
            break
    return wanted, left
