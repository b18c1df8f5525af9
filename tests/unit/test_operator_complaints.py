"""Warning events: kept of objects of jobs alone, until these are well, and told once."""

import asyncio
from typing import Any

import pytest

from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.complaints import MOST_UNKNOWN, Complaints
from lockstep_operator.core.model import Complaint, JobKey, Manifest, ObjectRef
from lockstep_operator.errors import Conflict, Unavailable
from lockstep_operator.kube import CLAIM, POD, SET
from lockstep_operator.reconcile import reconcile
from tests.support.clock import settled
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_of,
    cluster_with,
    device_pod,
    failing,
    make_deps,
    status_of,
    warning,
)

PODS = ObjectRef(*SET, "lab", "digits-device-fast")
OLD = Complaint("FailedCreate", "exceeded quota")


async def made() -> FakeKube:
    """A cluster in which the job has its children."""
    kube = cluster_with()
    await reconcile(KEY, make_deps(kube))
    return kube


def warn(kube: FakeKube, ref: ObjectRef, message: str = "exceeded quota") -> None:
    kube.put(warning(kube.objects[ref], "FailedCreate", message))


async def test_a_warning_about_a_set_of_a_job_is_known_and_wakes_the_job() -> None:
    kube = await made()
    state = cluster_of(kube)
    woken: list[JobKey] = []
    state.listen(Woken(woken))
    warn(kube, PODS)
    assert state.complaints(KEY) == {PODS: OLD}
    assert woken == [KEY]
    warn(kube, PODS)
    assert woken == [KEY], "the same once more says nothing new"


class Woken:
    def __init__(self, jobs: list[JobKey]) -> None:
        self.wake = jobs.append

    def room_freed(self) -> None: ...


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "not known yet"])
async def test_a_warning_from_another_namespace_is_about_nothing_here(is_known: bool) -> None:
    """Whoever may write events there can write the uid of an object here into them."""
    heard: list[JobKey] = []
    complaints = Complaints(None, changed=heard.append)
    forged = warning(set_named("digits", "uid-1"), "FailedCreate", "no")
    forged["metadata"] |= {"namespace": "attic", "resourceVersion": "9"}
    if is_known:
        complaints.know("uid-1", PODS, job=KEY, well=False)
    complaints.put(forged)
    complaints.know("uid-1", PODS, job=KEY, well=False)
    assert complaints.of(KEY) == {}
    assert heard == []


def test_of_what_a_warning_says_little_is_kept() -> None:
    complaints = Complaints(None, changed=lambda job: None)
    long = warning(set_named("digits", "uid-1"), "R" * 10**6, "M" * 10**6)
    long["metadata"] |= {"namespace": "lab", "resourceVersion": "9"}
    complaints.know("uid-1", PODS, job=KEY, well=False)
    complaints.put(long)
    assert complaints.of(KEY) == {PODS: Complaint("R" * 128, "M" * 1024)}


def set_named(name: str, uid: str) -> Manifest:
    meta = {"name": f"{name}-device-fast", "namespace": "lab", "uid": uid}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta}


async def test_a_set_that_got_its_pods_is_complained_of_no_more() -> None:
    kube = await made()
    state = cluster_of(kube)
    warn(kube, PODS)
    kube.put(kube.objects[PODS] | {"status": {"replicas": 2}})
    assert state.complaints(KEY) == {}
    kube.put(kube.objects[PODS] | {"status": {"replicas": 1}})
    assert state.complaints(KEY) == {}, "an old event must not speak when a pod is deleted"
    warn(kube, PODS, "another quota")
    assert state.complaints(KEY) == {PODS: Complaint("FailedCreate", "another quota")}


async def test_an_old_warning_that_is_listed_anew_says_nothing() -> None:
    kube = await made()
    complaints = Complaints(None, changed=lambda job: None)
    uid = kube.objects[PODS]["metadata"]["uid"]
    warn(kube, PODS)
    (event,) = [one for ref, one in kube.objects.items() if ref.kind == "Event"]
    for well in (False, True, False):
        complaints.know(uid, PODS, job=KEY, well=well)
        complaints.put(event)
    assert complaints.of(KEY) == {}
    fresh = Complaints(None, changed=lambda job: None)  # as after a restart of the operator
    fresh.know(uid, PODS, job=KEY, well=True)
    taking = fresh.anew()
    taking.add(event)
    taking.end(10_000)
    fresh.know(uid, PODS, job=KEY, well=False)
    assert fresh.of(KEY) == {}


async def test_what_was_warned_of_before_an_object_was_well_counts_never() -> None:
    """Also when a watch that broke had kept the event from the operator."""
    kube = await made()
    complaints = Complaints(None, changed=lambda job: None)
    uid = kube.objects[PODS]["metadata"]["uid"]
    complaints.know(uid, PODS, job=KEY, well=False)
    warn(kube, PODS)
    (event,) = [one for ref, one in kube.objects.items() if ref.kind == "Event"]
    complaints.passed({"metadata": {"resourceVersion": "10000"}})
    complaints.know(uid, PODS, job=KEY, well=True)
    complaints.know(uid, PODS, job=KEY, well=False)
    complaints.put(event)
    assert complaints.of(KEY) == {}


async def test_a_replaced_object_begins_without_complaints() -> None:
    kube = await made()
    state = cluster_of(kube)
    warn(kube, PODS)
    old = kube.objects[PODS]
    kube.remove(PODS)
    assert state.complaints(KEY) == {}
    meta = {key: value for key, value in old["metadata"].items() if key != "uid"}
    kube.put({**old, "metadata": meta})
    kube.put(warning(old, "FailedCreate", "late word about the one before"))
    assert state.complaints(KEY) == {}


async def test_an_event_that_comes_before_its_pod_is_known_counts() -> None:
    kube = cluster_with()
    state = cluster_of(kube)
    pod = device_pod("digits-device-fast-0")
    pod["metadata"]["uid"] = "uid-of-pod"
    pod["status"] = {}
    kube.put(warning(pod, "FailedMount", "no such volume"))
    assert state.complaints(KEY) == {}
    kube.put(pod)
    ref = ObjectRef(*POD, "lab", "digits-device-fast-0")
    assert state.complaints(KEY) == {ref: Complaint("FailedMount", "no such volume")}


def stranger(index: int) -> Manifest:
    meta = {"name": f"p-{index}", "namespace": "theirs", "uid": f"their-{index}"}
    event = warning({"apiVersion": "v1", "kind": "Pod", "metadata": meta}, "BackOff", "x" * 900)
    event["metadata"]["resourceVersion"] = str(index + 1)
    return event


def test_events_about_others_are_bounded() -> None:
    complaints = Complaints(None, changed=lambda job: None)
    for index in range(3 * MOST_UNKNOWN):
        complaints.put(stranger(index))
    assert len(complaints._unknown) == MOST_UNKNOWN
    assert complaints._by_job == {}


async def test_nothing_stays_of_objects_that_are_gone() -> None:
    kube = await made()
    state = cluster_of(kube)
    warn(kube, PODS)
    for ref in [one for one in kube.objects if one.kind in {"StatefulSet", CLAIM[1]}]:
        kube.remove(ref)
    (complaints,) = state.all_complaints()
    assert (complaints._objects, complaints._by_job) == ({}, {})


async def test_warnings_are_followed_after_whom_they_are_about() -> None:
    """So that a new operator knows of each event that it lists to whom it belongs."""
    kube = await made()
    warn(kube, PODS)
    state, may_list = ClusterState(kube), asyncio.Event()
    asked: list[str] = []
    pages = kube.pages

    async def held(kind: Any, *args: Any, **options: Any) -> Any:
        asked.append(kind[1])
        if kind == SET:
            await may_list.wait()
        async for page in pages(kind, *args, **options):
            yield page

    kube.pages = held  # type: ignore[method-assign]
    following = asyncio.create_task(state.run())
    await settled()
    assert "StatefulSet" in asked
    assert "Event" not in asked
    may_list.set()
    await settled()
    assert asked[-1] == "Event"
    assert state.complaints(KEY) == {PODS: OLD}
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_an_operator_that_may_not_read_events_works_on() -> None:
    kube = await made()
    kube.fail = lambda verb, name: Unavailable("forbidden") if name == "Event" else None
    state = ClusterState(kube)
    following = asyncio.create_task(state.run())
    await state.synced()
    assert state.children(KEY)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("told_before", [False, True])
async def test_a_cause_is_one_event_however_often_the_job_is_looked_at(told_before: bool) -> None:
    now = [100.0]
    kube = cluster_with()
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    kube.events.clear()
    warn(kube, PODS)
    if told_before:  # by the operator before this one
        kube.fail = failing("event", Conflict("already exists"))
    for _ in range(3):
        now[0] += 20
        await reconcile(KEY, deps)
        kube.fail = failing("event", Unavailable("asked again")) if told_before else kube.fail
    assert [event["reason"] for event in kube.events] == ([] if told_before else ["PodsNotCreated"])
    assert len(deps.known[KEY].told) == 1
    (ready,) = [c for c in status_of(kube)["conditions"] if c["type"] == "Ready"]
    assert "StatefulSet digits-device-fast: FailedCreate: exceeded quota" in ready["message"]


async def test_the_same_cause_has_the_same_event_whoever_tells_it() -> None:
    names = set()
    kube = await made()
    warn(kube, PODS)
    for _ in range(2):
        kube.events.clear()
        await reconcile(KEY, make_deps(kube))
        names |= {e["metadata"]["name"] for e in kube.events if e["reason"] == "PodsNotCreated"}
    assert len(names) == 1
