"""A job's life beside training: suspended, changed, out of time, deleted in every phase."""

import json
from typing import Any

import pytest

from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    get,
    in_phase,
    lone_job,
    model_hash,
    past_round,
    patch,
    pods,
    rounds_go_on,
    small_job,
    wait_for_event,
    watch,
)
from tests.e2e.scaling import away
from tests.support.manifests import NATURAL
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

ENDLESS = {"rounds": 100_000}
CHILDREN = (
    "statefulsets,services,configmaps,pods,persistentvolumeclaims,serviceaccounts,"
    "poddisruptionbudgets"
)


def start(name: str, *, until: int = 3, **spec: Any) -> Json:
    """A job without an end that has finished some rounds."""
    apply(NAMESPACE, lone_job(name, training=ENDLESS, **spec))
    return watch(NAMESPACE, name, past_round(until))


def children(name: str) -> list[str]:
    """Everything that carries a job's label."""
    words = ("get", CHILDREN, "-l", f"lockstep.dev/job={name}", "-o", "name")
    return api.kubectl("-n", NAMESPACE, *words).split()


def delete(name: str) -> None:
    """Deletes a job and waits until nothing of it is left."""
    api.kubectl("-n", NAMESPACE, "delete", "fj", name, "--wait")
    wait_for_no_children(name)


def wait_for_no_children(name: str) -> None:
    """Waits until the garbage collector has taken everything of a job."""
    while left := children(name):
        api.kubectl("-n", NAMESPACE, "wait", "--for=delete", *left, TIMEOUT)


def wait_for_no_pods(name: str) -> None:
    """Waits until a job's pods are gone."""
    api.kubectl(
        "-n", NAMESPACE, "wait", "pods", "--for=delete", TIMEOUT,
        "-l", f"lockstep.dev/job={name}",
    )  # fmt: skip


def test_a_suspended_job_goes_on_at_its_round(lockstep: str) -> None:
    start("paused", checkpoint={"everyRounds": 1000})
    patch(NAMESPACE, "paused", {"suspend": True})
    watch(NAMESPACE, "paused", in_phase("Suspended"))
    wait_for_no_pods("paused")
    left = {child.partition("/")[0] for child in children("paused")}
    assert "statefulset.apps" not in left
    assert "poddisruptionbudget.policy" not in left
    assert "persistentvolumeclaim" in left
    job = get(NAMESPACE, "paused")  # its pods may have told of a round until they were gone
    before = job["status"]["round"]
    assert f"suspended after {before} of" in condition(job, "Progressing")["message"]

    patch(NAMESPACE, "paused", {"suspend": False})
    watch(NAMESPACE, "paused", in_phase("Running"))
    _, _, message = wait_for_event(NAMESPACE, "paused", "Resumed")
    resumed = int(message.removeprefix("the cloud pod goes on after round "))
    assert resumed >= before, "its last checkpoint was written when the pod was told to end"
    job = rounds_go_on(NAMESPACE, "paused")
    assert job["status"]["round"] > before
    assert job["status"]["startTime"] < job["status"]["activeTime"]
    delete("paused")


def test_fields_change_while_a_job_runs_and_no_pod_restarts(lockstep: str) -> None:
    apply(NAMESPACE, small_job("changed", training=ENDLESS))
    watch(NAMESPACE, "changed", past_round(3))
    uids = {pod["metadata"]["uid"] for pod in pods(NAMESPACE, "changed")}
    patch(NAMESPACE, "changed", {"allocation": {"policy": "max"}})
    watch(
        NAMESPACE, "changed",
        lambda job: {c["frequencyGHz"] for c in job["status"]["lastPlan"]["clients"]}
        == {1.2, 1.8, 2.4},
    )  # fmt: skip
    patch(NAMESPACE, "changed", {"participation": {"fraction": 0.34}})
    watch(NAMESPACE, "changed", lambda job: len(job["status"]["lastPlan"]["clients"]) == 1)
    patch(NAMESPACE, "changed", {"ttlSecondsAfterFinished": 3600, "activeDeadlineSeconds": 3600})
    job = rounds_go_on(NAMESPACE, "changed")
    assert {pod["metadata"]["uid"] for pod in pods(NAMESPACE, "changed")} == uids
    rounds = job["status"]["round"] + 10
    patch(NAMESPACE, "changed", {"training": {"rounds": rounds}})
    job = watch(NAMESPACE, "changed", in_phase("Completed"))
    assert condition(job, "Complete")["reason"] == "RoundsCompleted"
    done = job["status"]["round"]  # more, where so many were over before this was known
    assert done >= rounds
    assert job["status"]["progress"] == f"{done}/{done}"
    delete("changed")


def test_an_accuracy_that_was_reached_meanwhile_ends_the_job(lockstep: str) -> None:
    start("aimed")
    patch(NAMESPACE, "aimed", {"training": {"target": {"metric": "accuracy", "value": 0.3}}})
    job = watch(NAMESPACE, "aimed", in_phase("Completed"))
    assert condition(job, "Complete")["reason"] == "TargetReached"
    assert len(model_hash(NAMESPACE, "aimed")) == 64
    delete("aimed")


def test_an_immutable_field_is_refused_in_words(lockstep: str) -> None:
    start("fixed", until=1)
    with pytest.raises(ClusterError, match=r"model cannot be changed: delete the job"):
        patch(NAMESPACE, "fixed", {"model": {"name": "cnn"}})
    delete("fixed")


def test_a_job_that_takes_too_long_fails(lockstep: str) -> None:
    apply(NAMESPACE, lone_job("slow", training=ENDLESS, activeDeadlineSeconds=12))
    job = watch(NAMESPACE, "slow", in_phase("Failed"))
    assert condition(job, "Failed")["reason"] == "DeadlineExceeded"
    assert "active for longer than 12 s" in condition(job, "Failed")["message"]
    wait_for_no_pods("slow")
    assert "persistentvolumeclaim/slow-cloud" in children("slow")
    delete("slow")


def test_a_finished_job_is_deleted_when_its_time_is_over(lockstep: str) -> None:
    apply(NAMESPACE, lone_job("brief", training={"rounds": 1}, ttlSecondsAfterFinished=5))
    api.kubectl("-n", NAMESPACE, "wait", "fj/brief", "--for=delete", TIMEOUT)
    wait_for_no_children("brief")


def prepare(name: str, phase: str) -> None:
    """A job in a phase."""
    job = lone_job(name, training={"rounds": 1} if phase == "Completed" else ENDLESS)
    if phase == "Pending":
        job["spec"]["cloud"] = {"cpu": "100"}
    if phase == "Refused":
        job["spec"]["data"] = NATURAL
    if phase == "Starting":
        job["spec"]["devices"][0]["memory"] = "16Mi"  # it never gets there
    if phase == "Failed":
        job["spec"]["model"] = {"name": "mlp", "args": {"hidden": "many"}}
    if phase == "Suspended":
        job["spec"]["suspend"] = True
    apply(NAMESPACE, job)


PHASES = ("Pending", "Refused", "Starting", "Running", "Suspended", "Completed", "Failed")


def test_a_job_can_be_deleted_in_any_phase_while_the_operator_is_down(lockstep: str) -> None:
    names = {phase: f"gone-{phase.lower()}" for phase in PHASES}
    for phase, name in names.items():
        prepare(name, phase)
    for phase, name in names.items():
        watch(NAMESPACE, name, in_phase(phase))
    with away("operator"):
        api.kubectl("-n", NAMESPACE, "delete", "fj", *names.values(), "--wait")
        for name in names.values():
            wait_for_no_children(name)


def test_a_running_cloud_pod_is_not_evicted(lockstep: str) -> None:
    """What `kubectl drain` asks for is refused while the job runs, and allowed once it does not."""
    start("steady", until=1)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "steady-cloud-0", "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/steady-cloud-0/eviction"
    with pytest.raises(ClusterError, match="disruption budget"):
        api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    delete("steady")
