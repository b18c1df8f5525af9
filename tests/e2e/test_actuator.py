"""Devices that slow themselves: asked for by the job, or because pods may not be resized."""

import json
import statistics
from collections.abc import Iterator

import pytest

from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    events,
    eventually,
    in_phase,
    past_round,
    patch,
    pods,
    query,
    small_job,
    wait_for_event,
    watch,
)

# A device that gets no core is slower than it was told to be: nothing runs beside these tests.
pytestmark = [pytest.mark.cluster, pytest.mark.cores]

ASKED = {"policy": "static", "actuator": "cooperative"}
ENDLESS = {"rounds": 100_000}
BOOST = "1"


def limits(job: str) -> list[str]:
    """The CPU limits in force of a job's devices."""
    return [
        pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"]
        for pod in pods(NAMESPACE, job, "device")
    ]


def actuators(job: Json) -> set[str]:
    """How the last plan's limits are kept."""
    return {one["actuator"] for one in job["status"]["lastPlan"]["clients"]}


def are_resized(job: Json) -> bool:
    """Whether kubelets have put the last plan's limits in force."""
    clients = job["status"]["lastPlan"]["clients"]
    return actuators(job) == {"resize"} and all(one["applied"] for one in clients)


def measured(metric: str, job: str) -> dict[str, list[float]]:
    """Client → the values of a gauge, second by second, of the job's time."""
    found = query(NAMESPACE, f'{metric}{{job="{job}"}}[10m]')
    return {one["metric"]["client"]: [float(value) for _, value in one["values"]] for one in found}


def delete(job: str) -> None:
    api.kubectl("-n", NAMESPACE, "delete", "fj", job, "--wait")


def test_a_cooperative_job_has_the_planned_frequencies_without_a_resize(lockstep: str) -> None:
    """Its pods keep the limit that they started with; the devices' own clocks agree to the plan."""
    steps = {"localSteps": {"fixed": 120}}
    apply(lockstep, small_job("slowed", training=ENDLESS | steps, allocation=ASKED))
    watch(lockstep, "slowed", past_round(6))
    watch(lockstep, "slowed", lambda job: condition(job, "Degraded")["status"] == "False")
    assert limits("slowed") == [BOOST] * 3
    eventually(
        NAMESPACE,
        'count_over_time((lockstep_frequency_applied_ghz{job="slowed"} > 0)[5m:1s]) >= 5', series=3,
    )  # fmt: skip
    patch(lockstep, "slowed", {"training": {"rounds": 12}})
    job = watch(lockstep, "slowed", in_phase("Completed"))
    assert actuators(job) == {"cooperative"}
    assert "CooperativeThrottling" not in [reason for _, reason, _ in events(lockstep, "slowed")]
    had = measured("lockstep_frequency_applied_ghz", "slowed")
    for client in job["status"]["lastPlan"]["clients"]:
        values = [value for value in had[client["client"]] if value > 0]
        *_, ghz = statistics.quantiles(values, n=10)  # less: the machine had no core for it
        assert ghz == pytest.approx(client["frequencyGHz"], rel=0.15), client["client"]
    delete("slowed")


@pytest.fixture
def without_right(lockstep: str) -> Iterator[tuple[str, str]]:
    """The role that lets the operator resize pods, without that right."""
    words = ("get", "roles", "-n", lockstep, "-o", "json")
    roles = json.loads(api.kubectl(*words))["items"]
    (role,) = [one for one in roles if any(map(resizes, one["rules"]))]
    _write_rules(role, [rule for rule in role["rules"] if not resizes(rule)])
    yield role["metadata"]["name"], json.dumps(role["rules"])
    _write_rules(role, role["rules"])


def resizes(rule: Json) -> bool:
    return "pods/resize" in rule["resources"]


def _write_rules(role: Json, rules: list[Json]) -> None:
    body = json.dumps([{"op": "replace", "path": "/rules", "value": rules}])
    name = role["metadata"]["name"]
    api.kubectl("-n", NAMESPACE, "patch", "role", name, "--type=json", "-p", body)


def test_where_resizing_is_forbidden_devices_slow_themselves_until_it_is_allowed(
    without_right: tuple[str, str],
) -> None:
    name, rules = without_right
    apply(NAMESPACE, small_job("forbidden", training=ENDLESS))
    job = watch(NAMESPACE, "forbidden", past_round(3))
    assert actuators(job) == {"cooperative"}
    assert limits("forbidden") == [BOOST] * 3
    for client in job["status"]["lastPlan"]["clients"]:
        assert client["applied"]
        assert "cannot patch resource" in client["reason"]
        assert "pods/resize" in client["reason"]
    degraded = condition(job, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "CooperativeThrottling"), degraded
    kind, _, message = wait_for_event(NAMESPACE, "forbidden", "CooperativeThrottling")
    assert kind == "Warning"
    assert message.startswith("3 devices keep to their CPU limits themselves; ")
    _write_rules({"metadata": {"name": name}}, json.loads(rules))
    watch(NAMESPACE, "forbidden", are_resized)
    assert BOOST not in limits("forbidden")
    told = [reason for _, reason, _ in events(NAMESPACE, "forbidden")]
    assert told.count("CooperativeThrottling") == 1
    delete("forbidden")
