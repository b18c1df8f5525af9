"""Objects of users beside a job, and what the job itself is made of."""

from typing import Any

from lockstep_api import names
from lockstep_operator.core.children import child_refs, children, record_refs
from lockstep_operator.core.model import JobView, Manifest, ObjectRef
from lockstep_operator.core.placement import Placement, pod_sets
from lockstep_operator.kube import job_ref
from lockstep_operator.observe import job_view
from tests.support.kube import (
    KEY,
    SETTINGS,
    FakeKube,
    job_body,
    owner_of,
    status_of,
)

ONLINE = {"allocation": {"policy": "ppo", "online": True}}


def viewed(kube: FakeKube) -> JobView:
    return job_view(kube.objects[job_ref(KEY.namespace, KEY.name)])


def manifests(job: JobView) -> tuple[Manifest, ...]:
    assert job.spec is not None
    placement = Placement(dict.fromkeys(pod_sets(job.spec), ("node",)))
    return children(job, placement, settings=SETTINGS)


def a_job(**spec: Any) -> JobView:
    body = job_body(**(ONLINE | spec))
    body["metadata"]["uid"] = "uid-1"
    return job_view(body)


def consists_of(job: JobView) -> tuple[ObjectRef, ...]:
    assert job.spec is not None
    return child_refs(job, job.spec)


def records_of(job: JobView) -> tuple[ObjectRef, ...]:
    assert job.spec is not None
    return record_refs(job, job.spec)


def foreign(ref: ObjectRef, **metadata: Any) -> Manifest:
    """A user's object."""
    meta = {"name": ref.name, "namespace": ref.namespace, **metadata}
    body = {"spec": {"selector": {"app": "shop"}}, "data": {"app.ini": "debug=1"}}
    return {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": meta, **body}


LIKE_OURS: Manifest = {"labels": {names.JOB_LABEL: KEY.name, names.ROLE_LABEL: "cloud"}}
OF_ANOTHER_JOB: Manifest = {
    "ownerReferences": [owner_of({"metadata": {"name": "other", "uid": "other-uid"}})],
}
OF_A_DEPLOYMENT: Manifest = {
    "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "x", "controller": True}
    ],
    **LIKE_OURS,
}
FOREIGN: dict[str, Manifest] = {
    "bare": {},
    "labelled like a child": LIKE_OURS,
    "of another job": OF_ANOTHER_JOB,
    "of a deployment": OF_A_DEPLOYMENT,
}


def accepted(kube: FakeKube) -> Manifest:
    (found,) = (c for c in status_of(kube)["conditions"] if c["type"] == "Accepted")
    assert isinstance(found, dict)
    return found


def children_of(kube: FakeKube) -> list[ObjectRef]:
    """What the job has made."""
    uid = viewed(kube).uid
    return [
        ref
        for ref, one in kube.objects.items()
        if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ()))
    ]
