"""Steps that are planned with frequencies: rule `planned` of training.localSteps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lockstep_allocator.observation import EDGES_S
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_api.energy import cycles
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_operator.core.allocate import NotComputable, groups_by_client
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.plan import plan_round, replanned, with_applied
from lockstep_operator.core.planning import hear, know
from lockstep_operator.core.state import JobState

SLOTS = len(EDGES_S) - 1
WORK = 0.01
CORES = {"fast": 1.0, "medium": 0.4, "slow": 0.1}
GHZ = {"fast": 3.0, "medium": 1.2, "slow": 0.3}
CLIENTS = [f"{group}-{i}" for group in CORES for i in range(2)]
UPLOAD_S = 0.4


def spec(**more: Any) -> FederatedJobSpec:
    """Devices whose clocks are ten times apart."""
    devices = [
        {
            "name": group, "replicas": 2, "cpuAtMax": str(CORES[group]),
            "frequency": {"minGHz": 0.1, "maxGHz": GHZ[group]},
        }
        for group in CORES
    ]  # fmt: skip
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9, "localSteps": {"planned": {"minSteps": 4}}},
            "strategy": {"name": "calibrated"},
            "allocation": {"policy": "equalize", "energyWeight": 0.3},
            "devices": devices,
            **more,
        }
    )


def insight(**changes: ClientInsight) -> Insight:
    usual = ClientInsight(
        slots_mbps=(8 / UPLOAD_S,) * SLOTS, work_per_step=WORK, upload_mbit=8.0,
        mean_mbps=8 / UPLOAD_S,
    )  # fmt: skip
    named = {name.replace("_", "-"): one for name, one in changes.items()}
    return Insight({client: named.get(client, usual) for client in CLIENTS})


def request(examples: dict[str, int] | None = None, **more: Any) -> PlanRequest:
    clients = [
        {"client": client, "incarnation": "a", "examples": (examples or {}).get(client, 100)}
        for client in CLIENTS
    ]
    return PlanRequest.model_validate({"round": 2, "clients": clients, **more})


def steps(plan: RoundPlan) -> dict[str, int]:
    return {one.client: one.steps for one in plan.participants}


def ghz(plan: RoundPlan) -> dict[str, float]:
    return {one.client: one.frequency_ghz for one in plan.participants}


def finish_s(job: FederatedJobSpec, plan: RoundPlan) -> list[float]:
    groups = groups_by_client(job)
    return [
        cycles(WORK * one.steps, cpu_at_max=CORES[one.client[:-2]], max_ghz=GHZ[one.client[:-2]])
        / (one.frequency_ghz * 1e9)
        + UPLOAD_S
        for one in plan.participants
        if groups[one.client]
    ]


def test_before_work_was_measured_all_do_the_fewest_steps_at_their_maximum() -> None:
    plan = plan_round(spec(), request())
    assert steps(plan) == dict.fromkeys(CLIENTS, 4)
    assert ghz(plan) == {client: GHZ[client[:-2]] for client in CLIENTS}


def test_fast_devices_do_more_steps_in_the_same_time_and_slow_ones_run_at_their_maximum() -> None:
    job = spec()
    plan = plan_round(job, request(), insight=insight())
    asked, clocks = steps(plan), ghz(plan)
    assert asked["slow-0"] >= 4
    assert asked["slow-0"] < asked["medium-0"] < asked["fast-0"]
    assert clocks["slow-0"] == pytest.approx(0.3, rel=0.2)  # whole steps
    assert clocks["fast-0"] < 2.5
    ends = finish_s(job, plan)
    assert max(ends) - min(ends) < 0.002


def test_devices_that_are_alike_get_the_same() -> None:
    plan = plan_round(spec(), request(), insight=insight())
    for group in CORES:
        assert steps(plan)[f"{group}-0"] == steps(plan)[f"{group}-1"]
        assert ghz(plan)[f"{group}-0"] == ghz(plan)[f"{group}-1"]


def test_bounds_are_kept() -> None:
    bounds = {"planned": {"minSteps": 6, "maxRatio": 1.5}}
    job = spec(training={"rounds": 9, "localSteps": bounds})
    asked = steps(plan_round(job, request(), insight=insight())).values()
    assert min(asked) >= 6
    assert max(asked) <= 1.5 * min(asked)


def test_a_device_of_more_examples_does_more_steps() -> None:
    job, asked = spec(), request({"fast-0": 400})
    known = know(JobState(), asked, telemetry=insight(), spec=job)
    plan = plan_round(job, asked, insight=known)
    assert steps(plan)["fast-0"] > steps(plan)["fast-1"]


def test_a_dearer_joule_makes_fewer_cycles_of_it() -> None:
    cheap, dear = (
        plan_round(
            spec(allocation={"policy": "equalize", "energyWeight": weight}), request(),
            insight=insight(),
        )
        for weight in (0.03, 30)
    )  # fmt: skip
    assert ghz(dear)["fast-0"] < ghz(cheap)["fast-0"]
    assert steps(dear)["fast-0"] < steps(cheap)["fast-0"]


def test_a_device_that_keeps_its_frequency_gets_steps_for_it() -> None:
    """Its limit is not in force: what is in force decides its steps, and the others' beside it."""
    job, known = spec(), insight()
    plan = plan_round(job, request(), insight=known)
    refused = with_applied(plan, {"fast-0": "Deferred"}, refusals={})
    again = replanned(job, refused, has_ghz={"fast-0": 0.15}, insight=known, policy=None)
    assert ghz(again)["fast-0"] == ghz(plan)["fast-0"]  # what is asked for stays
    assert steps(again)["fast-0"] < steps(plan)["fast-0"]
    assert again.participants[0].cpu_milli == plan.participants[0].cpu_milli


def shipped() -> Policy:
    return read_policy(SHIPPED)


def test_ppo_plans_steps_for_the_uploads_that_it_expects_and_corrects_their_frequencies() -> None:
    job = spec(allocation={"policy": "ppo", "energyWeight": 0.3})
    falling = tuple(float(m) for m in np.geomspace(2, 60, SLOTS))  # newest first
    jumpy = ClientInsight(slots_mbps=falling, work_per_step=WORK, upload_mbit=8.0)
    known = insight(**{client.replace("-", "_"): jumpy for client in CLIENTS})
    plan = plan_round(job, request(), insight=known, policy=shipped())
    assert steps(plan)["slow-0"] < steps(plan)["fast-0"]
    fallback = plan_round(job, request(), insight=known)
    assert ghz(plan) != ghz(fallback)
    assert steps(plan) != steps(fallback)


def test_static_plans_for_the_mean_bandwidth() -> None:
    """What the link did in the last seconds does not count."""
    job = spec(allocation={"policy": "static", "energyWeight": 0.3})
    usual = insight().of("fast-0")
    slow_now = replace(usual, slots_mbps=(2.0,) * SLOTS)
    now = insight(fast_0=slow_now)
    plan = plan_round(job, request(), insight=now)
    assert plan == plan_round(job, request(), insight=insight())


def test_a_link_that_stands_still_for_a_moment_makes_nobody_do_many_steps() -> None:
    """It did well in the minute before: the others do not train until it would be through."""
    job, usual = spec(), insight().of("fast-0")
    still = replace(usual, slots_mbps=(0.01,) * 10 + (20.0,) * (SLOTS - 10))
    plan = plan_round(job, request(), insight=insight(slow_0=still))
    normal = plan_round(job, request(), insight=insight())
    assert max(steps(plan).values()) < 2 * max(steps(normal).values())
    ends = finish_s(job, plan)
    assert max(ends) < 2 * max(finish_s(job, normal))


def test_figures_without_an_answer_are_said() -> None:
    unlike = ClientInsight(slots_mbps=(float("nan"),) * SLOTS, work_per_step=WORK, upload_mbit=8.0)
    with pytest.raises(NotComputable):
        plan_round(spec(), request(), insight=insight(fast_0=unlike))


def told(number: int, *, mean_steps: int, loss: float) -> dict[str, Any]:
    update = {
        "client": "fast-0", "round": number, "examples": 10, "steps": mean_steps,
        "downloadSeconds": 0, "computeSeconds": 1, "cpuSeconds": 1, "throttledSeconds": 0,
        "frequencyGHz": 1, "energyJoules": {},
    }  # fmt: skip
    return {
        "round": number, "planned": True, "seconds": 1, "elapsedSeconds": 1, "loss": loss,
        "clients": [{"update": update, "arrivedSeconds": 1, "uploadSeconds": 1, "bytes": 8}],
        "energyJoules": {},
    }  # fmt: skip


def heard(job: FederatedJobSpec, true: float) -> JobState:
    """After 40 rounds of few and many steps, of which many are worth what `true` says."""
    state, gone = JobState(), 0.0
    for number in range(1, 41):
        mean_steps = (4, 40, 10)[number % 3]
        gone += mean_steps / (mean_steps + true)
        report = told(number, mean_steps=mean_steps, loss=2 * (1 + gone) ** -0.7)
        state = hear(state, request(report=report), spec=job).state
    return state


def test_the_jobs_own_rounds_say_what_steps_are_worth() -> None:
    job = spec()
    fresh, dull, keen = (
        plan_round(job, request(), insight=know(state, request(), telemetry=insight(), spec=job))
        for state in (JobState(), heard(job, 2.0), heard(job, 100.0))
    )
    assert sum(steps(dull).values()) < sum(steps(fresh).values()) < sum(steps(keen).values())


def test_jobs_whose_steps_are_not_planned_keep_no_history() -> None:
    job = spec(training={"rounds": 9, "localSteps": {"fixed": 10}})
    assert heard(job, 2.0).history == ()
