"""What is read of Kubernetes objects: the views of `core.model`, and what objects hold on nodes.

`observe` and `cluster_state` call it, so that nothing pure sees the shape of Kubernetes objects.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core import occupancy
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.children import COPIED_ANNOTATION
from lockstep_operator.core.manifests import HASH_ANNOTATION, identity
from lockstep_operator.core.model import Bounds, JobKey, Manifest, NodeView, ObjectRef, PodView
from lockstep_operator.core.occupancy import Holding, Share
from lockstep_operator.core.ownership import controller, is_of_its_set
from lockstep_operator.kube import ref_of

ANNOTATIONS = (HASH_ANNOTATION, COPIED_ANNOTATION)
_OWNER = ("apiVersion", "kind", "name", "uid", "controller")
_MOST_OWNERS = 2
_LONGEST = 256
"""Characters of what others may write that are kept: names of Kubernetes have 253 at the most."""
_MANY_RESTARTS = 3
_MOST_CHARACTERS = 500
_MOST_AMOUNT = 1e18
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})
CRASH_LOOP = "CrashLoopBackOff"
_BETWEEN_RUNS = frozenset({None, CRASH_LOOP, *_HARMLESS})


@dataclass(frozen=True, slots=True)
class KeptPod:
    """A pod of a job."""

    ref: ObjectRef
    uid: str
    view: PodView
    holding: Holding | None
    """None: it has no node yet, or has ended."""
    is_of_set: bool
    """Whether it is a StatefulSet's; anybody may give others the job's label."""
    controller: str = ""
    """The uid of what made it."""
    ip: str = ""

    @property
    def well(self) -> bool:
        return self.view.ready


@dataclass(frozen=True, slots=True)
class KeptChild:
    """An object that a job consists of."""

    ref: ObjectRef
    uid: str
    manifest: Manifest
    """What decisions read of it: owners, labels, hash, deletion, replicas; class and phase of a
    claim."""
    well: bool
    """Of a StatefulSet that all its pods exist, of a claim that it is bound."""


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job as far as it is read to know what it holds of the nodes."""

    key: JobKey
    uid: str
    version: str
    """Its resource version: whatever changes of it is a change."""
    shares: tuple[Share, ...]
    """Nothing else of it, of which a user may make a megabyte, is kept: spec, labels, notes."""


def kept_pod(pod: Manifest) -> KeptPod:
    """A pod of a job, as much of it as is kept."""
    return KeptPod(
        ref_of(pod),
        pod["metadata"].get("uid", ""),
        pod_view(pod),
        holding(pod),
        is_of_its_set(pod),
        controller=str(_cut((controller(pod) or {}).get("uid", ""))),
        ip=pod.get("status", {}).get("podIP", ""),
    )


def pod_view(pod: Manifest) -> PodView:
    """A pod of the job."""
    labels = pod["metadata"].get("labels", {})
    status = pod.get("status", {})
    return PodView(
        name=pod["metadata"]["name"],
        role=labels.get(names.ROLE_LABEL, ""),
        group=next((labels[key] for key in names.GROUP_LABELS.values() if key in labels), ""),
        node=pod.get("spec", {}).get("nodeName"),
        ready=condition(status, "Ready").get("status") == "True"
        and "deletionTimestamp" not in pod["metadata"],
        problem=_problem(status),
        waits=_waits(status),
        created_at=_unix(pod["metadata"].get("creationTimestamp")),
    )


def _unix(timestamp: str | None) -> float:
    return 0.0 if timestamp is None else datetime.fromisoformat(timestamp).timestamp()


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


def _waits(status: Manifest) -> bool:
    """No container has begun, nor is there a word in the status why."""
    containers = status.get("containerStatuses") or []
    begun = any({"running", "terminated"} & set(one.get("state", {})) for one in containers)
    return not begun and _problem(status) is None


def _container_problem(container: Manifest) -> str | None:
    """What keeps it from running, or how its last run ended, until it is ready again."""
    state = container.get("state", {})
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason")
    last = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if container.get("ready"):
        return None
    if last and reason in _BETWEEN_RUNS:
        return _told_with(container, reason) + _exit(last)[-_MOST_CHARACTERS:]
    return _words(reason, waiting.get("message")) if reason and reason not in _HARMLESS else None


def _told_with(container: Manifest, reason: str | None) -> str:
    """What a run that ended is told with: the same between two runs and in the next one."""
    restarts = container.get("restartCount", 0)
    if restarts > _MANY_RESTARTS:
        return f"Restarting: {restarts} restarts; "
    return f"{CRASH_LOOP}: " if reason == CRASH_LOOP or restarts > 1 else "Restarted: "


def _exit(last: Manifest) -> str:
    """How a container's run ended; its own last words when it left any."""
    why = f"{last.get('reason', 'Error')}, exit code {last.get('exitCode')}"
    words = (last.get("message") or "").strip()
    return f"{why}: {words}" if words else why


def _words(reason: str, message: str | None) -> str:
    return f"{reason}: {message.strip()[-_MOST_CHARACTERS:]}" if message else reason


def kept_child(manifest: Manifest) -> KeptChild:
    """An object that a job consists of, as much of it as is kept."""
    meta = manifest["metadata"]
    annotations = meta.get("annotations") or {}
    kept: Manifest = {"name": meta["name"], "namespace": meta["namespace"]}
    if found := {key: _cut(annotations[key]) for key in ANNOTATIONS if key in annotations}:
        kept["annotations"] = found
    if labels := identity(manifest):
        kept["labels"] = labels
    if owners := meta.get("ownerReferences"):
        kept["ownerReferences"] = _owners(owners)
    if meta.get("deletionTimestamp"):
        kept["deletionTimestamp"] = meta["deletionTimestamp"]
    ref = ref_of(manifest)
    body: Manifest = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": kept}
    spec, status = manifest.get("spec", {}), manifest.get("status", {})
    if found := {key: spec[key] for key in ("replicas", "storageClassName") if key in spec}:
        body["spec"] = found
    if ref.kind == "PersistentVolumeClaim":
        body["status"] = {"phase": status.get("phase", "Pending")}
    return KeptChild(ref, meta.get("uid", ""), body, well=_is_well(ref, spec, status=status))


def _owners(owners: Sequence[Manifest]) -> list[Manifest]:
    """What makes an object somebody's; of one that has more owners than any of ours, somebody
    else's."""
    if len(owners) > _MOST_OWNERS:
        owners = [*[one for one in owners if one.get("controller")][:1], {}]
    return [{key: _cut(one.get(key)) for key in _OWNER} for one in owners]


def _cut(value: Any) -> Any:
    """A value that whoever writes an object may make a megabyte long; ours are shorter."""
    return value[:_LONGEST] if isinstance(value, str) else value


def _is_well(ref: ObjectRef, spec: Manifest, *, status: Manifest) -> bool:
    if ref.kind == "StatefulSet":
        return bool(status.get("replicas", 0) == spec.get("replicas", 1))
    return ref.kind != "PersistentVolumeClaim" or status.get("phase") == "Bound"


def limit_range_bounds(manifest: Manifest) -> Bounds:
    """What a LimitRange says of a pod with one container."""
    bounds = Bounds()
    for item in manifest.get("spec", {}).get("limits") or []:
        if item.get("type") in {"Container", "Pod"}:
            most, least, ratio = (
                (item.get(key) or {}).get("cpu") for key in ("max", "min", "maxLimitRequestRatio")
            )
            bounds &= Bounds(
                most_cpu=math.inf if most is None else amount(most),
                least_cpu=0.0 if least is None else amount(least),
                ratio=math.inf if ratio is None else amount(ratio),
            )
    return bounds


def quota_bounds(manifest: Manifest) -> Bounds:
    """What a ResourceQuota says of all CPU limits, whichever pods it is for, and of all pods."""
    spec = manifest.get("spec", {})
    hard = spec.get("hard") or {}

    def least(*resources: str) -> float:
        said = (hard.get(resource) for resource in resources)
        return min((amount(one) for one in said if one is not None), default=math.inf)

    bounds = Bounds(total_cpu=least("limits.cpu"))
    if spec.get("scopes") or spec.get("scopeSelector"):
        return bounds
    memory = least("limits.memory", "requests.memory", "memory")
    pods = least("pods", "count/pods")
    return replace(bounds, allowed=Amount(least("limits.cpu"), memory, pods, storage=math.inf))


def kept_job(job: Manifest) -> KeptJob:
    """A job, as much of it as is kept."""
    meta = job["metadata"]
    key = JobKey(meta["namespace"], meta["name"])
    return KeptJob(key, meta["uid"], meta["resourceVersion"], _shares(key, job))


def _shares(key: JobKey, job: Manifest) -> tuple[Share, ...]:
    """What a job holds as its spec and status say; one that cannot be read has no place."""
    told = job.get("status") or {}
    shown = {name: told[name] for name in ("phase", "placement") if name in told}
    try:
        spec = FederatedJobSpec.model_validate(job.get("spec") or {})
        status = FederatedJobStatus.model_validate(shown)
    except ValidationError:
        return ()
    return occupancy.shares(key, spec, status=status)


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
    """A quantity's value, in any notation that Kubernetes has, but no more than there can be, so
    that whatever is reckoned with it is a number; of what is none, 0."""
    try:
        return min(parse_quantity(str(quantity)), _MOST_AMOUNT)
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
