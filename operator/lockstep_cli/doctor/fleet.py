"""Checks of what jobs run on (nodes and their tiers, storage, images), and of jobs; pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from lockstep_api import names
from lockstep_api.names import Tier
from lockstep_api.quantity import parse_quantity
from lockstep_api.status import Phase
from lockstep_cli.doctor.control import OLDEST, trouble_of, version_of
from lockstep_cli.doctor.finding import Finding, Json, Seen, State, Unseen, ok, unseen
from lockstep_cli.facts import Job

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_SHOWN = 3
_PATIENCE_S = 60.0
_LABEL = f"kubectl label node NODE {names.TIER_LABEL}="


def nodes(seen: Seen) -> Iterator[Finding]:
    """Are there nodes for every tier, and are they well?"""
    if isinstance(seen.nodes, Unseen):
        yield unseen("nodes", seen.nodes)
        return
    ready = [node for node in seen.nodes if _is_ready(node)]
    if not ready:
        yield Finding("nodes", State.WRONG, "no node is ready", "kubectl get nodes")
        return
    away = [_name(node) for node in seen.nodes if not _is_ready(node)]
    if away:
        said = f"not ready, or cordoned: {_few(away)}"
        yield Finding("nodes", State.WARNING, said, f"kubectl describe node {away[0]}")
    yield from _old(ready)
    yield from _tiers(ready, seen.held)
    yield from _clocks(ready)


def _name(thing: Json) -> str:
    return str(thing["metadata"]["name"])


def _few(found: Sequence[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _is_ready(node: Json) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not node.get("spec", {}).get("unschedulable")


def _old(ready: Sequence[Json]) -> Iterator[Finding]:
    """Kubelets that do not resize."""
    versions = {_name(node): str(node["status"]["nodeInfo"]["kubeletVersion"]) for node in ready}
    old = [
        f"{name} ({text})"
        for name, text in versions.items()
        if (found := version_of(text)) is not None and found < OLDEST
    ]
    if old:
        said = f"kubelets older than {OLDEST[0]}.{OLDEST[1]} do not resize pods: {_few(old)}"
        yield Finding("nodes", State.WARNING, said, "upgrade them, or keep devices off them")


def _tiers(ready: Sequence[Json], held: Mapping[str, float] | Unseen) -> Iterator[Finding]:
    """What each tier has; where no node has a label, every node serves every tier."""
    by_tier: dict[str, list[Json]] = defaultdict(list)
    for node in ready:
        by_tier[(node["metadata"].get("labels") or {}).get(names.TIER_LABEL, "")].append(node)
    unlabelled = by_tier.pop("", [])
    if not by_tier:
        said = f"no node has label {names.TIER_LABEL}: each serves every tier: {_room(ready, held)}"
        yield Finding("tiers", State.WARNING, said, f"{_LABEL}device, and cloud or edge for others")
        return
    for tier in Tier:
        if found := by_tier.pop(tier, []):
            yield ok("tiers", f"{tier}: {_room(found, held)}")
        else:
            yield _without(tier)
    for label, found in by_tier.items():
        said = f"{_few([_name(node) for node in found])}: {names.TIER_LABEL}={label} is no tier"
        yield Finding("tiers", State.WARNING, said, f"{_LABEL}cloud, edge or device")
    if unlabelled:
        yield ok("tiers", f"of no tier, so not used: {_few([_name(node) for node in unlabelled])}")


def _without(tier: Tier) -> Finding:
    if tier is Tier.EDGE:
        said = "no node of tier edge: jobs of modes hierarchical and split wait"
        return Finding("tiers", State.WARNING, said, f"{_LABEL}{tier}")
    return Finding(
        "tiers", State.WRONG, f"no node of tier {tier}: every job waits", f"{_LABEL}{tier}"
    )


def _room(found: Sequence[Json], held: Mapping[str, float] | Unseen) -> str:
    """Nodes, cores and memory; and of the cores what no pod requests."""
    cores = sum(_amount(node, "cpu") for node in found)
    memory = sum(_amount(node, "memory") for node in found) / 2**30
    free = ""
    if not isinstance(held, Unseen):
        free = f", {max(0.0, cores - sum(held.get(_name(node), 0.0) for node in found)):.1f} free"
    count = f"{len(found)} node{'s' if len(found) > 1 else ''}"
    return f"{count}, {cores:.1f} cores{free}, {memory:.1f} GiB"


def _amount(node: Json, resource: str) -> float:
    return float(parse_quantity(str(node["status"]["allocatable"].get(resource, "0"))))


def _clocks(ready: Sequence[Json]) -> Iterator[Finding]:
    """Labels that the operator cannot read."""
    for node in ready:
        text = (node["metadata"].get("labels") or {}).get(names.CLOCK_LABEL)
        if text is not None and not _is_number(text):
            said = f"{_name(node)}: {names.CLOCK_LABEL}={text} is no number of GHz: 1 is taken"
            todo = f"kubectl label --overwrite node {_name(node)} {names.CLOCK_LABEL}=2.4"
            yield Finding("tiers", State.WARNING, said, todo)


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def storage(seen: Seen) -> Iterator[Finding]:
    """Has a claim without a class one?"""
    if isinstance(seen.classes, Unseen):
        yield unseen("storage", seen.classes)
        return
    default = [_name(one) for one in seen.classes if _is_default(one)]
    if len(default) == 1:
        yield ok("storage", f"{default[0]} is the default StorageClass")
    elif default:
        said = f"several default StorageClasses: {_few(default)}: the newest is taken"
        yield Finding("storage", State.WARNING, said, _undo(default[-1]))
    else:
        known = [_name(one) for one in seen.classes]
        said = (
            f"there is no default StorageClass (of {_few(known)})"
            if known
            else "there is no StorageClass"
        )
        yield Finding(
            "storage",
            State.WRONG,
            f"{said}: jobs without spec.cloud.storage.storageClassName never get their volume",
            _make_default(known[0] if known else "NAME"),
        )


def _is_default(one: Json) -> bool:
    return (one["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"


def _make_default(name: str) -> str:
    return f"kubectl annotate --overwrite storageclass {name} {_DEFAULT_CLASS}=true"


def _undo(name: str) -> str:
    return f"kubectl annotate --overwrite storageclass {name} {_DEFAULT_CLASS}=false"


def images(seen: Seen) -> Iterator[Finding]:
    """Do the pods of jobs get their images, and start?"""
    if isinstance(seen.pods, Unseen):
        yield unseen("pods", seen.pods)
        return
    troubles = Counter[str]()
    for pod in seen.pods:
        if reason := trouble_of(pod):
            where = pod["metadata"]["namespace"], _name(pod)
            troubles[_without_pod(reason, where[1])] += 1
            if (event := seen.events.get(where)) and not reason.startswith(event[:20]):
                troubles[_without_pod(event, where[1])] += 1
    if not troubles:
        yield ok("pods", f"{len(seen.pods)} of jobs, none waits for an image or a place")
    for reason, count in troubles.most_common(_SHOWN):
        yield Finding("pods", State.WARNING, f"{count} of jobs: {reason}", _pull(reason))


def _without_pod(reason: str, pod: str) -> str:
    """The same reason for all pods of a set."""
    return reason.replace(pod, "…")


def _pull(reason: str) -> str:
    if "Image" in reason:
        return (
            "push the images and name them (--set image.registry=…), name spec.image, or give"
            " spec.podTemplate.imagePullSecrets"
        )
    return "kubectl describe pod, or lockstep describe JOB"


def jobs(seen: Seen) -> Iterator[Finding]:
    """Which are in trouble, and does an operator see them all?"""
    if seen.crd is None:
        return
    if isinstance(seen.jobs, Unseen):
        yield unseen("jobs", seen.jobs)
        return
    phases = Counter(Job(one).phase for one in seen.jobs)
    where = f"in namespace {seen.namespace}" if seen.namespace else "in all namespaces"
    shown = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
    yield ok("jobs", f"{len(seen.jobs)} {where}{f': {shown}' if shown else ''}")
    for one in seen.jobs:
        yield from _of_job(seen, Job(one))


def _of_job(seen: Seen, job: Job) -> Iterator[Finding]:
    named = f"{job.namespace}/{job.name}"
    if not job.status and _age_s(seen, job) > _PATIENCE_S:
        said = f"{named}: no operator has looked at it in {_age_s(seen, job):.0f} s"
        todo = "is one ready, and is the namespace among the chart's watchNamespaces?"
        yield Finding("jobs", State.WRONG, said, todo)
    elif job.phase != Phase.COMPLETED and (trouble := job.trouble()):
        todo = f"lockstep -n {job.namespace} describe {job.name}"
        yield Finding("jobs", State.WARNING, f"{named}: {job.phase}: {trouble}", todo)


def _age_s(seen: Seen, job: Job) -> float:
    now = seen.now if isinstance(seen.server_time, Unseen) else seen.server_time
    return (now - datetime.fromisoformat(job.age or now.isoformat())).total_seconds()
