"""What end-to-end tests and `make chaos` do with jobs: install, apply, watch, look inside.

Everything goes through kubectl and helm, as a person's hands would.
"""

import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from images.recipe import project_version, reference
from lockstep_api.names import edge_pod
from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.support.patience import PATIENCE_S, TIMEOUT

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "lockstep"
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.yaml"
WORKER_IMAGE = reference("worker", project_version())
NAMESPACE = f"e2e-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
"""Where the tests of this process have the chart (fixture `lockstep`)."""

Json = dict[str, Any]


@contextmanager
def a_namespace() -> Iterator[str]:
    """A namespace of its own, removed with everything in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        api.kubectl("delete", "namespace", name, "--wait=false")


def bring_crd() -> None:
    """The CRD of this release: one that an earlier release brought, and left, may be older."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))


@contextmanager
def installed(namespace: str, *options: str) -> Iterator[str]:
    """The chart with its Prometheus, installed for one namespace, and taken away with its jobs."""
    bring_crd()
    release = f"lockstep-{namespace}"
    api.helm(
        "install", release, str(CHART), "--namespace", namespace, "--create-namespace", "--wait",
        TIMEOUT, "--set", f"watchNamespaces={{{namespace}}}", *options,
    )  # fmt: skip
    try:
        yield namespace
    finally:
        api.kubectl("-n", namespace, "delete", "fj", "--all", "--wait")
        api.helm("uninstall", release, "--namespace", namespace, "--wait", "--ignore-not-found")
        api.kubectl("delete", "namespace", namespace, "--wait")


def small_job(name: str, *, replicas: int = 1, training: Json | None = None, **spec: Any) -> Json:
    """The example under another name, without a target, with so many devices of each speed."""
    job: Json = yaml.safe_load(EXAMPLE.read_text())
    job["metadata"] = {"name": name}
    for group in job["spec"]["devices"]:
        group["replicas"] = replicas
    del job["spec"]["training"]["target"]
    job["spec"]["training"] |= training or {}
    job["spec"] |= spec
    return job


def lone_job(name: str, *, training: Json | None = None, **spec: Any) -> Json:
    """A job with one slow device and short rounds: the least that lives, for what needs no more."""
    training = {"localSteps": {"fixed": 10}} | (training or {})
    job = small_job(name, training=training, **({"cloud": {"cpu": "100m"}} | spec))
    job["spec"]["devices"] = [job["spec"]["devices"][-1]]
    return job


def frequency_jobs(name: str, policy: str, *, replicas: int) -> list[Json]:
    """The example's ConfigMaps with traces, and its job under a policy, without an end."""
    *links, job = yaml.safe_load_all((EXAMPLE.parent / "frequency.yaml").read_text())
    job["metadata"]["name"] = name
    job["spec"]["training"]["rounds"] = 100_000
    job["spec"]["allocation"]["policy"] = policy
    for group in job["spec"]["devices"]:
        group["replicas"] = replicas
    return [*links, job]


def apply(namespace: str, job: Json) -> None:
    """`kubectl apply` of a job, or of another object."""
    api.kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump(job))


def patch(namespace: str, name: str, spec: Json) -> None:
    """Changes fields of a job's spec."""
    body = json.dumps({"spec": spec})
    api.kubectl("-n", namespace, "patch", "fj", name, "--type=merge", "-p", body)


def get(namespace: str, name: str, kind: str = "fj") -> Json:
    """An object as the apiserver has it."""
    found: Json = json.loads(api.kubectl("-n", namespace, "get", kind, name, "-o", "json"))
    return found


def pods(namespace: str, name: str, role: str = "") -> list[Json]:
    """The pods of a job, of one role or all."""
    return pods_of(
        namespace, f"lockstep.dev/job={name}" + (f",lockstep.dev/role={role}" if role else "")
    )


def pods_of(namespace: str, selector: str) -> list[Json]:
    """The pods with these labels."""
    text = api.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    found: list[Json] = json.loads(text)["items"]
    return found


def watch(
    namespace: str,
    name: str,
    until: Callable[[Json], bool],
    *,
    timeout_s: float = PATIENCE_S,
    kind: str = "fj",
) -> Json:
    """Follows a job, or an object of another kind, by `kubectl get --watch` until `until(object)`.

    A watch that breaks is renewed.

    Raises:
        AssertionError: not within `timeout_s`; says what the object looked like last.
    """
    last: Json = {}
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        with _watching(namespace, name, kind) as process:
            timer = threading.Timer(left_s, process.kill)
            timer.start()
            try:
                for last in _objects(process):
                    if until(last):
                        return last
            finally:
                timer.cancel()
                process.kill()
    told = last.get("status", last.get("spec"))
    raise AssertionError(f"not within {timeout_s} s: {json.dumps(told, indent=1)}")


def _watching(namespace: str, name: str, kind: str) -> "subprocess.Popen[str]":
    argv = (
        api.tools() / "kubectl", f"--kubeconfig={api.kubeconfig()}", "-n", namespace, "get", kind,
        name, "--watch", "-o", "json",
    )  # fmt: skip
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _objects(process: "subprocess.Popen[str]") -> Iterator[Json]:
    """kubectl ends each object with a brace in the first column."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            found: Json = json.loads("".join(lines))
            lines.clear()
            if found["kind"] == "Status":  # the watch failed; whoever follows begins another
                return
            yield found


def in_phase(*phases: str) -> Callable[[Json], bool]:
    """Whether a job has one of these phases."""
    return lambda job: job.get("status", {}).get("phase") in phases


def past_round(number: int) -> Callable[[Json], bool]:
    """Whether a job has finished so many rounds."""
    return lambda job: (job.get("status", {}).get("round") or 0) >= number


def planned(number: int) -> Callable[[Json], bool]:
    """Whether a job has a plan for round `number` or a later one."""
    return lambda job: job.get("status", {}).get("lastPlan", {}).get("round", 0) >= number


def kill(namespace: str, pod: str) -> None:
    """A pod's process ends at once, and its pod goes: a new one takes its place."""
    api.kill_container(namespace, pod)
    api.kubectl("-n", namespace, "delete", "pod", pod, "--grace-period=1")


def kill_edge_at_work(namespace: str, name: str) -> tuple[str, str]:
    """Kills the first cluster's edge as a round begins; the type and message of Event EdgeLost.

    A kill that comes when the cluster's result is in loses nothing, and one of an edge that is only
    coming back is none: then the next round's edge is the next, for as long as it takes. People are
    told of a loss with the next plan.
    """
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        before: int = get(namespace, name)["status"]["lastPlan"]["round"]
        seen = watch(namespace, name, planned(before + 1))["status"]
        with suppress(ClusterError):
            kill(namespace, edge_pod(name, seen["clusters"][0]["edge"]))
        watch(namespace, name, planned(seen["lastPlan"]["round"] + 1))
        for kind, reason, message in events(namespace, name):
            if reason == "EdgeLost":
                return kind, message
    raise AssertionError(f"no kill met an edge at work: {events(namespace, name)}")


def rounds_go_on(
    namespace: str, name: str, *, more: int = 3, timeout_s: float = PATIENCE_S
) -> Json:
    """Waits until the job has finished some more rounds than now."""
    now = get(namespace, name)["status"].get("round") or 0
    return watch(namespace, name, past_round(now + more), timeout_s=timeout_s)


def rounds_are_planned(namespace: str, name: str, *, more: int = 3) -> Json:
    """Waits until the job has finished some more rounds than now, and has a plan that is new.

    A plan that is late on a busy machine is no matter: its round has the last one.
    """
    now = get(namespace, name)["status"].get("round") or 0

    def are_planned(job: Json) -> bool:
        return past_round(now + more)(job) and bool(job["status"]["lastPlan"]["planned"])

    return watch(namespace, name, are_planned)


def condition(job: Json, kind: str) -> Json:
    """A condition of a job; empty when it has none of the kind."""
    found = (c for c in job.get("status", {}).get("conditions", ()) if c["type"] == kind)
    return next(found, {})


def events(namespace: str, name: str) -> list[tuple[str, str, str]]:
    """(type, reason, message) of a job's Events."""
    text = api.kubectl(
        "-n", namespace, "get", "events", "-o", "json",
        "--field-selector", f"involvedObject.name={name},involvedObject.kind=FederatedJob",
    )  # fmt: skip
    return [(e["type"], e["reason"], e["message"]) for e in json.loads(text)["items"]]


def wait_for_event(
    namespace: str, name: str, reason: str, *, words: str = "", timeout_s: float = PATIENCE_S
) -> tuple[str, str, str]:
    """Waits by a watch for an Event of a job with this reason, whose message has these words."""
    there = [one for one in events(namespace, name) if one[1] == reason and words in one[2]]
    if there:
        return there[-1]
    argv = (
        api.tools() / "kubectl", f"--kubeconfig={api.kubeconfig()}", "-n", namespace, "get",
        "events", "--watch", "-o", "json", "--field-selector",
        f"involvedObject.name={name},involvedObject.kind=FederatedJob,reason={reason}",
    )  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            for event in _objects(process):
                if words in event["message"]:
                    return event["type"], event["reason"], event["message"]
        finally:
            timer.cancel()
            process.kill()
    said = f"{reason} {words}".strip()
    raise AssertionError(f"no event {said} within {timeout_s} s: {events(namespace, name)}")


def in_pod(namespace: str, pod: str, code: str) -> str:
    """Runs Python code in a worker's pod."""
    return api.kubectl("-n", namespace, "exec", pod, "--", "python3", "-c", code)


def on_volume(namespace: str, claim: str, code: str) -> str:
    """Runs Python code in a pod of its own that has a job's volume at /data; what it printed."""
    name = f"reader-{claim}"
    container = {
        "name": "reader",
        "image": WORKER_IMAGE,
        "command": ["python3", "-c", code],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    api.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    try:
        api.kubectl(
            "-n", namespace, "wait", f"pod/{name}", TIMEOUT,
            "--for=jsonpath={.status.phase}=Succeeded",
        )  # fmt: skip
        return api.kubectl("-n", namespace, "logs", name)
    finally:
        api.kubectl("-n", namespace, "delete", "pod", name, "--wait", "--grace-period=1")


MODEL_HASH = (
    "import hashlib; print(hashlib.sha256(open('/data/model.safetensors','rb').read()).hexdigest())"
)


def model_hash(namespace: str, job: str) -> str:
    """SHA-256 of the final model of a finished job."""
    return on_volume(namespace, f"{job}-cloud", MODEL_HASH).strip()


def query(namespace: str, promql: str) -> list[Json]:
    """The result of an instant query at the chart's Prometheus."""
    path = (
        f"/api/v1/namespaces/{namespace}/services/lockstep-prometheus:9090/proxy"
        f"/api/v1/query?query={quote(promql)}"
    )
    found: list[Json] = json.loads(api.kubectl("get", "--raw", path))["data"]["result"]
    return found


def eventually(namespace: str, promql: str, *, series: int = 1) -> Json:
    """The labels of the first series, as soon as Prometheus is up and has so many."""
    deadline, found = time.monotonic() + PATIENCE_S, list[Json]()
    while len(found) < series:
        assert time.monotonic() < deadline, f"{len(found)} of {series} series: {promql}"
        with suppress(ClusterError):  # it is still starting
            found = query(namespace, promql)
        time.sleep(0.5)
    labels: Json = found[0]["metric"]
    return labels


def run_pod(namespace: str, image: str, *command: str) -> str:
    """Runs a command in the image as the chart would, and returns what it printed."""
    container = {
        "name": "main",
        "image": reference(image, project_version()),
        "imagePullPolicy": "Never",
        "command": list(command),
        "securityContext": {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": image},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    api.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    done = ("--for=jsonpath={.status.phase}=Succeeded", TIMEOUT)
    api.kubectl("-n", namespace, "wait", f"pod/{image}", *done)
    return api.kubectl("-n", namespace, "logs", image)
