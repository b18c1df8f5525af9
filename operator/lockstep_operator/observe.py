"""Reads everything that a decision about one job needs; called by `reconcile` at every pass.

Reads only. What was read is turned into the views of `core.model`, so that nothing pure sees the
shape of Kubernetes objects. Children are found by label, never from a cache.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FINISHED, FederatedJobStatus
from lockstep_operator.core.model import (
    JobKey,
    JobView,
    Manifest,
    NodeView,
    Observed,
    PodView,
)
from lockstep_operator.core.pods import CPU_AT_MAX
from lockstep_operator.core.status import needs_place
from lockstep_operator.errors import InvalidSpec, NotFound, Refused
from lockstep_operator.kube import CHILD_KINDS, NODE, POD, SET, Kube, job_ref, ref_of
from lockstep_operator.reports import Reports

Usage = dict[str, tuple[float, float]]
_MANY_RESTARTS = 3
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where observations come from."""

    kube: Kube
    reports: Reports
    namespaces: tuple[str, ...] = ()
    """Namespaces whose pods count as using the nodes where those of all may not be listed."""


async def observe(key: JobKey, sources: Sources) -> Observed | None:
    """The job and what belongs to it; None when it is gone or being deleted."""
    job = await read_job(key, sources.kube)
    if job is None:
        return None
    selector = names.job_selector(key.name)
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
        created_at=datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
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


async def _nodes(job: JobView, sources: Sources) -> tuple[NodeView, ...]:
    """The nodes; what pods of others use is read only when the job needs a place."""
    if job.status.phase in FINISHED:
        return ()
    nodes = await sources.kube.list(NODE)
    used: Usage = {}
    if needs_place(job, {node["metadata"]["name"] for node in nodes.items}):
        pods, sets = await asyncio.gather(*(_everywhere(kind, sources) for kind in (POD, SET)))
        others = [pod for pod in pods if not _mine(pod, job.key)]
        used = _used(others)
        _reserve([one for one in sets if not _mine(one, job.key)], others, nodes.items, used=used)
    return tuple(_node_view(node, used) for node in nodes.items)


async def _everywhere(kind: tuple[str, str], sources: Sources) -> list[Manifest]:
    """All pods, and the sets of all jobs; of the watched namespaces where no more is allowed."""
    labels = names.JOB_LABEL if kind == SET else ""
    try:
        return (await sources.kube.list(kind, labels=labels)).items
    except Refused:
        if not sources.namespaces:
            raise
    listings = [await sources.kube.list(kind, one, labels=labels) for one in sources.namespaces]
    return [item for listing in listings for item in listing.items]


def _mine(item: Manifest, key: JobKey) -> bool:
    meta = item["metadata"]
    label = meta.get("labels", {}).get(names.JOB_LABEL)
    return bool(meta["namespace"] == key.namespace and label == names.label_value(key.name))


def _used(pods: Iterable[Manifest]) -> Usage:
    """Node → cores and bytes that pods hold there."""
    used: Usage = {}
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


def _reserve(
    sets: Iterable[Manifest], pods: Iterable[Manifest], nodes: Iterable[Manifest], *, used: Usage
) -> None:
    """Count what placed jobs will hold once their missing pods are there."""
    bound = Counter(_set_of(pod) for pod in pods if pod.get("spec", {}).get("nodeName"))
    rooms = {node["metadata"]["name"]: _allocatable(node) for node in nodes}
    for one in sets:
        template = one["spec"]["template"]
        need = (_pod_cpu(template), _request(template, "memory"))
        chosen = [node for node in _affine(template) if node in rooms]
        for _ in range(one["spec"].get("replicas", 1) - bound[_set_of(one)] if chosen else 0):
            node = next((name for name in chosen if _fits(need, rooms[name], used.get(name))), "")
            cpu, memory = used.get(node or chosen[0], (0.0, 0.0))
            used[node or chosen[0]] = (cpu + need[0], memory + need[1])


def _set_of(item: Manifest) -> tuple[str, ...]:
    """What a job's set and its pods have in common."""
    meta = item["metadata"]
    labels = meta.get("labels", {})
    keys = (names.JOB_LABEL, names.ROLE_LABEL, names.GROUP_LABEL)
    return (meta["namespace"], *(labels.get(key, "") for key in keys))


def _affine(template: Manifest) -> list[str]:
    """The nodes that a job's placement chose, strongest first."""
    affinity = template["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = [
        f for term in required.get("nodeSelectorTerms", []) for f in term.get("matchFields", [])
    ]
    return [node for field in fields for node in field["values"]]


def _fits(
    need: tuple[float, float], room: tuple[float, float], taken: tuple[float, float] | None
) -> bool:
    cpu, memory = taken or (0.0, 0.0)
    return room[0] - cpu >= need[0] and room[1] - memory >= need[1]


def _allocatable(node: Manifest) -> tuple[float, float]:
    room = node.get("status", {}).get("allocatable", {})
    return amount(room.get("cpu", "0")), amount(room.get("memory", "0"))


def _node_view(node: Manifest, used: Usage) -> NodeView:
    name = node["metadata"]["name"]
    room = _allocatable(node)
    cpu, memory = used.get(name, (0.0, 0.0))
    ready = condition(node.get("status", {}), "Ready").get("status") == "True"
    return NodeView(
        name=name,
        labels=node["metadata"].get("labels", {}),
        ready=ready and not node.get("spec", {}).get("unschedulable", False),
        taints=tuple(node.get("spec", {}).get("taints") or ()),
        cpu=room[0],
        free_cpu=room[0] - cpu,
        free_memory=room[1] - memory,
    )
