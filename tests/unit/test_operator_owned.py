"""A write reaches only what is the job's at that moment; pods are those of its sets."""

import copy
from dataclasses import replace

import pytest

from lockstep_operator.actuate import Resizer, actuate
from lockstep_operator.core.causes import causes
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import Complaint, JobView, Manifest, ObjectRef
from lockstep_operator.core.ownership import Standing, is_of_its_set, standing
from lockstep_operator.errors import Conflict, NameTaken
from lockstep_operator.kube import job_ref
from lockstep_operator.owned import put, remove
from lockstep_operator.reconcile import reconcile
from tests.support.decisions import started
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    owner_of,
    status_of,
)
from tests.support.ownership import (
    FOREIGN,
    LIKE_OURS,
    OF_A_DEPLOYMENT,
    a_job,
    accepted,
    foreign,
    manifests,
    records_of,
    viewed,
)
from tests.support.planner import online, planner_of_a_job, play, told


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


async def test_a_job_that_came_in_anothers_place_is_not_deleted_for_its_age() -> None:
    """Of the same name and generation, but nobody has looked at how old it is."""
    kube = Swapping()
    ended = {"phase": "Completed", "completionTime": "2020-01-01T00:00:00Z"}
    kube.put(job_body(ttlSecondsAfterFinished=1) | {"status": ended})
    ref = job_ref(KEY.namespace, KEY.name)
    young = copy.deepcopy(kube.objects[ref])
    young["metadata"]["uid"] = "another"
    deps, get = make_deps(kube), kube.get

    async def then_replaced(ref: ObjectRef) -> Manifest:
        found = await get(ref)
        kube.put(young)
        return found

    kube.get = then_replaced  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await reconcile(KEY, deps)
    assert kube.objects[ref]["metadata"]["uid"] == "another"


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


OWNER = {"name": "demo", "uid": "uid-1"}


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "StatefulSet"])
def test_what_ails_objects_of_others_is_not_told_of_the_job(kind: str) -> None:
    seen = started()
    version = "apps/v1" if kind == "StatefulSet" else "v1"
    ref = ObjectRef(version, kind, "ml", "mine")
    said = {ref: Complaint("ProvisioningFailed", "no such class")}
    children = {**seen.children, ref: foreign(ref, **LIKE_OURS)}
    assert causes(replace(seen, children=children, complaints=said)) == []
    children[ref] = foreign(ref, ownerReferences=[owner_of({"metadata": OWNER})])
    assert len(causes(replace(seen, children=children, complaints=said))) == 1
