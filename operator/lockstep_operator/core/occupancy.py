"""What pods and placed jobs hold of the nodes; `cluster_state` tells it what it knows of both.

A device holds the cores that it uses at its highest frequency, more than it requests. That is
taken from the job's spec, on the nodes that the job was given, and at most as often as the spec has
devices; what is not there yet holds no more than the quotas of its namespace allow. What a pod or a
StatefulSet says of itself counts for nothing, since anybody may write it: every other pod holds
what it requests.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FINISHED, FederatedJobStatus
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.model import JobKey, NodeView
from lockstep_operator.core.placement import CLOUD_POD, PodSet, sizes
from lockstep_operator.core.status import read_placement

_DIGITS = 10
"""Of the largest number of a pod, and more."""
SetName = tuple[str, str]
"""Namespace and name of a StatefulSet."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod that holds something of its node."""

    namespace: str
    pod: str
    node: str
    need: Amount
    """What it requests."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one set of pods of a placed job holds once all of them are there."""

    set: SetName
    replicas: int
    nodes: tuple[str, ...]
    """Those that the job was given, strongest first."""
    need: Amount
    """Of one pod."""


def shares(
    key: JobKey, spec: FederatedJobSpec | None, *, status: FederatedJobStatus
) -> tuple[Share, ...]:
    """What a job holds of the nodes; nothing unless it has a place and is to run."""
    if spec is None or spec.suspend or status.phase in FINISHED:
        return ()
    placement = read_placement(status, spec)
    if placement is None:
        return ()
    return tuple(
        Share(_set_name(key, pods), size.count, placement[pods], size.need)
        for pods, size in sizes(spec).items()
    )


def own_pods(key: JobKey, spec: FederatedJobSpec) -> Callable[[Holding], bool]:
    """Tells whether a pod is one of the job's: no two pods have one name."""
    counts = {_set_name(key, pods): size.count for pods, size in sizes(spec).items()}

    def is_own(pod: Holding) -> bool:
        found = _ordinal(pod)
        return found is not None and found[1] < counts.get(found[0], 0)

    return is_own


def free(
    nodes: Sequence[NodeView],
    *,
    used: Mapping[str, Amount],
    pods: Iterable[Holding],
    placed: Iterable[Share],
    allowed: Callable[[str], Amount],
) -> tuple[NodeView, ...]:
    """The nodes with what is left beside these pods and what placed jobs will hold.

    `used` is held, by node, by pods that are of no job; `allowed` says what all pods of a namespace
    may have by its quotas.
    """
    by_set = {share.set: share for share in placed}
    left = {node.name: node.free - used.get(node.name, Amount()) for node in nodes}
    missing = Counter({name: share.replicas for name, share in by_set.items()})
    may = {namespace: allowed(namespace) for namespace, _ in by_set}
    for pod in pods:
        share = _share_of(pod, by_set)
        need = pod.need if share is None else pod.need.larger(share.need)
        if share is not None:
            missing[share.set] -= 1
        if pod.node in left:
            left[pod.node] -= need
        if pod.namespace in may:
            may[pod.namespace] -= need
    for name, share in by_set.items():
        count = _admitted(share, may[name[0]], count=missing[name])
        may[name[0]] -= count * share.need
        _reserve(share, left, count=count)
    return tuple(replace(node, free=left[node.name]) for node in nodes)


def _admitted(share: Share, may: Amount, *, count: int) -> int:
    """Of so many pods of a set those that a quota lets come."""
    return count if may.covers(count * share.need) else min(count, may.holds(share.need))


def _reserve(share: Share, left: dict[str, Amount], *, count: int) -> None:
    """Count the missing pods of a set where they fit, what fits nowhere on its first node."""
    chosen = [node for node in share.nodes if node in left]
    for node in chosen:
        here = min(count, left[node].holds(share.need))
        left[node] -= here * share.need
        count -= here
    if chosen:
        left[chosen[0]] -= count * share.need


def _share_of(pod: Holding, by_set: Mapping[SetName, Share]) -> Share | None:
    """The set that a pod belongs to, if it stands where that set was placed."""
    found = _ordinal(pod)
    share = by_set.get(found[0]) if found is not None else None
    if found is None or share is None or found[1] >= share.replicas:
        return None
    return share if pod.node in share.nodes else None


def _ordinal(pod: Holding) -> tuple[SetName, int] | None:
    """The StatefulSet that a pod is named after, and its number there."""
    name, _, ordinal = pod.pod.rpartition("-")
    canonical = ordinal.isascii() and ordinal.isdigit() and len(ordinal) < _DIGITS
    if not canonical or str(int(ordinal)) != ordinal:
        return None
    return (pod.namespace, name), int(ordinal)


def _set_name(key: JobKey, pods: PodSet) -> SetName:
    if pods == CLOUD_POD:
        return key.namespace, names.cloud_name(key.name)
    named = names.edge_group_name if pods.role is Role.EDGE else names.group_name
    return key.namespace, named(key.name, pods.group)
