"""What the status of a job says: numbers, conditions and what is degraded."""

from dataclasses import replace
from typing import Any

import pytest

from lockstep_api.budget import MOST_STEPS
from lockstep_api.privacy import LedgerMark
from lockstep_api.spec import Privacy
from lockstep_api.status import ConditionType, FederatedJobStatus
from lockstep_operator.core.conditions import Finding, set_condition
from lockstep_operator.core.model import (
    EventNote,
)
from lockstep_operator.core.planning import ended
from lockstep_operator.core.privacy import ledger_of, spent
from lockstep_operator.core.state import JobState
from tests.support.decisions import (
    LATER,
    NOW,
    PODS,
    after,
    condition,
    edited,
    fresh,
    outcome,
    plan,
    pod,
    report,
    running,
    said,
    step,
)


def test_a_report_is_shown_with_few_digits() -> None:
    heard = JobState(report=report(2), plan=plan(3), started_at=NOW)
    status = running(heard).job.status
    assert (status.round, status.progress) == (2, "2/3")
    assert (status.accuracy, status.loss, status.elapsed_seconds) == (0.6543, 0.9877, 12.3)
    assert status.energy_joules is not None
    assert (status.energy_joules.model, status.energy_joules.cpu) == (1.23, 7.0)


def test_the_last_round_is_shown_with_its_steps_and_bytes() -> None:
    clients = [done("d-0", steps=20, asked=20), done("d-1", steps=9, asked=None)]
    heard = JobState(report=report(2, clients=clients, seconds=1.23456), plan=plan(3))
    status = running(heard).job.status.model_dump(by_alias=True, exclude_none=True)
    assert status["lastRound"] == {
        "round": 2,
        "seconds": 1.235,
        "uploadBytes": 2_000,
        "clients": [
            {"client": "d-0", "stepsAsked": 20, "stepsDone": 20},
            {"client": "d-1", "stepsDone": 9},
        ],
    }


def test_the_last_round_says_who_was_clipped_and_who_was_left_out() -> None:
    clients = [done("d-0", steps=20, asked=20) | {"kept": [0.12345, 0.5]}]
    doubted = {
        "takenBack": ["the loss\nis high"],
        "satOut": [
            {"client": "d-1", "returns": 7, "why": "went far"},
            {"client": "d-2", "returns": 3},
            {"client": "stranger-0", "returns": 9},
        ],
    }
    told = report(2, clients=clients, mistrusted=doubted)
    status = running(JobState(report=told, plan=plan(3))).job.status
    last = status.model_dump(by_alias=True, exclude_none=True)["lastRound"]
    assert last["clients"] == [{"client": "d-0", "stepsAsked": 20, "stepsDone": 20, "kept": 0.123}]
    assert len(last["takenBack"][0].splitlines()) == 1
    assert last["satOut"][:2] == [
        {"client": "d-1", "returns": 7, "why": "went far"},
        {"client": "d-2", "returns": 3},
    ]
    found = condition(status, ConditionType.DEGRADED)
    assert (found.status, found.reason) == ("True", "ClientsSitOut")
    assert "d-1 (may return in round 7)" in found.message
    assert "d-2" not in found.message, "it takes part in round 3"
    later = running(JobState(report=report(6), plan=plan(7))).job.status
    assert condition(later, ConditionType.DEGRADED).reason == "AsPlanned"


def test_the_last_round_is_cut_to_64_clients() -> None:
    clients = [done(f"d-{index}", steps=1, asked=1) for index in range(70)]
    status = running(JobState(report=report(2, clients=clients), plan=plan(3))).job.status
    assert status.last_round is not None
    assert len(status.last_round.clients) == 64
    assert status.last_round.upload_bytes == 70_000


def test_the_last_plan_says_the_steps_that_it_asks_for() -> None:
    counted, open_ended = plan(3).participants
    budget = {"steps": MOST_STEPS, "budget_seconds": 2.0}
    participants = [counted, open_ended.model_copy(update=budget)]
    heard = JobState(plan=plan(3).model_copy(update={"participants": participants}))
    status = running(heard).job.status.model_dump(by_alias=True, exclude_none=True)
    assert [one.get("steps") for one in status["lastPlan"]["clients"]] == [10, None]


def done(client: str, *, steps: int, asked: int | None) -> dict[str, Any]:
    """An update in order, of 1,000 bytes."""
    update = {
        "client": client, "round": 2, "examples": 1, "steps": steps, "downloadSeconds": 0,
        "computeSeconds": 1, "cpuSeconds": 1, "throttledSeconds": 0, "frequencyGHz": 1,
        "energyJoules": {},
    }  # fmt: skip
    return {
        "update": update, "arrivedSeconds": 1, "uploadSeconds": 1, "bytes": 1000,
        "askedSteps": asked,
    }  # fmt: skip


def test_numbers_that_json_cannot_hold_are_left_out() -> None:
    unfit = report(accuracy=None).model_copy(update={"loss": float("nan")})
    heard = JobState(report=unfit, plan=plan(2))
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
        (
            JobState(plan=plan(1, failures={"d-1": "no such pod"})),
            "FrequencyNotApplied",
            "d-1 (no such",
        ),
        (
            JobState(report=report(), plan=plan(2), mismatches={"d-0": "0.40 GHz"}),
            "FrequencyNotApplied",
            "d-0 (0.40 GHz)",
        ),
        (JobState(report=report(planned=False), plan=plan(2)), "PlannerBypassed", "planner"),
        (
            JobState(report=report(), plan=plan(2), given_up="given up: client d-1: raised E"),
            "ClientsGivenUp",
            "client d-1: raised E",
        ),
        (
            JobState(report=report(), plan=plan(2, refusals={"d-1": "may not resize"})),
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
    seen = replace(running(JobState(plan=plan(1, failures={"d-1": "no such pod"}))), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "FrequencyNotApplied")
    seen = replace(running(JobState(plan=plan(1, refusals={"d-0": "no"}))), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "CooperativeThrottling")
    unplanned = plan(1).model_copy(update={"planned": False})
    seen = replace(running(JobState(plan=unplanned)), report=None)
    assert said(step(seen), ConditionType.DEGRADED) == ("True", "PlannerBypassed")


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


def test_missing_clients_are_named_and_told_at_a_pace() -> None:
    heard = JobState(report=report(1, lost=["d-1"]), plan=plan(2), planned_at=LATER)
    decision = step(running(heard))
    assert said(decision, ConditionType.DEGRADED) == ("True", "ClientsMissing")
    message = "the last round went without 1 of 1: d-1"
    assert condition(decision.status, ConditionType.DEGRADED).message == message
    assert EventNote("Warning", "ClientsMissing", message, every_s=60.0) in decision.events


def test_progress_is_never_more_than_all() -> None:
    heard = JobState(report=report(5), plan=plan(6), started_at=NOW, planned_at=LATER)
    seen = edited(running(heard), training={"rounds": 3})
    status = step(replace(seen, report=heard)).status
    assert (status.round, status.rounds, status.progress) == (5, 3, "5/5")


PRIVATE = {"privacy": {"clipNorm": 1, "noiseMultiplier": 2, "epsilonBudget": 90}}


def counted(status: FederatedJobStatus) -> tuple[int, float]:
    """Rounds and ε of a private job."""
    assert status.privacy is not None
    return status.privacy.rounds, status.privacy.epsilon


def test_a_private_job_shows_what_it_has_come_to_from_its_start() -> None:
    seen = fresh(**PRIVATE)
    decision = step(seen)
    assert counted(decision.status) == (0, 0.0)
    heard = JobState(report=report(2), plan=plan(3), started_at=NOW, private_rounds=4)
    told = step(replace(after(seen, decision), report=heard)).status
    privacy = Privacy.model_validate(PRIVATE["privacy"])
    assert counted(told) == (4, spent(privacy, clients=2, rounds=4))
    assert step(fresh()).status.privacy is None


def test_what_a_restarted_operator_and_a_cloud_pod_have_forgotten_counts() -> None:
    seen = fresh(**PRIVATE)
    heard = JobState(report=report(2), plan=plan(3), started_at=NOW, private_rounds=4)
    shown = after(seen, step(replace(seen, report=heard)))
    before = counted(shown.job.status)
    for newer in (None, JobState(), JobState(plan=plan(1), private_rounds=0)):
        assert counted(step(replace(shown, report=newer)).status) == before
    more = step(replace(shown, report=JobState(plan=plan(1), private_rounds=6))).status
    assert counted(more)[1] > before[1]


def test_the_status_knows_the_newest_ledger_of_a_private_job() -> None:
    seen = fresh(**PRIVATE)
    known = LedgerMark(ledger="a" * 32, models=5)
    shown = after(seen, step(replace(seen, report=JobState(private_rounds=2, ledger=known))))
    older = LedgerMark(ledger="b" * 32, models=5)
    newer = LedgerMark(ledger="b" * 32, models=6)
    for told, kept in ((None, known), (older, known), (newer, newer)):
        status = step(replace(shown, report=JobState(private_rounds=2, ledger=told))).status
        assert ledger_of(status.privacy) == kept


def test_the_end_of_a_job_says_what_it_has_come_to() -> None:
    end = outcome("PrivacyBudgetSpent", report=report(3), private_rounds=5)
    state = ended(JobState(report=report(2), plan=plan(3), private_rounds=4), end)
    assert counted(step(replace(fresh(**PRIVATE), report=state)).status)[0] == 5


def test_a_budget_that_no_round_fits_is_refused_before_anything_is_made() -> None:
    decision = step(fresh(privacy={**PRIVATE["privacy"], "epsilonBudget": 0.01}))
    assert said(decision, ConditionType.ACCEPTED) == ("False", "NotSupported")
    assert (
        "privacy.epsilonBudget 0.01" in condition(decision.status, ConditionType.ACCEPTED).message
    )
    assert decision.apply == ()
