"""What is read of Kubernetes objects: the views of `core.model`, and what objects hold on nodes.

`observe` and `cluster_state` call it, so that nothing pure sees the shape of Kubernetes objects.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.children import HASH_ANNOTATION, identity
from lockstep_operator.core.model import JobKey, Manifest, NodeView, ObjectRef, PodView
from lockstep_operator.core.occupancy import Holding
from lockstep_operator.kube import ref_of

_OWNER = ("apiVersion", "kind", "name", "uid", "controller")
_SMALL = {"u": 1e-6, "n": 1e-9}
"""Suffixes that only the cluster's own objects have."""
_MANY_RESTARTS = 3
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})


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


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job as far as it is read to know what it holds of the nodes."""

    key: JobKey
    uid: str
    spec: Manifest
    status: Manifest
    """Phase and placement."""


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
    return KeptChild(ref, body)


def kept_job(job: Manifest) -> KeptJob:
    """A job, as much of it as is kept."""
    meta, status = job["metadata"], job.get("status") or {}
    shown = {key: status[key] for key in ("phase", "placement") if key in status}
    key = JobKey(meta["namespace"], meta["name"])
    return KeptJob(key, meta["uid"], job.get("spec") or {}, shown)


def holding(pod: Manifest) -> Holding | None:
    """What a pod holds of its node; None when it has none, or has ended."""
    node = pod.get("spec", {}).get("nodeName")
    if not node or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return None
    meta = pod["metadata"]
    return Holding(meta["namespace"], meta["name"], node, _requested(pod["spec"]))


def _requested(spec: Manifest) -> Amount:
    cpu, memory, storage = (_request(spec, one) for one in ("cpu", "memory", "ephemeral-storage"))
    return Amount(cpu, memory, 1, storage)


def _request(spec: Manifest, resource: str) -> float:
    """As kube-scheduler counts: all containers and sidecars, or what starting them takes; what the
    pod requests as a whole instead; and the overhead of its runtime class."""
    sidecars, most = 0.0, 0.0
    for one in spec.get("initContainers") or []:
        wanted = _wanted(one, resource)
        most = max(most, sidecars + wanted)
        if one.get("restartPolicy") == "Always":
            sidecars += wanted
    running = sum(_wanted(one, resource) for one in spec.get("containers") or [])
    whole = _requests(spec).get(resource)
    pod = max(running + sidecars, most) if whole is None else amount(whole)
    return pod + amount((spec.get("overhead") or {}).get(resource, "0"))


def _wanted(container: Manifest, resource: str) -> float:
    return amount(_requests(container).get(resource, "0"))


def _requests(of: Manifest) -> Mapping[str, Any]:
    return (of.get("resources") or {}).get("requests") or {}


def amount(quantity: Any) -> float:
    """A quantity's value, in any notation that Kubernetes has; of what is none, 0."""
    text = str(quantity)
    try:
        scale = _SMALL.get(text[-1:])
        value = parse_quantity(text) if scale is None else float(text[:-1]) * scale
    except ValueError:
        value = _decimal(text)
    return value if math.isfinite(value) else 0.0


def _decimal(text: str) -> float:
    """With an exponent: 1e3."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def node_view(node: Manifest) -> NodeView:
    """A node on which nothing is used."""
    room = node.get("status", {}).get("allocatable", {})
    wanted = ("cpu", "memory", "pods", "ephemeral-storage")
    there = Amount(*(amount(room.get(resource, "0")) for resource in wanted))
    ready = condition(node.get("status", {}), "Ready").get("status") == "True"
    return NodeView(
        name=node["metadata"]["name"],
        labels=node["metadata"].get("labels", {}),
        ready=ready and not node.get("spec", {}).get("unschedulable", False),
        taints=tuple(node.get("spec", {}).get("taints") or ()),
        cpu=there.cpu,
        free=there,
    )
