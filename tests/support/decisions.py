"""A job as `decide` sees it, step by step; for the tests of decisions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import Condition, ConditionType, FederatedJobStatus
from lockstep_api.wire import Outcome, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.decide import decide
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import (
    Decision,
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
NODE = NodeView("n1", {}, True, (), 8.0, Amount(8.0, 2.0**34, 110))
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
    *,
    failures: dict[str, str] | None = None,
    refusals: dict[str, str] | None = None,
) -> RoundPlan:
    registrations = [{"client": c, "incarnation": "x", "examples": 1} for c in CLIENTS]
    request = PlanRequest.model_validate({"round": round, "clients": registrations})
    return with_applied(plan_round(spec(), request), failures or {}, refusals=refusals or {})


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
