"""Whom Prometheus is told to read: pods that sets of jobs have made, by what they are called."""

import copy
from typing import Any

import httpx2
import pytest

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.core.targets import INTERVAL_LABEL, Target
from lockstep_operator.discovery import TargetList
from lockstep_operator.kube import job_ref
from tests.support.kube import KEY, FakeKube, cluster_of, cluster_with
from tests.support.probing import Always
from tests.support.probing import asked as probed
from tests.support.targets import pod_of, put, set_of

FAST = {
    "namespace": "lab",
    "job": "digits",
    "pod": "digits-device-fast-0",
    "tier": "device",
    "client": "fast-0",
}


@pytest.fixture
def kube() -> FakeKube:
    return cluster_with()


@pytest.fixture
def state(kube: FakeKube) -> ClusterState:
    return cluster_of(kube)


def the_job(kube: FakeKube) -> Manifest:
    return kube.objects[job_ref(KEY.namespace, KEY.name)]


def with_set(kube: FakeKube, role: Role, group: str = "", **more: Any) -> Manifest:
    return put(kube, set_of(the_job(kube), role, group=group, **more))


def labelled(state: ClusterState) -> list[dict[str, str]]:
    return [dict(one.labels) for one in state.targets()]


def test_a_pod_of_each_tier_is_listed_with_what_is_known_of_it(
    kube: FakeKube, state: ClusterState
) -> None:
    for role, group in ((Role.CLOUD, ""), (Role.EDGE, "site"), (Role.DEVICE, "fast")):
        kube.put(pod_of(with_set(kube, role, group), 1))
    place = {"namespace": "lab", "job": "digits"}
    assert labelled(state) == [
        place | {"pod": "digits-cloud-1", "tier": "cloud"},
        place | {"pod": "digits-device-fast-1", "tier": "device", "client": "fast-1"},
        place | {"pod": "digits-edge-site-1", "tier": "edge", "edge": "site-1"},
    ]


@pytest.mark.parametrize(
    ("ip", "address"), [("10.0.0.7", "10.0.0.7:8081"), ("fd00::7", "[fd00::7]:8081")]
)
def test_a_target_is_the_address_of_the_pod(
    kube: FakeKube, state: ClusterState, ip: str, address: str
) -> None:
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast"), ip=ip))
    assert state.targets() == [Target(address, FAST)]


def test_a_job_with_a_long_name_keeps_all_of_it(state: ClusterState, kube: FakeKube) -> None:
    long = JobKey("lab", "a" * 80)
    job = copy.deepcopy(the_job(kube))
    job["metadata"] = {"name": long.name, "namespace": long.namespace, "generation": 1}
    kube.put(pod_of(put(kube, set_of(put(kube, job), Role.DEVICE, group="fast"))))
    assert [one["job"] for one in labelled(state)] == [long.name]


def test_a_pod_that_says_it_is_a_jobs_is_not_listed(kube: FakeKube, state: ClusterState) -> None:
    """Labels and name as a job's, but made by another one's set, or by nobody."""
    ours = with_set(kube, Role.DEVICE, "fast")
    foreign, alone = pod_of(ours), pod_of(ours, 1)
    foreign["metadata"]["ownerReferences"][0]["uid"] = "another-set"
    del alone["metadata"]["ownerReferences"]
    kube.put(foreign)
    kube.put(alone)
    assert state.targets() == []


@pytest.mark.parametrize(
    "elsewhere", [{"namespace": "attic"}, {"name": "other-0"}], ids=["namespace", "name"]
)
def test_a_pod_is_not_listed_where_its_set_makes_none(
    kube: FakeKube, state: ClusterState, elsewhere: dict[str, str]
) -> None:
    """Whoever may make pods in another namespace can name any set's UID as their owner's."""
    forged = pod_of(with_set(kube, Role.DEVICE, "fast"))
    forged["metadata"] |= elsewhere
    forged["metadata"]["ownerReferences"][0]["name"] = forged["metadata"]["name"][:-2]
    kube.put(forged)
    assert state.targets() == []


@pytest.mark.parametrize("ordinal", ["2", "01", "x", "", "9" * 5000])
def test_a_pod_that_its_set_would_not_make_is_not_listed(
    kube: FakeKube, state: ClusterState, ordinal: str
) -> None:
    """It names the set as its owner, which whoever may make pods there can write; and the list of
    all others' pods comes as ever."""
    ours = with_set(kube, Role.DEVICE, "fast", replicas=2)
    kube.put(pod_of(ours, 1))
    forged = pod_of(ours)
    forged["metadata"]["name"] = f"digits-device-fast-{ordinal}"
    kube.put(forged)
    assert [one["client"] for one in labelled(state)] == ["fast-1"]


@pytest.mark.parametrize(
    "owners",
    [
        [],
        [{"kind": names.KIND, "name": "digits", "uid": "an-earlier-job", "controller": True}],
        [{"kind": names.KIND, "name": "digits", "uid": "job", "controller": False}],
    ],
)
def test_a_set_that_no_job_owns_has_no_targets(
    kube: FakeKube, state: ClusterState, owners: list[Manifest]
) -> None:
    uid = the_job(kube)["metadata"]["uid"]
    owners = [one | ({"uid": uid} if one["uid"] == "job" else {}) for one in owners]
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast", ownerReferences=owners)))
    assert state.targets() == []


def test_a_set_of_another_namespace_is_no_jobs(kube: FakeKube, state: ClusterState) -> None:
    """An owner reference says a uid and no namespace: whoever knows it may write it down."""
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast", namespace="stranger")))
    assert state.targets() == []


@pytest.mark.parametrize(
    "meta",
    [
        {"name": "digits-device-other"},
        {"labels": {names.JOB_LABEL: "digits", names.ROLE_LABEL: "cloud"}},
        {"labels": {names.JOB_LABEL: "digits", names.ROLE_LABEL: "device"}},
    ],
)
def test_a_set_under_another_name_than_the_jobs_has_no_targets(
    kube: FakeKube, state: ClusterState, meta: Manifest
) -> None:
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast", **meta)))
    assert state.targets() == []


def test_pods_that_are_not_ready_are_not_listed(kube: FakeKube, state: ClusterState) -> None:
    """Each scrape of one that is not there would hold a connection for two minutes."""
    ours = with_set(kube, Role.DEVICE, "fast")
    starting, ending, placeless = (pod_of(ours, ordinal) for ordinal in range(3))
    starting["status"]["conditions"] = []
    ending["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    del placeless["status"]["podIP"]
    for one in (starting, ending, placeless):
        kube.put(one)
    assert state.targets() == []


def test_a_job_that_is_gone_has_no_targets(kube: FakeKube, state: ClusterState) -> None:
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast")))
    assert len(state.targets()) == 1
    kube.remove(job_ref(KEY.namespace, KEY.name))
    assert state.targets() == []


@pytest.mark.parametrize(("pods", "interval"), [(30, None), (80, "2s"), (10_000, "60s")])
def test_devices_of_large_jobs_are_to_be_read_less_often(
    kube: FakeKube, state: ClusterState, pods: int, interval: str | None
) -> None:
    """All pods of devices and edges together no more often than 50 times a second."""
    kube.put(pod_of(with_set(kube, Role.CLOUD, replicas=1)))
    kube.put(pod_of(with_set(kube, Role.EDGE, "site", replicas=2)))
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast", replicas=pods - 2)))
    cloud, device, edge = labelled(state)
    assert INTERVAL_LABEL not in cloud
    assert edge.get(INTERVAL_LABEL) == device.get(INTERVAL_LABEL) == interval


# -- over HTTP -------------------------------------------------------------------------------


async def asked(state: ClusterState, *, leads: bool = True) -> httpx2.Response:
    more = {names.TARGETS_ROUTE: TargetList(state, lambda: leads).answer}
    return await probed(Always(), names.TARGETS_ROUTE, more=more)


def seen(state: ClusterState) -> None:
    """Everything was listed once."""
    for kept in state.all_kept():
        kept.synced.set()


async def test_the_list_is_what_http_sd_reads(kube: FakeKube, state: ClusterState) -> None:
    kube.put(pod_of(with_set(kube, Role.DEVICE, "fast")))
    seen(state)
    answer = await asked(state)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [{"targets": ["10.0.0.7:8081"], "labels": FAST}]


async def test_without_jobs_the_list_is_empty(state: ClusterState) -> None:
    seen(state)
    assert (await asked(state)).json() == []


async def test_an_operator_that_does_not_lead_has_no_list(state: ClusterState) -> None:
    """Prometheus keeps the one it has, and its next try may reach the leader."""
    seen(state)
    answer = await asked(state, leads=False)
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"


async def test_a_leader_that_has_not_seen_all_has_no_list(state: ClusterState) -> None:
    """An incomplete one would end the series of jobs that run."""
    seen(state)
    state.all_kept()[-1].synced.clear()
    assert (await asked(state)).status_code == 503
