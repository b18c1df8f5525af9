"""`lockstep devices`: the plan, the pods and Prometheus, one of which may be away."""

import json

import pytest

from tests.support.apiserver import FakeApi, Json, forbidden
from tests.support.cli import (
    Lockstep,
    device_pod,
    job,
    planned,
    prometheus_service,
    running_status,
    vector,
)

HEAD = ["DEVICE", "STATE", "GHZ", "LIMIT", "STEPS", "MBIT/S", "ENERGY"]


@pytest.fixture
def running(api: FakeApi) -> FakeApi:
    """A job of two devices, both in the newest plan."""
    plan = {"round": 4, "planned": True, "clients": [planned("fast-0"), planned("fast-1")]}
    api.put("federatedjobs", job(status=running_status(lastPlan=plan)))
    for ordinal in range(2):
        api.put("pods", device_pod(f"fast-{ordinal}", group="fast"))
    return api


def measured(path: str, query: dict[str, str]) -> tuple[int, dict[str, object]]:
    """Figures of fast-0: an emulated link, of which the way up counts, and energy by source."""
    of = {"client": "fast-0", "job": "digits", "namespace": "lab"}
    return 200, vector(
        ({"__name__": "lockstep_uplink_mbits_per_second", **of}, 11.0),
        ({"__name__": "lockstep_link_mbits_per_second", "direction": "up", **of}, 12.5),
        ({"__name__": "lockstep_link_mbits_per_second", "direction": "down", **of}, 99.0),
        ({"__name__": "lockstep_energy_joules_total", "source": "model", **of}, 4.5),
        ({"__name__": "lockstep_energy_joules_total", "source": "cpu", **of}, 77.0),
    )


def test_a_device_has_plan_pod_and_figures(running: FakeApi, lockstep: Lockstep) -> None:
    running.put("services", prometheus_service())
    running.prometheus = measured
    done = lockstep("devices", "digits")
    head, first, second = done.lines
    assert head.split() == HEAD
    assert first.split() == ["fast-0", "Running", "1.25", "250m", "40", "12.5", "4.5", "J"]
    assert second.split() == ["fast-1", "Running", "1.25", "250m", "40", "–", "–"]
    assert done.err == ""


def test_the_question_is_of_this_job_alone(running: FakeApi, lockstep: Lockstep) -> None:
    asked: list[tuple[str, str]] = []

    def answer(path: str, query: dict[str, str]) -> tuple[int, dict[str, object]]:
        asked.append((path, query["query"]))
        return measured(path, query)

    running.put("services", prometheus_service())
    running.prometheus = answer
    lockstep("devices", "digits")
    ((path, query),) = asked
    assert path == "/api/v1/query"
    assert query.endswith('namespace="lab",job="digits"}')


def test_without_prometheus_there_are_dashes_and_one_note(
    running: FakeApi, lockstep: Lockstep
) -> None:
    done = lockstep("devices", "digits")
    assert done.code == 0
    assert done.lines[1].split()[-2:] == ["–", "–"]
    assert done.err.splitlines() == [
        "note: no figures: the cluster has no Prometheus of Lockstep"
        " (chart value prometheus.enabled)"
    ]


def test_a_prometheus_that_does_not_answer_is_a_note(running: FakeApi, lockstep: Lockstep) -> None:
    running.put("services", prometheus_service())
    done = lockstep("devices", "digits")
    assert done.code == 0
    assert "lockstep-prometheus in namespace lab" in done.err
    assert "no endpoints available" in done.err


def test_who_may_not_list_services_is_not_kept_from_figures(
    running: FakeApi, lockstep: Lockstep
) -> None:
    """The namespace can be said; else the job's and the usual one are tried."""
    running.prometheus = measured
    running.refuse = lambda method, path: forbidden("no") if path.endswith("/services") else None
    done = lockstep("devices", "digits", "--prometheus-namespace", "mon")
    assert done.lines[1].split()[-3:] == ["12.5", "4.5", "J"]
    asked = [path for _, path, _ in running.requests if "/proxy" in path]
    assert asked == ["/api/v1/namespaces/mon/services/lockstep-prometheus:9090/proxy/api/v1/query"]


def test_the_jobs_own_prometheus_comes_first(running: FakeApi, lockstep: Lockstep) -> None:
    for namespace in ("another", "lockstep-system", "lab"):
        running.put("services", prometheus_service(namespace))
    lockstep("devices", "digits")
    (asked,) = [path for _, path, _ in running.requests if "/proxy" in path]
    assert asked.startswith("/api/v1/namespaces/lab/services/lockstep-prometheus:9090/")


def test_what_is_not_well_is_said(api: FakeApi, lockstep: Lockstep) -> None:
    """No pod, a crash, no part in the round, a limit that is not in force."""
    clients = [
        planned("fast-0"),
        planned("fast-1"),
        planned("fast-3", applied=False, reason="busy"),
    ]
    api.put(
        "federatedjobs",
        job(
            devices=[{"name": "fast", "replicas": 4}],
            status=running_status(lastPlan={"round": 4, "clients": clients}),
        ),
    )
    crashed = {"waiting": {"reason": "CrashLoopBackOff"}}
    api.put("pods", device_pod("fast-1", group="fast", state=crashed, restarts=3))
    api.put("pods", device_pod("fast-2", group="fast"))
    api.put("pods", device_pod("fast-3", group="fast"))
    lines = lockstep("devices", "digits", "-o", "wide").lines
    assert [line.split()[1] for line in lines[1:]] == [
        "Missing",
        "CrashLoopBackOff",
        "Idle",
        "Running",
    ]
    assert lines[4].split()[3] == "250m!"
    assert lines[4].endswith("busy")
    assert lines[2].split()[-3] == "3"


def test_clusters_and_edges_are_shown_where_there_are_some(
    running: FakeApi, lockstep: Lockstep
) -> None:
    labels = {"lockstep.dev/cluster": "c1", "lockstep.dev/edge": "edge-0"}
    running.put("pods", device_pod("fast-1", group="fast", labels=labels))
    head, first, second = lockstep("devices", "digits").lines
    assert head.split() == [*HEAD, "CLUSTER", "EDGE"]
    assert (first.split()[-2:], second.split()[-2:]) == (["–", "–"], ["c1", "edge-0"])


def test_json_has_it_all(running: FakeApi, lockstep: Lockstep) -> None:
    running.put("services", prometheus_service())
    running.prometheus = measured
    first, _ = json.loads(lockstep("devices", "digits", "-o", "json").out)
    assert first["name"] == "fast-0"
    assert first["plan"]["frequencyGHz"] == 1.25
    assert first["measured"] == {"mbps": 12.5, "ghz": None, "joules": 4.5, "throttled_s": None}


def test_a_job_that_is_not_there_is_answered_with_those_that_are(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job("digits"))
    done = lockstep("devices", "dogs")
    assert done.code == 5
    assert done.err.splitlines() == ["error: no job dogs in namespace lab: there are digits"]


def ended_job(phase: str, **status: str) -> Json:
    plan = {"round": 20, "clients": [planned("fast-0"), planned("fast-1")]}
    return job(status=running_status(phase=phase, lastPlan=plan, **status))


def test_a_job_that_has_ended_has_the_figures_of_its_end(api: FakeApi, lockstep: Lockstep) -> None:
    """Its pods, and so its series, are gone."""
    asked: list[dict[str, str]] = []

    def answer(path: str, query: dict[str, str]) -> tuple[int, Json]:
        asked.append(query)
        return measured(path, query)

    api.put("services", prometheus_service())
    api.prometheus = answer
    api.put("federatedjobs", ended_job("Completed", completionTime="1970-01-01T00:16:40Z"))
    done = lockstep("devices", "digits")
    assert done.lines[1].split()[1:4] == ["–", "1.25", "250m"]
    assert done.lines[1].split()[-3:] == ["12.5", "4.5", "J"]
    ((query, at),) = [(one["query"], one["time"]) for one in asked]
    assert (query[:16], query[-5:], float(at)) == ("last_over_time({", "[5m])", 1000.0)


def test_that_prometheus_is_away_does_not_matter_after_the_end(
    api: FakeApi, lockstep: Lockstep
) -> None:
    api.put("services", prometheus_service())
    api.put("federatedjobs", ended_job("Completed", completionTime="1970-01-01T00:16:40Z"))
    done = lockstep("devices", "digits")
    assert (done.code, len(done.lines)) == (0, 3)
    assert "no endpoints available" in done.err
    assert lockstep("list").lines[1].split()[1] == "Completed"


def test_a_job_that_never_began_is_not_asked_about(api: FakeApi, lockstep: Lockstep) -> None:
    api.put("services", prometheus_service())
    api.put("federatedjobs", ended_job("Refused"))
    assert lockstep("devices", "digits").err == ""


def left_out(round: int) -> Json:
    """The last round of a job: fast-0 was clipped, fast-1 is left out until round 6."""
    clients = [{"client": "fast-0", "stepsAsked": 40, "stepsDone": 40, "kept": 0.125}]
    out = [{"client": "fast-1", "returns": 6, "why": "went 9 times as far as the median"}]
    return {
        "round": round, "seconds": 1.0, "uploadBytes": 1, "clients": clients,
        "takenBack": ["the loss is 9"], "satOut": out,
    }  # fmt: skip


def test_who_is_left_out_and_who_was_clipped_is_said(running: FakeApi, lockstep: Lockstep) -> None:
    plan = {"round": 4, "planned": True, "clients": [planned("fast-0")]}
    status = running_status(lastPlan=plan, lastRound=left_out(3))
    running.put("federatedjobs", job(status=status))
    head, first, second = lockstep("devices", "digits").lines
    assert head.split() == [*HEAD, "REMARK"]
    assert first.endswith("clipped to 12.5 %")
    assert second.split()[:2] == ["fast-1", "SitsOut"]
    assert second.endswith("may return in round 6: went 9 times as far as the median")
    told = json.loads(lockstep("devices", "digits", "-o", "json").out)
    assert [one["kept"] for one in told] == [0.125, None]
    assert [(one["sitsOut"] or {}).get("returns") for one in told] == [None, 6]


def test_who_may_return_in_the_coming_round_is_idle(running: FakeApi, lockstep: Lockstep) -> None:
    plan = {"round": 6, "planned": True, "clients": [planned("fast-0")]}
    status = running_status(lastPlan=plan, lastRound=left_out(5)) | {"round": 5}
    running.put("federatedjobs", job(status=status))
    assert lockstep("devices", "digits").lines[2].split()[:2] == ["fast-1", "Idle"]
