"""How long CPU limits take: 50 at once, from the patch until the kernel has the quota.

    python -m tests.bench.resizes [--pods 50] [--plans 20]     (root; the embedded cluster is up)

Idle pods on the device node; the planner's own actuator sets their limits, up and down in turn. The
kernel's view is the quota in each container's CPU cgroup, looked at every 2 ms.
"""

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from images.recipe import project_version, reference
from lockstep_api import names
from lockstep_operator.actuate import Resizer, actuate
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.kube import ApiKube
from lockstep_operator.login import load_configuration
from lockstep_operator.metrics import Metrics
from tests.cluster import api
from tests.cluster.cgroups import hierarchies

JOB = JobKey("resizes-bench", "idle")
GROUP = "all"
IMAGE = reference("worker", project_version())
LEVELS = (100, 150)
"""Millicores, in turn."""
_LOOK_S = 0.002


def idle_set(replicas: int) -> Manifest:
    """A StatefulSet whose pods do nothing and have the names and labels of devices."""
    labels = {names.JOB_LABEL: names.label_value(JOB.name), names.ROLE_LABEL: "device"}
    container = {
        "name": names.WORKER_CONTAINER,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "resources": {
            "requests": {"cpu": "5m", "memory": "8Mi"},
            "limits": {"cpu": "200m", "memory": "8Mi"},
        },
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
    }
    pod = {
        "containers": [container],
        "nodeSelector": {names.TIER_LABEL: "device"},
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    spec = {
        "replicas": replicas,
        "podManagementPolicy": "Parallel",
        "serviceName": GROUP,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    meta = {"name": names.group_name(JOB.name, GROUP), "namespace": JOB.namespace}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}


@contextmanager
def pods(replicas: int) -> Iterator[None]:
    """The pods, ready; their namespace is deleted at the end."""
    api.kubectl("create", "namespace", JOB.namespace)
    try:
        wanted = idle_set(replicas)
        api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
        name = f"statefulset/{wanted['metadata']['name']}"
        api.kubectl("-n", JOB.namespace, "rollout", "status", name, "--timeout=300s", timeout_s=330)
        yield
    finally:
        api.kubectl("delete", "namespace", JOB.namespace)


def quota_files() -> dict[str, Path]:
    """Pod → the file with the quota of its container, in µs of each 100 ms."""
    listing = yaml.safe_load(api.kubectl("-n", JOB.namespace, "get", "pods", "-o", "yaml"))
    found = {}
    for item in listing["items"]:
        uid = item["metadata"]["uid"]
        container = item["status"]["containerStatuses"][0]["containerID"].partition("//")[2]
        found[item["metadata"]["name"]] = next(
            path
            for root, _ in hierarchies()
            for name in ("cpu.cfs_quota_us", "cpu.max")
            for path in root.glob(f"*/kubepods/*/pod{uid}/{container}/{name}")
        )
    return found


class Watch(threading.Thread):
    """Notes when each quota becomes what is wanted."""

    def __init__(self, files: Mapping[str, Path], milli: int) -> None:
        super().__init__(daemon=True)
        self.left, self.wanted = dict(files), str(100 * milli)
        self.seen: dict[str, float] = {}

    def run(self) -> None:
        while self.left:
            for name, file in list(self.left.items()):
                if file.read_text().split()[0] == self.wanted:
                    self.seen[name] = time.monotonic()
                    del self.left[name]
            time.sleep(_LOOK_S)


class TimedKube(ApiKube):
    """Notes when each patch is sent."""

    sent: dict[str, float]

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        self.sent[pod] = time.monotonic()
        return await super().resize(namespace, pod, container=container, cpu=cpu)


async def measure(clients: list[str], plans: int) -> None:
    """Applies plans one after another and prints what they took."""
    kube = TimedKube(await load_configuration(str(api.kubeconfig()), None))
    resizer = Resizer(kube, Metrics(CollectorRegistry()))
    files = quota_files()
    whole, quota = [], []
    try:
        for number in range(plans + 1):
            milli = LEVELS[number % 2]
            kube.sent = {}
            watch = Watch(files, milli)
            watch.start()
            began = time.monotonic()
            applied = await actuate(JOB, dict.fromkeys(clients, milli), resizer=resizer)
            took = time.monotonic() - began
            await asyncio.to_thread(watch.join, 30)
            if applied.failures or applied.refusals or watch.left:
                print(f"plan {number}: {applied} {len(watch.left)} quotas did not change")
            if number:  # the first opens the connections
                whole.append(took)
                quota += [watch.seen[name] - kube.sent[name] for name in watch.seen]
    finally:
        await kube.close()
    print(f"{len(clients)} limits, {plans} plans: applied in {told(whole)}")
    print(f"patch → quota in the kernel: {told(quota)}")


def told(seconds: list[float]) -> str:
    """Median, 95th percentile and slowest, in ms."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return (
        f"median {1e3 * statistics.median(ordered):.0f} ms, 95 % within {1e3 * high:.0f} ms, "
        f"slowest {1e3 * ordered[-1]:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--plans", type=int, default=20)
    asked = parser.parse_args()
    clients = [names.client_name(GROUP, number) for number in range(asked.pods)]
    with pods(asked.pods):
        asyncio.run(measure(clients, asked.plans))


if __name__ == "__main__":
    main()
