"""One device's figures do not steer the others, and no figure stops a job's planning."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Method
from lockstep_allocator.observation import EDGES_S, Observation
from lockstep_allocator.policy import SHIPPED, read_policy
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_operator.core.conditions import telemetry
from lockstep_operator.core.insight import ClientInsight, Insight, Member, observation_of
from lockstep_operator.core.plan import with_applied
from lockstep_operator.core.planning import Basis, draw, hear, know, redraw
from lockstep_operator.core.state import JobState

CLIENTS = ("d-0", "d-1", "d-2", "d-3")
LIAR, *OTHERS = CLIENTS
SLOTS = len(EDGES_S) - 1
POLICIES = ["static", "equalize", "ppo"]
HONEST = Insight(
    {
        client: ClientInsight(slots_mbps=(8.0,) * SLOTS, mean_mbps=8.0, work_per_step=0.05)
        for client in CLIENTS
    }
)


def spec(policy: str, **more: Any) -> FederatedJobSpec:
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9, "localSteps": {"fixed": 10}},
            "allocation": {"policy": policy, "energyWeight": 0.3, **more},
            "devices": [{"name": "d", "replicas": len(CLIENTS), "cpuAtMax": "500m",
                         "frequency": {"minGHz": 0.5, "maxGHz": 2.0}}],
        }
    )  # fmt: skip


def request(
    lie: dict[str, Any] | None = None,
    *,
    of: str = LIAR,
    left_out: dict[str, Any] | None = None,
    **report: Any,
) -> PlanRequest:
    """Round 1 as it went, but for what one device says of itself, and was not believed."""
    done = []
    for client in CLIENTS:
        update = {
            "client": client, "round": 1, "examples": 1, "steps": 10, "downloadSeconds": 0,
            "computeSeconds": 1.0, "cpuSeconds": 0.5, "throttledSeconds": 0,
            "frequencyGHz": 2.0, "energyJoules": {"model": 0.1},
        } | (lie or {} if client == of else {})  # fmt: skip
        done.append({"update": update, "arrivedSeconds": 2.0, "uploadSeconds": 1.0,
                     "bytes": 1_000_000, "askedSteps": 10,
                     "leftOut": left_out if client == of else None})  # fmt: skip
    told = {
        "round": 1, "planned": True, "seconds": 2.0, "elapsedSeconds": 2.0, "clients": done,
        "energyJoules": {"model": 1.0}, **report,
    }  # fmt: skip
    clients = [{"client": one, "incarnation": "a", "examples": 1} for one in CLIENTS]
    return PlanRequest.model_validate({"round": 2, "clients": clients, "report": told})


def planned(
    policy: str,
    asked: PlanRequest,
    *,
    telemetry: Insight | None = HONEST,
    method: Method | None = None,
) -> tuple[dict[str, float], str | None]:
    """Client → GHz of the next round, and what is wrong with telemetry."""
    job = spec(policy)
    if policy == "ppo" and method is None:
        method = read_policy(SHIPPED)
    heard = hear(JobState(), asked, spec=job)
    insight = know(heard.state, asked, telemetry=telemetry, spec=job)
    drawn = draw(heard.state, asked, basis=Basis(job, insight, method))
    ghz = {one.client: one.frequency_ghz for one in drawn.plan.participants}
    return ghz, drawn.state.telemetry_problem


def others(ghz: Mapping[str, float]) -> list[float]:
    return [ghz[client] for client in OTHERS]


def lying(**changes: Any) -> Insight:
    return Insight({**HONEST.clients, LIAR: replace(HONEST.of(LIAR), **changes)})


@pytest.mark.parametrize("policy", POLICIES)
def test_devices_that_say_what_can_be_are_believed(policy: str) -> None:
    _, problem = planned(policy, request())
    assert problem is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("cpu_seconds", [5.0, 1e3, 1e6, 1e7])
@pytest.mark.parametrize("prometheus", [True, False])
def test_more_cpu_than_a_device_can_have_used_is_left_out(
    policy: str, cpu_seconds: float, prometheus: bool
) -> None:
    telemetry = HONEST if prometheus else Insight(problem="no Prometheus")
    usual, _ = planned(policy, request(), telemetry=telemetry)
    ghz, problem = planned(policy, request({"cpuSeconds": cpu_seconds}), telemetry=telemetry)
    assert ghz == usual
    assert problem is not None
    assert f"{LIAR} reports cpuSeconds {cpu_seconds:g}, but 0.5 cores had 1 s" in problem


SHARE = 0.55
"""What a lie leaves of another device's frequency, at least: one of 1.7 times the work does so."""
LIES = st.fixed_dictionaries(
    {},
    optional={
        "cpuSeconds": st.floats(0, 1e7),
        "computeSeconds": st.floats(0, 1e7),
        "throttledSeconds": st.floats(0, 1e7),
        "downloadSeconds": st.floats(0, 1e7),
        "frequencyGHz": st.floats(0, 100),
        "quotaCores": st.floats(0, 1e6),
        "steps": st.integers(1, 2**31 - 1),
        "examples": st.integers(1, 2**31 - 1),
        "energyJoules": st.fixed_dictionaries({"model": st.floats(0, 1e12)}),
    },
)


@pytest.mark.parametrize("policy", POLICIES)
@given(lie=LIES | st.floats(0, 0.9).map(lambda cpu_s: {"cpuSeconds": cpu_s, "steps": 1}))
@example(lie={"cpuSeconds": 0.85})
@example(lie={"steps": 1})
@example(lie={"cpuSeconds": 0.85, "steps": 1, "frequencyGHz": 0.5})
@example(lie={"cpuSeconds": 1e-7})
@settings(max_examples=40, deadline=None)
def test_no_lie_of_one_device_moves_the_frequency_of_others_by_more_than_a_share(
    policy: str, lie: dict[str, Any]
) -> None:
    """Without Prometheus, so that its report is all that is known of it."""
    nothing = Insight(problem="no Prometheus")
    usual, _ = planned(policy, request(), telemetry=nothing)
    ghz, _ = planned(policy, request(lie), telemetry=nothing)
    for now, before in zip(others(ghz), others(usual), strict=True):
        assert SHARE * before <= now <= before / SHARE


UNLIKELY: list[tuple[dict[str, Any], str]] = [
    ({"work_per_step": 1e6}, "lockstep_cpu_seconds_total of d-0 says 1e+06"),
    ({"work_per_step": math.inf}, "lockstep_cpu_seconds_total of d-0 says inf"),
    ({"work_per_step": 1e305}, "lockstep_cpu_seconds_total of d-0 says 1e+305"),
    ({"work_per_step": 1e-300}, "lockstep_cpu_seconds_total of d-0 says 1e-300"),
    ({"slots_mbps": (1e-6,) * SLOTS}, "lockstep_link_mbits_total of d-0 says 1e-06 Mbit/s"),
    ({"slots_mbps": (0.0,) * SLOTS}, "lockstep_link_mbits_total of d-0 says 0 Mbit/s"),
    ({"slots_mbps": None, "doubted": ("lockstep_link_mbits_total (inf)",)},
     "lockstep_link_mbits_total (inf) of d-0"),
    ({"mean_mbps": 1e-6}, "lockstep_upload_bytes_total of d-0 says 1e-06 Mbit/s"),
    ({"mean_mbps": math.inf}, "lockstep_upload_bytes_total of d-0 says inf Mbit/s"),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("lie", "told"), UNLIKELY)
def test_telemetry_that_cannot_be_is_left_out_and_named(
    policy: str, lie: dict[str, Any], told: str
) -> None:
    usual, _ = planned(policy, request())
    ghz, problem = planned(policy, request(), telemetry=lying(**lie))
    assert others(ghz) == pytest.approx(others(usual), rel=0.02)
    assert problem is not None
    assert told in problem


def test_a_link_is_planned_no_slower_than_it_can_have_become() -> None:
    """One slot as usual, and silence now: it may be so, or it may be said."""
    silent = lying(slots_mbps=(*(0.0,) * (SLOTS - 1), 8.0))
    job, asked = spec("equalize"), request()
    insight = know(hear(JobState(), asked, spec=job).state, asked, telemetry=silent, spec=job)
    assert insight.of(LIAR).slots_mbps == (*(0.4,) * (SLOTS - 1), 8.0)


@pytest.mark.parametrize("ghz", [1e-9, 0.1, 3.0, 100.0])
def test_a_frequency_that_a_device_cannot_have_is_not_planned_around(ghz: float) -> None:
    """Its limit is not in force, so that what it says it has would count."""
    job = spec("equalize")

    def around(lie: float) -> tuple[RoundPlan | None, str | None]:
        asked = request({"frequencyGHz": lie})
        heard = hear(JobState(), asked, spec=job)
        insight = know(heard.state, asked, telemetry=HONEST, spec=job)
        basis = Basis(job, insight)
        plan = draw(heard.state, asked, basis=basis).plan
        stuck = with_applied(plan, {LIAR: "Deferred"}, refusals={})
        return redraw(stuck, basis), insight.problem

    again, problem = around(ghz)
    assert again is None
    assert problem == (
        f"figures that cannot be are left out: {LIAR} reports frequencyGHz {ghz:g}, but has 0.5 to "
        "2 GHz"
    )
    honest, none = around(1.0)
    assert honest is not None
    assert none is None


def test_a_device_whose_limit_is_not_in_force_may_have_used_more() -> None:
    job, first = spec("equalize"), request()
    plan = draw(JobState(), first, basis=Basis(job, HONEST)).plan
    free = with_applied(plan, {LIAR: "Deferred"}, refusals={})
    more = request({"cpuSeconds": 4.0})
    assert hear(JobState(plan=free), more, spec=job).state.doubts == ()
    assert hear(JobState(plan=plan), more, spec=job).state.doubts == ()  # nothing is applied there
    applied = with_applied(plan, {}, refusals={})
    assert len(hear(JobState(plan=applied), more, spec=job).state.doubts) == 1


def test_what_was_measured_before_a_lie_stays() -> None:
    job = spec("equalize")
    state = hear(JobState(), request(), spec=job).state
    later = request({"cpuSeconds": 1e6}, round=2)
    heard = hear(state, later, spec=job).state
    assert heard.measured[LIAR].work_per_step == pytest.approx(0.05)
    assert len(heard.doubts) == 1
    assert hear(heard, request(round=3), spec=job).state.doubts == ()


def test_work_far_from_that_of_most_devices_counts_as_nearer() -> None:
    """Nothing was seen of its rounds, as after a restart: telemetry alone."""
    asked, job = request().model_copy(update={"report": None}), spec("equalize")
    members = [Member(client, job.devices[0], steps=10) for client in CLIENTS]
    for work, relative in ((1e5, 10), (1e-6, 0.1), (0.2, 4)):
        insight = know(JobState(), asked, telemetry=lying(work_per_step=work), spec=job)
        seen = observation_of(members, insight, energy_weight=0.3)
        assert seen is not None
        first, *rest = seen.devices.work[0] / seen.devices.work[0, 1]
        assert first == pytest.approx(relative)
        assert rest == pytest.approx([1, 1, 1])


def test_of_reports_only_the_jobs_own_clients_are_kept() -> None:
    job, asked = spec("equalize"), request(lost=[f"ghost-{i}" for i in range(9000)] + ["d-3"])
    assert asked.report is not None
    one = asked.report.clients[0]
    made_up = [
        one.model_copy(update={"update": one.update.model_copy(update={"client": f"ghost-{i}"})})
        for i in range(9000)
    ]
    twice = [*made_up, *asked.report.clients, *asked.report.clients]
    report = asked.report.model_copy(update={"clients": twice})
    state = hear(JobState(), asked.model_copy(update={"report": report}), spec=job).state
    assert state.report is not None
    assert [done.update.client for done in state.report.clients] == [*CLIENTS]
    assert state.report.lost == ["d-3"]
    assert sorted(state.measured) == [*CLIENTS]
    found = know(state, asked, telemetry=Insight({"ghost": ClientInsight()}), spec=job)
    assert sorted(found.clients) == [*CLIENTS]


def no_numbers(seen: Observation) -> Array:
    return np.full(seen.devices.shape, math.nan)


def no_answer(seen: Observation) -> Array:
    raise ValueError("operands could not be broadcast together")


def test_of_those_left_out_only_the_jobs_own_clients_are_kept() -> None:
    out = [{"client": one, "returns": 7} for one in (LIAR, "stranger-0", LIAR)]
    asked = request(mistrusted={"takenBack": ["why"], "satOut": out})
    report = hear(JobState(), asked, spec=spec("equalize")).state.report
    assert report is not None
    assert report.mistrusted is not None
    assert [one.client for one in report.mistrusted.sat_out] == [LIAR]
    assert report.mistrusted.taken_back == ["why"]


@pytest.mark.parametrize("method", [no_numbers, no_answer])
def test_a_plan_that_cannot_be_computed_is_made_as_if_nothing_was_measured(
    method: Method,
) -> None:
    ghz, problem = planned("ppo", request(), method=method)
    assert ghz == dict.fromkeys(CLIENTS, 2.0)
    assert problem is not None
    assert problem.startswith("policy ppo ")
    assert problem.endswith(": as if nothing was measured yet")


@pytest.mark.parametrize("method", [no_numbers, no_answer])
def test_a_plan_that_cannot_be_made_around_a_device_stays(method: Method) -> None:
    job, asked = spec("ppo"), request({"frequencyGHz": 1.0})
    state = hear(JobState(), asked, spec=job).state
    insight = know(state, asked, telemetry=HONEST, spec=job)
    plan = draw(state, asked, basis=Basis(job, insight, read_policy(SHIPPED))).plan
    stuck = with_applied(plan, {LIAR: "Deferred"}, refusals={})
    assert redraw(stuck, Basis(job, insight, method)) is None


SAID = {"said": {"model": 1e12}, "most": {"model": 12.34}}
TOLD = f"{LIAR} reports energyJoules.model 1e+12, but can have used 12.3"


@pytest.mark.parametrize("policy", ["max", *POLICIES])
def test_energy_that_was_left_out_is_named_whatever_the_policy(policy: str) -> None:
    asked = request(left_out=SAID)
    state = hear(JobState(), asked, spec=spec(policy)).state
    found = telemetry(spec(policy), state)
    assert (found.status, found.reason) == ("True", "EnergyLeftOut")
    assert TOLD in found.message
    both = telemetry(spec(policy), replace(state, telemetry_problem="no Prometheus"))
    assert both.status == "True"
    assert ("no Prometheus" in both.message) is (policy != "max")
    assert TOLD in both.message
    quiet = hear(state, request(round=2), spec=spec(policy)).state
    assert telemetry(spec(policy), quiet).status == "False"
