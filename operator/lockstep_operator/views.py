"""What is read of Kubernetes objects: the views of `core.model`, and what objects hold on nodes.

`observe` and `cluster_state` call it, so that nothing pure sees the shape of Kubernetes objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_operator.core.children import HASH_ANNOTATION, identity
from lockstep_operator.core.model import Manifest, NodeView, ObjectRef, PodView
from lockstep_operator.core.pods import CPU_AT_MAX
from lockstep_operator.kube import ref_of

_OWNER = ("apiVersion", "kind", "name", "uid", "controller")
_MANY_RESTARTS = 3
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})
SetKey = tuple[str, str, str, str]
"""Namespace, job, role and group: what a job's set and its pods have in common."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Cores and bytes."""

    cpu: float = 0.0
    memory: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.cpu + other.cpu, self.memory + other.memory)

    def fits(self, need: "Amount", taken: "Amount") -> bool:
        """Whether a room of this size holds `need` beside what is taken."""
        return self.cpu - taken.cpu >= need.cpu and self.memory - taken.memory >= need.memory


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod that holds something of its node."""

    node: str
    set: SetKey
    need: Amount


@dataclass(frozen=True, slots=True)
class Claim:
    """What a set of a placed job will hold once all its pods are there."""

    set: SetKey
    replicas: int
    nodes: tuple[str, ...]
    """Those that its placement chose, strongest first."""
    need: Amount
    """Of one pod."""


@dataclass(frozen=True, slots=True)
class KeptPod:
    """A pod of a job."""

    view: PodView
    holding: Holding | None
    """None: it has no node yet, or has ended."""


@dataclass(frozen=True, slots=True)
class KeptChild:
    """An object that a job consists of."""

    ref: ObjectRef
    manifest: Manifest
    """What decisions read of it: owners, labels, hash, deletion, replicas."""
    claim: Claim | None
    """Of a StatefulSet."""


def kept_pod(pod: Manifest) -> KeptPod:
    """A pod of a job, as much of it as is kept."""
    return KeptPod(pod_view(pod), holding(pod))


def pod_view(pod: Manifest) -> PodView:
    """A pod of the job."""
    labels = pod["metadata"].get("labels", {})
    status = pod.get("status", {})
    return PodView(
        name=pod["metadata"]["name"],
        role=labels.get(names.ROLE_LABEL, ""),
        group=labels.get(names.GROUP_LABEL, ""),
        node=pod.get("spec", {}).get("nodeName"),
        ready=condition(status, "Ready").get("status") == "True"
        and "deletionTimestamp" not in pod["metadata"],
        problem=_problem(status),
    )


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of a status by type; empty when there is none."""
    found = (entry for entry in status.get("conditions") or [] if entry["type"] == kind)
    return next(found, {})


def _problem(status: Manifest) -> str | None:
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return _words(scheduled.get("reason", "Unschedulable"), scheduled.get("message"))
    if status.get("phase") == "Failed":
        return _words(status.get("reason", "Failed"), status.get("message"))
    containers = (status.get("initContainerStatuses") or []) + (
        status.get("containerStatuses") or []
    )
    return next(filter(None, map(_container_problem, containers)), None)


def _container_problem(container: Manifest) -> str | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason = waiting.get("reason")
    if reason and reason not in _HARMLESS:
        return _words(reason, _exit(container) or waiting.get("message"))
    restarts = container.get("restartCount", 0)
    if restarts > _MANY_RESTARTS and not container.get("ready"):
        return _words("Restarting", f"{restarts} restarts; {_exit(container)}")
    return None


def _exit(container: Manifest) -> str:
    """How the container's last run ended; its own last words when it left any."""
    last = container.get("lastState", {}).get("terminated") or {}
    if not last:
        return ""
    why = f"{last.get('reason', 'Error')}, exit code {last.get('exitCode')}"
    words = (last.get("message") or "").strip()
    return f"{why}: {words}" if words else why


def _words(reason: str, message: str | None) -> str:
    return f"{reason}: {message.strip()[-500:]}" if message else reason


def kept_child(manifest: Manifest) -> KeptChild:
    """An object that a job consists of, as much of it as is kept."""
    meta = manifest["metadata"]
    annotations = meta.get("annotations") or {}
    kept: Manifest = {"name": meta["name"], "namespace": meta["namespace"]}
    if HASH_ANNOTATION in annotations:
        kept["annotations"] = {HASH_ANNOTATION: annotations[HASH_ANNOTATION]}
    if labels := identity(manifest):
        kept["labels"] = labels
    if owners := meta.get("ownerReferences"):
        kept["ownerReferences"] = [{key: one.get(key) for key in _OWNER} for one in owners]
    if meta.get("deletionTimestamp"):
        kept["deletionTimestamp"] = meta["deletionTimestamp"]
    ref = ref_of(manifest)
    body: Manifest = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": kept}
    if "replicas" in manifest.get("spec", {}):
        body["spec"] = {"replicas": manifest["spec"]["replicas"]}
    return KeptChild(ref, body, claim(manifest) if ref.kind == "StatefulSet" else None)


def claim(stateful_set: Manifest) -> Claim | None:
    """What a job's set holds when all its pods are there; None when it is bound to no nodes."""
    template = stateful_set.get("spec", {}).get("template")
    nodes = _affine(template) if template else ()
    if not nodes:
        return None
    replicas = stateful_set["spec"].get("replicas", 1)
    return Claim(_set_of(stateful_set), replicas, nodes, _need(template))


def holding(pod: Manifest) -> Holding | None:
    """What a pod holds of its node; None when it has none, or has ended."""
    node = pod.get("spec", {}).get("nodeName")
    if not node or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return None
    return Holding(node, _set_of(pod), _need(pod))


def _set_of(item: Manifest) -> SetKey:
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    job, role, group = (
        labels.get(key, "") for key in (names.JOB_LABEL, names.ROLE_LABEL, names.GROUP_LABEL)
    )
    return meta["namespace"], job, role, group


def _need(pod: Manifest) -> Amount:
    """Its requests; of a device of a job the cores that it uses at its highest frequency."""
    at_max = pod["metadata"].get("annotations", {}).get(CPU_AT_MAX)
    return Amount(amount(at_max) if at_max else _request(pod, "cpu"), _request(pod, "memory"))


def _request(pod: Manifest, resource: str) -> float:
    """As kube-scheduler counts: all containers and sidecars, or the largest init container."""
    spec = pod.get("spec", {})
    inits = spec.get("initContainers") or []
    sidecars = [one for one in inits if one.get("restartPolicy") == "Always"]
    running = sum(_wanted(one, resource) for one in [*spec.get("containers", []), *sidecars])
    return max([running, *(_wanted(one, resource) for one in inits)])


def _wanted(container: Manifest, resource: str) -> float:
    return amount(container.get("resources", {}).get("requests", {}).get(resource, "0"))


def amount(quantity: Any) -> float:
    """A quantity's value; one in a notation that Lockstep does not read counts as 0."""
    try:
        return parse_quantity(str(quantity))
    except ValueError:
        return 0.0


def _affine(template: Manifest) -> tuple[str, ...]:
    """The nodes that a job's placement chose, strongest first."""
    affinity = template["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = [
        f for term in required.get("nodeSelectorTerms", []) for f in term.get("matchFields", [])
    ]
    return tuple(node for field in fields for node in field["values"])


def node_view(node: Manifest) -> NodeView:
    """A node on which nothing is used."""
    room = node.get("status", {}).get("allocatable", {})
    cpu, memory = amount(room.get("cpu", "0")), amount(room.get("memory", "0"))
    ready = condition(node.get("status", {}), "Ready").get("status") == "True"
    return NodeView(
        name=node["metadata"]["name"],
        labels=node["metadata"].get("labels", {}),
        ready=ready and not node.get("spec", {}).get("unschedulable", False),
        taints=tuple(node.get("spec", {}).get("taints") or ()),
        cpu=cpu,
        free_cpu=cpu,
        free_memory=memory,
    )
