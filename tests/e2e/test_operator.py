"""The operator as a process outside a real Kubernetes, restricted to one of its namespaces."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep_api.names import CA_FILE
from tests.cluster import api
from tests.e2e.outside import (
    CHILDREN,
    JOB_LABEL,
    Operator,
    children,
    create,
    job,
    message,
    outside,
    wait_for_phase,
    wait_until_no_children,
)
from tests.e2e.running import Json, get, wait_for_event, watch
from tests.support.manifests import NATURAL
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster


def test_a_job_gets_children_and_an_event_and_is_left_unmarked(operator: Operator) -> None:
    create(operator.namespace, job("plain"))
    seen = wait_for_phase(operator.namespace, "plain", "Starting")
    assert "finalizers" not in seen["metadata"]
    assert "annotations" not in seen["metadata"]
    assert message(seen, "Accepted").startswith("Valid")
    found = children(operator.namespace, "plain")
    assert {"statefulset.apps/plain-cloud", "statefulset.apps/plain-device-small"} <= set(found)
    wait_for_event(operator.namespace, "plain", "Starting")
    told = api.kubectl("-n", operator.namespace, "describe", "fj", "plain")
    assert "lockstep-operator  pods are being started" in told
    pods = json.loads(api.kubectl("-n", operator.namespace, "get", "pods", "-o", "json"))["items"]
    for pod in pods:
        assert "finalizers" not in pod["metadata"]


def test_an_unsupported_job_is_refused_in_words(operator: Operator) -> None:
    create(operator.namespace, job("ahead", data=NATURAL))
    seen = wait_for_phase(operator.namespace, "ahead", "Refused")
    assert message(seen, "Accepted").startswith("NotSupported: ")
    assert "data.partition.scheme natural" in message(seen, "Accepted")
    assert children(operator.namespace, "ahead") == []


def test_a_job_that_does_not_fit_says_by_how_much(operator: Operator) -> None:
    """Where jobs of other tests take most of a tier, that is said first."""
    large = {"name": "huge", "replicas": 1, "cpuAtMax": "5000", "memory": "16Mi"}
    create(operator.namespace, job("large", devices=[large]))
    wait_for_phase(operator.namespace, "large", "Pending")
    words = "needs 5000.0 cores on tier device"
    watch(operator.namespace, "large", lambda one: words in message(one, "Progressing"))
    assert children(operator.namespace, "large") == []


def test_a_job_is_deleted_while_the_operator_is_down(operator: Operator) -> None:
    create(operator.namespace, job("short"))
    wait_for_phase(operator.namespace, "short", "Starting")
    assert operator.stop() == 0
    api.kubectl("-n", operator.namespace, "delete", "fj", "short", TIMEOUT)
    wait_until_no_children(operator.namespace, "short")


def test_a_restarted_operator_goes_on(operator: Operator) -> None:
    assert operator.stop() == 0
    create(operator.namespace, job("later"))
    operator.start()
    wait_for_phase(operator.namespace, "later", "Starting")
    api.kubectl("-n", operator.namespace, "delete", "configmap", "later-settings")
    api.kubectl(
        "-n", operator.namespace, "wait", "--for=create", "configmap/later-settings",
        TIMEOUT,
    )  # fmt: skip


def identities(namespace: str, name: str) -> dict[str, Json]:
    """What an operator could have changed of a job's children: their identity and their spec."""
    selector = f"{JOB_LABEL}={name}"
    text = api.kubectl("-n", namespace, "get", CHILDREN, "-l", selector, "-o", "json")
    return {
        f"{item['kind']}/{item['metadata']['name']}": {
            "uid": item["metadata"]["uid"],
            "generation": item["metadata"].get("generation"),
            "annotations": item["metadata"].get("annotations"),
            "content": item.get("spec") or item.get("data"),
        }
        for item in json.loads(text)["items"]
    }


def wait_for_pods(namespace: str, name: str) -> None:
    """Until each set of a job has made its pod, and each pod has its node."""
    for kind, what in (("sts", "jsonpath={.status.replicas}=1"), ("pod", "condition=PodScheduled")):
        selected = ("wait", kind, "-l", f"{JOB_LABEL}={name}")
        api.kubectl("-n", namespace, *selected, f"--for={what}", TIMEOUT)


def test_a_restart_changes_nothing(operator: Operator) -> None:
    create(operator.namespace, job("steady"))
    wait_for_phase(operator.namespace, "steady", "Starting")
    api.kubectl(
        "-n", operator.namespace, "wait", "--for=condition=Ready", "pod/steady-cloud-0",
        TIMEOUT,
    )  # fmt: skip
    wait_for_pods(operator.namespace, "steady")
    before = identities(operator.namespace, "steady")
    assert operator.stop() == 0
    operator.start()
    create(operator.namespace, job("other", data=NATURAL))
    wait_for_phase(operator.namespace, "other", "Refused")  # the new operator is at work
    assert identities(operator.namespace, "steady") == before


@pytest.fixture
def certifying(cluster: Path, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """An operator that makes certificates; its seed is in the namespace, too."""
    options = ("--tls", "--lease-namespace", namespace)
    with outside(cluster, namespace, log=tmp_path / "operator.log", options=options) as started:
        yield started


def trusted(namespace: str, name: str) -> str:
    """The CA that a job's pods trust."""
    return str(get(namespace, f"{name}-settings", "configmap")["data"][CA_FILE])


def test_cas_are_the_jobs_own_and_stay_until_the_seed_goes(certifying: Operator) -> None:
    namespace = certifying.namespace
    for name in ("one", "two"):
        create(namespace, job(name))
        wait_for_phase(namespace, name, "Starting")
    wait_for_pods(namespace, "one")
    before = identities(namespace, "one")
    mine = trusted(namespace, "one")
    assert mine.startswith("-----BEGIN CERTIFICATE-----")
    assert mine != trusted(namespace, "two")
    assert certifying.stop() == 0
    certifying.start()
    create(namespace, job("other", data=NATURAL))
    wait_for_phase(namespace, "other", "Refused")  # the new operator is at work
    assert identities(namespace, "one") == before
    assert certifying.stop() == 0
    api.kubectl("-n", namespace, "delete", "secret", "lockstep-authority")
    certifying.start()
    watch(namespace, "one-settings", lambda _: trusted(namespace, "one") != mine, kind="configmap")


def test_a_wrong_option_is_said_in_one_line() -> None:
    command = [sys.executable, "-m", "lockstep_operator", "--listen", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr.startswith("lockstep-operator: listen: ")
    assert done.stderr.count("\n") == 1
