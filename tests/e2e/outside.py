"""An operator as a process outside the cluster, for tests of what it makes of jobs in a namespace.

It needs neither the chart nor images: pods of its jobs need not run. The fixture `operator` starts
one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.cluster import api
from tests.e2e.running import Json, bring_crd
from tests.support.patience import PATIENCE_S, TIMEOUT
from tests.support.ports import free_port

CHILDREN = "statefulsets,services,configmaps,pods,persistentvolumeclaims,serviceaccounts"
JOB_LABEL = "lockstep.dev/job"


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


@dataclass
class Operator:
    """A running operator and what it watches."""

    namespace: str
    kubeconfig: Path
    log: Path
    port: int = field(default_factory=free_port)
    """The same after a restart: the planner's address is in the job's settings."""
    metrics_port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    """More words of its command."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it watches."""
        command = [
            sys.executable, "-m", "lockstep_operator", "--kubeconfig", str(self.kubeconfig),
            "--namespace", self.namespace, "--listen", f"127.0.0.1:{self.port}",
            "--planner-url", f"http://127.0.0.1:{self.port}",
            "--metrics-listen", f"127.0.0.1:{self.metrics_port}", *self.options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=dict(os.environ))
        until = time.monotonic() + PATIENCE_S
        while not _answers(f"http://127.0.0.1:{self.metrics_port}/readyz"):
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


@contextmanager
def outside(
    kubeconfig: Path, namespace: str, *, log: Path, options: tuple[str, ...] = ()
) -> Iterator[Operator]:
    """An operator that runs for the namespace, with the CRD of this checkout."""
    bring_crd()
    started = Operator(namespace, kubeconfig, log, options=options)
    started.start()
    try:
        yield started
    finally:
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
