"""Which pods Prometheus reads, and what it is told of them; pure.

`discovery` serves the list. Invariant: every label comes of what the operator made: a job that is
there, a StatefulSet of it under a name made of the job's, and the pod that this set has made. What
a pod says of itself, on its page or by labels, is none of it, so nobody tells a figure in the name
of another namespace's job.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.series import labels
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.core.ownership import controller
from lockstep_operator.core.pods import scrape_interval_s

INTERVAL_LABEL = "__meta_lockstep_scrape_interval"
"""How often a pod of a large job is to be read (`5s`); Prometheus drops it after relabelling."""


@dataclass(frozen=True, slots=True)
class Target:
    """A pod to be read, in the form of Prometheus's `http_sd`."""

    address: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetPod:
    """A pod that is ready."""

    namespace: str
    name: str
    set_uid: str
    """Of what made it."""
    ip: str


@dataclass(frozen=True, slots=True)
class _Set:
    job: JobKey
    name: str
    role: Role
    group: str
    pods: int


def targets(
    jobs: Mapping[str, JobKey], sets: Iterable[tuple[str, Manifest]], *, pods: Iterable[SetPod]
) -> list[Target]:
    """The pods of the jobs' own sets, in the order of their names.

    Args:
        jobs: the jobs that are there, by uid.
        sets: uid and manifest of StatefulSets.
        pods: those that are ready.
    """
    owned = {uid: one for uid, manifest in sets if (one := _of_a_job(manifest, jobs)) is not None}
    many = Counter[JobKey]()
    for one in owned.values():
        many[one.job] += 0 if one.role is Role.CLOUD else one.pods
    intervals = {job: scrape_interval_s(count) for job, count in many.items()}
    found = [
        _target(pod, of, interval_s=intervals[of.job])
        for pod in pods
        if (of := owned.get(pod.set_uid)) is not None and pod.ip and _is_made_by(of, pod)
    ]
    return sorted(found, key=lambda one: (one.labels[labels.NAMESPACE], one.labels[labels.POD]))


def _of_a_job(manifest: Manifest, jobs: Mapping[str, JobKey]) -> _Set | None:
    """What a set is to the job that owns it; None: nothing."""
    meta, owner = manifest["metadata"], controller(manifest) or {}
    job = jobs.get(owner.get("uid", ""))
    if job is None or job.namespace != meta["namespace"]:
        return None
    said: Mapping[str, str] = meta.get("labels") or {}
    replicas = int(manifest.get("spec", {}).get("replicas", 1))
    for role, group, name in _names(job.name, said):
        if name == meta["name"] and said.get(names.ROLE_LABEL) == role:
            return _Set(job, name, role, group, replicas)
    return None


def _names(job: str, said: Mapping[str, str]) -> Iterable[tuple[Role, str, str]]:
    """Role, group and name of each set that a job with groups of these names has."""
    yield Role.CLOUD, "", names.cloud_name(job)
    for role, label in names.GROUP_LABELS.items():
        group = said.get(label, "")
        make = names.group_name if role is Role.DEVICE else names.edge_group_name
        yield role, group, make(job, group)


def _is_made_by(of: _Set, pod: SetPod) -> bool:
    """Whether the set's controller makes pods of this name there: others may say it owns theirs.

    Also in other namespaces, where Kubernetes lets them be for a moment.
    """
    made_as, _, ordinal = pod.name.rpartition("-")
    if (pod.namespace, made_as) != (of.job.namespace, of.name):
        return False
    if len(ordinal) > len(str(of.pods)) or not ordinal.isdecimal():
        return False
    return ordinal == str(int(ordinal)) and int(ordinal) < of.pods


def _target(pod: SetPod, of: _Set, *, interval_s: int) -> Target:
    told = {
        labels.NAMESPACE: of.job.namespace,
        labels.JOB: of.job.name,
        labels.POD: pod.name,
        labels.TIER: of.role.value,
    }
    if of.role is not Role.CLOUD:
        key = labels.CLIENT if of.role is Role.DEVICE else labels.EDGE
        told[key] = names.client_name(of.group, int(pod.name.rpartition("-")[2]))
        if interval_s > 1:
            told[INTERVAL_LABEL] = f"{interval_s}s"
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return Target(f"{host}:{names.METRICS_PORT}", told)
