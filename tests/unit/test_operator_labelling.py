"""Labels on pods that say which cluster and edge a client has: what is patched, and what never."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.status import FederatedJobStatus
from lockstep_api.tiers import ClusterPlan
from lockstep_operator.core.model import JobView, Manifest, ObjectRef
from lockstep_operator.errors import NotFound, Refused, Unavailable
from lockstep_operator.kube import POD
from lockstep_operator.labelling import CONCURRENT_PATCHES, Labelling
from tests.support.kube import KEY, FakeKube, cluster_with, device_pod, failing
from tests.support.tiered import group, hierarchical_job

SPEC = hierarchical_job(group("fast", replicas=2))
JOB = JobView(KEY, "uid", 1, SPEC, None, FederatedJobStatus(), 0.0)
POD_0, POD_1 = "digits-device-fast-0", "digits-device-fast-1"
BOTH = {"fast-0": "e-0", "fast-1": "e-1"}


def clusters(edges: Mapping[str, str]) -> list[ClusterPlan]:
    """Each client in a cluster of its own, at that edge."""
    return [
        ClusterPlan(cluster=f"c{number}", edge=edge, clients=[client])
        for number, (client, edge) in enumerate(edges.items())
    ]


def edge_pod(name: str) -> Manifest:
    pod = device_pod(name)
    pod["metadata"]["labels"] |= {names.ROLE_LABEL: "edge"}
    return pod


def job_pods(*more: Manifest) -> FakeKube:
    return cluster_with(None, device_pod(POD_0), device_pod(POD_1), *more)


def place(kube: FakeKube, pod: str) -> tuple[str | None, str | None]:
    labels = kube.objects[ObjectRef(*POD, KEY.namespace, pod)]["metadata"]["labels"]
    return labels.get(names.CLUSTER_LABEL), labels.get(names.EDGE_LABEL)


async def bring(
    kube: FakeKube, edges: Mapping[str, str], labelling: Labelling | None = None
) -> None:
    await (labelling or Labelling(kube)).bring(JOB, SPEC, clusters=clusters(edges))


async def test_pods_of_devices_say_their_cluster_and_edge_and_those_of_edges_their_name() -> None:
    kube = job_pods(edge_pod("digits-edge-e-0"))
    await bring(kube, BOTH)
    assert (place(kube, POD_0), place(kube, POD_1)) == (("c0", "e-0"), ("c1", "e-1"))
    assert place(kube, "digits-edge-e-0") == (None, "e-0")
    labels = kube.objects[ObjectRef(*POD, KEY.namespace, POD_0)]["metadata"]["labels"]
    assert labels[names.GROUP_LABEL] == "fast"


async def test_only_pods_whose_labels_change_are_patched() -> None:
    kube = job_pods()
    await bring(kube, BOTH)
    kube.writes = []
    await bring(kube, BOTH)
    assert kube.writes == []
    await bring(kube, BOTH | {"fast-1": "e-0"})
    assert kube.writes == [("label", f"Pod/{POD_1}")]


async def test_a_device_that_takes_no_part_loses_its_labels() -> None:
    kube = job_pods()
    await bring(kube, BOTH)
    await bring(kube, {"fast-0": "e-0"})
    assert (place(kube, POD_0), place(kube, POD_1)) == (("c0", "e-0"), (None, None))


async def test_pods_that_are_of_no_set_are_not_touched_whatever_they_are_called() -> None:
    stranger = device_pod(POD_1)
    stranger["metadata"]["ownerReferences"] = []
    kube = cluster_with(None, device_pod(POD_0), stranger)
    await bring(kube, BOTH)
    assert kube.writes == [("label", f"Pod/{POD_0}")]


async def test_a_pod_that_came_in_the_place_of_the_one_that_was_read_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube = job_pods()
    replaced = device_pod(POD_0)
    replaced["metadata"]["uid"] = "another"
    label = kube.label

    async def late(namespace: str, pod: str, *, uid: str, labels: Mapping[str, str | None]) -> None:
        if pod == POD_0:
            kube.put(replaced)
        await label(namespace, pod, uid=uid, labels=labels)

    kube.label = late  # type: ignore[method-assign]
    await bring(kube, BOTH)
    assert (place(kube, POD_0), place(kube, POD_1)) == ((None, None), ("c1", "e-1"))
    assert "not labelled" not in caplog.text


async def test_a_pod_that_is_gone_does_not_keep_the_others_from_their_labels() -> None:
    kube = job_pods()
    kube.fail = failing("label", NotFound("gone"), POD_0)
    await bring(kube, BOTH)
    assert place(kube, POD_1) == ("c1", "e-1")


@pytest.mark.parametrize("error", [Refused("may not patch pods"), Unavailable("lost")])
async def test_what_cannot_be_labelled_is_said_once_and_tried_with_the_next_plan(
    error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kube = job_pods()
    kube.fail = failing("label", error, POD_0)
    labelling = Labelling(kube)
    await bring(kube, BOTH, labelling)
    await bring(kube, BOTH, labelling)
    assert [r.getMessage().count("pods are not labelled") for r in caplog.records] == [1]
    kube.fail = lambda verb, name: None
    await bring(kube, BOTH, labelling)
    assert place(kube, POD_0) == ("c0", "e-0")


async def test_of_assignments_that_come_while_pods_are_labelled_the_newest_wins() -> None:
    kube, held, go = job_pods(), asyncio.Event(), asyncio.Event()
    label = kube.label

    async def slow(namespace: str, pod: str, *, uid: str, labels: Mapping[str, str | None]) -> None:
        held.set()
        await go.wait()
        await label(namespace, pod, uid=uid, labels=labels)

    kube.label = slow  # type: ignore[method-assign]
    labelling = Labelling(kube)
    first = asyncio.create_task(bring(kube, BOTH, labelling))
    await held.wait()
    await bring(kube, BOTH | {"fast-0": "e-1"}, labelling)  # is left to the one that is under way
    await bring(kube, dict.fromkeys(BOTH, "e-1"), labelling)
    go.set()
    await first
    assert (place(kube, POD_0), place(kube, POD_1)) == (("c0", "e-1"), ("c1", "e-1"))


async def test_so_many_patches_are_under_way_at_once_and_no_more() -> None:
    many = [f"digits-device-fast-{index}" for index in range(40)]
    kube = cluster_with(None, *map(device_pod, many))
    under_way, most = 0, 0
    label = kube.label

    async def counted(namespace: str, pod: str, **more: Any) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        await label(namespace, pod, **more)
        under_way -= 1

    kube.label = counted  # type: ignore[method-assign]
    await bring(kube, {f"fast-{index}": "e-0" for index in range(40)})
    assert most == CONCURRENT_PATCHES
    assert len(kube.writes) == 40
