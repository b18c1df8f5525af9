"""What `decide` makes of a job: phases, conditions, children, events."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import Condition, ConditionType, FederatedJobStatus, Phase
from lockstep_api.wire import Outcome, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.children import reference
from lockstep_operator.core.conditions import Finding, set_condition, timestamp
from lockstep_operator.core.decide import decide
from lockstep_operator.core.model import (
    Decision,
    EventNote,
    JobKey,
    JobView,
    NodeView,
    Observed,
    PodView,
    Settings,
)
from lockstep_operator.core.plan import plan_round, with_applied
from lockstep_operator.core.state import JobState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner")
NODE = NodeView("n1", {}, True, (), 8.0, 8.0, 2.0**34)
CLIENTS = ("d-0", "d-1")


def spec(**change: Any) -> FederatedJobSpec:
    base: dict[str, Any] = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 3},
        "devices": [{"name": "d", "replicas": 2}],
        "cloud": {"cpu": "1"},
    }
    return FederatedJobSpec.model_validate(base | change)


def fresh(**change: Any) -> Observed:
    job = JobView(JobKey("ml", "demo"), "uid-1", 1, spec(**change), None, FederatedJobStatus(), 0.0)
    return Observed(job, {}, (), (NODE,), None)


def step(seen: Observed, now: datetime = NOW) -> Decision:
    return decide(seen, SETTINGS, now=now)


def after(seen: Observed, decision: Decision) -> Observed:
    """What is observed once a decision has been carried out."""
    present = dict(seen.children) | {reference(m): m for m in decision.apply}
    children = {ref: m for ref, m in present.items() if ref not in decision.delete}
    return replace(seen, job=replace(seen.job, status=decision.status), children=children)


def edited(seen: Observed, **change: Any) -> Observed:
    job = replace(seen.job, spec=spec(**change), generation=seen.job.generation + 1)
    return replace(seen, job=job)


def started() -> Observed:
    seen = fresh()
    return after(seen, step(seen))


def pod(name: str, *, ready: bool = True, problem: str | None = None) -> PodView:
    role = "cloud" if "cloud" in name else "device"
    return PodView(name, role, "" if role == "cloud" else "d", "n1", ready, problem)


PODS = tuple(pod(name) for name in ("demo-cloud-0", "demo-device-d-0", "demo-device-d-1"))


def plan(
    round: int = 1,
    failures: dict[str, str] | None = None,
    refusals: dict[str, str] | None = None,
) -> RoundPlan:
    registrations = [{"client": c, "incarnation": "x", "examples": 1} for c in CLIENTS]
    request = PlanRequest.model_validate({"round": round, "clients": registrations})
    return with_applied(plan_round(spec(), request), failures or {}, refusals or {})


def report(round: int = 1, **change: Any) -> RoundReport:
    base = {
        "round": round,
        "planned": True,
        "seconds": 2,
        "elapsedSeconds": 12.345,
        "clients": [],
        "accuracy": 0.654321,
        "loss": 0.9876543,
        "energyJoules": {"model": 1.23456, "cpu": 7.0},
    }
    return RoundReport.model_validate(base | change)


def outcome(result: str = "RoundsCompleted", **change: Any) -> Outcome:
    return Outcome.model_validate({"result": result, "message": "the end", **change})


def running(heard: JobState | None = None) -> Observed:
    seen = replace(
        started(),
        pods=PODS,
        report=heard or JobState(plan=plan(), started_at=NOW, planned_at=LATER),
    )
    return after(seen, step(seen))


def condition(status: FederatedJobStatus, type_: ConditionType) -> Condition:
    (found,) = [c for c in status.conditions if c.type is type_]
    return found


def said(decision: Decision, type_: ConditionType) -> tuple[str, str]:
    found = condition(decision.status, type_)
    return found.status, found.reason


def test_a_new_job_is_placed_and_its_children_are_applied() -> None:
    decision = step(fresh())
    kinds = [manifest["kind"] for manifest in decision.apply]
    assert kinds.count("StatefulSet") == 2
    assert decision.delete == ()
    assert decision.status.phase is Phase.STARTING
    assert [(p.name, p.nodes) for p in decision.status.placement or []] == [
        ("cloud", ["n1"]),
        ("d", ["n1"]),
    ]
    assert decision.status.progress == "0/3"
    assert decision.status.clients == "0/2"
    assert decision.events == (EventNote("Normal", "Starting", "pods are being started"),)
    assert said(decision, ConditionType.ACCEPTED) == ("True", "Valid")
    assert said(decision, ConditionType.PROGRESSING) == ("True", "Starting")
    assert said(decision, ConditionType.DEGRADED) == ("False", "AsPlanned")


def test_carried_out_a_decision_asks_for_nothing_more() -> None:
    seen = started()
    again = step(seen, NOW + timedelta(seconds=5))
    assert again == Decision((), (), seen.job.status, (), requeue_in_s=55.0)
    late = step(seen, LATER)
    assert [(note.reason, note.every_s) for note in late.events] == [("PodsNotReady", 600.0)]
    assert late.events[0].message.startswith("3 of 3 pods are not ready: demo-cloud-0")
    assert replace(late, events=()) == Decision((), (), seen.job.status, ())


def test_an_unreadable_spec_is_refused() -> None:
    seen = fresh()
    job = replace(seen.job, spec=None, spec_error="devices: field required")
    decision = step(replace(seen, job=job))
    assert decision.status.phase is Phase.REFUSED
    assert said(decision, ConditionType.ACCEPTED) == ("False", "InvalidSpec")
    assert decision.apply == ()
    assert decision.events == (EventNote("Warning", "Refused", "devices: field required"),)


def test_what_is_not_supported_is_refused_until_the_spec_is_mended() -> None:
    seen = fresh(offload={}, strategy={"name": "scaffold"})
    decision = step(seen)
    assert said(decision, ConditionType.ACCEPTED) == ("False", "NotSupported")
    message = condition(decision.status, ConditionType.ACCEPTED).message
    assert "strategy.name scaffold" in message
    assert "offload" in message
    mended = step(edited(after(seen, decision)))
    assert mended.status.phase is Phase.STARTING
    assert mended.status.observed_generation == 2
    assert said(mended, ConditionType.ACCEPTED) == ("True", "Valid")


def test_a_refused_edit_leaves_a_running_job_alone() -> None:
    seen = running()
    held = edited(seen, training={"rounds": 9, "localSteps": {"budgetSeconds": 1}})
    decision = step(held)
    assert (decision.status.phase, decision.apply, decision.delete) == (Phase.REFUSED, (), ())
    assert step(edited(after(held, decision))).status.phase is Phase.RUNNING


def test_a_job_that_does_not_fit_waits_and_is_tried_again() -> None:
    small = replace(fresh(), nodes=(replace(NODE, free_cpu=1.5),))
    decision = step(small)
    assert decision.status.phase is Phase.PENDING
    assert decision.apply == ()
    assert said(decision, ConditionType.PROGRESSING) == ("False", "DoesNotFit")
    assert said(decision, ConditionType.ACCEPTED) == ("True", "Valid")
    assert said(decision, ConditionType.READY)[0] == "False"
    message = condition(decision.status, ConditionType.PROGRESSING).message
    assert message.startswith("needs 1.0 cores on tier device, 0.5 free")
    grown = replace(after(small, decision), nodes=(NODE,))
    assert step(grown).status.phase is Phase.STARTING


def test_a_placed_job_keeps_its_placement_when_stronger_nodes_come() -> None:
    seen = started()
    stronger = replace(seen, nodes=(NODE, replace(NODE, name="n2", cpu=64, free_cpu=64)))
    decision = step(stronger)
    assert decision.apply == ()
    assert decision.status.placement == seen.job.status.placement


def test_a_job_whose_node_is_gone_is_placed_anew() -> None:
    seen = replace(started(), nodes=(replace(NODE, name="n2"),))
    decision = step(seen)
    assert {m["kind"] for m in decision.apply} == {"StatefulSet"}
    assert {n for p in decision.status.placement or [] for n in p.nodes} == {"n2"}


def test_a_started_job_whose_node_is_gone_does_not_go_back_to_pending() -> None:
    seen = replace(running(), nodes=(replace(NODE, name="n2", free_cpu=0.1),))
    decision = step(seen)
    assert decision.status.phase is Phase.RUNNING
    assert decision.status.placement == seen.job.status.placement
    assert said(decision, ConditionType.PROGRESSING) == ("False", "DoesNotFit")
    assert step(after(seen, decision), LATER).status == decision.status


def test_a_child_that_was_deleted_or_differs_is_applied_again() -> None:
    seen = started()
    (first, *_), second = seen.children, list(seen.children)[1]
    changed = {ref: m for ref, m in seen.children.items() if ref != first}
    changed[second] = {**changed[second], "metadata": {"annotations": {}}}
    decision = step(replace(seen, children=changed))
    assert [reference(m) for m in decision.apply] == [first, second]


def test_what_the_apiserver_adds_is_no_difference() -> None:
    seen = started()
    defaulted = {ref: {**m, "status": {"x": 1}} for ref, m in seen.children.items()}
    assert step(replace(seen, children=defaulted)).apply == ()


def test_new_rounds_reach_the_settings_and_the_status() -> None:
    decision = step(edited(running(), training={"rounds": 9}))
    assert [m["kind"] for m in decision.apply] == ["ConfigMap"]
    assert decision.status.progress == "0/9"


def test_children_of_an_earlier_job_of_this_name_go_first() -> None:
    seen = started()
    reborn = replace(seen, job=replace(seen.job, uid="uid-2", status=FederatedJobStatus()))
    decision = step(reborn)
    assert set(decision.delete) == set(seen.children)
    assert decision.apply == ()
    gone = after(reborn, decision)
    assert len(step(gone).apply) == len(seen.children)


def test_a_child_that_is_going_is_waited_for() -> None:
    seen = started()
    going = {
        ref: {**m, "metadata": {**m["metadata"], "annotations": {}, "deletionTimestamp": "x"}}
        for ref, m in seen.children.items()
    }
    decision = step(replace(seen, children=going))
    assert (decision.apply, decision.delete) == ((), ())


def test_a_planned_round_makes_the_job_run() -> None:
    seen = replace(
        started(), pods=PODS, report=JobState(plan=plan(), started_at=NOW, planned_at=LATER)
    )
    decision = step(seen, LATER)
    assert decision.status.phase is Phase.RUNNING
    assert decision.status.start_time == "2026-01-02T03:04:05Z"
    assert decision.status.clients == "2/2"
    assert said(decision, ConditionType.READY) == ("True", "AllPodsReady")
    assert decision.events == (EventNote("Normal", "Running", "round 1 has been planned"),)
    assert decision.status.last_plan is not None
    assert [c.client for c in decision.status.last_plan.clients] == ["d-0", "d-1"]


def test_a_report_is_shown_with_few_digits() -> None:
    heard = JobState(report=report(2), plan=plan(3), started_at=NOW)
    status = running(heard).job.status
    assert (status.round, status.progress) == (2, "2/3")
    assert (status.accuracy, status.loss, status.elapsed_seconds) == (0.6543, 0.9877, 12.3)
    assert status.energy_joules is not None
    assert (status.energy_joules.model, status.energy_joules.cpu) == (1.23, 7.0)


def test_numbers_that_json_cannot_hold_are_left_out() -> None:
    heard = JobState(report=report(loss=float("nan"), accuracy=None), plan=plan(2))
    status = running(heard).job.status
    assert (status.accuracy, status.loss) == (None, None)


@pytest.mark.parametrize("heard", [None, JobState(), JobState(report(1), plan(1), None, NOW)])
def test_a_restarted_operator_takes_nothing_back(heard: JobState | None) -> None:
    seen = running(JobState(report=report(2), plan=plan(3), started_at=NOW))
    decision = step(replace(seen, report=heard), LATER)
    assert decision.status == seen.job.status
    assert decision.events == ()


def test_pods_that_are_missing_are_named() -> None:
    seen = replace(running(), pods=PODS[:2])
    ready = condition(step(seen).status, ConditionType.READY)
    assert (ready.status, ready.reason) == ("False", "PodsNotReady")
    assert ready.message == "1 of 3 pods are not ready: demo-device-d-1"


def test_many_missing_pods_are_cut_to_five() -> None:
    ready = condition(
        step(fresh(devices=[{"name": "d", "replicas": 9}])).status, ConditionType.READY
    )
    assert ready.message.endswith("demo-device-d-3 and 5 more")


def test_the_problem_of_a_pod_is_told() -> None:
    bad = pod("demo-device-d-1", ready=False, problem="ImagePullBackOff: no such image")
    ready = condition(step(replace(running(), pods=(*PODS[:2], bad))).status, ConditionType.READY)
    assert ready.reason == "PodProblem"
    assert "demo-device-d-1: ImagePullBackOff: no such image" in ready.message


@pytest.mark.parametrize(
    ("heard", "reason", "named"),
    [
        (JobState(plan=plan(1, {"d-1": "no such pod"})), "FrequencyNotApplied", "d-1 (no such"),
        (
            JobState(report=report(), plan=plan(2), mismatches={"d-0": "0.40 GHz"}),
            "FrequencyNotApplied",
            "d-0 (0.40 GHz)",
        ),
        (JobState(report=report(planned=False), plan=plan(2)), "PlannerBypassed", "planner"),
        (
            JobState(report=report(), plan=plan(2, {}, {"d-1": "may not resize"})),
            "CooperativeThrottling",
            "d-1 (may not resize); allow pods/resize",
        ),
    ],
)
def test_a_job_that_does_not_run_as_planned_is_degraded(
    heard: JobState, reason: str, named: str
) -> None:
    degraded = condition(running(heard).job.status, ConditionType.DEGRADED)
    assert (degraded.status, degraded.reason) == ("True", reason)
    assert named in degraded.message


def test_a_restarted_operator_still_knows_what_was_not_applied() -> None:
    seen = replace(running(JobState(plan=plan(1, {"d-1": "no such pod"}))), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "FrequencyNotApplied")
    seen = replace(running(JobState(plan=plan(1, {}, {"d-0": "no"}))), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "CooperativeThrottling")
    unplanned = plan(1).model_copy(update={"planned": False})
    seen = replace(running(JobState(plan=unplanned)), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "PlannerBypassed")


@pytest.mark.parametrize(
    ("result", "phase", "type_", "reason"),
    [
        ("RoundsCompleted", Phase.COMPLETED, ConditionType.COMPLETE, "RoundsCompleted"),
        ("TargetReached", Phase.COMPLETED, ConditionType.COMPLETE, "TargetReached"),
        ("Failed", Phase.FAILED, ConditionType.FAILED, "TrainingFailed"),
    ],
)
def test_an_outcome_ends_the_job(
    result: str, phase: Phase, type_: ConditionType, reason: str
) -> None:
    ended = JobState(report(2), plan(3), outcome(result, report=report(3)), NOW)
    seen = replace(running(), report=ended)
    decision = step(seen, LATER)
    assert decision.status.phase is phase
    assert said(decision, type_) == ("True", reason)
    assert said(decision, ConditionType.PROGRESSING) == ("False", "Finished")
    assert decision.status.completion_time == timestamp(LATER)
    assert decision.status.progress == "3/3"
    assert decision.status.clients == "0/2"
    warning = "Warning" if phase is Phase.FAILED else "Normal"
    assert decision.events == (EventNote(warning, phase.value, "the end"),)
    kept = after(seen, decision)
    assert {ref.kind for ref in kept.children} == {"ConfigMap", "PersistentVolumeClaim"}
    restarted = replace(kept, report=None, pods=())
    for last in (kept, restarted, edited(kept, suspend=True)):
        assert step(last) == Decision((), (), decision.status, ())


def test_a_job_ends_even_when_its_spec_has_become_unreadable() -> None:
    seen = running()
    job = replace(seen.job, spec=None, spec_error="bad")
    decision = step(replace(seen, job=job, report=JobState(outcome=outcome())))
    assert decision.status.phase is Phase.COMPLETED
    assert decision.status.clients == "2/2"


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    kind = ConditionType.READY
    a, b, c = Finding("False", "A", "a"), Finding("False", "B", "b"), Finding("True", "C", "c")
    first = set_condition([], kind, found=a, generation=1, now=NOW)
    same = set_condition(first, kind, found=b, generation=2, now=LATER)
    (found,) = same
    assert (found.reason, found.message, found.observed_generation) == ("B", "b", 2)
    assert found.last_transition_time == "2026-01-02T03:04:05Z"
    (turned,) = set_condition(same, kind, found=c, generation=2, now=LATER)
    assert turned.last_transition_time == "2026-01-02T03:09:05Z"


def test_a_message_that_is_too_long_is_cut() -> None:
    long = Finding("True", "A", "x" * 9000)
    made = set_condition([], ConditionType.READY, found=long, generation=1, now=NOW)
    assert len(made[0].message) == 4096


def test_a_suspended_job_starts_again_at_its_round() -> None:
    heard = JobState(report=report(2), plan=plan(3), started_at=NOW, planned_at=NOW)
    seen = running(heard)
    held = after(seen, step(edited(seen, suspend=True), LATER))
    assert held.job.status.phase is Phase.SUSPENDED
    assert held.job.status.progress == "2/3"
    assert held.job.status.active_time is None
    assert [ref.kind for ref in held.children if "cloud" in ref.name] == [
        "ServiceAccount", "PersistentVolumeClaim", "Service",
    ]  # fmt: skip
    told = step(edited(seen, suspend=True), LATER).events
    assert told == (EventNote("Normal", "Suspended", "the job is suspended after 2 of 3 rounds"),)
    awake = edited(replace(held, pods=()))
    resumed = step(awake, LATER)
    assert resumed.status.phase is Phase.STARTING, "the plan that is known is from before"
    assert (resumed.status.round, resumed.status.start_time) == (2, timestamp(NOW))
    again = after(awake, resumed)
    assert step(again, LATER).status.phase is Phase.STARTING
    planned = replace(heard, plan=plan(3), planned_at=LATER + timedelta(seconds=1))
    assert step(replace(again, report=planned), LATER).status.phase is Phase.RUNNING


def test_a_job_that_runs_again_tells_the_round_that_was_planned() -> None:
    seen = running(JobState(report=report(2), plan=plan(3), started_at=NOW, planned_at=NOW))
    held = after(seen, step(edited(seen, suspend=True), LATER))
    awake = edited(replace(held, report=None))
    again = after(awake, step(awake, LATER))
    heard = JobState(plan=plan(3), planned_at=LATER + timedelta(seconds=1))
    told = step(replace(again, report=heard), LATER).events
    assert told == (EventNote("Normal", "Running", "round 3 has been planned"),)


def test_a_resumed_job_waits_for_room_where_its_volume_is() -> None:
    other = replace(NODE, name="n2")
    seen = running()
    held = after(seen, step(edited(seen, suspend=True)))
    full = replace(edited(held), nodes=(replace(NODE, free_cpu=0.5), other), pods=())
    decision = step(full)
    assert decision.status.phase is Phase.PENDING
    message = condition(decision.status, ConditionType.PROGRESSING).message
    assert message.startswith("needs 1.0 cores on tier cloud, 0.5 free")
    lost = replace(edited(held), nodes=(other,), pods=())
    message = condition(step(lost).status, ConditionType.PROGRESSING).message
    assert message == "the cloud pod's volume is on n1, which is not ready for it"
    assert step(replace(full, nodes=(NODE,))).status.phase is Phase.STARTING


def test_missing_clients_are_named_and_told_at_a_pace() -> None:
    heard = JobState(report=report(1, lost=["d-1"]), plan=plan(2), planned_at=LATER)
    decision = step(running(heard))
    assert said(decision, ConditionType.DEGRADED) == ("True", "ClientsMissing")
    message = "the last round went without 1 of 1: d-1"
    assert condition(decision.status, ConditionType.DEGRADED).message == message
    assert EventNote("Warning", "ClientsMissing", message, every_s=60.0) in decision.events


def test_a_finished_job_cannot_be_suspended() -> None:
    heard = JobState(report=report(3), plan=plan(3), outcome=outcome())
    done = after(running(), step(running(heard)))
    held = edited(done, suspend=True)
    assert step(held).status == done.job.status
