"""What `decide` makes of a job: phases, placement, children, events."""

from dataclasses import replace
from datetime import timedelta

from lockstep_api.status import ConditionType, FederatedJobStatus, Phase
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import (
    Decision,
    EventNote,
)
from lockstep_operator.core.state import JobState
from tests.support.decisions import (
    LATER,
    NODE,
    NOW,
    PODS,
    after,
    condition,
    edited,
    fresh,
    plan,
    running,
    said,
    started,
    step,
)
from tests.support.manifests import NATURAL


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
    seen = fresh(data=NATURAL, devices=[{"name": "cloud"}])
    decision = step(seen)
    assert said(decision, ConditionType.ACCEPTED) == ("False", "NotSupported")
    message = condition(decision.status, ConditionType.ACCEPTED).message
    assert "data.partition.scheme natural" in message
    assert "devices[].name cloud" in message
    mended = step(edited(after(seen, decision)))
    assert mended.status.phase is Phase.STARTING
    assert mended.status.observed_generation == 2
    assert said(mended, ConditionType.ACCEPTED) == ("True", "Valid")


def test_a_refused_edit_leaves_a_running_job_alone() -> None:
    seen = running()
    held = edited(seen, training={"rounds": 9}, data=NATURAL)
    decision = step(held)
    assert (decision.status.phase, decision.apply, decision.delete) == (Phase.REFUSED, (), ())
    assert step(edited(after(held, decision))).status.phase is Phase.RUNNING


def test_a_job_that_does_not_fit_waits_and_is_tried_again() -> None:
    small = replace(fresh(), nodes=(replace(NODE, free=replace(NODE.free, cpu=1.5)),))
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
    stronger = replace(
        seen, nodes=(NODE, replace(NODE, name="n2", cpu=64, free=replace(NODE.free, cpu=64)))
    )
    decision = step(stronger)
    assert decision.apply == ()
    assert decision.status.placement == seen.job.status.placement


def test_a_job_whose_node_is_gone_is_placed_anew() -> None:
    seen = replace(started(), nodes=(replace(NODE, name="n2"),))
    decision = step(seen)
    assert {m["kind"] for m in decision.apply} == {"StatefulSet"}
    assert {n for p in decision.status.placement or [] for n in p.nodes} == {"n2"}


def test_a_started_job_whose_node_is_gone_does_not_go_back_to_pending() -> None:
    seen = replace(running(), nodes=(replace(NODE, name="n2", free=replace(NODE.free, cpu=0.1)),))
    decision = step(seen)
    assert decision.status.phase is Phase.RUNNING
    assert decision.status.placement == seen.job.status.placement
    assert said(decision, ConditionType.PROGRESSING) == ("False", "DoesNotFit")
    assert step(after(seen, decision), LATER).status == decision.status


def test_a_child_that_was_deleted_or_differs_is_applied_again() -> None:
    seen = started()
    (first, *_), second = seen.children, list(seen.children)[1]
    changed = {ref: m for ref, m in seen.children.items() if ref != first}
    meta = {**changed[second]["metadata"], "annotations": {}}
    changed[second] = {**changed[second], "metadata": meta}
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
