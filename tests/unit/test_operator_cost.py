"""What passes cost: calls by time and not by pod, little of CPU and memory, nothing that grows."""

import copy
import gc
import statistics
import time
import tracemalloc
from functools import partial
from typing import Any

import pytest

from lockstep_api import names
from lockstep_operator.cluster_state import FRESH_S, ClusterState
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.kube import POD, SET, job_ref
from lockstep_operator.reconcile import reconcile
from lockstep_operator.runtime import Pace, Runtime
from tests.support.clock import FakeTime
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    node_body,
    status_of,
)


async def test_pods_of_a_job_cost_calls_by_time_and_not_by_pod() -> None:
    """A thousand pods that come within 50 s: one pass a second, one or two calls each."""
    groups = [{"name": "fast", "replicas": 1000, "cpuAtMax": "1m", "memory": "1Mi"}]
    kube = cluster_with(job_body(devices=groups))
    clock = FakeTime()
    deps = make_deps(kube, monotonic=clock.monotonic)
    passes = 0

    async def one(key: JobKey) -> Any:
        nonlocal passes
        passes += 1
        return await reconcile(key, deps)

    pace = Pace(monotonic=clock.monotonic, wait=clock.wait)
    runtime = Runtime(one, deps.metrics, resync_s=1000.0, pace=pace)
    deps.sources.cluster.listen(runtime)
    runtime.seen(KEY)
    await clock.move(2.0)
    before, made = kube.calls.copy(), passes
    for second in range(50):
        for index in range(20 * second, 20 * second + 20):
            kube.put(device_pod(f"digits-device-fast-{index}"))
        await clock.move(1.0)
    await clock.move(2.0)
    await runtime.shutdown()
    cost = kube.calls - before
    assert set(cost) == {("get", "FederatedJob"), ("status", "FederatedJob")}
    assert 50 <= passes - made <= 52
    assert cost.total() <= 2 * (passes - made)
    ready = next(c for c in status_of(kube)["conditions"] if c["type"] == "Ready")
    assert ready["message"].startswith("1 of 1001 pods are not ready"), "the last state is told"


def large_job() -> FakeKube:
    """A job of a thousand devices, all of them ready."""
    groups = [
        {"name": f"g{index}", "replicas": 100, "cpuAtMax": "1m", "memory": "1Mi"}
        for index in range(10)
    ]
    kube = cluster_with(job_body(devices=groups))
    for index in range(1000):
        kube.put(pod_of_group(index))
    return kube


def pod_of_group(index: int) -> Manifest:
    pod = device_pod(f"digits-device-g{index % 10}-{index // 10}")
    pod["metadata"]["labels"][names.GROUP_LABEL] = f"g{index % 10}"
    return pod


async def test_a_pass_over_a_thousand_pods_takes_less_than_50_ms_of_cpu() -> None:
    deps = make_deps(large_job())
    await reconcile(KEY, deps)
    spent = []
    for _ in range(15):
        began = time.process_time()
        await reconcile(KEY, deps)
        spent.append(time.process_time() - began)
    assert statistics.median(spent) < 0.05


def test_what_is_kept_of_pods_is_small_and_goes_with_them() -> None:
    kube = large_job()
    listed = [one for one in kube.objects.values() if one["kind"] == "Pod"][:200]
    tracemalloc.start()
    try:
        state = ClusterState(kube)
        kept_pods = next(one for one in state.all_kept() if one.source.kind == POD)
        empty = tracemalloc.get_traced_memory()[0]
        for pod in copy.deepcopy(listed):
            kept_pods.put(pod)
        gc.collect()
        full = tracemalloc.get_traced_memory()[0] - empty
        for round in range(1, 4):
            for pod in copy.deepcopy(listed):
                pod["metadata"]["resourceVersion"] = str(10_000 * round)
                (kept_pods.drop if round % 2 else kept_pods.put)(pod)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - empty
    finally:
        tracemalloc.stop()
    assert full < 200 * 3000, "bytes a pod"
    assert left < full / 4, "nothing stays of pods that are gone"


async def test_a_deleted_set_comes_back_by_the_watch_within_the_pause_between_passes() -> None:
    kube, clock = cluster_with(), FakeTime()
    deps = make_deps(kube, monotonic=clock.monotonic)
    pace = Pace(monotonic=clock.monotonic, wait=clock.wait)
    runtime = Runtime(partial(reconcile, deps=deps), deps.metrics, resync_s=1000.0, pace=pace)
    deps.sources.cluster.listen(runtime)
    runtime.seen(KEY)
    await clock.move(0.5)
    cloud = ObjectRef(*SET, "lab", "digits-cloud")
    kube.remove(cloud)
    await clock.move(0.5)
    await runtime.shutdown()
    assert cloud in kube.objects


def too_large() -> Manifest:
    return job_body(cloud={"cpu": "100"})


async def test_jobs_without_a_place_share_one_reading_of_the_clusters_pods() -> None:
    now = [100.0]
    kube = cluster_with(too_large())
    deps = make_deps(kube, clock_of_cluster=lambda: now[0])
    keys = [JobKey("lab", f"job-{index}") for index in range(10)]
    for key in keys:
        body = too_large()
        body["metadata"]["name"] = key.name
        kube.put(body)
    for key in keys:
        assert (await reconcile(key, deps)).phase == "Pending"
    assert kube.calls["list", "Pod"] == 1
    now[0] += FRESH_S
    for key in keys:
        await reconcile(key, deps)
    assert kube.calls["list", "Pod"] == 2


async def test_a_reading_that_took_long_serves_longer() -> None:
    now = [100.0]

    class Slow(FakeKube):
        async def listed(self, *args: Any, **named: Any) -> Any:
            now[0] += 1.0
            return await super().listed(*args, **named)

    kube = Slow()
    for body in (too_large(), node_body()):
        kube.put(body)
    deps = make_deps(kube, clock_of_cluster=lambda: now[0])
    for _ in range(4):
        await reconcile(KEY, deps)
        now[0] += 5.0
    assert kube.calls["list", "Pod"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"suspend": True}},
        {"status": {"phase": "Completed"}},
        {"status": {"phase": "Failed"}},
    ],
)
async def test_jobs_that_need_no_place_list_nothing(changes: Manifest) -> None:
    job = job_body(**changes.get("spec", {})) | {"status": changes.get("status", {})}
    kube = cluster_with(job)
    deps = make_deps(kube)
    for _ in range(3):
        await reconcile(KEY, deps)
    assert not [verb for verb, _ in kube.calls if verb == "list"]


async def test_a_job_sees_what_the_one_before_took_although_no_watch_has_told() -> None:
    kube = FakeKube()
    devices = [{"name": "fast", "replicas": 2, "cpuAtMax": "400m"}]
    for name in ("one", "two"):
        body = job_body(cloud={"cpu": "100m", "memory": "100Mi"}, devices=devices)
        body["metadata"]["name"] = name
        kube.put(body)
    kube.put(node_body(cpu="1500m"))
    deps = make_deps(kube)
    kube.feeds.clear()
    assert (await reconcile(JobKey("lab", "one"), deps)).phase == "Starting"
    assert (await reconcile(JobKey("lab", "two"), deps)).phase == "Pending"
    message = str(kube.objects[job_ref("lab", "two")]["status"]["conditions"])
    assert "0.5 free" in message


async def test_a_pass_right_after_another_writes_nothing_twice_although_no_watch_has_told() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    kube.feeds.clear()
    await reconcile(KEY, deps)
    kube.writes.clear()
    await reconcile(KEY, deps)
    assert kube.writes == []
