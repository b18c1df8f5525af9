"""Suspension, resumption and the end of a job, as `decide` sees them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from lockstep_api.status import ConditionType, Phase
from lockstep_operator.core.conditions import timestamp
from lockstep_operator.core.model import (
    Decision,
    EventNote,
)
from lockstep_operator.core.state import JobState
from tests.support.decisions import (
    LATER,
    NODE,
    NOW,
    after,
    condition,
    edited,
    outcome,
    plan,
    report,
    running,
    said,
    step,
)


@pytest.mark.parametrize(
    ("result", "phase", "type_", "reason"),
    [
        ("RoundsCompleted", Phase.COMPLETED, ConditionType.COMPLETE, "RoundsCompleted"),
        ("TargetReached", Phase.COMPLETED, ConditionType.COMPLETE, "TargetReached"),
        ("PrivacyBudgetSpent", Phase.COMPLETED, ConditionType.COMPLETE, "PrivacyBudgetSpent"),
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
    full = replace(
        edited(held), nodes=(replace(NODE, free=replace(NODE.free, cpu=0.5)), other), pods=()
    )
    decision = step(full)
    assert decision.status.phase is Phase.PENDING
    message = condition(decision.status, ConditionType.PROGRESSING).message
    assert message.startswith("needs 1.0 cores on tier cloud, 0.5 free")
    lost = replace(edited(held), nodes=(other,), pods=())
    message = condition(step(lost).status, ConditionType.PROGRESSING).message
    assert message == "the cloud pod's volume is on n1, which is not ready for it"
    assert step(replace(full, nodes=(NODE,))).status.phase is Phase.STARTING


def test_a_finished_job_cannot_be_suspended() -> None:
    heard = JobState(report=report(3), plan=plan(3), outcome=outcome())
    done = after(running(), step(running(heard)))
    held = edited(done, suspend=True)
    assert step(held).status == done.job.status
