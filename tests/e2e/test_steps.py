"""Unequal local steps on real pods: drawn per device, and as many as a budget of seconds allows."""

import statistics
from collections import defaultdict

import pytest

from lockstep_api.quantity import parse_quantity
from lockstep_api.wire import RoundReport
from tests.e2e.running import (
    Json,
    apply,
    get,
    in_phase,
    on_volume,
    small_job,
    watch,
)

pytestmark = [pytest.mark.cluster]

HISTORY = "print(open('/data/history.jsonl').read())"
LEAST, MOST = 2, 30
BUDGET_S = 1.0


def finished(namespace: str, job: Json) -> list[RoundReport]:
    """Plays a job; its rounds, from the cloud pod's volume."""
    name = job["metadata"]["name"]
    apply(namespace, job)
    assert watch(namespace, name, in_phase("Completed", "Failed"))["status"]["phase"] == "Completed"
    lines = on_volume(namespace, f"{name}-cloud", HISTORY).splitlines()
    return [RoundReport.model_validate_json(line) for line in lines if line]


def test_steps_that_are_drawn_are_done(lockstep: str) -> None:
    """Extreme, and anew each round: now one device does most, now another."""
    rule = {"distribution": "extreme", "min": LEAST, "max": MOST, "redraw": True}
    job = small_job(
        "drawn", training={"rounds": 4, "localSteps": {"perDevice": rule}}, cloud={"cpu": "100m"}
    )
    rounds = finished(lockstep, job)
    assert len(rounds) == 4
    with_most = set()
    for report in rounds:
        done = {one.update.client: one.update.steps for one in report.clients}
        assert done == {one.update.client: one.asked_steps for one in report.clients}
        assert sorted(done.values()) == [LEAST, LEAST, MOST]
        with_most.add(max(done, key=done.__getitem__))
    assert len(with_most) > 1
    shown = get(lockstep, "drawn")["status"]["lastRound"]
    assert shown["round"] == 4
    assert shown["uploadBytes"] == sum(one.bytes for one in rounds[-1].clients)
    assert sorted(one["stepsDone"] for one in shown["clients"]) == [LEAST, LEAST, MOST]
    assert all(one["stepsAsked"] == one["stepsDone"] for one in shown["clients"])


def test_in_a_budget_each_device_does_what_its_cores_allow(lockstep: str) -> None:
    """In round 1 nobody knows the work: each device's clock ends it. Then plans ask for it.

    On a busy machine a device does not get its cores: then the clock ends its training, too.
    """
    job = small_job(
        "budget",
        training={"rounds": 5, "localSteps": {"budgetSeconds": BUDGET_S}},
        allocation={"policy": "max"},
        cloud={"cpu": "100m"},
    )
    cores = {f"{g['name']}-0": parse_quantity(g["cpuAtMax"]) for g in job["spec"]["devices"]}
    first, *later = finished(lockstep, job)
    assert [one.asked_steps for one in first.clients] == [None] * 3
    assert all(one.update.compute_seconds >= BUDGET_S for one in first.clients)
    asked: dict[str, list[int]] = defaultdict(list)
    for report in later:
        for one in report.clients:
            assert one.asked_steps is not None
            asked[one.update.client].append(one.asked_steps)
            in_full = one.update.steps == one.asked_steps
            assert in_full or (one.update.compute_seconds >= BUDGET_S and one.update.steps >= 1)
            assert one.update.steps <= one.asked_steps
    usual = {client: statistics.median(steps) for client, steps in asked.items()}
    print(f"asked for by cores, in {BUDGET_S} s:", {cores[one]: usual[one] for one in usual})
    print("done:", [{o.update.client: o.update.steps for o in r.clients} for r in (first, *later)])
    for client, steps in usual.items():  # a step takes more CPU at a small limit
        share = (usual["fast-0"] / steps) / (cores["fast-0"] / cores[client])
        assert 0.5 < share < 2.5, usual
