"""CPU of a job's pods where LimitRanges and ResourceQuotas say what is allowed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.amount import UNBOUNDED
from lockstep_operator.core.model import Bounds, JobKey, Manifest, ObjectRef, Settings
from lockstep_operator.core.resources import (
    device_resources,
    server_resources,
    trainer_resources,
)
from lockstep_operator.kube import SET
from lockstep_operator.reconcile import reconcile
from tests.support.decisions import spec
from tests.support.kube import KEY, FakeKube, cluster_of, cluster_with, job_body, make_deps

DEVICES = ObjectRef(*SET, "lab", "digits-device-fast")


def settings(**bounds: Any) -> Settings:
    return Settings("worker:1", "http://planner", bounds=Bounds(**bounds))


def job(**device: Any) -> FederatedJobSpec:
    return spec(devices=[{"name": "d", "replicas": 4, "cpuAtMax": "200m", **device}])


def cpu(made: Manifest) -> tuple[float, float]:
    """Request and limit in millicores."""
    asked = (made["requests"]["cpu"], made["limits"]["cpu"])
    request, limit = (round(parse_quantity(one) * 1000, 6) for one in asked)
    return request, limit


def device(of: FederatedJobSpec, **bounds: Any) -> tuple[float, float]:
    return cpu(device_resources(of, of.devices[0], settings=settings(**bounds)))


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({}, (25, 1000)),
        ({"most_cpu": 0.5}, (25, 500)),
        ({"most_cpu": 0.1}, (25, 200)),
        ({"ratio": 10}, (25, 250)),
        ({"ratio": 5}, (40, 200)),
        ({"least_cpu": 0.03}, (30, 1000)),
        ({"least_cpu": 0.3}, (49, 1000)),
        ({"total_cpu": 4}, (25, 875)),
        ({"total_cpu": 0.1}, (25, 200)),
    ],
)
def test_a_device_starts_with_what_its_namespace_allows(
    bounds: dict[str, float], wanted: tuple[float, float]
) -> None:
    """Never with less than it has at maxGHz; its request stays below its limit at minGHz (50m)."""
    given_job = job()
    given_job = given_job.model_copy(
        update={"cloud": given_job.cloud.model_copy(update={"cpu": "500m"})}
    )
    assert device(given_job, **bounds) == wanted


def test_a_job_may_say_with_what_its_devices_start() -> None:
    assert device(job(cpuAtStart="300m"), most_cpu=0.25) == (25, 300)


def test_the_cloud_pod_has_a_cpu_limit_when_the_job_says_so() -> None:
    limits = server_resources(spec(cloud={"cpu": "1", "cpuLimit": "1500m"}).cloud)["limits"]
    assert limits == {"cpu": "1500m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("bounds", "wanted"), [({}, (100, 1000)), ({"most_cpu": 0.5, "ratio": 4}, (100, 400))]
)
def test_a_trainer_keeps_to_what_its_namespace_allows(
    bounds: dict[str, float], wanted: tuple[float, float]
) -> None:
    assert cpu(trainer_resources(settings(**bounds))) == wanted


milli = st.integers(1, 3000)


@given(at_max=milli, replicas=st.integers(1, 50), total=st.integers(1, 50_000), ratio=milli)
def test_a_boost_never_asks_for_more_than_is_allowed(
    at_max: int, replicas: int, total: int, ratio: int
) -> None:
    made = job(cpuAtMax=f"{at_max}m", replicas=replicas)
    request, limit = device(made, most_cpu=at_max / 500, ratio=ratio / 10, total_cpu=total / 1000)
    assert 1 <= request <= limit
    if limit > at_max:
        assert limit <= 2 * at_max
        assert limit <= request * ratio / 10 + 1e-6
        assert 1000 + replicas * limit <= total + 1e-6


def limit_range(**item: Any) -> Manifest:
    meta = {"name": "small", "namespace": "lab"}
    limits = [{"type": "Container", **item}, {"type": "PersistentVolumeClaim", "max": {"cpu": 0}}]
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": {"limits": limits}}


def quota(namespace: str = "lab", **hard: str) -> Manifest:
    meta = {"name": "small", "namespace": namespace}
    found = {"limits.cpu": "4", **hard}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": found}}


def test_what_a_namespace_allows_is_read_of_its_limit_ranges_and_quotas() -> None:
    kube = cluster_with(None, limit_range(max={"cpu": "500m"}, min={"cpu": "10m"}), quota())
    another = limit_range(maxLimitRequestRatio={"cpu": "8"}, max={"memory": "1Gi"})
    another["metadata"]["name"] = "another"
    kube.put(another)
    state = cluster_of(kube)
    four = replace(UNBOUNDED, cpu=4.0)
    assert state.bounds("lab") == Bounds(0.5, 0.01, 8.0, 4.0, allowed=four)
    assert state.bounds("other") == Bounds()


class Woken:
    def __init__(self) -> None:
        self.jobs: list[JobKey] = []
        self.wake = self.jobs.append

    def room_freed(self) -> None: ...


def test_a_new_limit_wakes_the_jobs_of_its_namespace() -> None:
    kube = cluster_with()
    woken, state = Woken(), cluster_of(kube)
    state.listen(woken)
    kube.put(quota("elsewhere"))
    assert woken.jobs == []
    kube.put(quota())
    assert woken.jobs == [KEY]
    used = {"status": {"used": {"limits.cpu": "1"}}}
    kube.put(quota() | used)
    assert woken.jobs == [KEY], "what others use of it changes nothing"


def started_limit(kube: FakeKube) -> str:
    template = kube.objects[DEVICES]["spec"]["template"]
    found: str = template["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    return found


async def test_a_device_of_200m_fits_where_a_container_may_have_500m() -> None:
    groups = [{"name": "fast", "replicas": 2, "cpuAtMax": "200m"}]
    kube = cluster_with(job_body(devices=groups), limit_range(max={"cpu": "500m"}))
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    assert started_limit(kube) == "500m"
    kube.put(limit_range(max={"cpu": "250m"}))
    await reconcile(KEY, deps)
    assert started_limit(kube) == "250m", "pods that are not made yet come with the new limit"
