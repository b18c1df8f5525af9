"""Which nodes the pods of a job may use, by compute capacity; `decide` calls it once a job.

The result becomes node affinity: kube-scheduler still binds every pod. What does not fit is
refused in numbers, so that no pod waits without a word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lockstep_api.names import CLOCK_LABEL, TIER_LABEL, Role, Tier
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec, PodTemplate, Toleration
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.model import NodeView
from lockstep_operator.core.packing import LeftOver, Wanted, pack
from lockstep_operator.core.refusal import cloud_refused, group_refused


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
_TURNS: Final = {Tier.EDGE: 0, Tier.DEVICE: 1}


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


@dataclass(frozen=True, slots=True)
class Size:
    """Of a set of equal pods."""

    count: int
    need: Amount
    """What one pod is counted with: what it requests, and a device its `cpuAtMax`."""


def sizes(spec: FederatedJobSpec) -> dict[PodSet, Size]:
    """What a job has placed, in the order of its status."""
    edges = {
        PodSet(Role.EDGE, group.name): Size(group.replicas, _amount(group.cpu, group.memory))
        for group in spec.edge_groups()
    }
    devices = {
        PodSet(Role.DEVICE, group.name): Size(
            group.replicas, _amount(group.cpu_at_max, group.memory)
        )
        for group in spec.devices
    }
    return {CLOUD_POD: Size(1, _amount(spec.cloud.cpu, spec.cloud.memory))} | edges | devices


def pod_sets(spec: FederatedJobSpec) -> tuple[PodSet, ...]:
    """All that a job has placed, in the order of its status."""
    return tuple(sizes(spec))


def _amount(cpu: str, memory: str) -> Amount:
    return Amount(parse_quantity(cpu), parse_quantity(memory), pods=1)


def place(
    spec: FederatedJobSpec, nodes: Sequence[NodeView], *, cloud_nodes: Sequence[str] = ()
) -> Placement | DoesNotFit:
    """The strongest cloud node with room, edge nodes, and device nodes whose free cores hold
    `cpuAtMax`. Where nodes serve several tiers, the cloud pod chooses first and devices last.

    With `cloud_nodes` the cloud pod goes to one of them: its volume is there.
    """
    ranked = sorted(nodes, key=lambda node: (-capacity(node), node.name))
    cloud = _place_cloud(spec, ranked, only=cloud_nodes)
    if isinstance(cloud, DoesNotFit):
        return cloud
    taken = sizes(spec)[CLOUD_POD].need
    left = [replace(n, free=n.free - taken) if n.name == cloud else n for n in ranked]
    groups = _place_groups(spec, left)
    if isinstance(groups, DoesNotFit):
        return groups
    placed = {CLOUD_POD: (cloud,)} | groups
    return Placement({pods: placed[pods] for pods in pod_sets(spec)})


def _filter(spec: FederatedJobSpec, tier: Tier, *, own: Mapping[str, str]) -> _Filter:
    template = spec.pod_template or PodTemplate()
    return _Filter(tier, {**template.node_selector, **own}, template.tolerations)


def _of_tier(nodes: Sequence[NodeView], tier: Tier) -> list[NodeView]:
    """The ready nodes of a tier; all of them where no node has a tier label."""
    tiered = any(TIER_LABEL in node.labels for node in nodes)
    ready = [node for node in nodes if node.ready]
    return [node for node in ready if not tiered or node.labels.get(TIER_LABEL) == tier]


def _eligible(nodes: Sequence[NodeView], wanted: _Filter) -> list[NodeView] | DoesNotFit:
    of_tier = _of_tier(nodes, wanted.tier)
    if not of_tier:
        label = f"{TIER_LABEL}={wanted.tier}"
        if not any(TIER_LABEL in node.labels for node in nodes):
            return DoesNotFit(f"no node is ready: needs one for tier {wanted.tier}")
        return DoesNotFit(f"no ready node has label {label}: set it with kubectl label node")
    admitting = [node for node in of_tier if wanted.admits(node)]
    if admitting:
        return admitting
    return DoesNotFit(
        f"no ready node of tier {wanted.tier} has the labels of nodeSelector and only taints "
        "that podTemplate.tolerations tolerate: change one of the two"
    )


def _place_cloud(
    spec: FederatedJobSpec, nodes: Sequence[NodeView], *, only: Sequence[str]
) -> str | DoesNotFit:
    eligible = _eligible(nodes, _filter(spec, Tier.CLOUD, own={}))
    if isinstance(eligible, DoesNotFit):
        return eligible
    if only:
        eligible = [node for node in eligible if node.name in only]
        if not eligible:
            return DoesNotFit(f"the cloud pod's volume is on {only[0]}, which is not ready for it")
    need = sizes(spec)[CLOUD_POD].need
    chosen = next((node.name for node in eligible if node.free.holds(need)), None)
    if chosen is not None:
        return chosen
    return DoesNotFit(cloud_refused(need, [node.free for node in eligible]))


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of edges or devices that needs a place."""

    pods: PodSet
    tier: Tier
    selector: Mapping[str, str]


def _groups(spec: FederatedJobSpec) -> list[_Group]:
    edges = (
        _Group(PodSet(Role.EDGE, group.name), Tier.EDGE, group.node_selector)
        for group in spec.edge_groups()
    )
    devices = (
        _Group(PodSet(Role.DEVICE, group.name), Tier.DEVICE, group.node_selector)
        for group in spec.devices
    )
    return [*edges, *devices]


def _place_groups(
    spec: FederatedJobSpec, nodes: Sequence[NodeView]
) -> dict[PodSet, tuple[str, ...]] | DoesNotFit:
    wanted: list[Wanted] = []
    groups, size_of = _groups(spec), sizes(spec)
    for group in groups:
        eligible = _eligible(nodes, _filter(spec, group.tier, own=group.selector))
        if isinstance(eligible, DoesNotFit):
            return eligible
        size, usable = size_of[group.pods], tuple(node.name for node in eligible)
        spread = group.tier is Tier.EDGE and size.count > 1
        wanted.append(Wanted(size.count, size.need, usable, turn=_TURNS[group.tier], spread=spread))
    packed = pack(wanted, {node.name: node.free for node in nodes})
    if isinstance(packed, LeftOver):
        group = groups[packed.index]
        return DoesNotFit(group_refused(wanted, packed, tier=group.tier, name=group.pods.group))
    return dict(zip((group.pods for group in groups), packed, strict=True))
