"""What jobs of many devices cost the operator, on nodes and pods that kwok plays.

    python -m tests.bench.scale [--devices 100 1000 5000] [--jobs 200] [--operator DIR]

The cluster (embedded, or CLUSTER=existing) gives apiserver, scheduler and controllers; it has to
be up. kwok is built once from the Go module proxy. For each size a fresh operator runs as a process
until all devices of the job, or of so many jobs of five, are ready. DIR is another checkout whose
operator is measured instead.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from tests.cluster import api, golang
from tests.cluster.errors import ClusterError
from tests.cluster.layout import cache_folder

ROOT = Path(__file__).resolve().parents[2]
KWOK = "v0.8.0"
FAKE = "kwok.x-k8s.io/node"
NAMESPACE = "scale-bench"
DEVICE_NODES = 30
PATIENCE_S = 900.0
_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_GOING = ".metadata.deletionTimestamp"
_TICKS = os.sysconf("SC_CLK_TCK")

Json = dict[str, Any]


def kwok() -> Path:
    """kwok's program: the cached one or a newly built one."""
    folder = cache_folder() / "kwok" / KWOK
    if not (folder / "kwok").exists():
        go = golang.find()
        print(f"building kwok {KWOK} (once; a few minutes)", flush=True)
        environment = os.environ | golang.environment(go) | {"GOBIN": str(folder)}
        package = f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}"
        if subprocess.run(
            [go.program, "install", package], env=environment, check=False
        ).returncode:
            raise ClusterError("go could not build kwok: what it said is above")
    return folder / "kwok"


def node(name: str, tier: str, *, cpu: int, pods: int) -> Json:
    """A node that kwok keeps ready."""
    room = {"cpu": str(cpu), "memory": f"{4 * cpu}Gi", "pods": str(pods)}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "annotations": {FAKE: "fake"},
            "labels": {"lockstep.dev/tier": tier, "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [{"key": FAKE, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }  # fmt: skip


def stage(name: str, kind: str, *, when: Json, then: Json) -> Json:
    """What kwok does with an object of a kind that matches."""
    expressions = [
        {"key": key, "operator": operator} | ({"values": values} if values else {})
        for key, (operator, *values) in when.items()
    ]
    spec = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": expressions}, "next": then,
    }  # fmt: skip
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage",
            "metadata": {"name": name}, "spec": spec}  # fmt: skip


def stages() -> list[Json]:
    """Nodes are ready, pods are ready as soon as they are bound and gone when they are deleted."""
    return [
        stage("node", "Node", when={_READY: ("NotIn", "True")},
              then={"statusTemplate": _conditions("Ready")}),
        stage("pod", "Pod",
              when={_GOING: ("DoesNotExist",), ".status.phase": ("In", "Pending")},
              then={"statusTemplate": _conditions("Initialized", "ContainersReady", "Ready")
                    + "phase: Running\nstartTime: {{ Now | Quote }}\n"}),
        stage("gone", "Pod", when={_GOING: ("Exists",)}, then={"delete": True}),
    ]  # fmt: skip


def _conditions(*kinds: str) -> str:
    times = "lastTransitionTime: {{ Now | Quote }}, lastHeartbeatTime: {{ Now | Quote }}"
    if "ContainersReady" in kinds:
        times = times.partition(", ")[0]
    lines = [f'- {{ {times}, type: {kind}, status: "True", reason: Kwok }}' for kind in kinds]
    return "\n".join(["conditions:", *lines, ""])


def job(name: str, devices: int, groups: int) -> Json:
    """A job whose pods may go to kwok's nodes, and only there."""
    spec = {
        "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
        "training": {"rounds": 10, "localSteps": {"fixed": 10}},
        "cloud": {"cpu": "100m", "memory": "128Mi"},
        "podTemplate": {"tolerations": [{"key": FAKE, "operator": "Exists"}]},
        "devices": [
            {"name": f"g{i}", "replicas": devices // groups, "cpuAtMax": "200m", "memory": "256Mi"}
            for i in range(groups)
        ],
    }  # fmt: skip
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "lockstep.dev/v1alpha1", "kind": "FederatedJob",
            "metadata": meta, "spec": spec}  # fmt: skip


@contextmanager
def process(
    *command: str | Path, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ended in order afterwards."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=out, env=os.environ | environment
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(timeout=60)


@contextmanager
def fake_nodes(logs: Path) -> Iterator[None]:
    """kwok and its nodes."""
    nodes = [node("fake-cloud", "cloud", cpu=512, pods=2000)]
    nodes += [node(f"fake-{i}", "device", cpu=64, pods=250) for i in range(DEVICE_NODES)]
    selector = f"--manage-nodes-with-annotation-selector={FAKE}=fake"
    config = logs / "stages.yaml"
    config.write_text(yaml.safe_dump_all(stages()))
    command = (kwok(), f"--kubeconfig={api.kubeconfig()}", f"--config={config}", selector,
               "--manage-all-nodes=false", "--node-lease-duration-seconds=40")  # fmt: skip
    with process(*command, log=logs / "kwok.log"):
        api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(nodes))
        try:
            names = [f"node/{one['metadata']['name']}" for one in nodes]
            api.kubectl("wait", "--for=condition=Ready", *names, "--timeout=60s")
            yield
        finally:
            api.kubectl("delete", *names, "--wait=false")


@contextmanager
def namespace() -> Iterator[None]:
    """The jobs' namespace; it is gone afterwards, with its pods."""
    api.kubectl("create", "namespace", NAMESPACE)
    try:
        yield
    finally:
        api.kubectl("-n", NAMESPACE, "delete", "fj", "--all", "--wait=false")
        api.kubectl("-n", NAMESPACE, "delete", "statefulsets", "--all", timeout_s=600)
        api.kubectl("-n", NAMESPACE, "delete", "pods", "--all", "--force",
                    "--grace-period=0", "--wait=false", timeout_s=600)  # fmt: skip
        api.kubectl("delete", "namespace", NAMESPACE, "--timeout=600s", timeout_s=660)


def wait_until_ready(devices: int) -> None:
    """Returns when that many device pods are ready, as their sets say."""
    until = time.monotonic() + PATIENCE_S
    ready, jsonpath = 0, "jsonpath={.items[*].status.readyReplicas}"
    selector = "lockstep.dev/role=device"
    while ready < devices:
        if time.monotonic() > until:
            raise ClusterError(f"{ready} of {devices} devices are ready after {PATIENCE_S:g} s")
        time.sleep(1)  # a watch of every pod would cost more than what is measured
        said = api.kubectl("-n", NAMESPACE, "get", "sts", "-l", selector, "-o", jsonpath)
        ready = sum(map(int, said.split()))


@dataclass(frozen=True, slots=True)
class Used:
    """What a process has used so far."""

    cpu_s: float
    peak_mib: float


def used_by(pid: int) -> Used:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1]
    return Used((int(fields[11]) + int(fields[12])) / _TICKS, int(status.split()[0]) / 1024)


@contextmanager
def operator(folder: Path, source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The operator, once it watches the namespace."""
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        port, probes = one.getsockname()[1], other.getsockname()[1]
    command = (
        sys.executable, Path(__file__).with_name("timed_operator.py"),
        "--kubeconfig", api.kubeconfig(), "--namespace", NAMESPACE,
        "--listen", f"127.0.0.1:{port}", "--planner-url", f"http://127.0.0.1:{port}",
        "--metrics-listen", f"127.0.0.1:{probes}",
    )  # fmt: skip
    path = {"PYTHONPATH": os.pathsep.join((str(source / "operator"), str(source)))}
    record = {"SCALE_RECORD": str(folder / "record.json")}
    with process(*command, log=folder / "operator.log", **path, **record) as started:
        while not _answers(f"http://127.0.0.1:{probes}/readyz"):
            if started.poll() is not None:
                raise ClusterError(f"the operator ended: see {folder / 'operator.log'}")
            time.sleep(0.1)
        yield started


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def measure(title: str, jobs: list[Json], *, folder: Path, source: Path) -> None:
    """Applies the jobs and prints what they cost until all their devices are ready."""
    devices = sum(group["replicas"] for one in jobs for group in one["spec"]["devices"])
    with namespace():
        with operator(folder, source) as running:
            before, began = used_by(running.pid), time.monotonic()
            api.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(jobs))
            wait_until_ready(devices)
            took_s = time.monotonic() - began
            after = used_by(running.pid)
        record = json.loads((folder / "record.json").read_text())
    passes = [1000 * seconds for seconds in record["passes"]]
    calls = ", ".join(f"{verb} {kind} {count}" for verb, kind, count in record["requests"])
    print(
        f"{title}: all ready after {took_s:.0f} s\n"
        f"  {len(passes)} passes: median {statistics.median(passes):.0f} ms, "
        f"worst {max(passes):.0f} ms\n"
        f"  {after.cpu_s - before.cpu_s:.1f} CPU s (start: {before.cpu_s:.1f}), "
        f"peak {after.peak_mib:.0f} MiB (start: {before.peak_mib:.0f})\n"
        f"  {sum(count for *_, count in record['requests'])} requests: {calls}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--jobs", type=int, default=200, help="jobs of five devices; 0: none")
    parser.add_argument("--operator", type=Path, default=ROOT, metavar="DIR")
    wanted = parser.parse_args()
    if not api.is_up():
        raise SystemExit("no cluster is up: make cluster-up brings one")
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(wanted.operator / "crds"))
    with tempfile.TemporaryDirectory() as name, fake_nodes(folder := Path(name)):
        if wanted.jobs:
            many = [job(f"job-{i}", 5, 1) for i in range(wanted.jobs)]
            title = f"{wanted.jobs} jobs of 5"
            measure(title, many, folder=folder, source=wanted.operator)
        for devices in wanted.devices:
            one = [job("large", devices, 10)]
            measure(f"{devices} devices", one, folder=folder, source=wanted.operator)


if __name__ == "__main__":
    main()
