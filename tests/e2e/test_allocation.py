"""Frequencies on real pods: the example under max, equalize and ppo; and what may be missing."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lockstep_api.wire import ClientReport, RoundReport
from tests.cluster import api
from tests.e2e.running import (
    Json,
    apply,
    condition,
    events,
    get,
    in_pod,
    installed,
    past_round,
    patch,
    query,
    rounds_go_on,
    wait_for_event,
    watch,
)

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = "allocation-e2e"
JOB = "frequency"
ROUNDS = 10
SETTLING = 3
"""Rounds at the start of a job that nothing is known for yet."""
HISTORY = 'print(open("/var/lib/lockstep/history.jsonl").read())'


@pytest.fixture(scope="module")
def lockstep(cluster: object) -> Iterator[str]:
    """The chart, with its Prometheus."""
    with installed(NAMESPACE):
        yield NAMESPACE


def example(name: str, policy: str) -> list[Json]:
    """The example's ConfigMaps with traces, and its job under a policy, without an end."""
    *links, job = yaml.safe_load_all((ROOT / "docs/examples/frequency.yaml").read_text())
    job["metadata"]["name"] = name
    job["spec"]["training"]["rounds"] = 100_000
    job["spec"]["allocation"]["policy"] = policy
    return [*links, job]


def history(job: str) -> dict[int, RoundReport]:
    """Round → its report, from the cloud pod's volume."""
    lines = in_pod(NAMESPACE, f"{job}-cloud-0", HISTORY).splitlines()
    return {r.round: r for r in (RoundReport.model_validate_json(x) for x in lines if x)}


@pytest.fixture(scope="module")
def played(lockstep: str) -> dict[str, list[RoundReport]]:
    """Policy → rounds under it, from the histories on the cloud pods' volumes.

    A job for each policy, one after another: of one seed, so that their links have the same
    bandwidth at the same age of a job. The last one goes on.
    """
    found = {}
    for policy, job in (("max", "at-max"), ("equalize", "equalized"), ("ppo", JOB)):
        for manifest in example(job, policy):
            apply(lockstep, manifest)
        watch(lockstep, job, past_round(SETTLING + ROUNDS), timeout_s=400)
        reports = history(job)
        found[policy] = [reports[SETTLING + number] for number in range(1, ROUNDS + 1)]
        if job != JOB:
            api.kubectl("-n", lockstep, "delete", "federatedjob", job, "--wait=true")
    return found


def spreads_s(rounds: list[RoundReport]) -> list[float]:
    """Seconds between the first and the last arrival of each round."""
    arrivals = [[one.arrived_seconds for one in report.clients] for report in rounds]
    return [max(times) - min(times) for times in arrivals]


def usual_spread_s(rounds: list[RoundReport]) -> float:
    """Of the median round: in the few in which a link changes, nobody could have known."""
    return statistics.median(spreads_s(rounds))


def updates(played: dict[str, list[RoundReport]]) -> list[ClientReport]:
    return [one for rounds in played.values() for report in rounds for one in report.clients]


def test_devices_finish_together(played: dict[str, list[RoundReport]]) -> None:
    weight = get(NAMESPACE, JOB)["spec"]["allocation"]["energyWeight"]
    for policy, rounds in played.items():
        joules = statistics.fmean(
            sum(c.update.energy_joules.model or 0 for c in r.clients) for r in rounds
        )
        seconds = statistics.fmean(report.seconds for report in rounds)
        spreads = spreads_s(rounds)
        print(
            f"{policy}: {seconds:.2f} s, {joules:.3f} J (model), "
            f"cost {seconds + weight * joules:.2f} s, first to last arrival "
            f"{statistics.fmean(spreads):.2f} s (median {statistics.median(spreads):.2f} s)"
        )
    at_max = usual_spread_s(played["max"])
    assert usual_spread_s(played["equalize"]) < 0.5 * at_max
    assert usual_spread_s(played["ppo"]) < 0.7 * at_max


def test_a_round_takes_work_over_frequency(played: dict[str, list[RoundReport]]) -> None:
    ratios = [
        one.update.compute_seconds * one.update.quota_cores / one.update.cpu_seconds
        for one in updates(played)
        if one.update.quota_cores and one.update.compute_seconds >= 1.0
    ]
    assert len(ratios) > 30
    print(f"compute time over W/f: median {statistics.median(ratios):.3f} of {len(ratios)}")
    assert statistics.median(ratios) == pytest.approx(1.0, abs=0.1)


def test_every_device_had_what_was_planned(played: dict[str, list[RoundReport]]) -> None:
    by_client: dict[str, set[float]] = {}
    for report in played["ppo"]:
        for one in report.clients:
            by_client.setdefault(one.update.client, set()).add(round(one.update.frequency_ghz, 2))
    assert len(by_client) == 6
    assert max(len(levels) for levels in by_client.values()) >= ROUNDS // 2  # limits change
    assert {one.update.frequency_ghz for one in updates({"max": played["max"]})} == {2.4, 1.8, 1.2}
    assert condition(get(NAMESPACE, JOB), "Degraded")["reason"] != "FrequencyNotApplied"


def test_limits_that_a_kubelet_holds_back_are_told(played: dict[str, list[RoundReport]]) -> None:
    """Devices run on with what they have, and are planned with that, until it comes back."""
    with api.kubelet_stopped("device"):
        job = watch(NAMESPACE, JOB, not_applied, timeout_s=120)
        assert not any(entry["applied"] for entry in job["status"]["lastPlan"]["clients"])
        last = rounds_go_on(NAMESPACE, JOB, more=3)["status"]["round"]
        rounds = history(JOB)
        had = [
            {one.update.client: one.update.frequency_ghz for one in rounds[number].clients}
            for number in (last - 1, last)
        ]
        assert had[0] == had[1]
    watch(NAMESPACE, JOB, lambda job: not not_applied(job), timeout_s=240)
    rounds_go_on(NAMESPACE, JOB)


def not_applied(job: Json) -> bool:
    """Whether a limit of the newest plan is not in force."""
    return bool(condition(job, "Degraded").get("reason") == "FrequencyNotApplied")


def test_prometheus_has_the_series_that_rounds_are_planned_from(
    played: dict[str, list[RoundReport]],
) -> None:
    carried = query(NAMESPACE, f'rate(lockstep_link_mbits_total{{job="{JOB}"}}[10s])')
    assert {item["metric"]["client"] for item in carried} == {
        f"{group}-{i}" for group in ("fast", "medium", "slow") for i in (0, 1)
    }
    steady = [float(i["value"][1]) for i in carried if i["metric"]["client"].startswith("slow")]
    assert steady == pytest.approx([6.0, 6.0], rel=0.05)
    found = condition(get(NAMESPACE, JOB), "TelemetryDegraded")
    assert (found["status"], found["reason"]) == ("False", "Fresh")


def test_without_prometheus_rounds_go_on_and_a_condition_says_so(
    played: dict[str, list[RoundReport]],
) -> None:
    scale("0")
    seen = watch(NAMESPACE, JOB, lambda job: degraded(job) == "True")
    told = condition(seen, "TelemetryDegraded")["message"]
    assert "Prometheus at http://lockstep-prometheus" in told
    assert rounds_go_on(NAMESPACE, JOB)["status"]["lastPlan"]["planned"]
    scale("1")
    watch(NAMESPACE, JOB, lambda job: degraded(job) == "False", timeout_s=180)


def test_a_policy_that_is_not_there_is_replaced(played: dict[str, list[RoundReport]]) -> None:
    patch(NAMESPACE, JOB, {"allocation": {"policyRef": "mine"}})
    _, _, message = wait_for_event(NAMESPACE, JOB, "PolicyUnavailable")
    assert "policy equalize stands in for ppo: there is no ConfigMap mine" in message
    assert rounds_go_on(NAMESPACE, JOB)["status"]["lastPlan"]["planned"]


def test_a_policy_of_ones_own_is_used(played: dict[str, list[RoundReport]]) -> None:
    shipped = ROOT / "operator/lockstep_allocator/shipped.safetensors"
    api.kubectl(
        "-n", NAMESPACE, "create", "configmap", "mine", f"--from-file=policy.safetensors={shipped}"
    )
    patch(NAMESPACE, JOB, {"allocation": {"policyRef": "mine"}})
    before = len(json.loads(api.kubectl("-n", NAMESPACE, "get", "events", "-o", "json"))["items"])
    rounds_go_on(NAMESPACE, JOB, more=4)
    after = json.loads(api.kubectl("-n", NAMESPACE, "get", "events", "-o", "json"))["items"]
    new = [e["reason"] for e in after[before:]]
    assert "PolicyUnavailable" not in new


def degraded(job: Json) -> str:
    """Status of condition TelemetryDegraded."""
    return str(condition(job, "TelemetryDegraded").get("status"))


def scale(replicas: str) -> None:
    """Starts or stops Prometheus."""
    api.kubectl(
        "-n", NAMESPACE, "scale", "deployment/lockstep-prometheus", f"--replicas={replicas}"
    )


def test_a_job_learns_from_its_rounds(lockstep: str, played: dict[str, list[RoundReport]]) -> None:
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
    patch(lockstep, JOB, {"suspend": True})  # there is room for one of the two
    apply(lockstep, job)
    _, _, started = wait_for_event(lockstep, "learner", "TrainerStarted", timeout_s=300)
    assert "learns from the last 20 rounds" in started
    trainer = started.partition(" ")[0]
    done = f"job/{trainer}"
    api.kubectl("-n", lockstep, "wait", "--for=condition=complete", done, "--timeout=300s")
    verdict = next(
        message
        for _, reason, message in events(lockstep, "learner")
        if reason in ("PolicyKept", "PolicyUpdated")
    )
    print(started, "—", verdict)
    assert "rounds" in verdict
    log = api.kubectl("-n", lockstep, "logs", done)
    assert '"event": "judged"' in log
    learnt = json.loads(
        api.kubectl("-n", lockstep, "get", "configmap", "learner-policy", "-o", "json")
    )
    assert list(learnt["binaryData"]) == ["policy.safetensors"]
    assert learnt["metadata"]["ownerReferences"][0]["name"] == "learner"
    api.kubectl("-n", lockstep, "delete", "federatedjob", "learner", "--wait=true")
