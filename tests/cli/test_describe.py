"""`lockstep describe`: a job as a tree, its conditions, its newest events."""

import json

from lockstep_cli.devices import devices_of
from lockstep_cli.facts import Job
from tests.support.apiserver import FakeApi
from tests.support.cli import (
    Lockstep,
    device_pod,
    event,
    job,
    planned,
    pod,
    prometheus_service,
    running_status,
    vector,
)


def condition(kind: str, status: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Because", "message": message}


def with_prometheus(api: FakeApi) -> None:
    api.put("services", prometheus_service())
    api.prometheus = lambda path, query: (200, vector())


def test_a_federated_job_has_cloud_and_groups(lockstep: Lockstep) -> None:
    api = lockstep.api
    with_prometheus(api)
    plan = {"round": 4, "clients": [planned("fast-0"), planned("fast-1")]}
    api.put("federatedjobs", job(status=running_status(lastPlan=plan)))
    api.put("pods", pod("digits-cloud-0", "cloud"))
    api.put("pods", device_pod("fast-0", group="fast"))
    done = lockstep("describe", "digits")
    assert done.err == ""
    told = done.lines
    assert told[1] == "Phase      Running"
    assert "Round      3 of 20, 2/2 clients, 30s so far, 2m50s left" in told
    assert told[told.index("digits") :] == [
        "digits",
        "├── cloud  Running  digits-cloud-0 on node-1",
        "└── group fast",
        "    ├── fast-1  Missing  1.25 GHz = 250m",  # what is not well comes first
        "    └── fast-0  Running  1.25 GHz = 250m",
    ]


def test_a_round_that_was_taken_back_is_told_and_who_sits_out(lockstep: Lockstep) -> None:
    api = lockstep.api
    with_prometheus(api)
    last = {
        "round": 3, "seconds": 1.0, "uploadBytes": 1, "takenBack": ["the loss is 9", "it is 8"],
        "clients": [{"client": "fast-0", "stepsDone": 9, "kept": 0.5}],
        "satOut": [{"client": "fast-1", "returns": 8, "why": "went far"}],
    }  # fmt: skip
    plan = {"round": 4, "clients": [planned("fast-0")]}
    api.put("federatedjobs", job(status=running_status(lastPlan=plan, lastRound=last)))
    for name in ("fast-0", "fast-1"):
        api.put("pods", device_pod(name, group="fast"))
    told = lockstep("describe", "digits").lines
    assert "Taken back round 3: the loss is 9; it is 8" in told
    assert told[told.index("digits") + 2 :][:2] == [
        "    ├── fast-1  SitsOut  may return in round 8: went far",
        "    └── fast-0  Running  1.25 GHz = 250m  clipped to 50 %",
    ]


def test_edges_have_their_clusters_with_their_devices(lockstep: Lockstep) -> None:
    api = lockstep.api
    with_prometheus(api)
    clusters = [
        {"name": "c0", "edge": "edge-1", "clients": 1, "examples": 600, "why": "it is cheapest"}
    ]
    edges = [
        {"name": "edge-0", "connected": False, "clusters": 0},
        {"name": "edge-1", "connected": True, "clusters": 1},
    ]
    status = running_status(clusters=clusters, edges=edges)
    api.put("federatedjobs", job(mode="split", status=status))
    labels = {"lockstep.dev/edge-group": "edge"}
    api.put("pods", pod("digits-edge-edge-1", "edge", labels=labels))
    api.put("pods", device_pod("fast-1", group="fast", labels={"lockstep.dev/cluster": "c0"}))
    told = lockstep("describe", "digits").lines
    assert told[told.index("digits") :] == [
        "digits",
        "├── edge edge-0  not connected",
        "├── edge edge-1  Running  digits-edge-edge-1 on node-1",
        "│   └── cluster c0  1 devices, 600 examples  it is cheapest",
        "│       └── fast-1  Idle",
        "└── in no cluster now",
        "    └── fast-0  Missing",
    ]


def test_many_devices_are_counted(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    lockstep.api.put(
        "federatedjobs",
        job(devices=[{"name": "fast", "replicas": 1000}], status=running_status()),
    )
    told = lockstep("describe", "digits").lines
    assert told[-1] == "    └── and 988 more: lockstep devices"
    assert len(told) < 30


def test_what_is_wrong_stands_beside_the_phase(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    said = [condition("Ready", "True", "all"), condition("Degraded", "True", "a limit is not set")]
    lockstep.api.put("federatedjobs", job(status=running_status(conditions=said)))
    told = lockstep("describe", "digits").lines
    assert told[1] == "Phase      Running  Because: a limit is not set"
    assert [line.split()[:2] for line in told[-2:]] == [["Ready", "True"], ["Degraded", "True"]]


def test_the_newest_ten_events_are_shown_and_the_others_counted(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    lockstep.api.put("federatedjobs", job(status=running_status()))
    for number in range(12):
        at = f"2026-01-01T00:00:{number:02d}Z"
        lockstep.api.put("events", event(("FederatedJob", "digits"), f"Event{number}", at=at))
    done = lockstep("describe", "digits")
    assert [line.split()[2] for line in done.lines[-10:]] == [f"Event{n}" for n in range(2, 12)]
    assert done.err.splitlines() == ["2 older events: lockstep events"]


def test_yaml_and_json_are_the_object(lockstep: Lockstep) -> None:
    stored = lockstep.api.put("federatedjobs", job(status=running_status()))
    assert json.loads(lockstep("describe", "digits", "-o", "json").out) == stored


def test_a_job_that_no_operator_saw_is_described(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    body = job()
    del body["status"]
    lockstep.api.put("federatedjobs", body)
    done = lockstep("describe", "digits")
    assert done.code == 0
    assert "Phase      Pending" in done.lines


def test_every_device_of_the_spec_is_there() -> None:
    body = job(devices=[{"name": "a", "replicas": 2}, {"name": "b"}])
    assert [device.name for device in devices_of(Job(body), [])] == ["a-0", "a-1", "b-0"]


def test_a_private_job_says_what_a_client_has_shown(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    told = {"epsilon": 4.3771, "delta": 0.0001, "rounds": 3, "labelEpsilon": 0.2}
    body = job(status=running_status(privacy=told))
    body["spec"]["privacy"] = {"clipNorm": 1, "noiseMultiplier": 2, "epsilonBudget": 8}
    lockstep.api.put("federatedjobs", body)
    line = (
        "Privacy    ε 4.377 of at most 8 of a client (δ 0.0001), in 3 models; "
        "of an example's label 0.2"
    )
    assert line in lockstep("describe", "digits").lines


def test_a_job_that_hides_nobody_says_nothing_of_privacy(lockstep: Lockstep) -> None:
    with_prometheus(lockstep.api)
    lockstep.api.put("federatedjobs", job(status=running_status()))
    assert not any(line.startswith("Privacy") for line in lockstep("describe", "digits").lines)
