"""Unequal local steps on real pods: drawn per device, and as many as a budget of seconds allows."""

import statistics

import pytest

from lockstep_api.names import CA_FILE, SETTINGS_FILE, settings_name
from lockstep_api.quantity import parse_quantity
from lockstep_api.settings import JobSettings
from lockstep_api.wire import ClientReport, RoundReport
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
    """Extreme, and anew each round: now one device does most, now another. In the clear."""
    rule = {"distribution": "extreme", "min": LEAST, "max": MOST, "redraw": True}
    job = small_job(
        "drawn", training={"rounds": 4, "localSteps": {"perDevice": rule}}, cloud={"cpu": "100m"},
        security={"tls": "disabled"},
    )  # fmt: skip
    rounds = finished(lockstep, job)
    assert len(rounds) == 4
    told = get(lockstep, settings_name("drawn"), "configmap")["data"]
    assert JobSettings.model_validate_json(told[SETTINGS_FILE]).cloud_url.startswith("http://")
    assert CA_FILE not in told
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

    It is asked for steps as it has cores; on a busy machine it does less than that in the budget.
    """
    job = small_job(
        "budget",
        training={"rounds": 4, "localSteps": {"budgetSeconds": BUDGET_S}},
        allocation={"policy": "max"},
        cloud={"cpu": "100m"},
    )
    cores = {f"{g['name']}-0": parse_quantity(g["cpuAtMax"]) for g in job["spec"]["devices"]}
    first, *later = finished(lockstep, job)
    assert [one.asked_steps for one in first.clients] == [None] * 3
    assert all(one.update.compute_seconds >= BUDGET_S for one in first.clients)
    work = {one.update.client: core_seconds(one) for one in first.clients}
    shares = []
    for report in later:
        for one in report.clients:
            client, done = one.update.client, one.update.steps
            assert one.asked_steps is not None
            allowed = BUDGET_S * cores[client] / work[client]
            assert 1 <= done <= one.asked_steps <= max(1, 1.01 * allowed)
            assert done == one.asked_steps or one.update.compute_seconds >= BUDGET_S
            shares.append(round(done / allowed, 2))
            work[client] = core_seconds(one)
    print("steps done of what cores allow:", shares)
    usual = {c: statistics.median(asked_of(later, c)) for c in cores}
    print("steps asked by cores:", {cores[client]: steps for client, steps in usual.items()})
    assert usual["slow-0"] < usual["fast-0"]


def core_seconds(one: ClientReport) -> float:
    """Of a step."""
    return one.update.cpu_seconds / one.update.steps


def asked_of(rounds: list[RoundReport], client: str) -> list[int]:
    mine = (one for r in rounds for one in r.clients if one.update.client == client)
    return [one.asked_steps or 0 for one in mine]
