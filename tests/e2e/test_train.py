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
from tests.e2e.program import cli
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    events,
    eventually,
    in_phase,
    on_volume,
    pods,
    query,
    small_job,
    watch,
)
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "quick"
CHILDREN = "statefulsets,services,configmaps,pods,persistentvolumeclaims,serviceaccounts"


@pytest.fixture(scope="module")
def trained(lockstep: str) -> Json:
    """A job of three devices that ran to its end, far above its energy budget."""
    telemetry = {"energyBudgetJoules": 0.001}
    apply(lockstep, small_job(JOB, training={"rounds": 12}, telemetry=telemetry))
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
    assert status["progress"] == "12/12"
    assert status["accuracy"] >= 0.7
    assert condition(trained, "Complete")["reason"] == "RoundsCompleted"
    assert all(
        c["observedGeneration"] == trained["metadata"]["generation"]
        for c in trained["status"]["conditions"]
    )


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
    assert re.match(r"quick\s+Completed\s+12/12\s+\S+\s+0\.\d+\s+\d", row)


def test_events_tell_the_phases_only(trained: Json) -> None:
    reasons = [reason for _, reason, _ in events(NAMESPACE, JOB)]
    assert sorted(reasons) == sorted(set(reasons)), "one event per phase"
    assert {"Starting", "Running", "Completed"} <= set(reasons)


def test_prometheus_has_every_device(trained: Json) -> None:
    result = query(NAMESPACE, f'max_over_time(lockstep_energy_joules_total{{job="{JOB}"}}[30m])')
    seen = {(r["metric"]["client"], r["metric"]["source"]) for r in result}
    clients = ("fast-0", "medium-0", "slow-0")
    assert seen == {(client, source) for client in clients for source in ("model", "cpu")}


OF_JOBS = (series.PLAN_COST_SECONDS, series.ROUND_COST_SECONDS, series.POLICY_IN_USE)


def test_prometheus_has_all_that_is_told_of_a_job(trained: Json) -> None:
    """But for counters of a trained policy, which the job has none of."""
    found = query(NAMESPACE, f'group by (__name__) (last_over_time({{job="{JOB}"}}[30m]))')
    told = [series.of(one, mode=Mode.FEDERATED) for one in (Owner.CLOUD, Owner.DEVICE)]
    expected = {
        name
        for one in (*told[0], *told[1], *OF_JOBS)
        if one.where is not Where.LINKS
        for name in one.names
    }
    assert expected - {one["metric"]["__name__"] for one in found} == set()


def test_prometheus_has_what_each_group_did(trained: Json) -> None:
    name = series.GROUP_SECONDS.queried
    found = query(NAMESPACE, f'max_over_time({name}{{job="{JOB}",part="compute"}}[30m])')
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
    apply(lockstep, small_job("resized", training={"rounds": 500}, telemetry=telemetry))
    watch(lockstep, "resized", limits_are_planned)
    return "resized"


def test_running_pods_are_resized_in_place(resized: str) -> None:
    """While a job runs, its pods have the plan's limit, not the boost, and never restarted."""
    assert [restarts(pod) for pod in pods(NAMESPACE, resized, "device")] == [0, 0, 0]


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
    api.kubectl(
        "-n", lockstep, "wait", "pods", "-l", f"lockstep.dev/job={resized}", "--for=delete",
        TIMEOUT,
    )  # fmt: skip
    left = api.kubectl(
        "-n", lockstep, "get", CHILDREN, "-l", f"lockstep.dev/job={resized}", "-o", "name"
    )
    assert not left.strip()


def assert_devices_tell_little(namespace: str, job: str) -> None:
    """Only what rounds are planned from, each under the labels that the operator's list gives."""
    labelled = eventually(namespace, f'{series.STEPS.queried}{{job="{job}"}} > 0', series=3)
    assert set(labelled) == {"__name__", "namespace", "job", "pod", "tier", "client", "instance"}
    assert labelled["pod"] == client_pod(job, labelled["client"])
    one = '{__name__=~"lockstep_.*",'
    found = query(namespace, f'group by (__name__) ({one}job="{job}",client!=""}})')
    told = {name for one in found if ":" not in (name := one["metric"]["__name__"])}
    planned = {one.queried for one in series.PLANNED if one.where is not Where.LINKS}
    assert told == planned


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
    assert pods(NAMESPACE, JOB) == []
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
    assert len(history.read_text().splitlines()) == 12
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
