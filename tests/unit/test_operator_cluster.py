"""What is known of the cluster: never older than what was heard, complete after every new list."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lockstep_api import names
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.errors import Unavailable
from lockstep_operator.follow import PAUSE_S, follow
from lockstep_operator.kept import Change, Kept, Source
from lockstep_operator.kube import CLAIM, JOB, LIMIT_RANGE, NODE, POD, QUOTA, SET, ref_of
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
    node_body,
)

OF_JOB = JobKey("lab", "digits")


def named(version: int, name: str = "a", job: str = "digits", **spec: Any) -> Manifest:
    """An object of a job at a version."""
    meta = {"name": name, "namespace": "lab", "labels": {names.JOB_LABEL: job}}
    body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": spec}
    return body | {"metadata": meta | {"resourceVersion": str(version)}}


def kept(changes: list[Change[Any]] | None = None) -> Kept[Any]:
    heard = [] if changes is None else changes
    return Kept(Source(SET), lambda one: one["spec"].get("replicas"), heard.append)


def held(found: Kept[Any]) -> dict[str, Any]:
    return {name: view for (_, name), view in found.of(OF_JOB).items()}


def listed(found: Kept[Any], version: int, *items: Manifest) -> None:
    found.replace(map(found.entry, items), version)


def test_what_was_written_is_known_before_the_watch_tells() -> None:
    changes: list[Change[Any]] = []
    found = kept(changes)
    found.wrote(named(5, replicas=2))
    assert held(found) == {"a": 2}
    found.put(named(4, replicas=1))
    assert held(found) == {"a": 2}, "an event from before the write"
    found.put(named(5, replicas=2))
    assert changes == [], "nothing new was heard"
    found.put(named(6, replicas=3))
    assert held(found) == {"a": 3}
    assert [(one.old, one.new) for one in changes] == [(2, 3)]


def test_a_deletion_that_is_older_than_the_own_write_takes_nothing_away() -> None:
    found = kept()
    found.put(named(4, replicas=1))
    found.wrote(named(7, replicas=2))
    found.drop(named(6))
    assert held(found) == {"a": 2}
    found.drop(named(8))
    assert held(found) == {}


def test_a_late_answer_to_a_write_does_not_bring_back_what_is_gone() -> None:
    found = kept()
    found.put(named(5, replicas=2))
    found.drop(named(6))
    found.wrote(named(5, replicas=2))
    assert held(found) == {}


def test_a_new_list_replaces_all_but_what_was_written_after_it() -> None:
    changes: list[Change[Any]] = []
    found = kept(changes)
    listed(found, 10, named(3, "a", replicas=1), named(4, "b", replicas=1))
    found.wrote(named(21, "c", replicas=1))
    changes.clear()
    listed(found, 20, named(15, "b", replicas=1))
    assert held(found) == {"b": 1, "c": 1}
    assert [(one.old, one.new) for one in changes] == [(1, None)], "a went without an event"


def test_a_restored_cluster_counts_from_anew() -> None:
    found = kept()
    listed(found, 90, named(80, "a", replicas=2), named(81, "b", replicas=2))
    listed(found, 50, named(40, "a", replicas=1))
    assert held(found) == {"a": 1}
    assert found.version == 50


def test_an_object_that_changes_its_job_leaves_the_old_one() -> None:
    found = kept()
    found.put(named(1, replicas=2))
    found.put(named(2, job="other", replicas=2))
    assert held(found) == {}
    assert len(found.of(JobKey("lab", "other"))) == 1


@pytest.fixture
async def followed() -> AsyncIterator[tuple[FakeKube, ClusterState]]:
    """A cluster that is followed by watches."""
    kube = cluster_with(None, device_pod("a"), device_pod("b"))
    state = ClusterState(kube)
    running = asyncio.create_task(state.run())
    await state.synced()
    await settled()
    yield kube, state
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def pods(state: ClusterState) -> set[str]:
    return {pod.name for pod in state.pods(KEY)}


async def test_pods_come_and_go_by_the_watch(followed: tuple[FakeKube, ClusterState]) -> None:
    kube, state = followed
    assert pods(state) == {"a", "b"}
    kube.put(device_pod("c"))
    kube.remove(ref_of(device_pod("a")))
    await settled()
    assert pods(state) == {"b", "c"}
    assert kube.calls["list", "Pod"] == 1


async def test_a_pod_that_went_while_no_watch_was_open_does_not_stay() -> None:
    kube = cluster_with(None, device_pod("a"), device_pod("b"))
    found = Kept(Source(POD, None, names.JOB_LABEL), lambda pod: pod["metadata"]["name"])
    gap, pauses = asyncio.Event(), asyncio.Queue[float]()

    async def pause(seconds: float) -> None:
        pauses.put_nowait(seconds)
        await gap.wait()

    following = asyncio.create_task(follow(kube, found, pause=pause))
    await settled()
    kube.break_watches()
    await asyncio.wait_for(pauses.get(), 5)
    kube.remove(ref_of(device_pod("a")))
    assert sorted(found.of(OF_JOB).values()) == ["a", "b"], "nobody could tell"
    gap.set()
    await settled()
    assert sorted(found.of(OF_JOB).values()) == ["b"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_after_a_watch_that_brought_something_the_next_begins_at_once() -> None:
    """The apiserver ends a watch that is too slow, and soon forgets what came after it."""
    kube = cluster_with(None, device_pod("a"))
    found = Kept(Source(POD, None, names.JOB_LABEL), lambda pod: pod["metadata"]["name"])
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.Event().wait()

    following = asyncio.create_task(follow(kube, found, pause=pause))
    await settled()
    kube.put(device_pod("b"))
    kube.end_watches()
    await settled()
    kube.put(device_pod("c"))
    await settled()
    assert sorted(found.of(OF_JOB).values()) == ["a", "b", "c"]
    assert (pauses, kube.calls["list", "Pod"]) == ([], 1)
    kube.end_watches()
    await settled()
    kube.end_watches()
    await settled()
    assert pauses == [PAUSE_S], "one that brought nothing is not tried again and again"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_list_that_fails_is_tried_again_more_and_more_slowly() -> None:
    kube = FakeKube()
    kube.fail = failing("list", Unavailable("away"))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            kube.fail = lambda verb, name: None

    found = Kept(Source(POD), lambda pod: None)
    following = asyncio.create_task(follow(kube, found, pause=pause))
    await asyncio.wait_for(found.synced.wait(), 5)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert pauses == sorted(pauses)
    assert 0.5 <= pauses[0] <= 1.0
    assert 2.0 <= pauses[2] <= 4.0


class Woken:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.jobs: list[JobKey] = []
        self.freed = 0

    def wake(self, key: JobKey) -> None:
        self.jobs.append(key)

    def room_freed(self) -> None:
        self.freed += 1


async def test_only_what_a_decision_may_read_wakes_a_job() -> None:
    kube = cluster_with(None, device_pod("a"))
    await reconcile(KEY, make_deps(kube))
    woken = Woken()
    cluster_of(kube).listen(woken)
    resized = device_pod("a", cpu="300m")
    kube.put(resized)
    cloud = ObjectRef(*SET, "lab", "digits-cloud")
    kube.put(kube.objects[cloud] | {"status": {"readyReplicas": 1}})
    kube.put(node_body() | {"status": node_body()["status"] | {"images": ["an image"]}})
    assert (woken.jobs, woken.freed) == ([], 0)
    unready = device_pod("a")
    unready["status"]["conditions"] = []
    kube.put(unready)
    kube.put(kube.objects[cloud] | {"spec": kube.objects[cloud]["spec"] | {"replicas": 0}})
    kube.remove(cloud)
    assert woken.jobs == [OF_JOB] * 3


async def test_whatever_leaves_room_is_told() -> None:
    kube = cluster_with(None, device_pod("a"), device_pod("b"))
    woken = Woken()
    cluster_of(kube).listen(woken)
    ended = device_pod("a")
    ended["status"]["phase"] = "Succeeded"
    kube.put(ended)
    kube.remove(ref_of(device_pod("b")))
    kube.put(node_body("second"))
    assert woken.freed == 3


def test_of_children_that_may_be_large_nothing_but_metadata_is_asked_for() -> None:
    """The rounds that a job learns from are a ConfigMap of a megabyte, with the job's label."""
    sources = [one.source for one in ClusterState(FakeKube()).all_kept()]
    whole = {source.kind for source in sources if not source.metadata_only}
    assert whole == {JOB, NODE, POD, SET, CLAIM, LIMIT_RANGE, QUOTA}
    others = {JOB, NODE, LIMIT_RANGE, QUOTA}
    own = [source for source in sources if source.kind not in others]
    assert all(source.labels == names.JOB_LABEL for source in own)
