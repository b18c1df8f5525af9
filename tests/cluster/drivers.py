"""The ways to a cluster, all with one contract; CLUSTER chooses `embedded` (default),
`existing` or `kind`.

After `up`: a kubeconfig, nodes labelled by tier, and `load` to bring images in.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster import binary, images, lifecycle
from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.existing import check_reachable, label_tiers, lacking_images, nodes_of
from tests.cluster.kind import Kind
from tests.cluster.layout import Layout, recall
from tests.cluster.oci import read_images


class Driver(Protocol):
    def up(self) -> Path: ...
    def down(self) -> bool: ...
    def status(self) -> str: ...
    def kubeconfig(self) -> Path: ...
    def load(self, paths: Sequence[Path]) -> None: ...
    def node_exec(self, node: str, command: Sequence[str]) -> list[str]: ...
    def tool(self, name: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """The Kubernetes of this package, on this machine."""

    layout: Layout

    def up(self) -> Path:
        return lifecycle.up(self.layout)

    def down(self) -> bool:
        return lifecycle.down(self.layout)

    def status(self) -> str:
        return lifecycle.status(self.layout)

    def kubeconfig(self) -> Path:
        """Also of a cluster that lacks a program, since a test may have stopped it."""
        if self.status() == "down":
            raise ClusterError("no cluster is up: run `make cluster-up`")
        return self.layout.kubeconfig

    def load(self, paths: Sequence[Path]) -> None:
        self.kubeconfig()
        images.load(recall(self.layout), paths)

    def node_exec(self, node: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in the node's network namespace."""
        layout = recall(self.layout)
        return ["nsenter", f"--net={layout.namespace_path(layout.node(node))}", "--", *command]

    def tool(self, name: str) -> Path:
        """kubectl or helm of the cluster's own version."""
        return binary.tools() / name


@dataclass(frozen=True, slots=True)
class Existing:
    """Someone else's cluster: it is labelled, never brought up or down."""

    path: Path

    def up(self) -> Path:
        check_reachable(self.path)
        label_tiers(self.path)
        return self.path

    def down(self) -> bool:
        return False

    def status(self) -> str:
        check_reachable(self.path)
        return "up"

    def kubeconfig(self) -> Path:
        return self.path

    def load(self, paths: Sequence[Path]) -> None:
        """Only checks: nothing here reaches these nodes' image stores."""
        names = [image.name for path in paths for image in read_images(path)]
        if lacking := lacking_images(nodes_of(self.path), names):
            raise ClusterError(
                f"nodes of this cluster lack {', '.join(lacking)}: bring them there first "
                "(`kind load image-archive`, `k3d image import`, or a registry they read)"
            )

    def node_exec(self, node: str, command: Sequence[str]) -> list[str]:
        known = ", ".join(item.name for item in nodes_of(self.path))
        raise ClusterError(
            f"no way onto node {node} of an existing cluster: try `kubectl debug node/{node}` "
            f"(nodes: {known}) for {' '.join(command)}"
        )

    def tool(self, name: str) -> Path:
        found = shutil.which(name)
        if found is None:
            raise ClusterError(f"CLUSTER=existing needs {name}: install it and put it in PATH")
        return Path(found)


def driver_for(environment: Mapping[str, str], layout: Layout) -> Driver:
    kind = environment.get("CLUSTER") or "embedded"
    if kind == "embedded":
        return Embedded(layout)
    if kind == "kind":
        return Kind(layout)
    if kind != "existing":
        raise ClusterError(f"CLUSTER={kind}: it is `embedded`, `existing` or `kind`")
    named = environment.get("KUBECONFIG", "")
    if not Path(named).is_file():
        raise ClusterError(f"CLUSTER=existing needs KUBECONFIG to name a file, not {named!r}")
    return Existing(Path(named))


def kubectl(driver: Driver, *words: str, stdin: str | None = None, timeout_s: float = 330) -> str:
    config = f"--kubeconfig={driver.kubeconfig()}"
    return run(driver.tool("kubectl"), config, *words, stdin=stdin, timeout_s=timeout_s)
