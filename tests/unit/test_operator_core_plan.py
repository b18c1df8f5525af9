"""A round's plan: who takes part, at which frequency, and what became of it."""

import time
from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import LastPlan, PlannedClient
from lockstep_api.wire import ClientPlan, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.allocate import allocate, cpu_milli, groups_by_client
from lockstep_operator.core.plan import (
    NOTHING_KNOWN,
    fallback_note,
    fell_back,
    left_to_devices,
    mismatches,
    plan_round,
    with_applied,
)
from lockstep_operator.core.sampling import sample
from lockstep_operator.errors import UnfitRequest

TEN = [f"d-{i}" for i in range(10)]


def spec(**change: Any) -> FederatedJobSpec:
    base: dict[str, Any] = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 7, "localSteps": {"fixed": 4}, "target": {"value": 0.8}},
        "devices": [
            {"name": "fast", "replicas": 2, "cpuAtMax": "1", "frequency": ghz(0.5, 2.0)},
            {"name": "slow", "replicas": 2, "cpuAtMax": "400m", "frequency": ghz(0.2, 1.0)},
        ],
    }
    return FederatedJobSpec.model_validate(base | change)


def ghz(low: float, high: float) -> dict[str, float]:
    return {"minGHz": low, "maxGHz": high}


def request(*clients: str, round: int = 1) -> PlanRequest:
    registrations = [{"client": c, "incarnation": "x", "examples": 1} for c in clients]
    return PlanRequest.model_validate({"round": round, "clients": registrations})


def report(round: int, **had: float) -> RoundReport:
    clients = [
        {
            "update": {
                "client": client.replace("_", "-"),
                "round": round,
                "examples": 1,
                "steps": 1,
                "trainLoss": 0.0,
                "downloadSeconds": 0,
                "computeSeconds": 0,
                "cpuSeconds": 0,
                "throttledSeconds": 0,
                "frequencyGHz": frequency,
                "energyJoules": {},
            },
            "arrivedSeconds": 1,
            "uploadSeconds": 0,
            "bytes": 1,
        }
        for client, frequency in had.items()
    ]
    head = {"round": round, "planned": True, "seconds": 1, "elapsedSeconds": 1}
    return RoundReport.model_validate({**head, "clients": clients, "energyJoules": {}})


def planned(**change: Any) -> RoundPlan:
    clients = ("fast-0", "fast-1", "slow-0", "slow-1")
    return with_applied(plan_round(spec(**change), request(*clients)), {}, refusals={})


def test_policy_max_gives_every_device_its_maximum() -> None:
    assert allocate(spec(), {"slow-1": 40, "fast-0": 40}, insight=NOTHING_KNOWN).ghz == {
        "slow-1": 1.0,
        "fast-0": 2.0,
    }


def test_policy_static_gives_every_device_the_cores_of_the_slowest() -> None:
    static = spec(allocation={"policy": "static"})
    levels = allocate(static, {"fast-0": 40, "slow-0": 40}, insight=NOTHING_KNOWN).ghz
    groups = groups_by_client(static)
    assert levels == pytest.approx({"fast-0": 0.8, "slow-0": 1.0})
    assert [cpu_milli(groups[client], level) for client, level in levels.items()] == [400, 400]


def test_policy_static_gives_more_steps_more_cores_before_work_was_measured() -> None:
    static = spec(allocation={"policy": "static"})
    levels = allocate(static, {"fast-0": 20, "slow-0": 4}, insight=NOTHING_KNOWN).ghz
    assert levels == pytest.approx({"fast-0": 2.0, "slow-0": 0.5})  # 20 steps/1 core, 4/0.2


def test_policy_static_stays_above_the_minimum() -> None:
    devices = [
        {"name": "fast", "cpuAtMax": "4", "frequency": ghz(0.5, 2.0)},
        {"name": "slow", "cpuAtMax": "100m", "frequency": ghz(0.2, 1.0)},
    ]
    static = spec(allocation={"policy": "static"}, devices=devices)
    assert allocate(static, {"fast-0": 40}, insight=NOTHING_KNOWN).ghz == {"fast-0": 0.5}


@pytest.mark.parametrize("policy", ["equalize", "ppo"])
def test_until_work_was_measured_everyone_runs_at_the_maximum(policy: str) -> None:
    job = spec(allocation={"policy": policy})
    asked = allocate(job, {"fast-0": 40, "slow-0": 40}, insight=NOTHING_KNOWN).ghz
    assert asked == {"fast-0": 2.0, "slow-0": 1.0}


@pytest.mark.parametrize(("level", "milli"), [(2.0, 1000), (1.0, 500), (0.001, 1), (0.0, 1)])
def test_a_frequency_as_a_cpu_limit(level: float, milli: int) -> None:
    assert cpu_milli(groups_by_client(spec())["fast-1"], level) == milli


@pytest.mark.parametrize(
    ("fraction", "count"), [(1.0, 10), (0.5, 5), (0.25, 3), (0.24, 2), (0.001, 1)]
)
def test_a_share_of_the_clients_is_sampled(fraction: float, count: int) -> None:
    chosen = sample(TEN, fraction=fraction, seed=1, round=1)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == [client for client in TEN if client in chosen]


def test_a_sample_depends_on_seed_and_round_only() -> None:
    draws = {
        (seed, round): tuple(sample(TEN, fraction=0.5, seed=seed, round=round))
        for seed in range(3)
        for round in range(1, 5)
    }
    assert len(set(draws.values())) > 8
    assert draws[2, 3] == tuple(sample(TEN, fraction=0.5, seed=2, round=3))


def test_nobody_connected_is_nobody_sampled() -> None:
    assert sample([], fraction=0.5, seed=0, round=1) == []


def test_a_plan_says_everything_about_the_round() -> None:
    job = spec(
        participation={"quorum": 1, "roundDeadlineSeconds": 9},
        telemetry={"energyBudgetJoules": 500},
    )
    plan = plan_round(job, request("slow-0", "fast-1", round=3))
    assert (plan.round, plan.rounds, plan.quorum, plan.deadline_seconds) == (3, 7, 1, 9)
    assert plan.energy_budget_joules == 500
    assert plan.target == job.training.target
    assert plan.planned
    entries = [(e.client, e.frequency_ghz, e.cpu_milli, e.steps) for e in plan.participants]
    assert entries == [("fast-1", 2.0, 1000, 4), ("slow-0", 1.0, 400, 4)]
    assert [(e.applied, e.reason) for e in plan.participants] == [(False, None)] * 2


def test_clients_of_another_job_are_refused_by_name() -> None:
    with pytest.raises(UnfitRequest, match="no such clients in this job: fast-2, other-0"):
        plan_round(spec(), request("other-0", "fast-0", "fast-2"))


def test_planned_steps_begin_with_the_fewest_while_no_work_was_measured() -> None:
    rules = {"localSteps": {"planned": {"minSteps": 7}}, "rounds": 1}
    job = spec(training=rules, allocation={"policy": "equalize"})
    plan = plan_round(job, request("fast-0", "slow-0"))
    assert [(one.steps, one.frequency_ghz) for one in plan.participants] == [(7, 2.0), (7, 1.0)]


def test_limits_not_in_force_are_marked_with_the_reason() -> None:
    plan = with_applied(planned(), {"slow-1": "no such pod"}, refusals={})
    off = [(e.client, e.reason) for e in plan.participants if not e.applied]
    assert off == [("slow-1", "no such pod")]
    assert all(e.applied and e.reason is None for e in planned().participants)


def test_a_device_with_another_frequency_than_planned_is_named() -> None:
    found = mismatches(planned(), report(1, fast_0=1.91, fast_1=1.89, slow_0=0.4, slow_1=1.0))
    assert found == {
        "fast-1": "1.89 GHz instead of 2.00 GHz",
        "slow-0": "0.40 GHz instead of 1.00 GHz",
    }


def test_what_was_not_applied_or_not_reported_is_no_mismatch() -> None:
    plan = with_applied(planned(), {"slow-0": "no such pod"}, refusals={})
    assert mismatches(plan, report(1, slow_0=0.4)) == {}


def test_devices_that_cannot_be_resized_are_told_to_keep_to_it() -> None:
    plan = with_applied(planned(), {}, refusals={"slow-1": "forbidden"})
    told = {e.client: e.throttle_milli() for e in plan.participants}
    assert told["slow-0"] is None
    entry = plan.participants[-1]
    assert (entry.client, entry.applied, entry.reason) == ("slow-1", True, "forbidden")
    assert told["slow-1"] == entry.cpu_milli
    assert fell_back(plan) == {"slow-1": "forbidden"}


def test_a_job_that_asks_for_cooperative_falls_back_nowhere() -> None:
    plan = left_to_devices(planned())
    assert all(e.applied and e.throttle_milli() == e.cpu_milli for e in plan.participants)
    assert fell_back(plan) == {}
    assert fallback_note(plan, [None]) is None


def test_one_event_tells_of_the_first_plan_that_falls_back() -> None:
    plan = with_applied(planned(), {}, refusals={"slow-0": "forbidden", "slow-1": "forbidden"})
    note = fallback_note(plan, [planned(), None])
    assert note is not None
    assert (note.type, note.reason) == ("Warning", "CooperativeThrottling")
    assert note.message.startswith("2 devices keep to their CPU limits themselves; slow-0: forb")
    assert fallback_note(plan, [plan, None]) is None
    shown = LastPlan(round=1, planned=True, clients=[planned_client(plan.participants[-1])])
    assert fallback_note(plan, [None, shown]) is None


def planned_client(entry: ClientPlan) -> PlannedClient:
    return PlannedClient.model_validate(entry.model_dump(exclude={"budget_seconds", "basis"}))


def test_a_measured_frequency_may_be_off_by_more() -> None:
    plan = left_to_devices(planned())
    found = mismatches(plan, report(1, fast_0=1.75, fast_1=1.65, slow_0=1.1, slow_1=1.0))
    assert found == {"fast-1": "1.65 GHz instead of 2.00 GHz"}


def test_a_report_of_another_round_says_nothing() -> None:
    assert mismatches(planned(), report(2, slow_0=0.4)) == {}


def test_a_plan_of_10_000_devices_takes_less_than_a_second_of_cpu() -> None:
    many = spec(devices=[{"name": "many", "replicas": 10_000}])
    asked = request(*(f"many-{index}" for index in range(10_000)))
    began = time.process_time()
    assert len(with_applied(plan_round(many, asked), {}, refusals={}).participants) == 10_000
    assert time.process_time() - began < 1.0
