"""A pass over a job: what is written, in which order, and what a failure leaves."""

import asyncio
import gc
from datetime import timedelta
from typing import Any

import pytest

from lockstep_api.wire import Outcome, RoundPlan, RoundReport
from lockstep_operator.core.children import trainer_job
from lockstep_operator.core.model import Manifest, ObjectRef, Refusal
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import Conflict, Refused, Unavailable
from lockstep_operator.kube import job_ref, ref_of
from lockstep_operator.observe import job_view
from lockstep_operator.reconcile import Deps, finished, reconcile
from tests.support.kube import (
    KEY,
    NOW,
    SETTINGS,
    FakeKube,
    cluster_with,
    failing,
    job_body,
    make_deps,
    status_of,
)
from tests.support.manifests import NATURAL


async def test_a_job_gets_its_children_then_its_status_then_an_event() -> None:
    kube = cluster_with()
    outcome = await reconcile(KEY, make_deps(kube))
    assert outcome.phase == "Starting"
    assert kube.writes[-1] == ("status", "FederatedJob/digits")
    assert {kind.split("/")[0] for verb, kind in kube.writes if verb == "create"} == {
        "ServiceAccount",
        "ConfigMap",
        "PersistentVolumeClaim",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "StatefulSet",
    }
    assert [event["reason"] for event in kube.events] == ["Starting"]
    assert kube.events[0]["involvedObject"]["name"] == KEY.name


async def test_accounts_come_before_what_uses_them() -> None:
    kube = cluster_with()
    await reconcile(KEY, make_deps(kube))
    kinds = [name.split("/")[0] for verb, name in kube.writes if verb == "create"]
    assert kinds.index("StatefulSet") > max(
        index for index, kind in enumerate(kinds) if kind != "StatefulSet"
    )


async def test_a_second_pass_writes_nothing() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    kube.writes.clear()
    await reconcile(KEY, deps)
    assert kube.writes == []


async def test_a_lost_child_comes_back() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    kube.writes.clear()
    kube.remove(ObjectRef("v1", "ConfigMap", KEY.namespace, "digits-settings"))
    await reconcile(KEY, deps)
    assert kube.writes == [("create", "ConfigMap/digits-settings")]


async def test_a_job_that_is_gone_is_forgotten() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    uid = deps.known[KEY].uid
    deps.sources.reports.keep(
        KEY, uid, state=JobState(outcome=Outcome(result="Failed", message="no"))
    )
    kube.remove(job_ref(KEY.namespace, KEY.name))
    assert (await reconcile(KEY, deps)).gone
    assert deps.known == {}
    assert deps.sources.reports.get(uid) is None


async def test_what_a_plan_tells_of_a_job_that_is_gone_is_forgotten_too() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    uid = deps.known[KEY].uid
    kube.remove(job_ref(KEY.namespace, KEY.name))
    await reconcile(KEY, deps)
    gone: list[str] = []
    deps.sources.reports.when_gone(gone.append)
    deps.sources.reports.keep(KEY, uid, state=JobState())  # its plan was under way
    assert (await reconcile(KEY, deps)).gone
    assert (deps.sources.reports.get(uid), gone) == (None, [uid])


async def test_a_pass_that_is_cancelled_leaves_no_write_behind() -> None:
    groups = [{"name": f"g{i}", "replicas": 1, "cpuAtMax": "10m"} for i in range(30)]
    kube = cluster_with(job_body(devices=groups))  # more sets than are written at once
    deps = make_deps(kube)
    begun, never = asyncio.Event(), asyncio.Event()
    create = kube.create

    async def held(manifest: Manifest) -> Manifest:
        if manifest["kind"] == "StatefulSet":
            begun.set()
            await never.wait()
        return await create(manifest)

    kube.create = held  # type: ignore[method-assign]
    making = asyncio.create_task(reconcile(KEY, deps))
    await begun.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    gc.collect()  # a coroutine that was never awaited warns, and warnings are errors


async def test_the_status_is_written_although_a_child_is_refused() -> None:
    kube = cluster_with()
    kube.fail = failing("create", Refused("quota exceeded"), "digits-cloud")
    deps = make_deps(kube)
    outcome = await reconcile(KEY, deps)
    assert str(outcome.failure) == "quota exceeded"
    assert status_of(kube)["phase"] == "Starting"
    errors = deps.metrics.registry.get_sample_value(
        "lockstep_reconcile_errors_total", {"error": "Refused"}
    )
    assert errors == 5  # account, volume, service, budget, policy; its set waits for them


def _ready(kube: FakeKube) -> Manifest:
    found: list[Manifest] = [c for c in status_of(kube)["conditions"] if c["type"] == "Ready"]
    return found[0]


async def test_a_refused_child_is_in_the_status_of_the_same_pass_in_the_apiservers_words() -> None:
    kube = cluster_with()
    kube.fail = failing("create", Refused("exceeded quota: small"), "digits-device-fast")
    await reconcile(KEY, make_deps(kube))
    ready = _ready(kube)
    assert (ready["status"], ready["reason"]) == ("False", "ChildRefused")
    assert "StatefulSet digits-device-fast: exceeded quota: small" in ready["message"]


async def test_a_child_that_could_be_written_at_last_is_not_told_any_more() -> None:
    now = [100.0]
    kube = cluster_with()
    kube.fail = failing("create", Refused("exceeded quota: small"), "digits-device-fast")
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    now[0] += 1
    await reconcile(KEY, deps)
    assert _ready(kube)["reason"] == "ChildRefused", "as long as it is refused"
    kube.fail = lambda verb, name: None
    now[0] += 1
    assert (await reconcile(KEY, deps)).failure is None
    assert _ready(kube)["reason"] == "PodsNotReady"


async def test_decisions_know_what_the_last_try_was_answered() -> None:
    kube = cluster_with()
    kube.fail = failing("create", Conflict("is another's"), "digits-settings")
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    ref = ObjectRef("v1", "ConfigMap", "lab", "digits-settings")
    assert deps.known[KEY].refused == (Refusal(ref, "Conflict", "is another's"),)


async def test_a_lost_event_does_not_fail_the_pass() -> None:
    kube = cluster_with()
    kube.fail = failing("event", Unavailable("gone"))
    assert (await reconcile(KEY, make_deps(kube))).failure is None


async def test_the_status_waits_its_second() -> None:
    now = [100.0]
    kube = cluster_with()
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    kube.writes.clear()
    _edit_rounds(kube, 5)
    now[0] += 0.25
    outcome = await reconcile(KEY, deps)
    assert outcome.requeue_in_s == 0.75
    assert ("status", "FederatedJob/digits") not in kube.writes
    now[0] += 0.75
    assert (await reconcile(KEY, deps)).requeue_in_s == 60.0, "to see whether its pods are late"
    assert status_of(kube)["rounds"] == 5


def _hear(deps: Deps, *, lost: list[str]) -> None:
    """Round 1 went without `lost`, and round 2 is planned."""
    head: dict[str, Any] = {"round": 1, "planned": True, "seconds": 1, "elapsedSeconds": 1}
    report = RoundReport.model_validate(
        {**head, "clients": [], "lost": lost, "energyJoules": {}},
    )
    plan = RoundPlan.model_validate({"round": 2, "rounds": 3, "participants": []})
    state = JobState(report, plan, planned_at=NOW + timedelta(seconds=1))
    deps.sources.reports.keep(KEY, deps.known[KEY].uid, state=state)


async def running(kube: FakeKube, now: list[float]) -> Deps:
    """A job that runs, with all that its next pass needs; its status was written at now[0]."""
    deps = make_deps(kube, monotonic=lambda: now[0])
    await reconcile(KEY, deps)
    _hear(deps, lost=[])
    assert (await reconcile(KEY, deps)).phase == "Running"
    kube.events.clear()
    _hear(deps, lost=["fast-1"])
    return deps


def _told(kube: FakeKube) -> list[str]:
    return [event["reason"] for event in kube.events]


async def test_an_event_is_told_with_the_status_that_had_to_wait() -> None:
    now = [100.0]
    kube = cluster_with()
    deps = await running(kube, now)
    now[0] += 0.25
    assert (await reconcile(KEY, deps)).requeue_in_s == 0.75
    assert _told(kube) == []
    now[0] += 0.75
    await reconcile(KEY, deps)
    assert _told(kube) == ["ClientsMissing"]
    now[0] += 1
    await reconcile(KEY, deps)
    assert _told(kube) == ["ClientsMissing"], "once told, it keeps its pace"


@pytest.mark.parametrize("verb", ["status", "event"])
async def test_an_event_that_was_not_written_is_told_by_the_next_pass(verb: str) -> None:
    now = [100.0]
    kube = cluster_with()
    deps = await running(kube, now)
    now[0] += 1
    kube.fail = failing(verb, Unavailable("gone"))
    if verb == "status":
        with pytest.raises(Unavailable):
            await reconcile(KEY, deps)
    else:
        await reconcile(KEY, deps)
    assert _told(kube) == []
    kube.fail = lambda verb, name: None
    now[0] += 1
    await reconcile(KEY, deps)
    assert _told(kube) == ["ClientsMissing"]


async def test_a_new_phase_does_not_wait() -> None:
    kube = cluster_with()
    deps = make_deps(kube, monotonic=lambda: 100.0)
    await reconcile(KEY, deps)
    done = Outcome(result="RoundsCompleted", message="3 rounds")
    deps.sources.reports.keep(KEY, deps.known[KEY].uid, state=JobState(outcome=done))
    outcome = await reconcile(KEY, deps)
    assert finished(outcome)
    assert status_of(kube)["phase"] == "Completed"


async def test_an_unsupported_job_is_refused_without_children() -> None:
    kube = cluster_with(job_body(data=NATURAL))
    outcome = await reconcile(KEY, make_deps(kube))
    assert outcome.phase == "Refused"
    assert [verb for verb, _ in kube.writes] == ["status"]
    accepted = status_of(kube)["conditions"][0]
    assert (accepted["type"], accepted["reason"]) == ("Accepted", "NotSupported")
    assert [event["type"] for event in kube.events] == ["Warning"]


def _edit_rounds(kube: FakeKube, rounds: int) -> None:
    stored = kube.objects[job_ref(KEY.namespace, KEY.name)]
    kube.put({**stored, "spec": {**stored["spec"], "training": {"rounds": rounds}}})


@pytest.mark.parametrize("how", ["suspended", "ended"])
async def test_a_trainer_goes_with_the_pods_of_its_job(how: str) -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    job = job_view(kube.objects[job_ref(KEY.namespace, KEY.name)])
    assert job.spec is not None
    trainer = trainer_job(job, job.spec, round=20, nodes=["node"], settings=SETTINGS)
    kube.put(trainer)
    await reconcile(KEY, deps)
    assert ref_of(trainer) in kube.objects, "it learns while the job runs"
    if how == "suspended":
        stored = kube.objects[job_ref(KEY.namespace, KEY.name)]
        kube.put({**stored, "spec": {**stored["spec"], "suspend": True}})
    else:
        done = Outcome(result="RoundsCompleted", message="3 rounds")
        deps.sources.reports.keep(KEY, job.uid, state=JobState(outcome=done))
    await reconcile(KEY, deps)
    assert ref_of(trainer) not in kube.objects


async def test_another_number_of_pods_is_set_right() -> None:
    kube = cluster_with()
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    ref = ObjectRef("apps/v1", "StatefulSet", "lab", "digits-device-fast")
    stored = kube.objects[ref]
    kube.put({**stored, "spec": {**stored["spec"], "replicas": 0}})
    kube.writes.clear()
    await reconcile(KEY, deps)
    assert ("apply", "StatefulSet/digits-device-fast") in kube.writes
    assert kube.objects[ref]["spec"]["replicas"] == 2
