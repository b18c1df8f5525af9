"""The cluster for pytest fixtures and other Python code; the driver is chosen as in `cli`.

Every function works on the cluster that CLUSTER, KUBECONFIG and LOCKSTEP_* name; all raise
`ClusterError` with one line that says what to do.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import drivers
from tests.cluster.command import run
from tests.cluster.drivers import Driver
from tests.cluster.layout import layout_from


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


def kubectl(*words: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    return drivers.kubectl(driver(), *words, stdin=stdin, timeout_s=timeout_s)


def helm(*words: str, timeout_s: float = 300) -> str:
    config = f"--kubeconfig={kubeconfig()}"
    return run(driver().tool("helm"), config, *words, timeout_s=timeout_s)


def tools() -> Path:
    """A folder with kubectl and helm for PATH."""
    return driver().tool("kubectl").parent


def node_exec(node: str, *command: str) -> str:
    """Run a command in a node's network namespace, such as tc on its uplink eth0."""
    return run(*driver().node_exec(node, command))
