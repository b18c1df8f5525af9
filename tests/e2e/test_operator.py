"""The operator as a process outside a real Kubernetes, restricted to one of its namespaces."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.cluster import api
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CHILDREN = "statefulsets,services,configmaps,pods,persistentvolumeclaims,serviceaccounts"
JOB_LABEL = "lockstep.dev/job"

Json = dict[str, Any]


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Operator:
    """A running operator and what it watches."""

    namespace: str
    kubeconfig: Path
    log: Path
    port: int = field(default_factory=_free_port)
    """The same after a restart: the planner's address is in the job's settings."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it watches."""
        command = [
            sys.executable, "-m", "lockstep_operator", "--kubeconfig", str(self.kubeconfig),
            "--namespace", self.namespace, "--listen", f"127.0.0.1:{self.port}",
            "--planner-url", f"http://127.0.0.1:{self.port}",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=dict(os.environ))
        until = time.monotonic() + PATIENCE_S
        while not _answers(f"http://127.0.0.1:{self.port}/readyz"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)  # another process starting gives no event

    def stop(self) -> int:
        """End it as Kubernetes would; returns its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=PATIENCE_S)
        self.process = None
        return code


@pytest.fixture
def operator(cluster: Path, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    started = Operator(namespace, cluster, tmp_path / "operator.log")
    started.start()
    yield started
    started.stop()


def job(name: str, **spec: Any) -> Json:
    base: Json = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 2},
        "cloud": {"cpu": "50m"},
        "devices": [{"name": "small", "replicas": 1, "cpuAtMax": "100m", "memory": "256Mi"}],
    }
    return {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": base | spec,
    }


def create(namespace: str, manifest: Json) -> None:
    api.kubectl("-n", namespace, "create", "-f", "-", stdin=yaml.safe_dump(manifest))


def wait_for_phase(namespace: str, name: str, phase: str) -> Json:
    condition = f"--for=jsonpath={{.status.phase}}={phase}"
    api.kubectl("-n", namespace, "wait", f"fj/{name}", condition, TIMEOUT)
    found: Json = json.loads(api.kubectl("-n", namespace, "get", "fj", name, "-o", "json"))
    return found


def message(job: Json, kind: str) -> str:
    conditions = {one["type"]: one for one in job["status"]["conditions"]}
    return f"{conditions[kind]['reason']}: {conditions[kind]['message']}"


def children(namespace: str, name: str) -> list[str]:
    selector = f"{JOB_LABEL}={name}"
    return api.kubectl("-n", namespace, "get", CHILDREN, "-l", selector, "-o", "name").split()


def wait_until_no_children(namespace: str, name: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for the garbage collector, which gives no event for "everything is gone"."""
    until = time.monotonic() + timeout_s
    while left := children(namespace, name):
        assert time.monotonic() < until, f"left over: {left}"
        api.kubectl(
            "-n", namespace, "wait", "--for=delete", left[0], TIMEOUT
        )  # fmt: skip


def test_a_job_gets_children_and_an_event_and_is_left_unmarked(operator: Operator) -> None:
    create(operator.namespace, job("plain"))
    seen = wait_for_phase(operator.namespace, "plain", "Starting")
    assert "finalizers" not in seen["metadata"]
    assert "annotations" not in seen["metadata"]
    assert message(seen, "Accepted").startswith("Valid")
    found = children(operator.namespace, "plain")
    assert {"statefulset.apps/plain-cloud", "statefulset.apps/plain-device-small"} <= set(found)
    told = api.kubectl("-n", operator.namespace, "describe", "fj", "plain")
    assert "lockstep-operator  pods are being started" in told
    pods = json.loads(api.kubectl("-n", operator.namespace, "get", "pods", "-o", "json"))["items"]
    for pod in pods:
        assert "finalizers" not in pod["metadata"]


def test_an_unsupported_job_is_refused_in_words(operator: Operator) -> None:
    create(operator.namespace, job("ahead", strategy={"name": "scaffold"}))
    seen = wait_for_phase(operator.namespace, "ahead", "Refused")
    assert message(seen, "Accepted").startswith("NotSupported: ")
    assert "scaffold" in message(seen, "Accepted")
    assert children(operator.namespace, "ahead") == []


def test_a_job_that_does_not_fit_says_by_how_much(operator: Operator) -> None:
    large = {"name": "huge", "replicas": 1, "cpuAtMax": "5000", "memory": "256Mi"}
    create(operator.namespace, job("large", devices=[large]))
    seen = wait_for_phase(operator.namespace, "large", "Pending")
    assert "needs 5000.0 cores on tier device" in message(seen, "Progressing")
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


def test_a_restart_changes_nothing(operator: Operator) -> None:
    create(operator.namespace, job("steady"))
    wait_for_phase(operator.namespace, "steady", "Starting")
    api.kubectl(
        "-n", operator.namespace, "wait", "--for=condition=Ready", "pod/steady-cloud-0",
        TIMEOUT,
    )  # fmt: skip
    before = identities(operator.namespace, "steady")
    assert operator.stop() == 0
    operator.start()
    create(operator.namespace, job("other", strategy={"name": "scaffold"}))
    wait_for_phase(operator.namespace, "other", "Refused")  # the new operator is at work
    assert identities(operator.namespace, "steady") == before


def test_a_wrong_option_is_said_in_one_line() -> None:
    command = [sys.executable, "-m", "lockstep_operator", "--listen", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr.startswith("lockstep-operator: listen: ")
    assert done.stderr.count("\n") == 1
