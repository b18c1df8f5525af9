"""Objects that do not belong to a job are never touched, whatever they are called or labelled."""

import copy

import pytest

from lockstep_api import names
from lockstep_api.wire import Outcome
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import Conflict
from lockstep_operator.kube import job_ref
from lockstep_operator.reconcile import reconcile
from tests.support.kube import (
    KEY,
    cluster_with,
    job_body,
    make_deps,
    owner_of,
)
from tests.support.ownership import (
    FOREIGN,
    LIKE_OURS,
    OF_A_DEPLOYMENT,
    ONLINE,
    a_job,
    accepted,
    children_of,
    consists_of,
    foreign,
    manifests,
    records_of,
    viewed,
)

NEEDED = (*consists_of(a_job()), *records_of(a_job()))
BY_NAME = [f"{ref.kind}/{ref.name}" for ref in NEEDED]


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


async def test_what_an_earlier_job_has_left_goes_before_anything_is_made() -> None:
    kube = cluster_with(job_body(**ONLINE))
    deps = make_deps(kube)
    earlier = owner_of({"metadata": {"name": KEY.name, "uid": "earlier"}})
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
