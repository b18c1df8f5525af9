"""The planner over HTTP: what a plan does, and when an outcome is taken."""

import asyncio
import threading
from typing import Any

import pytest

from lockstep_api import names
from lockstep_operator import planner as planner_module
from lockstep_operator.core.model import ObjectRef
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.errors import Refused, Unavailable
from lockstep_operator.kube import POD, job_ref
from lockstep_operator.planner import EVENTS_OF_A_JOB
from lockstep_operator.runtime import Runtime
from lockstep_operator.views import condition as find
from tests.support.kube import (
    KEY,
    failing,
    job_body,
    status_of,
)
from tests.support.patience import PATIENCE_S
from tests.support.planner import (
    BOTH,
    DONE,
    OUTCOME,
    PLAN,
    POD_0,
    POD_1,
    Setup,
    allocated,
    placed,
    report,
    request,
)


async def test_a_plan_is_answered_with_its_limits_in_force(setup: Setup) -> None:
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 200
    plan = answer.json()
    assert [entry["client"] for entry in plan["participants"]] == ["fast-0", "fast-1"]
    assert all(entry["applied"] for entry in plan["participants"])
    assert [name for verb, name in setup.kube.writes if verb == "resize"] == [
        f"Pod/{POD_0}",
        f"Pod/{POD_1}",
    ]
    assert setup.sample("lockstep_plan_seconds_count") == 1


async def test_a_limit_that_is_not_in_force_is_in_the_answer(setup: Setup) -> None:
    setup.kube.fail = failing("resize", Unavailable("connection lost"), POD_1)
    plan = (await setup.http.post(PLAN, json=request())).json()
    entry = plan["participants"][1]
    assert (entry["applied"], entry["reason"]) == (False, "resize failed: connection lost")


async def test_where_a_resize_is_refused_the_device_throttles_and_one_event_says_so(
    setup: Setup,
) -> None:
    setup.kube.fail = failing("resize", Refused("may not resize"), POD_1)
    for round in (1, 2):
        plan = (await setup.http.post(PLAN, json=request(round))).json()
    first, second = plan["participants"]
    assert (first["actuator"], first["applied"]) == ("resize", True)
    assert (second["actuator"], second["applied"]) == ("cooperative", True)
    assert second["reason"] == "resize refused: may not resize"
    await setup.planner.runtime.pass_now(KEY)
    shown = status_of(setup.kube)["lastPlan"]["clients"]
    assert [one["actuator"] for one in shown] == ["resize", "cooperative"]
    degraded = find(status_of(setup.kube), "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "CooperativeThrottling")
    told = [event["reason"] for event in setup.kube.events]
    assert told.count("CooperativeThrottling") == 1


async def test_a_cooperative_job_is_never_resized_and_not_degraded(setup: Setup) -> None:
    setup.kube.put(
        {
            **setup.kube.objects[job_ref("lab", "digits")],
            "spec": job_body(allocation={"actuator": "cooperative"})["spec"],
        }
    )
    setup.kube.fail = failing("list", Unavailable("not needed"), "Pod")
    plan = (await setup.http.post(PLAN, json=request())).json()
    assert all(e["actuator"] == "cooperative" and e["applied"] for e in plan["participants"])
    setup.kube.fail = lambda verb, name: None
    await setup.planner.runtime.pass_now(KEY)
    assert all(verb != "resize" for verb, _ in setup.kube.writes)
    assert find(status_of(setup.kube), "Degraded")["status"] == "False"


async def test_without_prometheus_reports_stand_in_and_a_condition_says_so(setup: Setup) -> None:
    allocated(setup, policy="equalize", energyWeight=100)
    await setup.http.post(PLAN, json=request())
    plan = (await setup.http.post(PLAN, json=request(2, report=report(1, ghz=2.0)))).json()
    ranges = {group.name: group.frequency for group in parse_spec(job_body()["spec"]).devices}
    assert plan["participants"][0]["frequencyGHz"] == ranges["fast"].min_ghz  # energy is dear
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "TelemetryDegraded")
    assert (found["status"], found["reason"]) == ("True", "TelemetryMissing")
    assert found["message"].startswith("no Prometheus is configured")


async def test_a_policy_that_needs_no_telemetry_says_so(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "TelemetryDegraded")
    assert (found["status"], found["reason"]) == ("False", "NotNeeded")


async def test_a_round_is_planned_around_a_device_that_cannot_be_changed(setup: Setup) -> None:
    allocated(setup, policy="equalize", energyWeight=0)
    setup.kube.fail = failing("resize", Unavailable("connection lost"), POD_0)
    await setup.http.post(PLAN, json=request())
    plan = (await setup.http.post(PLAN, json=request(2, report=report(1, ghz=0.6)))).json()
    stuck, other = plan["participants"]
    assert (stuck["client"], stuck["applied"]) == ("fast-0", False)
    assert stuck["frequencyGHz"] == 2.0  # what it should have, once it can
    assert other["frequencyGHz"] == pytest.approx(0.6)  # no reason to be faster than fast-0


async def test_a_plan_reaches_the_status(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    await setup.planner.runtime.pass_now(KEY)
    assert status_of(setup.kube)["lastPlan"]["round"] == 1
    assert status_of(setup.kube)["startTime"] == "2026-01-02T03:04:05Z"


async def test_a_report_with_another_frequency_is_counted_once(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    for _ in range(2):
        await setup.http.post(PLAN, json=request(2, report=report(1, ghz=0.3)))
    assert setup.sample("lockstep_frequency_mismatches_total") == 1
    assert setup.report is not None
    assert list(setup.report.mismatches) == ["fast-0"]


async def test_an_outcome_is_taken_when_it_is_in_the_status(setup: Setup) -> None:
    await setup.http.post(PLAN, json=request())
    answer = await setup.http.post(OUTCOME, json=DONE | {"report": report(3, 1.0)})
    assert answer.status_code == 200
    assert status_of(setup.kube)["phase"] == "Completed"
    assert status_of(setup.kube)["round"] == 3


async def test_a_repeated_outcome_is_taken_again(setup: Setup) -> None:
    for _ in range(2):
        assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200


async def test_an_outcome_is_not_taken_while_the_status_cannot_be_written(setup: Setup) -> None:
    setup.kube.fail = failing("status", Unavailable("connection lost"))
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 503
    setup.kube.fail = lambda verb, name: None
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200


async def test_notices_become_events_once(setup: Setup) -> None:
    notice = {"type": "Warning", "reason": "CheckpointCorrupt", "message": "round 7 is damaged"}
    for _ in range(2):
        answer = await setup.http.post(PLAN, json={**request(1), "notices": [notice]})
        assert answer.status_code == 200
    told = [event for event in setup.kube.events if event["reason"] == "CheckpointCorrupt"]
    assert [(event["type"], event["message"]) for event in told] == [
        ("Warning", "round 7 is damaged")
    ]


async def test_a_job_has_so_many_events_and_the_last_counts_the_others(setup: Setup) -> None:
    for call in range(4):
        notices = [
            {"type": "Normal", "reason": "Resumed", "message": f"{call} {number}"}
            for number in range(64)
        ]
        answer = await setup.http.post(PLAN, json={**request(1), "notices": notices})
        assert answer.status_code == 200
    told = [event["reason"] for event in setup.kube.events]
    assert len(told) <= EVENTS_OF_A_JOB.burst + 1
    assert told.count("Resumed") == EVENTS_OF_A_JOB.burst - 1
    assert told.count("EventsLeftOut") == 1
    left_out = setup.kube.events[told.index("EventsLeftOut")]["message"]
    assert left_out.startswith(f"{64 - told.count('Resumed')} more events are left out")


async def test_a_plan_that_fails_wakes_the_job_so_that_its_status_says_what_is_known(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[object] = []
    monkeypatch.setattr(Runtime, "seen", lambda _self, key, **_more: woken.append(key))
    await setup.http.post(PLAN, json=request())
    woken.clear()
    body = request(2, "ghost-0", report=report(1, ghz=1.0))
    assert (await setup.http.post(PLAN, json=body)).status_code == 422
    assert woken == [KEY]
    monkeypatch.undo()
    await setup.planner.runtime.pass_now(KEY)
    assert status_of(setup.kube)["round"] == 1


@pytest.mark.parametrize("policy", ["static", "equalize", "ppo"])
async def test_a_figure_that_cannot_be_is_named_in_a_condition_and_the_round_is_planned(
    setup: Setup, policy: str
) -> None:
    allocated(setup, policy=policy, energyWeight=0.1)
    done = report(1, ghz=2.0, clients=BOTH)
    done["clients"][0]["update"] = {**done["clients"][0]["update"], "cpuSeconds": 1e6}
    plan = await setup.http.post(PLAN, json=request(2, report=done))
    assert plan.status_code == 200
    first, second = plan.json()["participants"]
    assert first["frequencyGHz"] == second["frequencyGHz"]  # what is left out is as the others'
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "TelemetryDegraded")
    assert found["status"] == "True"
    assert "fast-0 reports cpuSeconds 1e+06, but 0.4 cores had 1.1 s" in found["message"]


async def test_a_checkpoint_that_is_not_written_degrades_the_job(setup: Setup) -> None:
    problem = "the checkpoint of round 2 cannot be written: No space left on device"
    await setup.http.post(PLAN, json={**request(3), "checkpointProblem": problem})
    await setup.planner.runtime.pass_now(KEY)
    found = find(status_of(setup.kube), "Degraded")
    assert (found["status"], found["reason"]) == ("True", "CheckpointFailed")
    assert problem in found["message"]
    await setup.http.post(PLAN, json=request(4))
    assert setup.report is not None
    assert setup.report.checkpoint_problem is None


@pytest.fixture
def tiered(setup: Setup) -> Setup:
    """The job is one with two edges."""
    body = job_body(mode="hierarchical", edges=[{"name": "e", "replicas": 2}])
    body["metadata"]["uid"] = setup.uid
    setup.kube.put(placed(body))
    return setup


def reasons(setup: Setup) -> list[str]:
    return [str(one["reason"]) for one in setup.kube.events]


def with_edges(round: int = 1, *edges: str) -> dict[str, Any]:
    connected = [{"edge": one, "incarnation": "a"} for one in edges or ("e-0", "e-1")]
    return request(round) | {"edges": connected}


async def test_a_plan_with_clusters_is_shown_on_pods_in_metrics_and_in_an_event(
    tiered: Setup,
) -> None:
    plan = (await tiered.http.post(PLAN, json=with_edges())).json()
    assert [len(one["clients"]) for one in plan["clusters"]] == [1, 1]
    pods = [tiered.kube.objects[ObjectRef(*POD, "lab", name)] for name in (POD_0, POD_1)]
    shown = {pod["metadata"]["labels"][names.CLUSTER_LABEL] for pod in pods}
    assert shown == {one["cluster"] for one in plan["clusters"]}
    assert reasons(tiered).count("ClustersAssigned") == 1
    labels = {"namespace": "lab", "job": "digits", "cluster": "c0"}
    cost = "lockstep_cluster_cost_seconds"
    value = tiered.deps.metrics.registry.get_sample_value
    assert value(cost, labels) is None  # nothing was measured yet
    told = report(1, 2.0, clients=BOTH)
    await tiered.http.post(PLAN, json=with_edges(2) | {"report": told})
    assert value(cost, labels)
    tiered.deps.sources.reports.forget(KEY)
    assert value(cost, labels) is None


async def test_divergences_are_shown_where_labels_are_told(tiered: Setup) -> None:
    asked = with_edges()
    for client, counts in zip(asked["clients"], ([9, 1], [1, 9]), strict=True):
        client["labelHistogram"] = counts
    await tiered.http.post(PLAN, json=asked)
    labels = {"namespace": "lab", "job": "digits", "cluster": "c1"}
    found = tiered.deps.metrics.registry.get_sample_value("lockstep_cluster_divergence", labels)
    assert found
    assert found > 0.1


async def test_a_round_that_cannot_be_planned_is_refused_and_told_once(tiered: Setup) -> None:
    nobody = with_edges() | {"edges": []}
    for _ in range(2):
        answer = await tiered.http.post(PLAN, json=nobody)
        assert answer.status_code == 422
        assert "none of the 2 edges is connected" in answer.json()["message"]
    assert reasons(tiered).count("RoundNotPlanned") == 1
    state = tiered.report
    assert state is not None
    assert state.plan_problem is not None
    assert "round 1 is not planned" in state.plan_problem
    assert (await tiered.http.post(PLAN, json=with_edges())).status_code == 200
    assert tiered.report is not None
    assert tiered.report.plan_problem is None


@pytest.mark.parametrize("mode", ["hierarchical", "federated"])
async def test_labels_of_devices_are_read_in_modes_that_make_clusters_of_them_only(
    setup: Setup, mode: str
) -> None:
    """A federated job's request has no room for them."""
    many = [f"fast-{index}" for index in range(200)]
    edges = {"edges": [{"name": "e"}]} if mode == "hierarchical" else {}
    body = job_body(mode=mode, devices=[{"name": "fast", "replicas": len(many)}], **edges)
    body["metadata"]["uid"] = setup.uid
    setup.kube.put(placed(body))
    asked = request(1, *many) | {"edges": [{"edge": "e-0", "incarnation": "a"}]}
    for client in asked["clients"]:
        client["labelHistogram"] = [1] * 1024
    answer = await setup.http.post(PLAN, json=asked)
    assert answer.status_code == (200 if mode == "hierarchical" else 422)
    assert ("more values than a job of 200 clients can tell" in answer.text) is (
        mode == "federated"
    )


def drawn_slowly(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """A plan takes from the first event, which it sets, to the second one."""
    begun, goes_on = threading.Event(), threading.Event()
    drawn = planner_module.draw  # type: ignore[attr-defined]

    def slowly(*words: Any, **more: Any) -> Any:
        begun.set()
        assert goes_on.wait(PATIENCE_S / 10), "nobody else was served"
        return drawn(*words, **more)

    monkeypatch.setattr(planner_module, "draw", slowly)
    return begun, goes_on


async def test_others_are_served_while_a_large_plan_is_drawn(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for as long as the other call takes."""
    begun, answered = drawn_slowly(monkeypatch)
    asking = asyncio.ensure_future(setup.http.post(PLAN, json=request()))
    await asyncio.to_thread(begun.wait)
    assert (await setup.http.post(PLAN.replace("digits", "another"), json={})).status_code == 403
    answered.set()
    assert (await asking).status_code == 200


async def test_a_plan_that_was_drawn_meanwhile_takes_no_outcome_back(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told = drawn_slowly(monkeypatch)
    asking = asyncio.ensure_future(setup.http.post(PLAN, json=request()))
    await asyncio.to_thread(begun.wait)
    setup.kube.fail = failing("status", Unavailable("connection lost"))
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 503
    told.set()
    assert (await asking).status_code == 503
    state = setup.report
    assert state is not None
    assert state.outcome is not None
