"""A FederatedJob trains on real pods, installed by the real helm: the path that a user goes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import api

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.yaml"
RELEASE = "lockstep-train"
NAMESPACE = "train-e2e"
JOB = "quick"
CHILDREN = "statefulsets,services,configmaps,pods,persistentvolumeclaims,serviceaccounts"

Json = dict[str, Any]


def job_json(name: str) -> Json:
    """The job as the apiserver has it."""
    found: Json = json.loads(api.kubectl("-n", NAMESPACE, "get", "fj", name, "-o", "json"))
    return found


def wait_for_phase(name: str, phase: str, *, timeout_s: int = 240) -> Json:
    """Waits by a watch until the job has the phase."""
    api.kubectl(
        "-n", NAMESPACE, "wait", f"fj/{name}", f"--for=jsonpath={{.status.phase}}={phase}",
        f"--timeout={timeout_s}s", timeout_s=timeout_s + 10,
    )  # fmt: skip
    return job_json(name)


def conditions(job: Json) -> dict[str, Json]:
    """The conditions by type."""
    return {c["type"]: c for c in job["status"]["conditions"]}


def manifest(tmp_path: Path, name: str, **training: Any) -> Path:
    """The example under another name, with fewer devices and other training fields."""
    job = yaml.safe_load(EXAMPLE.read_text())
    job["metadata"] = {"name": name}
    for group in job["spec"]["devices"]:
        group["replicas"] = 1
    job["spec"]["training"] |= training
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture(scope="module")
def lockstep(cluster: object) -> Iterator[str]:
    """The chart, installed for one namespace, with its Prometheus."""
    api.helm(
        "install", RELEASE, str(ROOT / "charts" / "lockstep"), "--namespace", NAMESPACE,
        "--create-namespace", "--wait", "--timeout=180s",
        "--set", f"watchNamespaces={{{NAMESPACE}}}",
    )  # fmt: skip
    yield NAMESPACE
    api.kubectl("-n", NAMESPACE, "delete", "fj", "--all", "--wait")
    api.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
    api.kubectl("delete", "namespace", NAMESPACE, "--wait")


@pytest.fixture(scope="module")
def trained(lockstep: str, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """A job of three devices that ran to its end."""
    path = manifest(tmp_path_factory.mktemp("job"), JOB, rounds=12, target=None)
    api.kubectl("-n", lockstep, "apply", "-f", str(path))
    return wait_for_phase(JOB, "Completed")


def test_it_reaches_the_accuracy_in_all_rounds(trained: Json) -> None:
    status = trained["status"]
    assert status["progress"] == "12/12"
    assert status["accuracy"] >= 0.7
    assert conditions(trained)["Complete"]["reason"] == "RoundsCompleted"
    assert all(
        c["observedGeneration"] == trained["metadata"]["generation"]
        for c in conditions(trained).values()
    )


def test_the_limits_were_applied_and_the_devices_had_them(trained: Json) -> None:
    plan = trained["status"]["lastPlan"]
    assert plan["planned"]
    assert len(plan["clients"]) == 3
    assert all(client["applied"] for client in plan["clients"])
    assert conditions(trained)["Degraded"]["status"] == "False"


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
    listed = json.loads(
        api.kubectl("-n", NAMESPACE, "get", "events", "-o", "json",
                    "--field-selector", f"involvedObject.name={JOB}")
    )  # fmt: skip
    reasons = [item["reason"] for item in listed["items"]]
    assert sorted(reasons) == sorted(set(reasons)), "one event per phase"
    assert {"Starting", "Running", "Completed"} <= set(reasons)


def test_prometheus_has_every_device(trained: Json) -> None:
    path = (
        f"/api/v1/namespaces/{NAMESPACE}/services/lockstep-prometheus:9090/proxy/api/v1/query"
        f"?query=max_over_time(lockstep_energy_joules_total[30m])"
    )
    result = json.loads(api.kubectl("get", "--raw", path))["data"]["result"]
    seen = {(r["metric"]["client"], r["metric"]["source"]) for r in result}
    clients = ("fast-0", "medium-0", "slow-0")
    assert seen == {(client, source) for client in clients for source in ("model", "cpu")}


def test_running_pods_are_resized_in_place(lockstep: str, tmp_path: Path) -> None:
    """While a job runs, its pods have the plan's limit, not the boost, and never restarted."""
    path = manifest(tmp_path, "resized", rounds=500, target=None)
    api.kubectl("-n", lockstep, "apply", "-f", str(path))
    job = wait_for_phase("resized", "Running")
    wanted = {c["client"]: c["cpuMilli"] for c in job["status"]["lastPlan"]["clients"]}
    pods = json.loads(
        api.kubectl("-n", lockstep, "get", "pods", "-o", "json",
                    "-l", "lockstep.dev/job=resized,lockstep.dev/role=device")
    )["items"]  # fmt: skip
    assert len(pods) == len(wanted) == 3
    for pod in pods:
        container = pod["status"]["containerStatuses"][0]
        client = f"{pod['metadata']['labels']['lockstep.dev/device-group']}-0"
        assert container["resources"]["limits"]["cpu"] == f"{wanted[client]}m"
        assert container["restartCount"] == 0
    api.kubectl("-n", lockstep, "delete", "fj", "resized", "--wait")
    api.kubectl(
        "-n", lockstep, "wait", "pods", "-l", "lockstep.dev/job=resized", "--for=delete",
        "--timeout=60s",
    )  # fmt: skip
    left = api.kubectl(
        "-n", lockstep, "get", CHILDREN, "-l", "lockstep.dev/job=resized", "-o", "name"
    )
    assert not left.strip()


def test_a_target_stops_the_job(lockstep: str, tmp_path: Path) -> None:
    target = {"metric": "accuracy", "value": 0.5}
    path = manifest(tmp_path, "target", rounds=500, target=target)
    api.kubectl("-n", lockstep, "apply", "-f", str(path))
    job = wait_for_phase("target", "Completed")
    assert conditions(job)["Complete"]["reason"] == "TargetReached"
    assert job["status"]["round"] < 500


def test_the_model_stays_on_the_volume(trained: Json) -> None:
    """The pods of a finished job go, its volume keeps the model."""
    pods = api.kubectl(
        "-n", NAMESPACE, "get", "pods", "-l", f"lockstep.dev/job={JOB}", "-o", "name"
    )
    assert not pods.strip()
    reader = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reader"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "reader",
                    "image": "lockstep.local/worker:0.1.0",
                    "command": ["ls", "/data"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": f"{JOB}-cloud"}}],
        },
    }
    api.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(reader))
    api.kubectl(
        "-n", NAMESPACE, "wait", "pod/reader", "--for=jsonpath={.status.phase}=Succeeded",
        "--timeout=60s",
    )  # fmt: skip
    listed = api.kubectl("-n", NAMESPACE, "logs", "reader").split()
    api.kubectl("-n", NAMESPACE, "delete", "pod", "reader", "--wait")
    assert {"model.safetensors", "history.jsonl"} <= set(listed)
