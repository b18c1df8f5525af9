"""Objects that do not belong to a job are never touched, whatever they are called or labelled."""

import copy
from typing import Any

import pytest

from lockstep_api import names
from lockstep_api.wire import Outcome
from lockstep_operator.actuate import Resizer, actuate
from lockstep_operator.core.children import child_refs, children, record_refs, reference
from lockstep_operator.core.model import JobKey, JobView, Manifest, ObjectRef
from lockstep_operator.core.ownership import Standing, is_of_its_set, standing
from lockstep_operator.core.placement import Placement, pod_sets
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import Conflict, NameTaken
from lockstep_operator.kube import job_ref
from lockstep_operator.observe import job_view
from lockstep_operator.owned import put, remove
from lockstep_operator.reconcile import reconcile
from tests.support.kube import (
    KEY,
    SETTINGS,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    owner_of,
    status_of,
)
from tests.support.planner import online, planner_of_a_job, play, told

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


NEEDED = (*consists_of(a_job()), *records_of(a_job()))
BY_NAME = [f"{ref.kind}/{ref.name}" for ref in NEEDED]


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


def test_the_names_that_a_job_needs_are_those_of_what_it_consists_of() -> None:
    for job in (a_job(), a_job(allocation={})):
        assert consists_of(job) == tuple(map(reference, manifests(job)))
    assert [ref.name for ref in records_of(a_job())] == ["digits-experience", "digits-policy"]
    assert records_of(a_job(allocation={})) == ()


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("ref", NEEDED, ids=BY_NAME)
async def test_a_name_that_is_taken_refuses_the_job_before_anything_is_made(
    ref: ObjectRef, kind: str
) -> None:
    theirs = foreign(ref, **copy.deepcopy(FOREIGN[kind]))
    kube = cluster_with(job_body(**ONLINE), theirs)
    before = copy.deepcopy(kube.objects[ref])
    deps = make_deps(kube)
    for _ in range(3):
        outcome = await reconcile(KEY, deps)
        assert (outcome.phase, outcome.failure) == ("Refused", None)
        assert outcome.requeue_in_s == 5.0, "nobody tells when it is gone"
    assert children_of(kube) == []
    assert {verb for verb, _ in kube.writes} == {"status"}
    assert kube.objects[ref] == before
    said = accepted(kube)
    assert (said["status"], said["reason"]) == ("False", "NameTaken")
    assert f"{ref.kind} {ref.name}" in said["message"]
    (told,) = kube.events
    assert (told["type"], told["message"]) == ("Warning", said["message"])
    kube.remove(ref)
    assert (await reconcile(KEY, deps)).phase == "Starting"
    assert accepted(kube)["status"] == "True"
    assert set(children_of(kube)) == set(consists_of(viewed(kube)))


@pytest.mark.parametrize("ref", NEEDED, ids=BY_NAME)
async def test_a_name_that_is_taken_in_a_running_job_takes_its_pods_away(ref: ObjectRef) -> None:
    """They, or those after them, would find the other's object under the name."""
    kube = cluster_with(job_body(**ONLINE))
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    made = set(children_of(kube))
    if ref in kube.objects:
        kube.remove(ref)
    kube.put(foreign(ref))
    before = copy.deepcopy(kube.objects[ref])
    deps.known[KEY].doubtful |= {ref}  # as one who was to write it has found
    assert (await reconcile(KEY, deps)).phase == "Refused"
    assert kube.objects[ref] == before
    left = made - {ref}
    gone = {one for one in left if one.kind in ("StatefulSet", "PodDisruptionBudget")}
    assert set(children_of(kube)) == left - gone, "its volume and its settings stay"
    (_, told) = kube.events
    assert told["type"] == "Warning"
    kube.remove(ref)
    assert (await reconcile(KEY, deps)).phase == "Starting"
    assert set(children_of(kube)) == made


@pytest.mark.parametrize("result", ["RoundsCompleted", "Failed", "suspended"])
async def test_what_carries_a_jobs_label_is_not_deleted_with_its_pods(result: str) -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    kinds = {ref.kind: ref for ref in children_of(kube)}
    theirs = [
        foreign(ObjectRef(ref.api_version, kind, KEY.namespace, f"mine-{index}"), **how)
        for kind, ref in kinds.items()
        for index, how in enumerate((LIKE_OURS, OF_A_DEPLOYMENT))
    ]
    for one in theirs:
        kube.put(copy.deepcopy(one))
    stored = kube.objects[job_ref(KEY.namespace, KEY.name)]
    if result == "suspended":
        kube.put({**stored, "spec": {**stored["spec"], "suspend": True}})
    else:
        ended = JobState(outcome=Outcome.model_validate({"result": result, "message": "the end"}))
        deps.sources.reports.keep(KEY, viewed(kube).uid, state=ended)
    assert (await reconcile(KEY, deps)).failure is None
    assert not [ref for ref in children_of(kube) if ref.kind == "StatefulSet"]
    assert all(reference(one) in kube.objects for one in theirs)


@pytest.mark.parametrize("labels", [{}, {names.JOB_LABEL: "other"}])
@pytest.mark.parametrize("kind", ["ConfigMap", "PersistentVolumeClaim", "StatefulSet"])
async def test_a_child_that_somebody_has_relabelled_stays_the_jobs(
    kind: str, labels: dict[str, str]
) -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    ref = next(one for one in children_of(kube) if one.kind == kind)
    stored = kube.objects[ref]
    uid = stored["metadata"]["uid"]
    kube.remove(ref)  # what a watch by label tells
    changed = {**stored, "metadata": {**stored["metadata"], "labels": labels}}
    feeds, kube.feeds = kube.feeds, []
    kube.put(changed)
    kube.feeds = feeds
    assert (await reconcile(KEY, deps)).phase == "Starting"
    assert kube.objects[ref]["metadata"]["uid"] == uid, "it is not another one"
    assert kube.objects[ref]["metadata"]["labels"][names.JOB_LABEL] == KEY.name
    kube.writes.clear()
    await reconcile(KEY, deps)
    assert kube.writes == []


async def test_of_two_jobs_that_need_one_name_the_second_names_the_first() -> None:
    first, second = JobKey("lab", "foo"), JobKey("lab", "foo-device-a")
    kube = cluster_with()
    for key, group in ((first, "a-cloud"), (second, "b")):
        body = job_body(devices=[{"name": group, "replicas": 1, "cpuAtMax": "100m"}])
        body["metadata"]["name"] = key.name
        kube.put(body)
    deps = make_deps(kube)
    assert (await reconcile(first, deps)).phase == "Starting"
    assert (await reconcile(second, deps)).phase == "Refused"
    status = kube.objects[job_ref(*_parts(second))]["status"]
    (said,) = (c for c in status["conditions"] if c["type"] == "Accepted")
    assert "StatefulSet foo-device-a-cloud of FederatedJob foo" in said["message"]
    labels = kube.objects[ObjectRef("apps/v1", "StatefulSet", "lab", "foo-device-a-cloud")]
    assert labels["metadata"]["labels"][names.JOB_LABEL] == "foo"


def _parts(key: JobKey) -> tuple[str, str]:
    return key.namespace, key.name


async def test_a_set_waits_for_all_that_its_pods_use() -> None:
    """The claim is made by somebody else between the look and the write."""
    kube = cluster_with()
    deps = make_deps(kube)
    claim = ObjectRef("v1", "PersistentVolumeClaim", "lab", "digits-cloud")
    create = kube.create

    async def late(manifest: Manifest) -> Manifest:
        if reference(manifest) == claim and claim not in kube.objects:
            kube.put(foreign(claim))
        return await create(manifest)

    kube.create = late  # type: ignore[method-assign]
    assert isinstance((await reconcile(KEY, deps)).failure, Conflict)
    assert not [ref for ref in kube.objects if ref.kind == "StatefulSet"]
    assert (await reconcile(KEY, deps)).phase == "Refused"
    assert kube.objects[claim]["metadata"].get("ownerReferences") is None


async def test_a_job_whose_names_are_taken_costs_a_call_for_each_of_them() -> None:
    """Not for each of its names, nor a look at the cluster's pods."""
    ref = NEEDED[0]
    kube = cluster_with(None, foreign(ref))
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    before = kube.calls.copy()
    await reconcile(KEY, deps)
    assert kube.calls - before == {("get", "FederatedJob"): 1, ("metadata", ref.kind): 1}


async def test_a_job_that_runs_asks_nothing_of_its_names() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    before = kube.calls.copy()
    await reconcile(KEY, deps)
    assert kube.calls - before == {("get", "FederatedJob"): 1}


def child(job: JobView, kind: str = "ConfigMap") -> Manifest:
    return next(one for one in manifests(job) if one["kind"] == kind)


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_write_looks_whose_the_object_is_now(kind: str) -> None:
    kube = cluster_with()
    manifest = child(viewed(kube))
    ref = reference(manifest)
    kube.put(foreign(ref, **copy.deepcopy(FOREIGN[kind])))
    before = copy.deepcopy(kube.objects[ref])
    with pytest.raises(NameTaken, match=r"ConfigMap digits-settings.* does not belong to job"):
        await put(viewed(kube), manifest, kube=kube)
    with pytest.raises(NameTaken):
        await remove(viewed(kube), ref, kube=kube)
    assert kube.objects[ref] == before


class Swapping(FakeKube):
    """Somebody changes, or replaces, an object right after it was looked at."""

    swap: Manifest | None = None

    async def metadata(self, ref: ObjectRef) -> Manifest:
        found = await super().metadata(ref)
        if self.swap is not None:
            self.put(self.swap)
        return found


@pytest.mark.parametrize("how", ["replaced", "taken out of the job"])
@pytest.mark.parametrize("write", ["put", "remove"])
async def test_a_write_does_not_reach_what_came_in_an_objects_place(how: str, write: str) -> None:
    kube = Swapping()
    kube.put(job_body())
    job = viewed(kube)
    manifest = child(job)
    ref = reference(manifest)
    stored = await put(job, manifest, kube=kube)
    uid = "another" if how == "replaced" else stored["metadata"]["uid"]
    kube.swap = foreign(ref, uid=uid)
    with pytest.raises(Conflict):
        await (put(job, manifest, kube=kube) if write == "put" else remove(job, ref, kube=kube))
    assert kube.objects[ref]["data"] == {"app.ini": "debug=1"}
    assert "ownerReferences" not in kube.objects[ref]["metadata"]


async def test_a_job_that_was_edited_meanwhile_is_not_deleted_for_its_age() -> None:
    body = job_body(ttlSecondsAfterFinished=1)
    ended = {"phase": "Completed", "completionTime": "2020-01-01T00:00:00Z"}
    kube = Swapping()
    kube.put(body | {"status": ended})
    ref = job_ref(KEY.namespace, KEY.name)
    stored = copy.deepcopy(kube.objects[ref])
    stored["metadata"]["generation"] = 2
    del stored["spec"]["ttlSecondsAfterFinished"]
    deps = make_deps(kube)
    get = kube.get

    async def then_edited(ref: ObjectRef) -> Manifest:
        found = await get(ref)
        kube.put(stored)
        return found

    kube.get = then_edited  # type: ignore[method-assign]
    await reconcile(KEY, deps)
    assert ref in kube.objects
    kube.get = get  # type: ignore[method-assign]
    kube.put(body | {"status": ended})
    kube.swap = stored  # between the second look and the deletion
    with pytest.raises(Conflict):
        await reconcile(KEY, deps)
    assert ref in kube.objects
    kube.swap = None
    kube.put(body | {"status": ended})
    await reconcile(KEY, deps)
    assert ref not in kube.objects


OURS = owner_of({"metadata": {"name": "digits", "uid": "uid-1"}})
EARLIER = OURS | {"uid": "uid-0"}


@pytest.mark.parametrize(
    ("owners", "found"),
    [
        ([OURS], Standing.OWN),
        ([{**OURS, "controller": False}], Standing.FOREIGN),
        ([{**OURS, "controller": False}, OF_A_DEPLOYMENT["ownerReferences"][0]], Standing.FOREIGN),
        ([EARLIER], Standing.LEFT_OVER),
        ([EARLIER, OF_A_DEPLOYMENT["ownerReferences"][0]], Standing.FOREIGN),
        ([EARLIER | {"name": "other"}], Standing.FOREIGN),
        ([EARLIER | {"kind": "Deployment"}], Standing.FOREIGN),
        ([EARLIER | {"apiVersion": "example.com/v1"}], Standing.FOREIGN),
        ([], Standing.FOREIGN),
        (None, Standing.FOREIGN),
    ],
)
def test_only_an_owner_reference_says_whose_an_object_is(
    owners: list[Manifest] | None, found: Standing
) -> None:
    meta = {"labels": LIKE_OURS["labels"], "ownerReferences": owners}
    assert standing({"metadata": meta}, job="digits", uid="uid-1") is found


async def test_what_an_earlier_job_has_left_goes_before_anything_is_made() -> None:
    kube = cluster_with(job_body(**ONLINE))
    deps = make_deps(kube)
    earlier = EARLIER | {"uid": "earlier"}
    left = [ref for ref in NEEDED if ref.kind in ("ConfigMap", "PersistentVolumeClaim")]
    for ref in left:
        kube.put(foreign(ref, ownerReferences=[earlier]))
    claim = next(ref for ref in left if ref.kind == "PersistentVolumeClaim")
    remove_ = kube.remove
    kube.remove = lambda ref: None if ref == claim else remove_(ref)  # type: ignore[method-assign]
    outcome = await reconcile(KEY, deps)
    assert outcome.requeue_in_s == 5.0, "what has no label is not told when it is gone"
    assert {ref for ref in left if ref in kube.objects} == {claim}, "a pod may hold it still"
    assert children_of(kube) == []
    remove_(claim)
    await reconcile(KEY, deps)
    assert "StatefulSet" in {ref.kind for ref in children_of(kube)}


def stray(name: str) -> Manifest:
    """A pod of a user, ready and labelled like one of the job's."""
    pod = device_pod(name)
    del pod["metadata"]["ownerReferences"]
    return pod


async def test_only_pods_of_its_sets_are_resized_or_counted() -> None:
    kube = cluster_with(None, device_pod("digits-device-fast-0"), stray("digits-device-fast-1"))
    deps = make_deps(kube)
    resizer = Resizer(kube, deps.metrics, wait_s=0.05)
    done = await actuate(KEY, {"fast-0": 200, "fast-1": 200}, resizer=resizer)
    assert kube.writes == [("resize", "Pod/digits-device-fast-0")]
    assert done.failures == {"fast-1": "pod not found"}
    await reconcile(KEY, deps)
    assert status_of(kube)["clients"] == "1/2"


@pytest.mark.parametrize(
    ("owner", "is_of_set"),
    [
        ({"kind": "StatefulSet", "name": "digits-cloud", "controller": True}, True),
        ({"kind": "StatefulSet", "name": "digits-cloud"}, False),
        ({"kind": "StatefulSet", "name": "mine", "controller": True}, False),
        ({"kind": "ReplicaSet", "name": "digits-cloud", "controller": True}, False),
    ],
)
def test_a_pod_is_its_sets_by_owner_reference(owner: Manifest, is_of_set: bool) -> None:
    meta = {"name": "digits-cloud-0", "ownerReferences": [owner]}
    assert is_of_its_set({"metadata": meta}) is is_of_set


@pytest.mark.parametrize(
    ("ref", "written_in"),
    [(records_of(a_job())[0], 3), (records_of(a_job())[1], 22)],
    ids=["rounds", "policy"],
)
async def test_what_is_learnt_is_not_written_over_what_others_have(
    ref: ObjectRef, written_in: int
) -> None:
    """They came while the job runs: it hears of that with the first write."""
    async with planner_of_a_job() as setup:
        await online(setup)
        await play(setup, range(1, 3))
        assert ref not in setup.kube.objects
        setup.kube.put(foreign(ref))
        before = copy.deepcopy(setup.kube.objects[ref])
        await play(setup, range(3, written_in + 1))
        assert setup.kube.objects[ref] == before
        assert not [one for one in setup.kube.objects if one.kind == "Job"], "it would mount them"
        assert (await setup.planner.runtime.pass_now(KEY)).phase == "Refused"
        assert f"ConfigMap {ref.name}" in accepted(setup.kube)["message"]
        setup.kube.remove(ref)
        assert (await setup.planner.runtime.pass_now(KEY)).phase == "Starting"


async def test_a_trainers_name_that_is_taken_is_told_and_the_next_has_another() -> None:
    async with planner_of_a_job() as setup:
        await online(setup)
        theirs = foreign(ObjectRef("batch/v1", "Job", "lab", "digits-trainer-21"), **LIKE_OURS)
        setup.kube.put(theirs)
        before = copy.deepcopy(setup.kube.objects[reference(theirs)])
        await play(setup, range(1, 23))
        assert setup.kube.objects[reference(theirs)] == before
        (said,) = told(setup, "NameTaken")
        assert "Job digits-trainer-21 does not belong to job lab/digits" in said
        await play(setup, range(23, 24))
        assert told(setup, "TrainerStarted") == ["digits-trainer-22 learns from the last 21 rounds"]
