"""What observe reads of a cluster: the job however wrong, its pods' problems, the room on nodes."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from lockstep_api import names
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.model import Manifest
from lockstep_operator.kube import CHILD_KINDS, LIMIT_RANGE, POD, QUOTA
from lockstep_operator.observe import Sources, job_view, observe
from lockstep_operator.views import (
    ANNOTATIONS,
    holding,
    kept_child,
    kept_job,
    kept_pod,
    limit_range_bounds,
    pod_view,
    quota_bounds,
)
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    node_body,
    sources_of,
)

PLACED = {"placement": [{"name": name, "nodes": ["node"]} for name in ("cloud", "fast")]}


def other_pod(cpu: str = "500m", **meta: Any) -> Manifest:
    pod = device_pod("other", cpu)
    pod["metadata"] = {"name": "other", "namespace": "elsewhere", **meta}
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu, "memory": "1Gi"}}
    return pod


def sources(kube: FakeKube) -> Sources:
    return sources_of(kube)


def test_of_all_jobs_what_they_hold_is_kept_and_nothing_that_a_user_may_fill() -> None:
    job = job_body()
    job["metadata"] |= {"uid": "1-2", "resourceVersion": "7"}
    job["metadata"]["labels"] = {f"label-{number}": "x" for number in range(2000)}
    job["status"] = PLACED | {"phase": "Running"}
    job["spec"]["model"] = {"name": "mlp", "args": {"hidden": "x" * 100_000}}
    job["spec"]["podTemplate"] = {"annotations": {"a": "x" * 16_000}}
    kept = kept_job(job)
    assert [(share.set[1], share.replicas) for share in kept.shares] == [
        ("digits-cloud", 1), ("digits-device-fast", 2),
    ]  # fmt: skip
    assert len(pickle.dumps(kept)) < 4000


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        *((kind, kept_child) for kind in CHILD_KINDS),
        (POD, kept_pod),
        (LIMIT_RANGE, limit_range_bounds),
        (QUOTA, quota_bounds),
    ],
    ids=lambda one: one[1] if isinstance(one, tuple) else "",
)
def test_of_an_object_that_is_filled_up_little_is_kept(
    kind: tuple[str, str], kept: Callable[[Manifest], object]
) -> None:
    """All that those may write who make objects in a namespace and no Kubernetes checks."""
    long = "x" * 100_000
    owner = dict.fromkeys(("apiVersion", "kind", "name", "uid"), long) | {"controller": True}
    manifest: Manifest = {
        "apiVersion": kind[0],
        "kind": kind[1],
        "metadata": {
            "name": "o",
            "namespace": "attic",
            "uid": "1-2",
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {names.JOB_LABEL: "digits"} | {f"l{i}": "v" for i in range(1000)},
            "annotations": dict.fromkeys((*ANNOTATIONS, "a"), long),
            "ownerReferences": [owner] * 1000,
            "finalizers": [f"example.org/{i}" for i in range(1000)],
        },
        "spec": {
            "containers": [{"name": "c", "env": [{"name": long}]}] * 3,
            "template": {"spec": {"containers": [{"name": "c", "env": [{"name": long}]}]}},
            "limits": [{"type": "Container", "max": {"cpu": long}}] * 3,
            "hard": {"limits.cpu": "1", long: "1"},
        },
    }
    assert len(pickle.dumps(kept(manifest))) < 8000


@pytest.mark.parametrize("cpu", ["9" * 300, "9" * 308, "9" * 400])
def test_a_pod_that_asks_for_more_than_there_can_be_is_reckoned_with(cpu: str) -> None:
    """The apiserver takes such quantities."""
    held = holding(other_pod(cpu) | {"spec": other_pod(cpu)["spec"] | {"nodeName": "node"}})
    assert held is not None
    left = Amount(4.0, 1e9, 100, 1e9) - held.need
    assert left.holds(Amount(0.001, 1e6, 1)) == 0


async def test_a_job_that_is_gone_is_nothing() -> None:
    assert await observe(KEY, sources(FakeKube())) is None


async def test_a_job_that_is_being_deleted_is_nothing() -> None:
    job = job_body()
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert await observe(KEY, sources(cluster_with(job))) is None


async def test_children_are_found_by_label_with_their_kinds() -> None:
    child = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "s", "namespace": "lab", "labels": {names.JOB_LABEL: KEY.name}},
    }
    seen = await observe(KEY, sources(cluster_with(None, child)))
    assert seen is not None
    assert [(ref.kind, ref.name) for ref in seen.children] == [("StatefulSet", "s")]


def test_a_wrong_spec_is_said_in_the_users_words() -> None:
    body = job_body(devices=[{"name": "a", "cpuAtMax": "lots"}])
    body["metadata"]["uid"] = "u"
    view = job_view(body)
    assert view.spec is None
    assert view.spec_error is not None
    assert view.spec_error.startswith("spec.devices.0.cpuAtMax: ")


def test_a_status_of_another_version_counts_as_none() -> None:
    body = job_body() | {"status": {"phase": "Dreaming"}}
    body["metadata"]["uid"] = "u"
    assert job_view(body).status.phase is None


def test_of_a_status_only_what_cannot_be_read_is_left_out() -> None:
    body = job_body() | {"status": {"phase": "Completed", "energyJoules": {"model": -1}}}
    body["metadata"]["uid"] = "u"
    status = job_view(body).status
    assert (status.phase, status.energy_joules) == ("Completed", None)


async def free(kube: FakeKube) -> float:
    seen = await observe(KEY, sources(kube))
    assert seen is not None
    return seen.nodes[0].free.cpu


async def test_pods_of_others_use_their_requests() -> None:
    assert await free(cluster_with(None, other_pod("500m"))) == pytest.approx(7.5)


async def test_devices_of_other_jobs_use_their_most() -> None:
    devices = [{"name": "fast", "replicas": 1, "cpuAtMax": "2"}]
    job = job_body(devices=devices, cloud={"cpu": "1m", "memory": "1Mi"})
    job["metadata"] |= {"name": "other", "namespace": "elsewhere"}
    pod = other_pod("50m", labels={names.JOB_LABEL: "other"})
    pod["metadata"]["name"] = "other-device-fast-0"
    kube = cluster_with(None, job | {"status": PLACED}, pod)
    assert await free(kube) == pytest.approx(6.0 - 0.001)


async def test_own_and_finished_pods_use_nothing() -> None:
    finished = other_pod("3")
    finished["status"]["phase"] = "Succeeded"
    assert await free(
        cluster_with(None, device_pod("digits-device-fast-0"), finished)
    ) == pytest.approx(8.0)


async def test_init_containers_count_when_they_are_larger() -> None:
    pod = other_pod("500m")
    pod["spec"]["initContainers"] = [{"resources": {"requests": {"cpu": "2"}}}]
    assert await free(cluster_with(None, pod)) == pytest.approx(6.0)


async def test_a_placed_job_asks_nothing_of_other_pods() -> None:
    assert await free(cluster_with(job_body() | {"status": PLACED}, other_pod("3"))) == 8.0


async def test_a_placed_job_whose_node_is_gone_does() -> None:
    status = {"placement": [{"name": "cloud", "nodes": ["lost"]}]}
    assert await free(cluster_with(job_body() | {"status": status}, other_pod("3"))) == 5.0


async def test_a_finished_job_needs_no_nodes() -> None:
    seen = await observe(KEY, sources(cluster_with(job_body() | {"status": {"phase": "Failed"}})))
    assert seen is not None
    assert seen.nodes == ()


async def test_a_cordoned_node_is_not_ready() -> None:
    node = node_body()
    node["spec"] = {"unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}]}
    kube = cluster_with()
    kube.put(node)
    seen = await observe(KEY, sources(kube))
    assert seen is not None
    assert not seen.nodes[0].ready
    assert seen.nodes[0].taints[0]["key"] == "k"


def waiting(reason: str, message: str = "", **more: Any) -> Manifest:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "worker", "state": state, **more}]}


TERMINATED = {"terminated": {"reason": "Error", "exitCode": 1, "message": "no such module"}}


def running(**more: Any) -> Manifest:
    """A container that runs again after a crash."""
    state = {"name": "w", "state": {"running": {}}, "lastState": TERMINATED}
    return {"containerStatuses": [state | more]}


UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available",
        }
    ]
}


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({}, None),
        (waiting("ContainerCreating"), None),
        (waiting("ImagePullBackOff", "no such image"), "ImagePullBackOff: no such image"),
        (
            waiting("CrashLoopBackOff", "back-off 5m", lastState=TERMINATED),
            "CrashLoopBackOff: Error, exit code 1: no such module",
        ),
        (UNSCHEDULABLE, "Unschedulable: 0/3 nodes are available"),
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, "Evicted: disk"),
        (
            {"containerStatuses": [{"name": "w", "restartCount": 4, "lastState": TERMINATED}]},
            "Restarting: 4 restarts; Error, exit code 1: no such module",
        ),
        ({"containerStatuses": [{"name": "w", "restartCount": 4, "ready": True}]}, None),
        (running(restartCount=1), "Restarted: Error, exit code 1: no such module"),
        (running(restartCount=2), "CrashLoopBackOff: Error, exit code 1: no such module"),
        (running(restartCount=2, ready=True), None),
        (
            {"containerStatuses": [{"name": "w", "restartCount": 2, "state": TERMINATED}]},
            "CrashLoopBackOff: Error, exit code 1: no such module",
        ),
        (
            waiting("CrashLoopBackOff", "back-off", restartCount=5, lastState=TERMINATED),
            "Restarting: 5 restarts; Error, exit code 1: no such module",
        ),
    ],
)
def test_the_problem_of_a_pod_is_named(status: Manifest, problem: str | None) -> None:
    pod = device_pod("a")
    pod["status"] = status
    assert pod_view(pod).problem == problem


def test_a_pod_has_role_group_node_and_readiness() -> None:
    view = pod_view(device_pod("a"))
    assert (view.role, view.group, view.node, view.ready) == ("device", "fast", "node", True)
