"""A FederatedJob trains on real pods, installed by the real helm: the path that a user goes."""

import re

import pytest

from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    events,
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
    """A job of three devices that ran to its end."""
    apply(lockstep, small_job(JOB, training={"rounds": 12}))
    return watch(lockstep, JOB, in_phase("Completed"))


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


def test_running_pods_are_resized_in_place(lockstep: str) -> None:
    """While a job runs, its pods have the plan's limit, not the boost, and never restarted."""
    apply(lockstep, small_job("resized", training={"rounds": 500}))
    watch(lockstep, "resized", limits_are_planned)
    assert [restarts(pod) for pod in pods(lockstep, "resized", "device")] == [0, 0, 0]
    api.kubectl("-n", lockstep, "delete", "fj", "resized", "--wait")
    api.kubectl(
        "-n", lockstep, "wait", "pods", "-l", "lockstep.dev/job=resized", "--for=delete",
        TIMEOUT,
    )  # fmt: skip
    left = api.kubectl(
        "-n", lockstep, "get", CHILDREN, "-l", "lockstep.dev/job=resized", "-o", "name"
    )
    assert not left.strip()


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
