"""The cluster for pytest fixtures and other Python code; the driver is chosen as in `cli`.

Every function works on the cluster that CLUSTER, KUBECONFIG and LOCKSTEP_* name; all raise
`ClusterError` with one line that says what to do.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster import drivers, faults, lifecycle
from tests.cluster.command import run
from tests.cluster.drivers import Driver, Embedded
from tests.cluster.errors import ClusterError
from tests.cluster.faults import SlowWay, SmallVolume
from tests.cluster.layout import Layout, layout_from, recall
from tests.cluster.usage import Usage, usage_of

# Many small processes: of those that share a container the kernel ends the one that has most.
FILL_MEMORY = """
import os, signal
reader, writer = os.pipe()
while True:
    if os.fork() == 0:
        held = bytearray(b"x") * (32 << 20)
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
"""


def driver(nodes: list[str] | None = None) -> Driver:
    return drivers.driver_for(os.environ, layout_from(os.environ, nodes))


def is_up() -> bool:
    return driver().status() == "up"


def up() -> Path:
    """Bring the cluster up unless it is; returns the kubeconfig."""
    return driver().up()


def down() -> None:
    driver().down()


def kubeconfig() -> Path:
    return driver().kubeconfig()


def load(paths: Sequence[Path]) -> None:
    """Bring images (OCI layout folders or archives) to all nodes; cheap when they are there."""
    driver().load(paths)


def kubectl(*words: str, stdin: str | None = None, timeout_s: float = 330) -> str:
    return drivers.kubectl(driver(), *words, stdin=stdin, timeout_s=timeout_s)


def helm(*words: str, timeout_s: float = 330) -> str:
    config = f"--kubeconfig={kubeconfig()}"
    return run(driver().tool("helm"), config, *words, timeout_s=timeout_s)


def tools() -> Path:
    """A folder with kubectl and helm for PATH."""
    return driver().tool("kubectl").parent


def node_exec(node: str, *command: str) -> str:
    """Run a command in a node's network namespace, such as tc on its uplink eth0."""
    return run(*driver().node_exec(node, command))


# -- faults: on the embedded cluster only ---------------------------------------------------------


def _embedded() -> Layout:
    found = driver()
    if not isinstance(found, Embedded):
        raise ClusterError("faults are made on the embedded cluster only: unset CLUSTER")
    return recall(found.layout)


def kill_container(namespace: str, pod: str) -> None:
    """SIGKILL to the first process of a running pod's first container."""
    layout = _embedded()
    faults.kill_container(
        layout, json.loads(kubectl("-n", namespace, "get", "pod", pod, "-o", "json"))
    )


def kubelet_stopped(node: str) -> AbstractContextManager[None]:
    """A node without its kubelet; afterwards it runs again and the node is ready."""
    return lifecycle.kubelet_stopped(_embedded(), node)


def exhaust_memory(namespace: str, pod: str) -> None:
    """The kernel kills the main process of a worker's pod, since its container has no memory left.

    Returns when the container has ended, and all its processes.
    """
    with suppress(ClusterError):  # it ends with its container
        kubectl("-n", namespace, "exec", pod, "--", "python3", "-c", FILL_MEMORY)


def usage(pod: dict[str, Any]) -> Usage:
    """What a running pod's first container uses now; the pod is as `kubectl get -o json` shows it.

    Nothing where it does not run.
    """
    try:
        return usage_of(faults.processes_of(_embedded(), pod))
    except ClusterError:
        return Usage()


def apiserver_stopped() -> AbstractContextManager[None]:
    """No kube-apiserver, by SIGKILL; afterwards there is a new one, which is ready."""
    return lifecycle.apiserver_stopped(_embedded())


def restart_apiserver() -> None:
    """SIGKILL to the kube-apiserver, and a new one; returns when it is ready."""
    with apiserver_stopped():
        pass


def slow_way() -> AbstractContextManager[SlowWay]:
    """Another address of the apiserver, where calls take longer when a test says so."""
    return lifecycle.slow_way(_embedded())


@contextmanager
def limited_volume(
    namespace: str, claim: str, *, storage_class: str, node: str, megabytes: int
) -> Iterator[SmallVolume]:
    """A volume of a fixed size for a claim that will name this storage class, on this node."""
    layout = _embedded()
    with faults.mounted(layout, storage_class, megabytes) as volume:
        manifest = faults.volume_manifest(
            storage_class,
            volume.folder,
            layout.node(node),
            claim=(namespace, claim),
            megabytes=megabytes,
        )
        kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        try:
            yield volume
        finally:
            kubectl("delete", "persistentvolume", storage_class, "--wait=false")
