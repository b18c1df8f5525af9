"""Why a job is not ready: the cause from whichever object has it, told once, in its own words."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lockstep_api.status import ConditionType, Phase
from lockstep_operator.core.model import (
    Complaint,
    Decision,
    EventNote,
    ObjectRef,
    Observed,
    PodView,
    Refusal,
)
from lockstep_operator.core.state import JobState
from tests.support.decisions import (
    NOW,
    PODS,
    after,
    condition,
    edited,
    fresh,
    plan,
    pod,
    running,
    started,
    step,
)

CLAIM = ObjectRef("v1", "PersistentVolumeClaim", "ml", "demo-cloud")
CLOUD_SET = ObjectRef("apps/v1", "StatefulSet", "ml", "demo-cloud")
DEVICES_SET = ObjectRef("apps/v1", "StatefulSet", "ml", "demo-device-d")
QUOTA = 'pods "demo-cloud-0" is forbidden: exceeded quota: small, requested: cpu=1, used: cpu=3'
UNBOUND = "Unschedulable: 0/3 nodes: pod has unbound immediate PersistentVolumeClaims."


def ready(decision: Decision) -> tuple[str, str, str]:
    found = condition(decision.status, ConditionType.READY)
    return found.status, found.reason, found.message


def warnings(decision: Decision) -> list[EventNote]:
    return [note for note in decision.events if note.once]


def pod_ref(name: str) -> ObjectRef:
    return ObjectRef("v1", "Pod", "ml", name)


def complaining(seen: Observed, ref: ObjectRef, reason: str, message: str) -> Observed:
    return replace(seen, complaints={ref: Complaint(reason, message)})


def with_claim(seen: Observed, **spec: str) -> Observed:
    claim = {**seen.children[CLAIM], "spec": spec, "status": {"phase": "Pending"}}
    return replace(seen, children={**seen.children, CLAIM: claim})


def test_a_set_that_may_not_make_its_pods_says_so_in_the_apiservers_words() -> None:
    decision = step(complaining(started(), CLOUD_SET, "FailedCreate", QUOTA))
    status, reason, message = ready(decision)
    assert (status, reason) == ("False", "PodsNotCreated")
    assert message.startswith(f"StatefulSet demo-cloud: FailedCreate: {QUOTA}; 3 of 3 pods")
    (note,) = warnings(decision)
    assert (note.type, note.reason) == ("Warning", "PodsNotCreated")
    assert note.message == f"StatefulSet demo-cloud: FailedCreate: {QUOTA}"


def test_a_quota_that_demands_a_cpu_limit_names_the_field_for_it() -> None:
    words = "failed quota: small: must specify limits.cpu for: worker"
    decision = step(complaining(started(), CLOUD_SET, "FailedCreate", words))
    assert f"{words}; set spec.cloud.cpuLimit" in ready(decision)[2]


def test_a_refused_child_comes_before_what_it_leads_to() -> None:
    seen = complaining(started(), CLOUD_SET, "FailedCreate", 'serviceaccount "x" not found')
    account = ObjectRef("v1", "ServiceAccount", "ml", "demo-cloud")
    seen = replace(seen, refused=(Refusal(account, "Refused", "denied by the webhook"),))
    decision = step(seen)
    assert ready(decision)[1] == "ChildRefused"
    assert ready(decision)[2].startswith("ServiceAccount demo-cloud: denied by the webhook; Stat")
    assert [note.reason for note in warnings(decision)] == ["ChildRefused", "PodsNotCreated"]


def test_a_child_that_is_refused_while_all_pods_are_ready_is_told_too() -> None:
    budget = ObjectRef("policy/v1", "PodDisruptionBudget", "ml", "demo-cloud")
    seen = replace(running(), refused=(Refusal(budget, "Refused", "exceeded quota: b"),))
    status, reason, message = ready(step(seen))
    assert (status, reason) == ("False", "ChildRefused")
    assert message == "PodDisruptionBudget demo-cloud: exceeded quota: b; 0 of 3 pods are not ready"


@pytest.mark.parametrize("complains", [False, True])
def test_an_unbound_claim_names_its_storage_class(complains: bool) -> None:
    seen = with_claim(started(), storageClassName="nope")
    waiting = pod("demo-cloud-0", ready=False, problem=UNBOUND)
    seen = replace(seen, pods=(waiting, *PODS[1:]))
    words = 'storageclass.storage.k8s.io "nope" not found'
    if complains:
        seen = complaining(seen, CLAIM, "ProvisioningFailed", words)
    decision = step(seen)
    _, reason, message = ready(decision)
    assert reason == "ClaimNotBound"
    said = f": ProvisioningFailed: {words}" if complains else ""
    cause = f"PersistentVolumeClaim demo-cloud: is not bound, of StorageClass nope{said}"
    assert message.startswith(f"{cause}; 1 of 3")
    assert [note.message for note in warnings(decision)] == [cause], "the pod's words add nothing"


def test_a_claim_without_any_storage_class_says_what_to_set() -> None:
    waiting = pod("demo-cloud-0", ready=False, problem=UNBOUND)
    decision = step(replace(with_claim(started()), pods=(waiting, *PODS[1:])))
    assert "the cluster has no default one: set spec.cloud.storage" in ready(decision)[2]


def test_a_claim_that_waits_for_its_pod_is_no_cause() -> None:
    assert ready(step(with_claim(started(), storageClassName="late")))[1] == "PodsNotReady"


def waiting_pod(**more: Any) -> PodView:
    return replace(pod("demo-device-d-1", ready=False), waits=True, **more)


def test_a_pod_that_waits_without_a_word_says_what_was_warned_of_last() -> None:
    seen = replace(running(), pods=(*PODS[:2], waiting_pod()))
    words = 'MountVolume.SetUp failed for volume "x" : configmap "x" not found'
    decision = step(complaining(seen, pod_ref("demo-device-d-1"), "FailedMount", words))
    assert ready(decision)[1] == "PodProblem"
    assert f"demo-device-d-1: FailedMount: {words}" in ready(decision)[2]


@pytest.mark.parametrize("reason", ["Failed", "FailedScheduling", "BackOff"])
def test_what_the_status_of_a_pod_will_say_is_not_told_before(reason: str) -> None:
    """The event may come first: it would be told once more with the status' own words."""
    seen = replace(running(), pods=(*PODS[:2], waiting_pod()))
    seen = complaining(seen, pod_ref("demo-device-d-1"), reason, "Error: ErrImagePull")
    assert warnings(step(seen)) == []


def test_a_claim_that_a_node_may_not_read_yet_is_no_cause() -> None:
    """The apiserver's authorizer learns of a new pod a moment after its kubelet."""
    seen = replace(running(), pods=(*PODS[:2], waiting_pod()))
    words = (
        'failed to fetch PVC from API server: persistentvolumeclaims "demo-cloud" is forbidden: '
        'User "system:node:cloud" cannot get resource "persistentvolumeclaims" in API group "" in '
        'the namespace "lab": no relationship found between node "cloud" and this object'
    )
    assert warnings(step(complaining(seen, pod_ref("demo-device-d-1"), "FailedMount", words))) == []


@pytest.mark.parametrize("view", [pod("demo-device-d-1", ready=False), PODS[2]])
def test_a_pod_that_runs_is_not_judged_by_warnings(view: PodView) -> None:
    """A probe that failed while it starts, or what was warned of before it did."""
    seen = replace(running(), pods=(*PODS[:2], view))
    seen = complaining(seen, pod_ref("demo-device-d-1"), "Unhealthy", "Startup probe failed")
    decision = step(seen)
    assert "Startup probe" not in ready(decision)[2]
    assert warnings(decision) == []


def test_what_may_pass_by_itself_is_shown_at_once_but_told_after_seconds() -> None:
    young = waiting_pod(created_at=NOW.timestamp() - 2)
    seen = replace(running(), pods=(*PODS[:2], young))
    seen = complaining(seen, pod_ref("demo-device-d-1"), "FailedMount", "timed out")
    decision = step(seen)
    assert "FailedMount" in ready(decision)[2]
    assert (warnings(decision), decision.requeue_in_s) == ([], 3.0)
    later = step(after(seen, decision), NOW + timedelta(seconds=3))
    assert [note.message for note in warnings(later)] == ["demo-device-d-1: FailedMount: timed out"]


def keys(*problems: str, seen: Observed | None = None) -> set[str]:
    """What makes events once, over passes in which a pod has these problems."""
    found: set[str] = set()
    seen = seen or running()
    for problem in problems:
        bad = pod("demo-device-d-1", ready=False, problem=problem)
        seen = replace(seen, pods=(*PODS[:2], bad))
        decision = step(seen)
        found |= {note.once for note in warnings(decision)}
        seen = after(seen, decision)
    return found


PULL = 'failed to resolve reference "reg/x:1": reg/x:1: not found'
TRACE = "Traceback (most recent call last)\n  at {} of {}\nValueError: no shard {} in /data"


@pytest.mark.parametrize(
    "problems",
    [
        (
            f"ErrImagePull: {PULL}",
            f'ImagePullBackOff: Back-off pulling image "reg/x:1": ErrImagePull: {PULL}',
        ),
        (
            "CrashLoopBackOff: Error, exit code 1: " + TRACE.format(1, 2, 3),
            "Restarted: Error, exit code 1: " + TRACE.format(4, 5, 6),
            "Restarting: 17 restarts; Error, exit code 1: " + TRACE.format(7, 8, 9)[-70:],
        ),
        (
            "Unschedulable: 0/3 nodes are available: 1 Insufficient cpu.",
            "Unschedulable: 0/12 nodes are available: 7 Insufficient cpu.",
        ),
    ],
)
def test_the_same_cause_in_other_words_is_told_once(problems: Sequence[str]) -> None:
    assert len(keys(*problems)) == 1


def test_another_cause_is_told_too() -> None:
    other = "Unschedulable: 0/3 nodes are available: 3 node(s) had untolerated taint {a: }."
    assert len(keys("Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.", other)) == 2


def test_a_cause_that_comes_back_after_the_job_was_ready_is_told_again() -> None:
    bad = (*PODS[:2], pod("demo-device-d-1", ready=False, problem="CrashLoopBackOff: exit 1"))
    found, seen = set(), running()
    for seconds, pods in enumerate((bad, PODS, bad)):
        seen = replace(seen, pods=pods)
        decision = step(seen, NOW + timedelta(seconds=seconds))
        found |= {note.once for note in warnings(decision)}
        seen = after(seen, decision)
    assert len(found) == 2


def test_many_pods_with_one_cause_are_told_as_one() -> None:
    bad = [replace(one, ready=False, problem=f"ErrImagePull: {PULL}") for one in PODS[1:]]
    decision = step(replace(running(), pods=(PODS[0], *bad)))
    cause = f"demo-device-d-0 and 1 more: ErrImagePull: {PULL}"
    assert ready(decision)[2].startswith(f"{cause}; 2 of 3 pods")
    assert [note.message for note in warnings(decision)] == [cause]


def test_sets_with_one_cause_are_told_as_one() -> None:
    """Each names itself and its pod in it."""
    seen = started()
    for ref in (CLOUD_SET, DEVICES_SET):
        words = f'create Pod {ref.name}-0 in StatefulSet {ref.name} failed: pods "{ref.name}-0": no'
        complaint = Complaint("FailedCreate", words)
        seen = replace(seen, complaints={**seen.complaints, ref: complaint})
    (note,) = warnings(step(seen))
    assert note.message.startswith("StatefulSet demo-cloud and 1 more: FailedCreate: create Pod")


def test_a_claim_is_told_once_whenever_its_provisioner_speaks() -> None:
    waiting = pod("demo-cloud-0", ready=False, problem=UNBOUND)
    seen = replace(with_claim(started(), storageClassName="nope"), pods=(waiting, *PODS[1:]))
    words = (("ProvisioningFailed", "not found"), ("ProvisioningFailed", "still not"))
    all_seen = [seen, *(complaining(seen, CLAIM, *said) for said in words)]
    assert len({note.once for one in all_seen for note in warnings(step(one))}) == 1


def test_a_late_job_with_a_cause_is_not_told_once_more() -> None:
    bad = pod("demo-device-d-1", ready=False, problem="ErrImagePull: no such image")
    seen = replace(started(), pods=(*PODS[:2], bad))
    late = step(seen, NOW + timedelta(minutes=5))
    assert [note.reason for note in late.events] == ["PodProblem"]


def test_a_trainer_says_nothing_of_readiness() -> None:
    trainer = PodView("demo-trainer", "trainer", "", "n1", False, "Failed: Error, exit code 1")
    decision = step(replace(running(), pods=(*PODS, trainer)))
    assert ready(decision)[0] == "True"
    assert warnings(decision) == []


LIMITED = {"startDeadlineSeconds": 120}


def starting(**change: Any) -> Observed:
    seen = fresh(**(LIMITED | change))
    return after(seen, step(seen))


def failed(decision: Decision) -> tuple[str, str]:
    found = condition(decision.status, ConditionType.FAILED)
    return found.reason, found.message


def test_a_job_that_does_not_start_in_time_fails_with_what_kept_it() -> None:
    seen = complaining(starting(), CLOUD_SET, "FailedCreate", QUOTA)
    early = step(seen, NOW + timedelta(seconds=119))
    assert early.status.phase is Phase.STARTING
    assert early.requeue_in_s == 1.0
    decision = step(seen, NOW + timedelta(seconds=120))
    assert decision.status.phase is Phase.FAILED
    reason, message = failed(decision)
    assert reason == "StartDeadlineExceeded"
    assert message.startswith(f"no round began within 120 s: StatefulSet demo-cloud: {FAILED_BY}")
    assert DEVICES_SET in decision.delete


FAILED_BY = f"FailedCreate: {QUOTA}"


def test_without_a_deadline_a_job_waits_for_ever() -> None:
    decision = step(started(), NOW + timedelta(days=30))
    assert decision.status.phase is Phase.STARTING


def test_a_job_whose_round_has_begun_has_started() -> None:
    heard = JobState(plan=plan(), started_at=NOW, planned_at=NOW + timedelta(seconds=60))
    decision = step(replace(starting(), report=heard), NOW + timedelta(seconds=121))
    assert decision.status.phase is Phase.RUNNING
    again = replace(after(starting(), decision), report=None)  # by another operator
    assert step(again, NOW + timedelta(days=1)).status.phase is Phase.RUNNING


def test_a_resumed_job_has_its_time_anew() -> None:
    resumed = NOW + timedelta(hours=1)
    seen = replace(starting(), report=JobState(plan=plan(), planned_at=NOW + timedelta(seconds=9)))
    for change in ({"suspend": True}, {"suspend": False}):
        seen = edited(seen, **(LIMITED | change))
        seen = after(seen, step(seen, resumed))
    assert step(seen, resumed + timedelta(seconds=119)).status.phase is Phase.STARTING
    assert step(seen, resumed + timedelta(seconds=120)).status.phase is Phase.FAILED


def test_a_job_without_a_place_does_not_use_up_its_time() -> None:
    seen = replace(fresh(**LIMITED), nodes=())
    seen = after(seen, step(seen))
    assert step(seen, NOW + timedelta(days=1)).status.phase is Phase.PENDING
