"""Runs the program `lockstep` in this process, against a fake apiserver."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lockstep_cli.app import app
from tests.support.apiserver import FakeApi, Json


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of the program left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines of its results, without the blanks that pad tables."""
        return [line.rstrip() for line in self.out.splitlines()]


@dataclass(frozen=True, slots=True)
class Lockstep:
    """The program, with a kubeconfig of its own."""

    api: FakeApi
    kubeconfig: Path

    def __call__(
        self, *words: str, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> Ran:
        """Runs one command line."""
        variables = {"KUBECONFIG": str(self.kubeconfig), "NO_COLOR": "1", **(env or {})}
        done = CliRunner().invoke(
            app, list(words), input=stdin, env=variables, prog_name="lockstep"
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)


def job(
    name: str = "digits", namespace: str = "lab", *, status: Json | None = None, **spec: Any
) -> Json:
    """A FederatedJob as the cluster has it."""
    return {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 20},
            "strategy": {"name": "fedavg"},
            "mode": "federated",
            "allocation": {"policy": "equalize"},
            "devices": [{"name": "fast", "replicas": 2, "cpuAtMax": "400m"}],
            **spec,
        },
        "status": status or {},
    }


def running_status(**more: Any) -> Json:
    """The status of a job after 3 of its 20 rounds."""
    return {
        "phase": "Running",
        "round": 3,
        "rounds": 20,
        "progress": "3/20",
        "clients": "2/2",
        "accuracy": 0.8125,
        "loss": 0.5,
        "elapsedSeconds": 30.0,
        "energyJoules": {"model": 1234.5},
        **more,
    }


def device_pod(name: str, *, group: str, job: str = "digits", **more: Any) -> Json:
    """A device's pod that runs."""
    return pod(
        f"{job}-device-{name}",
        "device",
        job=job,
        labels={"lockstep.dev/device-group": group, **more.pop("labels", {})},
        **more,
    )


def pod(
    name: str,
    role: str,
    *,
    job: str = "digits",
    labels: Json | None = None,
    ready: bool = True,
    state: Json | None = None,
    restarts: int = 0,
) -> Json:
    """A pod of a job."""
    container = {"name": "worker", "restartCount": restarts, "state": state or {"running": {}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "lab",
            "labels": {"lockstep.dev/job": job, "lockstep.dev/role": role, **(labels or {})},
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [container],
        },
    }


def planned(client: str, *, applied: bool = True, **more: Any) -> Json:
    """A client of the newest plan."""
    told = {"client": client, "frequencyGHz": 1.25, "cpuMilli": 250, "steps": 40}
    return {**told, "applied": applied, **more}


_OF_PROMETHEUS = {
    "app.kubernetes.io/part-of": "lockstep",
    "app.kubernetes.io/component": "prometheus",
}


def prometheus_service(namespace: str = "lab") -> Json:
    """The chart's Service."""
    meta = {"name": "lockstep-prometheus", "namespace": namespace, "labels": _OF_PROMETHEUS}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta}


def prometheus_pod(name: str = "p-0", namespace: str = "lab", **more: Any) -> Json:
    """A pod of the chart's Prometheus."""
    made = pod(name, "", **more)
    made["metadata"] |= {"namespace": namespace, "labels": _OF_PROMETHEUS}
    return made


def vector(*samples: tuple[Json, float]) -> Json:
    """An answer of Prometheus to an instant query."""
    found = [{"metric": labels, "value": [0, str(value)]} for labels, value in samples]
    return {"status": "success", "data": {"resultType": "vector", "result": found}}


def event(about: tuple[str, str], reason: str, *, at: str, **more: Any) -> Json:
    """An event about (kind, name)."""
    kind, name = about
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{reason}.{at}", "namespace": "lab"},
        "involvedObject": {"kind": kind, "name": name, "namespace": "lab"},
        "type": "Normal",
        "reason": reason,
        "message": f"{reason} of {name}",
        "lastTimestamp": at,
        **more,
    }
