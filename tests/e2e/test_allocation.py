"""Frequencies on real pods: the example under max, equalize and ppo; and a kubelet that is gone.

What is measured here needs the machine's cores: these tests run alone.
"""

import statistics
from collections.abc import Callable

import pytest

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_api.wire import ClientReport, RoundReport
from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    eventually,
    frequency_jobs,
    get,
    in_pod,
    past_round,
    planned,
    pods,
    query,
    rounds_go_on,
    watch,
)

pytestmark = [pytest.mark.cluster, pytest.mark.cores]

JOB = "frequency"
ROUNDS = 7
ArrivedS = Callable[[ClientReport], float]
SETTLING = 3
"""Rounds at the start of a job that nothing is known for yet."""
HISTORY = 'print(open("/var/lib/lockstep/history.jsonl").read())'


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
        for manifest in frequency_jobs(job, policy, replicas=2):
            apply(lockstep, manifest)
        watch(lockstep, job, past_round(SETTLING + ROUNDS))
        reports = history(job)
        found[policy] = [reports[SETTLING + number] for number in range(1, ROUNDS + 1)]
        if job != JOB:
            api.kubectl("-n", lockstep, "delete", "federatedjob", job, "--wait=true")
    return found


def usual_spread_s(rounds: list[RoundReport], arrived_s: ArrivedS) -> float:
    """Seconds between the first and the last arrival, of the median round.

    In the few in which a link changes, nobody could have known.
    """
    arrivals = [[arrived_s(one) for one in report.clients] for report in rounds]
    return statistics.median(max(times) - min(times) for times in arrivals)


def measured_s(one: ClientReport) -> float:
    """Seconds from the round's start to its update, whatever else the machine did meanwhile."""
    return one.arrived_seconds


def by_law(played: dict[str, list[RoundReport]]) -> ArrivedS:
    """Seconds that an update takes by its limit and its link: usual work over quota, and upload.

    The limits and links are those that the pods had; a machine that is busy changes none of them.
    """
    work: dict[str, list[float]] = {}
    for one in updates(played):
        work.setdefault(one.update.client, []).append(one.update.cpu_seconds)
    usual_work = {client: statistics.median(seconds) for client, seconds in work.items()}

    def arrived_s(one: ClientReport) -> float:
        assert one.update.quota_cores is not None
        return usual_work[one.update.client] / one.update.quota_cores + one.upload_seconds

    return arrived_s


def updates(played: dict[str, list[RoundReport]]) -> list[ClientReport]:
    return [one for rounds in played.values() for report in rounds for one in report.clients]


def test_devices_finish_together(played: dict[str, list[RoundReport]]) -> None:
    weight = get(NAMESPACE, JOB)["spec"]["allocation"]["energyWeight"]
    law_s = by_law(played)
    laws, spreads = (
        {policy: usual_spread_s(rounds, arrived_s) for policy, rounds in played.items()}
        for arrived_s in (law_s, measured_s)
    )
    for policy, rounds in played.items():
        joules = statistics.fmean(
            sum(c.update.energy_joules.model or 0 for c in r.clients) for r in rounds
        )
        seconds = statistics.fmean(report.seconds for report in rounds)
        print(
            f"{policy}: {seconds:.2f} s, {joules:.3f} J (model), "
            f"cost {seconds + weight * joules:.2f} s, first to last arrival (median round) "
            f"{spreads[policy]:.2f} s, by limits and links {laws[policy]:.2f} s"
        )
    assert laws["equalize"] < 0.5 * laws["max"]
    assert laws["ppo"] < 0.7 * laws["max"]
    quiet = {policy: [*filter(had_cores, rounds)] for policy, rounds in played.items()}
    if all(quiet.values()):
        seen = {policy: usual_spread_s(rounds, measured_s) for policy, rounds in quiet.items()}
        assert max(seen["equalize"], seen["ppo"]) < seen["max"]


def had_cores(report: RoundReport) -> bool:
    """Whether the machine gave each device of a round the cores of its limit."""
    return all(stretch(one) <= 1.1 for one in report.clients)


def stretch(one: ClientReport) -> float:
    """How much longer a device computed than its work takes at its limit."""
    assert one.update.quota_cores is not None
    return one.update.compute_seconds * one.update.quota_cores / one.update.cpu_seconds


def test_a_round_takes_work_over_frequency(played: dict[str, list[RoundReport]]) -> None:
    """The quickest quarter of the rounds, that is: the others may have waited for a core."""
    ratios = [stretch(one) for one in updates(played) if one.update.compute_seconds >= 1.0]
    assert len(ratios) > 30
    first, median, _ = statistics.quantiles(ratios)
    print(f"compute time over W/f: quartile {first:.3f}, median {median:.3f} of {len(ratios)}")
    assert first == pytest.approx(1.0, abs=0.1)


def test_every_device_had_what_was_planned(played: dict[str, list[RoundReport]]) -> None:
    by_client: dict[str, set[float]] = {}
    for report in played["ppo"]:
        for one in report.clients:
            by_client.setdefault(one.update.client, set()).add(round(one.update.frequency_ghz, 2))
    assert len(by_client) == 6
    assert max(len(levels) for levels in by_client.values()) >= ROUNDS // 2  # limits change
    assert {one.update.frequency_ghz for one in updates({"max": played["max"]})} == {2.4, 1.8, 1.2}
    watch(NAMESPACE, JOB, lambda job: not not_applied(job))  # a kubelet may be late once


def test_limits_that_a_kubelet_holds_back_are_told(played: dict[str, list[RoundReport]]) -> None:
    """Devices run on with what they have, and are planned with that, until it comes back.

    Told are those that were to have another limit: one whose limit stays has what was planned.
    """
    with api.kubelet_stopped("device"):
        asked_since = get(NAMESPACE, JOB)["status"]["lastPlan"]["round"] + 2
        job = watch(NAMESPACE, JOB, lambda job: planned(asked_since)(job) and not_applied(job))
        in_force = limits_milli()
        for entry in job["status"]["lastPlan"]["clients"]:
            stays = in_force[entry["client"]] == entry["cpuMilli"]
            assert entry["applied"] == stays, (entry, in_force)
        last = rounds_go_on(NAMESPACE, JOB, more=3)["status"]["round"]
        assert limits_milli() == in_force
        rounds = history(JOB)
        had = [
            {one.update.client: one.update.frequency_ghz for one in rounds[number].clients}
            for number in (last - 1, last)
        ]
        assert had[0] == had[1]
    watch(NAMESPACE, JOB, lambda job: not not_applied(job))
    rounds_go_on(NAMESPACE, JOB)


def limits_milli() -> dict[str, int]:
    """Client → the CPU limit that its kubelet last said to be in force."""
    found = {}
    for pod in pods(NAMESPACE, JOB, "device"):
        limit = pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"]
        found[client_of(pod)] = round(parse_quantity(limit) * 1000)
    return found


def client_of(pod: Json) -> str:
    """The client whose pod this is: its group, and the number at the end of the pod's name."""
    group = pod["metadata"]["labels"][names.GROUP_LABEL]
    return f"{group}-{pod['metadata']['name'].rpartition('-')[2]}"


def not_applied(job: Json) -> bool:
    """Whether a limit of the newest plan is not in force."""
    return bool(condition(job, "Degraded").get("reason") == "FrequencyNotApplied")


def test_prometheus_has_the_series_that_rounds_are_planned_from(
    played: dict[str, list[RoundReport]],
) -> None:
    # Their kubelet was gone: with fewer samples than seconds a rate is less than it was.
    sent = f'lockstep_link_mbits_total{{job="{JOB}",direction="up"}}'
    eventually(NAMESPACE, f"count_over_time({sent}[25s]) >= 23", series=6)
    carried = query(NAMESPACE, f"rate({sent}[20s])")
    assert {item["metric"]["client"] for item in carried} == {
        f"{group}-{i}" for group in ("fast", "medium", "slow") for i in (0, 1)
    }
    # A scrape that was late is in the rate, too: until it is over.
    steady = sent.replace("}", ',client=~"slow-."}')
    eventually(NAMESPACE, f"abs(rate({steady}[20s]) - 6) < 0.05 * 6", series=2)
    watch(NAMESPACE, JOB, is_fresh)


def is_fresh(job: Json) -> bool:
    """Whether the job's plans are made from telemetry that is whole."""
    found = condition(job, "TelemetryDegraded")
    return (found.get("status"), found.get("reason")) == ("False", "Fresh")
