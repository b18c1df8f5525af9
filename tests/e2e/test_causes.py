"""A job that cannot run says why, in the words of who refused it; once, and until it is well."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import api
from tests.e2e.polled import is_done, until
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    events,
    get,
    in_phase,
    lone_job,
    patch,
    pods,
    wait_for_event,
    watch,
)
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

REFUSALS = {"ChildRefused", "PodsNotCreated"}
TWO_ROUNDS = {"rounds": 2}
QUOTA = {"limits.cpu": "4", "limits.memory": "4Gi", "pods": "10"}


def delete(name: str) -> None:
    """Deletes a job, and waits for its pods: until they are gone they count for a quota."""
    api.kubectl("-n", NAMESPACE, "delete", "fj", name, "--wait")
    job = f"lockstep.dev/job={name}"
    api.kubectl("-n", NAMESPACE, "wait", "pods", "-l", job, "--for=delete", TIMEOUT)


@contextmanager
def there(kind: str, spec: Json) -> Iterator[None]:
    """An object that limits the namespace, named after its kind."""
    meta = {"name": kind.lower()}
    apply(NAMESPACE, {"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": spec})
    try:
        yield
    finally:
        api.kubectl("-n", NAMESPACE, "delete", kind, kind.lower(), "--wait", "--ignore-not-found")


@contextmanager
def quota(**hard: str) -> Iterator[None]:
    """A quota that is in force: one counts from when its controller has seen it."""
    with there("ResourceQuota", {"hard": hard}):
        watch(
            NAMESPACE, "resourcequota",
            lambda one: one.get("status", {}).get("hard") == hard, kind="resourcequota",
        )  # fmt: skip
        yield


@contextmanager
def most_of_a_container(cpu: str) -> Iterator[None]:
    """A LimitRange that is in force: the apiserver refuses a container with more."""
    limits = {"cpu": "100", "memory": "1Mi"}
    container = {"name": "c", "image": "none", "resources": {"limits": limits}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "larger-than-allowed"}}
    asked = json.dumps(pod | {"spec": {"containers": [container]}})
    with there("LimitRange", {"limits": [{"type": "Container", "max": {"cpu": cpu}}]}):
        create = ("-n", NAMESPACE, "create", "--dry-run=server", "-f", "-")
        until(lambda: not is_done(*create, stdin=asked), "the LimitRange is not in force")
        yield


def told(name: str, reason: str, *words: str) -> str:
    """The message of Ready, once it is False for this reason and has these words."""

    def has_come(job: Json) -> bool:
        ready = condition(job, "Ready")
        fits = (ready.get("status"), ready.get("reason")) == ("False", reason)
        return fits and all(word in ready["message"] for word in words)

    seen = watch(NAMESPACE, name, has_come)
    message: str = condition(seen, "Ready")["message"]
    return message


def refusals(name: str) -> set[str]:
    """Reasons of the events that tell of what was refused; pods may be late on a busy machine."""
    found = events(NAMESPACE, name)
    return {reason for kind, reason, _ in found if kind == "Warning" and reason in REFUSALS}


def only_warning(name: str, reason: str, *words: str) -> None:
    """One event has come for the cause, and it has its words."""
    first, *others = words
    wait_for_event(NAMESPACE, name, reason, words=first)
    told = [one for one in events(NAMESPACE, name) if one[1] == reason and first in one[2]]
    assert len(told) == 1, told
    assert told[0][0] == "Warning"
    assert all(word in told[0][2] for word in others)


def test_a_quota_is_told_in_its_own_words_with_the_field_that_helps(lockstep: str) -> None:
    with quota(**QUOTA):
        apply(NAMESPACE, lone_job("quota", training=TWO_ROUNDS))
        words = ("StatefulSet quota-cloud: FailedCreate", "must specify limits.cpu for: worker")
        told("quota", "PodsNotCreated", *words, "set spec.cloud.cpuLimit")
        only_warning("quota", "PodsNotCreated", *words)
        described = api.kubectl("-n", NAMESPACE, "describe", "fj", "quota")
        assert "must specify limits.cpu for: worker" in " ".join(described.split())
        delete("quota")


def test_a_quota_for_cpu_limits_lets_a_job_run_that_names_one(lockstep: str) -> None:
    """Its devices would ask for 8 cores with the usual boost; together they have what is left."""
    with quota(**(QUOTA | {"limits.cpu": "1500m"})):
        job = lone_job("within", training=TWO_ROUNDS, cloud={"cpu": "100m", "cpuLimit": "1"})
        apply(NAMESPACE, job)
        done = watch(NAMESPACE, "within", in_phase("Completed", "Failed"))
        assert done["status"]["progress"] == "2/2"
        assert refusals("within") == set()
        delete("within")


def test_a_limit_range_lets_a_device_run_that_fits_without_its_boost(lockstep: str) -> None:
    with most_of_a_container("500m"):
        job = lone_job("bounded", training=TWO_ROUNDS)
        job["spec"]["devices"][0]["cpuAtMax"] = "200m"
        apply(NAMESPACE, job)
        done = watch(NAMESPACE, "bounded", in_phase("Completed", "Failed"))
        assert done["status"]["progress"] == "2/2"
        assert refusals("bounded") == set()
        delete("bounded")


def test_a_limit_range_that_allows_less_is_told_and_its_end_is_enough(lockstep: str) -> None:
    job = lone_job("larger", training=TWO_ROUNDS, cloud={"cpu": "100m", "cpuLimit": "100m"})
    job["spec"]["devices"][0]["cpuAtMax"] = "200m"
    words = "maximum cpu usage per Container is 150m"
    with most_of_a_container("150m"):
        apply(NAMESPACE, job)
        told("larger", "PodsNotCreated", "StatefulSet larger-device-slow: FailedCreate", words)
        only_warning("larger", "PodsNotCreated", words)
    done = watch(NAMESPACE, "larger", in_phase("Completed", "Failed"))
    assert done["status"]["progress"] == "2/2"
    delete("larger")


def test_a_child_that_is_refused_is_told_and_comes_once_it_may(lockstep: str) -> None:
    with quota(services="0"):
        apply(NAMESPACE, lone_job("childless", training=TWO_ROUNDS))
        words = "exceeded quota: resourcequota, requested: services=1"
        told("childless", "ChildRefused", "Service childless-cloud", words)
        assert refusals("childless") <= {"ChildRefused"}
        wait_for_event(NAMESPACE, "childless", "ChildRefused")
        assert pods(NAMESPACE, "childless") == []
    done = watch(NAMESPACE, "childless", in_phase("Completed", "Failed"))
    assert done["status"]["progress"] == "2/2"
    delete("childless")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"priorityClassName": "nope"}, "no PriorityClass with name nope was found"),
        ({"runtimeClassName": "nope"}, 'RuntimeClass "nope" not found'),
    ],
)
def test_a_class_that_does_not_exist_is_named(lockstep: str, template: Json, words: str) -> None:
    (field,) = template
    name = field.lower()  # events outlive their job
    apply(NAMESPACE, lone_job(name, podTemplate=template))
    told(name, "PodsNotCreated", words)
    only_warning(name, "PodsNotCreated", words)
    delete(name)


def test_a_claim_that_is_not_bound_names_its_storage_class(lockstep: str) -> None:
    storage = {"size": "1Gi", "storageClassName": "nope"}
    apply(NAMESPACE, lone_job("unbound", cloud={"cpu": "100m", "storage": storage}))
    words = ("PersistentVolumeClaim unbound-cloud: is not bound, of StorageClass nope",)
    told("unbound", "ClaimNotBound", *words, 'storageclass.storage.k8s.io "nope" not found')
    only_warning("unbound", "ClaimNotBound", *words)
    delete("unbound")


def test_an_image_that_does_not_exist_is_one_event_and_fails_the_job_in_time(
    lockstep: str,
) -> None:
    apply(NAMESPACE, lone_job("imageless", image="registry.invalid/none:1"))
    told("imageless", "PodProblem", "registry.invalid/none:1")
    patch(NAMESPACE, "imageless", {"startDeadlineSeconds": 1})
    done = watch(NAMESPACE, "imageless", in_phase("Failed"))
    failed = condition(done, "Failed")
    assert failed["reason"] == "StartDeadlineExceeded"
    assert failed["message"].startswith("no round began within 1 s: imageless-")
    assert "registry.invalid/none:1" in failed["message"]
    only_warning("imageless", "PodProblem", "registry.invalid/none:1")
    assert api.kubectl("-n", NAMESPACE, "get", "sts", "-o", "name").strip() == ""
    delete("imageless")


def test_a_crash_is_told_with_its_last_words_until_the_pod_is_well(lockstep: str) -> None:
    """While it waits for its next try and during that, and as one event for all tries."""
    job = lone_job("crashing")
    job["spec"]["devices"][0]["uplink"] = {"trace": "never"}
    apply(NAMESPACE, job)
    words = "ConfigMap never is not there"
    told("crashing", "PodProblem", words)
    lost: list[Json] = []

    def has_crashed_thrice(pod: Json) -> bool:
        ready = condition(get(NAMESPACE, "crashing"), "Ready")
        if words not in ready.get("message", ""):
            lost.append(ready)
        found = pod.get("status", {}).get("containerStatuses") or [{}]
        return bool(found[0].get("restartCount", 0) >= 3 and "running" in found[0]["state"])

    watch(NAMESPACE, "crashing-device-slow-0", has_crashed_thrice, kind="pod")
    assert lost == []
    only_warning("crashing", "PodProblem", words, "exit code")
    delete("crashing")


def test_a_status_that_somebody_else_writes_is_healed(lockstep: str) -> None:
    apply(NAMESPACE, lone_job("healed", training={"rounds": 100_000}))
    watch(NAMESPACE, "healed", lambda job: (job.get("status", {}).get("round") or 0) >= 2)
    mine = {"status": {"round": 99_999, "phase": "Completed", "accuracy": 1.0, "conditions": []}}
    api.kubectl(
        "-n", NAMESPACE, "patch", "fj", "healed", "--subresource=status", "--type=merge", "-p",
        json.dumps(mine),
    )  # fmt: skip

    def is_healed(job: Json) -> bool:
        status = job["status"]
        return bool(status["phase"] == "Running" and 2 < status["round"] < 99_999)

    seen = watch(NAMESPACE, "healed", is_healed)
    assert condition(seen, "Accepted")["status"] == "True"
    assert seen["status"]["accuracy"] < 1.0
    delete("healed")
