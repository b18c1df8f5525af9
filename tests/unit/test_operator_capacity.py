"""What other jobs hold: by cpuAtMax, before their pods are there, and when two come at once."""

import asyncio
from dataclasses import astuple
from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.names import KIND, Role
from lockstep_api.status import FederatedJobStatus
from lockstep_operator import cluster_state
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.children import children
from lockstep_operator.core.model import JobKey, JobView, Manifest
from lockstep_operator.core.occupancy import Holding
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet
from lockstep_operator.core.status import written_placement
from lockstep_operator.errors import KubeError, Refused
from lockstep_operator.kube import POD, job_ref, ref_of
from lockstep_operator.observe import job_view, observe
from lockstep_operator.reconcile import reconcile
from lockstep_operator.views import holding, pod_view
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
HUGE = {"name": "huge", "replicas": 1, "cpuAtMax": "30"}


def other_job(name: str = "other", **spec: Any) -> Manifest:
    job = job_body(cloud=SMALL_CLOUD, **spec)
    job["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return job


def put_sets(kube: FakeKube, job: Manifest, *nodes: str) -> None:
    """The job and its StatefulSets as placed on `nodes`, before any pod is there."""
    placement = Placement({CLOUD_POD: nodes[:1], PodSet(Role.DEVICE, "fast"): nodes})
    shown = [part.model_dump(by_alias=True) for part in written_placement(placement)]
    kube.put(job | {"status": {"phase": "Starting", "placement": shown}})
    made = children(job_view(job), placement, settings=SETTINGS)
    for manifest in made:
        if manifest["kind"] == "StatefulSet":
            kube.put(manifest)


async def free(kube: FakeKube, **changes: Any) -> dict[str, float]:
    seen = await observe(KEY, sources_of(kube, **changes))
    assert seen is not None
    return {node.name: round(node.free.cpu, 3) for node in seen.nodes}


async def test_a_job_without_pods_holds_what_it_will_use() -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    assert await free(kube) == {"node": 7.1}


def with_a_device_there() -> FakeKube:
    """Another job, of whose pods one device is there."""
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    pod = device_pod("other-device-fast-0")
    pod["metadata"]["labels"][names.JOB_LABEL] = "other"
    kube.put(pod)
    return kube


def quota(**spec: Any) -> Manifest:
    meta = {"name": "small", "namespace": "lab"}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": spec}


async def test_pods_that_are_there_count_once() -> None:
    kube = with_a_device_there()
    assert await free(kube) == {"node": 7.1}


QUOTAS: list[tuple[Manifest, float]] = [
    ({"hard": {"limits.cpu": "600m"}}, 7.5),  # the cloud pod's 0.1, and one device of 0.4
    ({"hard": {"pods": "2"}}, 7.5),
    ({"hard": {"count/pods": "0"}}, 8.0),
    ({"hard": {"requests.memory": "1"}}, 8.0),
    ({"hard": {"limits.cpu": "5", "pods": "9"}}, 7.1),
    ({"hard": {"requests.cpu": "1m"}}, 7.1),  # devices request less than they hold
    ({"hard": {"pods": "0"}, "scopes": ["BestEffort"]}, 7.1),
    ({"hard": {"limits.cpu": "0"}, "scopeSelector": {"matchExpressions": []}}, 7.1),
]


@pytest.mark.parametrize(("spec", "left"), QUOTAS)
async def test_pods_that_a_quota_lets_nobody_make_hold_nothing(spec: Manifest, left: float) -> None:
    """Or somebody with a quota of nothing would take all nodes from others."""
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    kube.put(quota(**spec))
    assert await free(kube) == {"node": left}


async def test_pods_that_are_there_are_part_of_the_quota() -> None:
    kube = with_a_device_there()
    kube.put(quota(hard={"limits.cpu": "450m"}))
    assert await free(kube) == {"node": 7.6}


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


def strangers_set(replicas: int, **meta: Any) -> Manifest:
    """A StatefulSet that says it is of a job."""
    labels = {names.JOB_LABEL: "other", names.ROLE_LABEL: "device", names.GROUP_LABEL: "fast"}
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node"]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    container = {"name": "worker", "resources": {"requests": {"cpu": "1"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "their-own", "namespace": "lab", "labels": labels} | meta,
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": labels, "annotations": AT_MAX},
                "spec": {"containers": [container], "affinity": {"nodeAffinity": required}},
            },
        },
    }


AT_MAX = {"lockstep.dev/cpu-at-max": "9E"}


@pytest.mark.parametrize("replicas", [1, 1000, 2**31 - 1])
async def test_a_strangers_set_holds_nothing(replicas: int) -> None:
    """Of however many replicas; its pods count when they are there."""
    assert await free(cluster_with(None, strangers_set(replicas))) == {"node": 8}


async def test_a_strangers_set_under_the_name_of_a_jobs_holds_what_the_job_has_asked_for() -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    kube.put(strangers_set(2**31 - 1, name="other-device-fast"))
    assert await free(kube) == {"node": 7.1}


@pytest.mark.parametrize(
    ("name", "cpu", "left"),
    [
        ("any", "1m", 8 - 0.001 - 0.9),
        ("any", "2", 8 - 2 - 0.9),
        ("other-device-fast-2", "1m", 8 - 0.001 - 0.9),  # the job has two
        ("other-device-fast-00", "1m", 8 - 0.001 - 0.9),
        ("other-device-slow-0", "1m", 8 - 0.001 - 0.9),
        ("other-device-fast-0", "1m", 8 - 0.9),  # then it is that device
        ("other-device-fast-0", "3", 8 - 3 - 0.5),
    ],
)
async def test_what_a_pod_says_of_itself_does_not_count(name: str, cpu: str, left: float) -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    pod = device_pod(name)
    pod["metadata"]["labels"][names.JOB_LABEL] = "other"
    pod["metadata"]["annotations"] = AT_MAX | {"lockstep.dev/cpu-at-max": "0.001"}
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    kube.put(pod)
    assert await free(kube) == {"node": round(left, 3)}
    pod["metadata"]["annotations"] = AT_MAX
    kube.put(pod)
    assert await free(kube) == {"node": round(left, 3)}


async def test_a_pod_with_the_jobs_label_that_is_not_the_jobs_holds_what_it_requests() -> None:
    assert await free(cluster_with(None, device_pod("stranger"))) == {"node": 8 - 0.05}


async def test_a_device_away_from_its_jobs_nodes_holds_what_it_requests() -> None:
    kube = cluster_with(None, node_body("second"))
    put_sets(kube, other_job(), "node")
    pod = device_pod("other-device-fast-0")
    pod["metadata"]["labels"][names.JOB_LABEL] = "other"
    pod["spec"]["nodeName"] = "second"
    kube.put(pod)
    assert await free(kube) == {"node": 7.1, "second": 8 - 0.05}


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"suspend": True}},
        {"status": {"phase": "Completed"}},
        {"status": {"phase": "Pending"}},
    ],
)
async def test_a_job_that_has_no_place_holds_nothing(change: Manifest) -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    body = kube.objects[job_ref("lab", "other")]
    body["spec"] |= change.get("spec", {})
    body["status"] = change.get("status", body["status"])
    kube.put(body)
    assert await free(kube) == {"node": 8}


async def test_a_job_that_is_gone_leaves_what_its_pods_request() -> None:
    kube = cluster_with()
    put_sets(kube, other_job(), "node")
    state = sources_of(kube).cluster
    pod = device_pod("other-device-fast-0")
    pod["metadata"]["labels"][names.JOB_LABEL] = "other"
    kube.put(pod)
    other = job_view(kube.objects[job_ref("lab", "other")])
    state.decided(other, other.status)
    mine = job_view(kube.objects[job_ref("lab", "digits")])
    before = await state.free_nodes(mine)
    kube.remove(job_ref("lab", "other"))
    after = await state.free_nodes(mine)
    assert [round(node.free.cpu, 3) for node in (*before, *after)] == [7.1, 8 - 0.05]


async def test_pods_of_others_that_hold_nothing_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There may be many that nobody has bound, each as large as an object may be."""
    waiting, ended, running = (device_pod(name) for name in ("waiting", "ended", "running"))
    for pod in (waiting, ended, running):
        del pod["metadata"]["labels"]
    del waiting["spec"]["nodeName"]
    ended["status"] = {"phase": "Failed"}
    kube, read = cluster_with(None, waiting, ended, running), list[str]()

    def seen(pod: Manifest) -> Holding | None:
        read.append(pod["metadata"]["name"])
        return holding(pod)

    monkeypatch.setattr(cluster_state, "holding", seen)
    assert await free(kube) == {"node": 8 - 0.05}
    assert read == ["running"]


async def test_pods_memory_and_storage_of_nodes_are_counted_like_cores() -> None:
    node = node_body()
    node["status"]["allocatable"] |= {"pods": "10", "ephemeral-storage": "1Gi"}
    pod = device_pod("any")
    requests = {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "256Mi"}
    pod["spec"]["containers"][0]["resources"] = {"requests": requests}
    kube = cluster_with(None, node, pod)
    seen = await observe(KEY, sources_of(kube))
    assert seen is not None
    assert seen.nodes[0].free == Amount(7, 15 * 2.0**30, 9, 768 * 2.0**20)


async def test_a_node_that_may_have_no_more_pods_refuses_the_job_in_numbers() -> None:
    """Nothing is created, so that no pod waits for a node that says "Too many pods"."""
    node = node_body()
    node["status"]["allocatable"]["pods"] = "2"
    kube = cluster_with(job_body(cloud=SMALL_CLOUD), node)
    assert (await reconcile(KEY, make_deps(kube))).phase == "Pending"
    conditions = str(kube.objects[job_ref(*astuple(KEY))]["status"]["conditions"])
    assert "needs 2 pods on tier device, 1 free" in conditions
    assert not any(ref.kind == "StatefulSet" for ref in kube.objects)


def container(cpu: str, **more: Any) -> Manifest:
    return {"resources": {"requests": {"cpu": cpu}}} | more


@pytest.mark.parametrize(
    ("spec", "cores"),
    [
        ({"containers": [container("1"), container("500m")]}, 1.5),
        ({"containers": [container("1")], "initContainers": [container("3")]}, 3),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("1", restartPolicy="Always"), container("3")],
            },
            4,
        ),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("1500m"), container("1", restartPolicy="Always")],
            },
            2,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1.25),
        ({"containers": [container("1")]} | container("2"), 2),
        ({"containers": [container("1e1")]}, 10),
        ({"containers": [container("5000000n"), container("7u")]}, 0.005007),
        ({"containers": [container("what?")]}, 0),
        ({"containers": [{"name": "asks for nothing"}]}, 0),
    ],
)
def test_a_pod_holds_what_kube_scheduler_counts(spec: Manifest, cores: float) -> None:
    pod = {"metadata": {"name": "a", "namespace": "b"}, "spec": spec | {"nodeName": "node"}}
    found = holding(pod)
    assert found is not None
    assert found.need.cpu == pytest.approx(cores)
    assert found.need.pods == 1


async def test_devices_of_jobs_elsewhere_use_their_most_where_their_jobs_may_be_read() -> None:
    kube = cluster_with()
    elsewhere = other_job()
    elsewhere["metadata"]["namespace"] = "elsewhere"
    put_sets(kube, elsewhere, "node")
    assert await free(kube, namespaces=("lab",)) == {"node": 7.1}
    pod = device_pod("other-device-fast-0")
    pod["metadata"]["namespace"] = "elsewhere"
    kube.put(pod)
    assert await free(kube, namespaces=("lab",)) == {"node": 7.1}
    kube.fail = lambda verb, name: Refused("no") if (verb, name) == ("list", KIND) else None
    assert await free(kube, namespaces=("lab",)) == {"node": 8 - 0.05}


async def test_watched_namespaces_count_where_no_more_may_be_listed() -> None:
    class Narrow(FakeKube):
        async def listed(self, kind: Any, namespace: str | None = None, *, labels: str = "") -> Any:
            if kind == POD and namespace is None:
                raise Refused("pods is forbidden")
            return await super().listed(kind, namespace, labels=labels)

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
    successor = make_deps(kube)
    for one in (deps, successor):
        async with one.placing.of("lab"), asyncio.timeout(5):
            assert (await reconcile(KEY, one)).phase == "Starting"


async def test_jobs_without_room_keep_no_other_namespace_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty jobs of one namespace that fit nowhere, then one of another that does."""
    kube = FakeKube()
    kube.put(node_body("n1", cpu="4"))
    many = [JobKey("flood", f"big-{number}") for number in range(40)]
    for key in (*many, KEY):
        job = other_job(key.name, **({} if key is KEY else {"devices": [HUGE]}))
        job["metadata"]["namespace"] = key.namespace
        kube.put(job)
    deps, looked = make_deps(kube), list[JobKey]()
    decided = deps.sources.cluster.decided

    def look(job: JobView, status: FederatedJobStatus) -> None:
        looked.append(job.key)
        decided(job, status)

    monkeypatch.setattr(deps.sources.cluster, "decided", look)

    async def one_pass(key: JobKey) -> float | None:
        return (await reconcile(key, deps)).requeue_in_s

    async with deps.placing.of("flood"):  # a pass of one before them
        passes = [asyncio.create_task(one_pass(key)) for key in (*many, KEY)]
        await asyncio.sleep(0)
    waits = await asyncio.gather(*passes)
    assert looked.index(KEY) < 10, "after a few of the others, not after all"
    assert kube.objects[job_ref(*astuple(KEY))]["status"]["phase"] == "Starting"
    assert waits[0] == 5.0
    assert waits[39] == 40 / 4, "together they look four times a second"


def test_a_pod_that_is_being_deleted_is_not_ready() -> None:
    pod = device_pod("digits-device-fast-0")
    assert pod_view(pod).ready
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not pod_view(pod).ready
