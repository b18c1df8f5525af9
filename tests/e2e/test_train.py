"""A FederatedJob trains on real pods, installed by the real helm: the path that a user goes."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lockstep_api import series
from lockstep_api.names import client_pod
from lockstep_api.series import Owner, Where
from lockstep_api.spec import Mode
from tests.cluster import api
from tests.e2e.outside import wait_until_no_children
from tests.e2e.program import cli
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    events,
    eventually,
    get,
    in_phase,
    on_volume,
    past_round,
    patch,
    pods,
    query,
    small_job,
    wait_for_event,
    watch,
)
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "quick"
OF_JOBS = (series.PLAN_COST_SECONDS, series.ROUND_COST_SECONDS, series.POLICY_IN_USE)
EXPECTED = {
    name
    for one in (
        *series.of(Owner.CLOUD, mode=Mode.FEDERATED),
        *series.of(Owner.DEVICE, mode=Mode.FEDERATED),
        *OF_JOBS,
    )
    if one.where is not Where.LINKS
    for name in one.names
}
"""Series of the job. Counters of a trained policy are none: the job has no such policy."""
ENERGY = f'max_over_time(lockstep_energy_joules_total{{job="{JOB}"}}[30m])'
COMPUTE = f'max_over_time({series.GROUP_SECONDS.queried}{{job="{JOB}",part="compute"}}[30m])'
_EACH = "|".join(sorted(EXPECTED))
NAMES = f'group by (__name__) (last_over_time({{__name__=~"{_EACH}",job="{JOB}"}}[30m]))'


@pytest.fixture(scope="module")
def trained(lockstep: str) -> Json:
    """A job of three devices that ran to its end, far above its energy budget.

    It goes on until Prometheus has all that is asked of it below, also on a busy machine.
    """
    telemetry = {"energyBudgetJoules": 0.001}
    apply(lockstep, small_job(JOB, training={"rounds": 100_000}, telemetry=telemetry))
    watch(lockstep, JOB, past_round(12))
    eventually(lockstep, ENERGY, series=6)
    eventually(lockstep, f"{COMPUTE} > 0", series=3)
    eventually(lockstep, NAMES, series=len(EXPECTED))
    eventually(lockstep, f'{series.ROUND_COST_SECONDS.queried}{{job="{JOB}"}}', series=2)
    rounds = watch(lockstep, JOB, limits_are_planned)["status"]["round"]
    patch(lockstep, JOB, {"training": {"rounds": rounds}})
    return watch(lockstep, JOB, in_phase("Completed"))


def told(*words: str) -> str:
    """What `lockstep` prints, if it ends well."""
    ran = cli(*words)
    assert ran.code == 0, ran.err
    return ran.out


def content(*words: str) -> Any:
    """The same, of a command that prints JSON."""
    return json.loads(told(*words))


def test_it_reaches_the_accuracy_in_all_rounds(trained: Json) -> None:
    status = trained["status"]
    assert status["progress"] == f"{status['round']}/{status['round']}"
    assert status["accuracy"] >= 0.7
    assert condition(trained, "Complete")["reason"] == "RoundsCompleted"
    assert {"Ready", "Progressing", "Complete"} <= of_this_generation(trained)


def of_this_generation(job: Json) -> set[str]:
    """The conditions that are about the spec as it is."""
    now = job["metadata"]["generation"]
    conditions = job["status"]["conditions"]
    return {one["type"] for one in conditions if one["observedGeneration"] == now}


def test_the_limits_were_applied_and_the_devices_had_them(trained: Json) -> None:
    plan = trained["status"]["lastPlan"]
    assert plan["planned"]
    assert len(plan["clients"]) == 3
    assert all(client["applied"] for client in plan["clients"])
    assert condition(trained, "Degraded")["status"] == "False"


def test_energy_has_its_sources_apart(trained: Json) -> None:
    energy = trained["status"]["energyJoules"]
    assert energy["model"] > 0
    assert energy["cpu"] > 0
    assert "measured" not in energy


def test_kubectl_get_shows_the_columns(trained: Json) -> None:
    header, row = api.kubectl("-n", NAMESPACE, "get", "fj", JOB).splitlines()
    assert header.split() == ["NAME", "PHASE", "ROUND", "CLIENTS", "ACCURACY", "ENERGY", "AGE"]
    assert re.match(r"quick\s+Completed\s+(\d+)/\1\s+\S+\s+0\.\d+\s+\d", row)


def test_events_tell_the_phases_only(trained: Json) -> None:
    wait_for_event(NAMESPACE, JOB, "Completed")
    reasons = [reason for _, reason, _ in events(NAMESPACE, JOB)]
    assert sorted(reasons) == sorted(set(reasons)), "one event per phase"
    assert {"Starting", "Running", "Completed"} <= set(reasons)


def test_prometheus_has_every_device(trained: Json) -> None:
    result = query(NAMESPACE, ENERGY)
    seen = {(r["metric"]["client"], r["metric"]["source"]) for r in result}
    clients = ("fast-0", "medium-0", "slow-0")
    assert seen == {(client, source) for client in clients for source in ("model", "cpu")}


def test_prometheus_has_all_that_is_told_of_a_job(trained: Json) -> None:
    found = query(NAMESPACE, NAMES)
    assert {one["metric"]["__name__"] for one in found} == EXPECTED


def test_prometheus_has_what_each_group_did(trained: Json) -> None:
    found = query(NAMESPACE, COMPUTE)
    seconds = {one["metric"]["group"]: float(one["value"][1]) for one in found}
    assert seconds.keys() == {"fast", "medium", "slow"}
    assert min(seconds.values()) > 0


def test_a_round_cost_at_least_what_it_could_have_cost(trained: Json) -> None:
    name = series.ROUND_COST_SECONDS.queried
    spent, least = (
        f'min_over_time({name}{{job="{JOB}",method="{one}"}}[30m])' for one in ("spent", "optimum")
    )
    (ratio,) = query(NAMESPACE, f"{spent} / ignoring (method) {least}")
    assert float(ratio["value"][1]) >= 1


@pytest.fixture(scope="module")
def resized(lockstep: str) -> str:
    """A job that runs on, under a plan whose limits are in force."""
    telemetry = {"perDevice": "never"}
    apply(lockstep, small_job("resized", training={"rounds": 100_000}, telemetry=telemetry))
    watch(lockstep, "resized", limits_are_planned)
    return "resized"


def test_running_pods_are_resized_in_place(resized: str) -> None:
    """While a job runs, its pods have the plan's limit, not the boost, and never restarted."""
    assert [restarts(pod) for pod in pods(NAMESPACE, resized, "device")] == [0, 0, 0]
    job = get(NAMESPACE, resized)
    assert {one["type"] for one in job["status"]["conditions"]} == of_this_generation(job)


def test_devices_that_tell_little_tell_what_rounds_are_planned_from(resized: str) -> None:
    assert_devices_tell_little(NAMESPACE, resized)


def test_a_running_job_is_explained_and_reported(resized: str, tmp_path: Path) -> None:
    plan = content("explain-plan", resized, "-o", "json")
    assert {one["client"] for one in plan["clients"]} == {"fast-0", "medium-0", "slow-0"}
    page = tmp_path / "report.html"
    assert told("report", resized, "-o", str(page)).strip() == str(page)
    assert f"<title>{NAMESPACE}/{resized}</title>" in page.read_text()
    early = cli("model", resized, "-o", str(tmp_path / "m"))
    assert early.code == 5
    assert "no model yet: it is written when the job completes" in early.err


def test_a_deleted_job_leaves_nothing(lockstep: str, resized: str) -> None:
    api.kubectl("-n", lockstep, "delete", "fj", resized, "--wait")
    wait_until_no_children(lockstep, resized)


def assert_devices_tell_little(namespace: str, job: str) -> None:
    """Only what rounds are planned from, each under the labels that the operator's list gives."""
    labelled = eventually(namespace, f'{series.STEPS.queried}{{job="{job}"}} > 0', series=3)
    assert set(labelled) == {"__name__", "namespace", "job", "pod", "tier", "client", "instance"}
    assert labelled["pod"] == client_pod(job, labelled["client"])
    planned = {one.queried for one in series.PLANNED if one.where is not Where.LINKS}
    one = '{__name__=~"lockstep_[^:]*",'
    names = f'group by (__name__) ({one}job="{job}",client!=""}})'
    eventually(namespace, names, series=len(planned))
    assert {one["metric"]["__name__"] for one in query(namespace, names)} == planned


def limits_are_planned(job: Json) -> bool:
    """Whether a job runs and its pods have the limits of its newest plan (another may follow)."""
    plan = job.get("status", {}).get("lastPlan") or {"clients": []}
    wanted = {client["client"]: f"{client['cpuMilli']}m" for client in plan["clients"]}
    applied = [client["applied"] for client in plan["clients"]]
    if not in_phase("Running")(job) or applied != [True] * 3:
        return False
    name = job["metadata"]["name"]
    return wanted == dict(map(limit, pods(NAMESPACE, name, "device")))


def limit(pod: Json) -> tuple[str, str]:
    """The client of a group's only pod, and its CPU limit in force."""
    container = pod["status"]["containerStatuses"][0]
    group = pod["metadata"]["labels"]["lockstep.dev/device-group"]
    return f"{group}-0", container["resources"]["limits"]["cpu"]


def restarts(pod: Json) -> int:
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def test_a_target_stops_the_job(lockstep: str) -> None:
    target = {"metric": "accuracy", "value": 0.5}
    apply(lockstep, small_job("target", training={"rounds": 500, "target": target}))
    job = watch(lockstep, "target", in_phase("Completed"))
    assert condition(job, "Complete")["reason"] == "TargetReached"
    assert job["status"]["round"] < 500


def test_the_model_stays_on_the_volume(trained: Json) -> None:
    """The pods of a finished job go, its volume keeps the model."""
    gone = ("wait", "pods", "-l", f"lockstep.dev/job={JOB}", "--for=delete", TIMEOUT)
    api.kubectl("-n", NAMESPACE, *gone)
    listed = on_volume(NAMESPACE, f"{JOB}-cloud", "import os; print(*os.listdir('/data'))").split()
    assert {"model.safetensors", "history.jsonl", "checkpoints"} <= set(listed)


_HASH = "import hashlib; print(hashlib.sha256(open('/data/{}','rb').read()).hexdigest())"


def test_model_and_history_are_fetched_from_the_volume(trained: Json, tmp_path: Path) -> None:
    model, history = tmp_path / "model.safetensors", tmp_path / "history.jsonl"
    told("model", JOB, "-o", str(model), "--history", str(history))
    for path in (model, history):
        wanted = on_volume(NAMESPACE, f"{JOB}-cloud", _HASH.format(path.name)).strip()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    assert load_file(model)
    assert len(history.read_text().splitlines()) == trained["status"]["round"]
    left = ("get", "pods", "-l", "lockstep.dev/reader-of", "-o", "name")
    assert not api.kubectl("-n", NAMESPACE, *left).strip()


def test_an_ended_job_is_reported_explained_and_compared(trained: Json, tmp_path: Path) -> None:
    page, saved = tmp_path / "report.html", tmp_path / "saved"
    told("report", JOB, "-o", str(page), "--save", str(saved))
    assert "Completed" in page.read_text()
    plan = content("explain-plan", JOB, "--round", "5", "-o", "json")
    assert plan["round"] == 5
    assert {one["client"] for one in plan["clients"]} == {"fast-0", "medium-0", "slow-0"}
    assert all(one["expected"] and one["happened"] for one in plan["clients"])
    assert {one["method"] for one in plan["alternatives"]} == {"planned", "equalize", "maximum"}
    both = told("compare", JOB, str(saved), "-o", str(tmp_path / "both.html"))
    accuracy = f"{trained['status']['accuracy']:.4f}"
    assert ["accuracy", accuracy, accuracy] in [line.split() for line in both.splitlines()]
    assert "2 jobs compared" in (tmp_path / "both.html").read_text()


def test_the_doctor_sees_a_cluster_that_is_well(trained: Json) -> None:
    """Of what other tests do meanwhile nothing is asked."""
    said = cli("doctor", "-o", "json")
    found = {one["about"]: one for one in json.loads(said.out)}
    for about in ("kubernetes", "resize", "crd", "your rights", "operator's rights", "storage"):
        assert found[about]["state"] == "ok", found[about]
    leaders = [one for one in json.loads(said.out) if one["about"] == "leader"]
    assert [one["state"] for one in leaders if one["said"].endswith(f"for {NAMESPACE}")] == ["ok"]
