"""Reads everything that a decision about one job needs; called by `reconcile` at every pass.

Reads only. What was read is turned into the views of `core.model`, so that nothing pure sees the
shape of Kubernetes objects. Children are found by label, never from a cache.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_operator.core.model import (
    JobKey,
    JobView,
    Manifest,
    NodeView,
    Observed,
    PodView,
)
from lockstep_operator.errors import InvalidSpec, NotFound
from lockstep_operator.kube import CHILD_KINDS, NODE, POD, Kube, job_ref, ref_of
from lockstep_operator.reports import Reports

CPU_AT_MAX = "lockstep.dev/cpu-at-max"
FINISHED = frozenset({Phase.COMPLETED, Phase.FAILED})
_MANY_RESTARTS = 3
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where observations come from."""

    kube: Kube
    reports: Reports
    namespaces: tuple[str, ...] = ()
    """Namespaces whose pods count as using the nodes; all when empty."""


async def observe(key: JobKey, sources: Sources) -> Observed | None:
    """The job and what belongs to it; None when it is gone or being deleted."""
    job = await read_job(key, sources.kube)
    if job is None:
        return None
    selector = f"{names.JOB_LABEL}={names.label_value(key.name)}"
    *listed, pods = await asyncio.gather(
        *(sources.kube.list(kind, key.namespace, labels=selector) for kind in CHILD_KINDS),
        sources.kube.list(POD, key.namespace, labels=selector),
    )
    children = {ref_of(item): item for listing in listed for item in listing.items}
    return Observed(
        job=job,
        children=children,
        pods=tuple(pod_view(pod) for pod in pods.items),
        nodes=await _nodes(job, sources),
        report=sources.reports.get(job.uid),
    )


async def read_job(key: JobKey, kube: Kube) -> JobView | None:
    """The job alone; None when it is gone or being deleted."""
    try:
        body = await kube.get(job_ref(key.namespace, key.name))
    except NotFound:
        return None
    return None if "deletionTimestamp" in body["metadata"] else job_view(body)


def job_view(body: Manifest) -> JobView:
    """A FederatedJob as it was read, however wrong its spec is."""
    meta = body["metadata"]
    spec, problem = None, None
    try:
        spec = parse_spec(body.get("spec", {}))
    except InvalidSpec as error:
        problem = str(error)
    return JobView(
        key=JobKey(meta["namespace"], meta["name"]),
        uid=meta["uid"],
        generation=meta.get("generation", 1),
        spec=spec,
        spec_error=problem,
        status=_status(body.get("status", {})),
    )


def parse_spec(spec: Manifest) -> FederatedJobSpec:
    """The spec as a model.

    Raises:
        InvalidSpec: with the path and what is wrong, as a user would write it.
    """
    try:
        return FederatedJobSpec.model_validate(spec)
    except ValidationError as error:
        lines = (f"{_path(item['loc'])}: {item['msg']}" for item in error.errors())
        raise InvalidSpec("; ".join(lines)) from error


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(("spec", *map(str, location)))


def _status(status: Manifest) -> FederatedJobStatus:
    """The status; one that another version wrote and this one cannot read counts as none."""
    try:
        return FederatedJobStatus.model_validate(status)
    except ValidationError:
        return FederatedJobStatus()


def pod_view(pod: Manifest) -> PodView:
    """A pod of the job."""
    labels = pod["metadata"].get("labels", {})
    status = pod.get("status", {})
    return PodView(
        name=pod["metadata"]["name"],
        role=labels.get(names.ROLE_LABEL, ""),
        group=labels.get(names.GROUP_LABEL, ""),
        node=pod.get("spec", {}).get("nodeName"),
        ready=condition(status, "Ready").get("status") == "True",
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


async def _nodes(job: JobView, sources: Sources) -> tuple[NodeView, ...]:
    """The nodes; what pods of others use is read only when the job needs a place."""
    if job.status.phase in FINISHED:
        return ()
    nodes = await sources.kube.list(NODE)
    others: list[Manifest] = []
    if _needs_place(job.status, {node["metadata"]["name"] for node in nodes.items}):
        others = [pod for pod in await _pods(sources) if not _mine(pod, job.key)]
    used = _used(others)
    return tuple(_node_view(node, used) for node in nodes.items)


def _needs_place(status: FederatedJobStatus, nodes: Set[str]) -> bool:
    if status.placement is None:
        return True
    return any(node not in nodes for placed in status.placement for node in placed.nodes)


async def _pods(sources: Sources) -> list[Manifest]:
    scopes: Sequence[str | None] = sources.namespaces or (None,)
    listings = [await sources.kube.list(POD, scope) for scope in scopes]
    return [pod for listing in listings for pod in listing.items]


def _mine(pod: Manifest, key: JobKey) -> bool:
    meta = pod["metadata"]
    label = meta.get("labels", {}).get(names.JOB_LABEL)
    return bool(meta["namespace"] == key.namespace and label == names.label_value(key.name))


def _used(pods: Iterable[Manifest]) -> dict[str, tuple[float, float]]:
    """Node → cores and bytes that pods hold there."""
    used: dict[str, tuple[float, float]] = {}
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        if node and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
            cpu, memory = used.get(node, (0.0, 0.0))
            used[node] = (cpu + _pod_cpu(pod), memory + _request(pod, "memory"))
    return used


def _pod_cpu(pod: Manifest) -> float:
    """Its request; for a device of a job what it uses at its highest frequency."""
    at_max = pod["metadata"].get("annotations", {}).get(CPU_AT_MAX)
    return amount(at_max) if at_max else _request(pod, "cpu")


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


def _node_view(node: Manifest, used: Mapping[str, tuple[float, float]]) -> NodeView:
    name = node["metadata"]["name"]
    room = node.get("status", {}).get("allocatable", {})
    cpu, memory = used.get(name, (0.0, 0.0))
    ready = condition(node.get("status", {}), "Ready").get("status") == "True"
    return NodeView(
        name=name,
        labels=node["metadata"].get("labels", {}),
        ready=ready and not node.get("spec", {}).get("unschedulable", False),
        taints=tuple(node.get("spec", {}).get("taints") or ()),
        cpu=amount(room.get("cpu", "0")),
        free_cpu=amount(room.get("cpu", "0")) - cpu,
        free_memory=amount(room.get("memory", "0")) - memory,
    )
