"""Two operators: one leads, the other takes over; and upgrades of the chart, while a job runs."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.recipe import project_version
from tests.cluster import api
from tests.e2e.running import (
    CHART,
    Json,
    apply,
    events,
    in_phase,
    installed,
    past_round,
    patch,
    pods,
    rounds_are_planned,
    rounds_go_on,
    small_job,
    watch,
)
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

NAMESPACE = "leader-e2e"
JOB = "led"
OPERATORS = "app.kubernetes.io/component=operator"
CHILDREN = "statefulsets,services,configmaps,persistentvolumeclaims,serviceaccounts"
CRD = "federatedjobs.lockstep.dev"


@pytest.fixture(scope="module")
def running(cluster: object) -> Iterator[str]:
    """A job that runs under two operators."""
    with installed(NAMESPACE, "--set", "operator.replicas=2"):
        apply(NAMESPACE, small_job(JOB, training={"rounds": 100_000}))
        watch(NAMESPACE, JOB, past_round(2))
        yield JOB


def holder_of(lease: Json) -> str:
    """Who holds this Lease; empty when it was released."""
    return lease["spec"].get("holderIdentity") or ""


def leader() -> str:
    """The holder of the Lease, as soon as somebody has it."""
    return holder_of(
        watch(NAMESPACE, "lockstep-operator", lambda one: bool(holder_of(one)), kind="lease")
    )


def operator_pods() -> list[str]:
    """Names of the operators' pods, less those that are going."""
    text = api.kubectl("-n", NAMESPACE, "get", "pods", "-l", OPERATORS, "-o", "json")
    return [
        pod["metadata"]["name"]
        for pod in json.loads(text)["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]


def writes() -> dict[str, Any]:
    """Child → when its spec was last written by an operator."""
    text = api.kubectl(
        "-n", NAMESPACE, "get", CHILDREN, "-l", f"lockstep.dev/job={JOB}", "-o", "json",
        "--show-managed-fields",
    )  # fmt: skip
    return {
        f"{item['kind']}/{item['metadata']['name']}": entry["time"]
        for item in json.loads(text)["items"]
        for entry in item["metadata"]["managedFields"]
        if entry["manager"] == "lockstep-operator" and not entry.get("subresource")
    }


def wait_for_successor(of: str) -> float:
    """Waits by a watch until another operator leads; the seconds that took.

    It may be the one that stood by or the pod that replaces the one that went: whoever looks
    first once the lease is free.
    """
    began = time.monotonic()
    watch(
        NAMESPACE, "lockstep-operator", lambda lease: holder_of(lease) not in {"", of},
        kind="lease",
    )  # fmt: skip
    return time.monotonic() - began


def check_undisturbed(uids: set[str], written: dict[str, Any]) -> None:
    """The job's pods are the same, nothing was written again, no phase was told twice."""
    assert {pod["metadata"]["uid"] for pod in pods(NAMESPACE, JOB)} == uids
    assert all(
        status["restartCount"] == 0
        for pod in pods(NAMESPACE, JOB)
        for status in pod["status"]["containerStatuses"]
    )
    assert writes() == written
    told = [reason for _, reason, _ in events(NAMESPACE, JOB)]
    assert (told.count("Starting"), told.count("Running")) == (1, 1)
    # How often this one may be told is in the memory of the operator that told it.
    assert {reason for reason in told if told.count(reason) > 1} <= {"ClientsMissing"}


def pod_uids() -> set[str]:
    """UIDs of the job's pods."""
    return {pod["metadata"]["uid"] for pod in pods(NAMESPACE, JOB)}


def test_one_of_two_leads_and_rounds_are_planned(running: str) -> None:
    assert len(operator_pods()) == 2
    assert leader() in operator_pods()
    rounds_are_planned(NAMESPACE, JOB)


def test_a_killed_leader_is_replaced_and_nothing_is_written_twice(running: str) -> None:
    uids, written, old = pod_uids(), writes(), leader()
    api.kill_container(NAMESPACE, old)
    api.kubectl("-n", NAMESPACE, "delete", "pod", old, "--grace-period=1", "--wait=false")
    seconds = wait_for_successor(old)
    print(f"handover after a kill: {seconds:.1f} s")
    assert rounds_are_planned(NAMESPACE, JOB)["status"]["phase"] == "Running"
    check_undisturbed(uids, written)


def test_a_leader_that_ends_in_order_hands_over(running: str) -> None:
    api.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/lockstep-operator", TIMEOUT)
    uids, written, old = pod_uids(), writes(), leader()
    api.kubectl("-n", NAMESPACE, "delete", "pod", old, "--wait=false")
    seconds = wait_for_successor(old)
    print(f"handover in order: {seconds:.1f} s")
    assert rounds_go_on(NAMESPACE, JOB)["status"]["phase"] == "Running"
    check_undisturbed(uids, written)


def test_uninstalling_leaves_jobs_and_data_and_a_new_release_adopts_them(running: str) -> None:
    uids, written = pod_uids(), writes()
    release = f"lockstep-{NAMESPACE}"
    api.helm("uninstall", release, "--namespace", NAMESPACE, "--wait")
    assert pod_uids() == uids
    api.helm(
        "install", release, str(CHART), "--namespace", NAMESPACE, "--wait", TIMEOUT,
        "--set", f"watchNamespaces={{{NAMESPACE}}}",
    )  # fmt: skip
    rounds_are_planned(NAMESPACE, JOB)
    check_undisturbed(uids, written)
    patch(NAMESPACE, JOB, {"training": {"rounds": 1}})
    watch(NAMESPACE, JOB, in_phase("Completed"))
    claims = api.kubectl("-n", NAMESPACE, "get", "pvc", "-o", "name").split()
    assert claims == [f"persistentvolumeclaim/{JOB}-cloud"]


# -- upgrade ---------------------------------------------------------------------------------


def previous_chart(folder: Path) -> Path:
    """This chart as a version before it was: no election, one operator, an older CRD."""
    chart = folder / "lockstep"
    shutil.copytree(CHART, chart)
    rewrite(chart / "Chart.yaml", f"version: {project_version()}", "version: 0.0.9")
    templates = chart / "templates" / "operator"
    rewrite(templates / "deployment.yaml", 'LEADER_ELECT\n              value: "true"',
            'LEADER_ELECT\n              value: "false"')  # fmt: skip
    file = chart / "files" / "federatedjobs.yaml"
    crd = yaml.safe_load(file.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del schema["spec"]["properties"]["checkpoint"]
    file.write_text(yaml.safe_dump(crd))
    return chart


def rewrite(file: Path, old: str, new: str) -> None:
    """Replaces a text that must be there."""
    text = file.read_text()
    assert old in text, f"{file.name} has no {old!r}"
    file.write_text(text.replace(old, new, 1))


@pytest.fixture
def owned_crd(cluster: object) -> Iterator[str]:
    """The cluster's CRD as if the release of this test had brought it; afterwards as it was."""
    namespace = "upgrade-e2e"
    notes = {"release-name": f"lockstep-{namespace}", "release-namespace": namespace}
    before: Json = json.loads(api.kubectl("get", "crd", CRD, "-o", "json"))["metadata"]
    mine = {f"meta.helm.sh/{key}": value for key, value in notes.items()}
    theirs = {key: before.get("annotations", {}).get(key) for key in mine}
    label = "app.kubernetes.io/managed-by"
    mark({"annotations": mine, "labels": {label: "Helm"}})
    yield namespace
    mark({"annotations": theirs, "labels": {label: before.get("labels", {}).get(label)}})


def mark(metadata: Json) -> None:
    """Sets annotations and labels of the CRD; None takes one away."""
    body = json.dumps({"metadata": metadata})
    api.kubectl("patch", "crd", CRD, "--type=merge", "-p", body)


def has_checkpoint_field() -> bool:
    """Whether the served CRD knows spec.checkpoint."""
    crd = json.loads(api.kubectl("get", "crd", CRD, "-o", "json"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return "checkpoint" in schema["spec"]["properties"]


@pytest.mark.alone  # the CRD is everyone's
def test_an_upgrade_brings_the_new_crd_and_disturbs_no_job(owned_crd: str, tmp_path: Path) -> None:
    namespace, release = owned_crd, f"lockstep-{owned_crd}"
    words = (
        "--namespace", namespace, "--wait", TIMEOUT, "--set",
        f"watchNamespaces={{{namespace}}}", "--force-conflicts",  # kubectl applied the CRD before
    )  # fmt: skip
    try:
        api.helm("install", release, str(previous_chart(tmp_path)), "--create-namespace", *words)
        assert not has_checkpoint_field()
        apply(namespace, small_job(JOB, training={"rounds": 100_000}))
        watch(namespace, JOB, past_round(3))
        uids = {pod["metadata"]["uid"] for pod in pods(namespace, JOB)}
        api.helm("upgrade", release, str(CHART), *words, "--set", "operator.replicas=2")
        assert has_checkpoint_field()
        rounds_are_planned(namespace, JOB, more=5)
        assert {pod["metadata"]["uid"] for pod in pods(namespace, JOB)} == uids
        assert all(
            status["restartCount"] == 0
            for pod in pods(namespace, JOB)
            for status in pod["status"]["containerStatuses"]
        )
    finally:
        api.kubectl("-n", namespace, "delete", "fj", "--all", "--wait")
        api.helm("uninstall", release, "--namespace", namespace, "--wait", "--ignore-not-found")
        api.kubectl("delete", "namespace", namespace, "--wait")
