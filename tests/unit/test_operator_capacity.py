"""What other jobs hold: by cpuAtMax, before their pods are there, and when two come at once."""

import asyncio
from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_operator.core.children import children
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet
from lockstep_operator.core.pods import CPU_AT_MAX
from lockstep_operator.errors import KubeError, Refused
from lockstep_operator.kube import POD, job_ref, ref_of
from lockstep_operator.observe import job_view, observe
from lockstep_operator.reconcile import reconcile
from lockstep_operator.views import pod_view
from tests.support.kube import (
    KEY,
    SETTINGS,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    node_body,
    sources_of,
)

SMALL_CLOUD = {"cpu": "100m", "memory": "100Mi"}


def other_job(name: str = "other", **spec: Any) -> Manifest:
    job = job_body(cloud=SMALL_CLOUD, **spec)
    job["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return job


def put_sets(kube: FakeKube, job: Manifest, *nodes: str) -> None:
    """The job's StatefulSets as placed on `nodes`, before any pod is there."""
    placement = Placement({CLOUD_POD: nodes[:1], PodSet(Role.DEVICE, "fast"): nodes})
    made = children(job_view(job), placement, settings=SETTINGS)
    for manifest in made:
        if manifest["kind"] == "StatefulSet":
            kube.put(manifest)


async def free(kube: FakeKube, **changes: Any) -> dict[str, float]:
    seen = await observe(KEY, sources_of(kube, **changes))
    assert seen is not None
    return {node.name: round(node.free_cpu, 3) for node in seen.nodes}


async def test_a_job_without_pods_holds_what_it_will_use() -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    assert await free(kube) == {"node": 7.1}


async def test_pods_that_are_there_count_once() -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    pod = device_pod("other-device-fast-0")
    pod["metadata"]["labels"][names.JOB_LABEL] = "other"
    pod["metadata"]["annotations"] = {CPU_AT_MAX: "400m"}
    kube.put(pod)
    assert await free(kube) == {"node": 7.1}


async def test_missing_pods_go_where_they_fit() -> None:
    kube = cluster_with(None, node_body("second", cpu="500m"), node_body("third", cpu="500m"))
    put_sets(kube, other_job(), "third", "second")
    assert await free(kube) == {"node": 8, "third": 0.0, "second": 0.1}


async def test_own_sets_hold_nothing() -> None:
    kube = cluster_with(job_body(cloud=SMALL_CLOUD))
    mine = job_body()
    mine["metadata"]["uid"] = "uid"
    put_sets(kube, mine, "node")
    assert await free(kube) == {"node": 8}


async def test_watched_namespaces_count_where_no_more_may_be_listed() -> None:
    class Narrow(FakeKube):
        async def list(self, kind: Any, namespace: str | None = None, *, labels: str = "") -> Any:
            if kind == POD and namespace is None:
                raise Refused("pods is forbidden")
            return await super().list(kind, namespace, labels=labels)

    kube = Narrow()
    pod = device_pod("elsewhere")
    pod["metadata"]["labels"] = {}
    for manifest in (job_body(), node_body(), pod):
        kube.put(manifest)
    assert await free(kube, namespaces=("lab",)) == {"node": 8 - 0.05}
    with pytest.raises(KubeError):
        await free(kube)


async def test_of_two_jobs_at_once_only_one_gets_the_last_place() -> None:
    devices = [{"name": "fast", "replicas": 2, "cpuAtMax": "400m"}]
    kube = FakeKube()
    both = ("one", "two")
    for manifest in (node_body(cpu="1500m"), *(other_job(n, devices=devices) for n in both)):
        kube.put(manifest)
    deps = make_deps(kube)
    await asyncio.gather(*(reconcile(JobKey("lab", name), deps) for name in both))
    statuses = [kube.objects[job_ref("lab", name)]["status"] for name in both]
    assert sorted(status["phase"] for status in statuses) == ["Pending", "Starting"]
    assert any(
        "0.5 free" in condition["message"] for s in statuses for condition in s["conditions"]
    )


async def test_of_two_jobs_that_lost_their_node_only_one_gets_the_last_place() -> None:
    kube = FakeKube()
    both = [JobKey("lab", name) for name in ("one", "two")]
    for manifest in (node_body("old"), *(other_job(key.name) for key in both)):
        kube.put(manifest)
    now = [100.0]
    deps = make_deps(kube, monotonic=lambda: now[0])
    for key in both:
        assert (await reconcile(key, deps)).phase == "Starting"
    kube.remove(ref_of(node_body("old")))
    kube.put(node_body("new", cpu="1500m"))
    now[0] += 2
    await asyncio.gather(*(reconcile(key, deps) for key in both))
    statuses = [kube.objects[job_ref("lab", key.name)]["status"] for key in both]
    placed = [sorted({n for p in s["placement"] for n in p["nodes"]}) for s in statuses]
    assert sorted(placed) == [["new"], ["old"]]
    assert any(
        "0.5 free" in condition["message"] for s in statuses for condition in s["conditions"]
    )


async def test_a_pass_that_keeps_its_place_waits_for_nobody() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    async with deps.placing, asyncio.timeout(5):
        assert (await reconcile(KEY, deps)).phase == "Starting"


def test_a_pod_that_is_being_deleted_is_not_ready() -> None:
    pod = device_pod("digits-device-fast-0")
    assert pod_view(pod).ready
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not pod_view(pod).ready
