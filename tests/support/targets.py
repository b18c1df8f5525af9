"""Sets of jobs and their pods in the in-memory Kubernetes, as its controllers make them."""

from typing import Any

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_operator.core.model import Manifest
from lockstep_operator.kube import ref_of
from tests.support.kube import FakeKube, device_pod, owner_of


def put(kube: FakeKube, manifest: Manifest) -> Manifest:
    """The object as it is kept, with its uid."""
    kube.put(manifest)
    return kube.objects[ref_of(manifest)]


def set_of(
    job: Manifest, role: Role, *, group: str = "", replicas: int = 2, **meta: Any
) -> Manifest:
    """A StatefulSet of a job, under the name that the operator gives it."""
    key = job["metadata"]["name"]
    labels: dict[str, str] = {names.JOB_LABEL: names.label_value(key), names.ROLE_LABEL: role}
    if group:
        labels[names.GROUP_LABELS[role]] = group
    about: Manifest = {"name": _name(key, role, group=group), "labels": labels}
    about |= {"namespace": job["metadata"]["namespace"], "ownerReferences": [owner_of(job)]}
    body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": about | meta}
    return body | {"spec": {"replicas": replicas}}


def _name(job: str, role: Role, *, group: str) -> str:
    if role is Role.CLOUD:
        return names.cloud_name(job)
    made = names.edge_group_name if role is Role.EDGE else names.group_name
    return made(job, group)


def pod_of(made: Manifest, ordinal: int = 0, *, ip: str = "10.0.0.7") -> Manifest:
    """A ready pod of a set."""
    about = made["metadata"]
    pod = device_pod(f"{about['name']}-{ordinal}")
    pod["metadata"] |= {"namespace": about["namespace"], "labels": dict(about["labels"])}
    pod["metadata"]["ownerReferences"][0]["uid"] = about["uid"]
    pod["status"]["podIP"] = ip
    return pod
