"""A policy at work, and what it may miss: telemetry, its own file; and a job that learns."""

import json

import pytest

from lockstep_api import series
from tests.cluster import api
from tests.e2e.asked import assert_all_find_data
from tests.e2e.running import (
    NAMESPACE,
    ROOT,
    Json,
    apply,
    condition,
    events,
    eventually,
    frequency_jobs,
    past_round,
    patch,
    rounds_are_planned,
    wait_for_event,
    watch,
)
from tests.e2e.scaling import away
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "planned"


@pytest.fixture(scope="module")
def running(lockstep: str) -> str:
    """A job of one device of each kind under ppo, without an end."""
    for manifest in frequency_jobs(JOB, "ppo", replicas=1):
        if manifest["kind"] == "FederatedJob":
            manifest["spec"]["telemetry"] = {"energyBudgetJoules": 1e9}
        apply(lockstep, manifest)
    watch(lockstep, JOB, past_round(2))
    return JOB


def test_every_query_that_people_are_shown_finds_data(running: str) -> None:
    """Of dashboards, their variables, examples of the catalogue, recording rules and alerts."""
    assert_all_find_data(NAMESPACE, JOB)


def test_without_prometheus_rounds_go_on_and_a_condition_says_so(running: str) -> None:
    with away("prometheus"):
        watch(NAMESPACE, JOB, lambda job: "Prometheus at http://lockstep-prometheus" in told(job))
        rounds_are_planned(NAMESPACE, JOB)
    watch(NAMESPACE, JOB, lambda job: degraded(job) == "False")


def test_a_policy_that_is_not_there_is_replaced(running: str) -> None:
    patch(NAMESPACE, JOB, {"allocation": {"policyRef": "mine"}})
    words = "policy equalize stands in for ppo: there is no ConfigMap mine"
    wait_for_event(NAMESPACE, JOB, "PolicyUnavailable", words=words)
    rounds_are_planned(NAMESPACE, JOB)


def test_a_policy_of_ones_own_is_used(running: str) -> None:
    shipped = ROOT / "operator/lockstep_allocator/shipped.safetensors"
    api.kubectl(
        "-n", NAMESPACE, "create", "configmap", "mine", f"--from-file=policy.safetensors={shipped}"
    )
    patch(NAMESPACE, JOB, {"allocation": {"policyRef": "mine"}})
    eventually(NAMESPACE, f'{series.POLICY_IN_USE.queried}{{job="{JOB}",source="ref"}} > 0')
    before = event_uids("PolicyUnavailable")
    rounds_are_planned(NAMESPACE, JOB, more=4)
    assert event_uids("PolicyUnavailable") == before


def event_uids(reason: str) -> set[str]:
    """UIDs of the job's Events of a reason."""
    selector = f"involvedObject.name={JOB},reason={reason}"
    text = api.kubectl("-n", NAMESPACE, "get", "events", "-o", "json", "--field-selector", selector)
    return {event["metadata"]["uid"] for event in json.loads(text)["items"]}


def degraded(job: Json) -> str:
    """Status of condition TelemetryDegraded."""
    return str(condition(job, "TelemetryDegraded").get("status"))


def told(job: Json) -> str:
    """What condition TelemetryDegraded says while it is true."""
    return str(condition(job, "TelemetryDegraded")["message"]) if degraded(job) == "True" else ""


def test_a_job_learns_from_its_rounds(running: str) -> None:
    """After 20 rounds a trainer offers a policy; the planner says what became of it."""
    job = {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": "learner"},
        "spec": {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 100_000, "localSteps": {"fixed": 30}},
            "allocation": {"policy": "ppo", "energyWeight": 0.3, "online": True},
            "devices": [
                {"name": "all", "replicas": 2, "cpuAtMax": "200m", "uplink": {"trace": "ride"}}
            ],
        },
    }
    patch(NAMESPACE, JOB, {"suspend": True})  # the cores are for the other
    apply(NAMESPACE, job)
    _, _, started = wait_for_event(NAMESPACE, "learner", "TrainerStarted")
    assert "learns from the last 20 rounds" in started
    trainer = started.partition(" ")[0]
    done = f"job/{trainer}"
    api.kubectl("-n", NAMESPACE, "wait", "--for=condition=complete", done, TIMEOUT)
    verdict = next(
        message
        for _, reason, message in events(NAMESPACE, "learner")
        if reason in ("PolicyKept", "PolicyUpdated")
    )
    print(started, "—", verdict)
    assert "rounds" in verdict
    log = api.kubectl("-n", NAMESPACE, "logs", done)
    assert '"event": "judged"' in log
    learnt = json.loads(
        api.kubectl("-n", NAMESPACE, "get", "configmap", "learner-policy", "-o", "json")
    )
    assert list(learnt["binaryData"]) == ["policy.safetensors"]
    assert learnt["metadata"]["ownerReferences"][0]["name"] == "learner"
    api.kubectl("-n", NAMESPACE, "delete", "federatedjob", "learner", "--wait=true")
