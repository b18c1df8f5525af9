"""A cluster of kind (Kubernetes in Docker or Podman), for machines that have such an engine.

Untried: where this was written no engine exists. The command lines follow kind's documentation
(quick start, configuration, `kind load`); the unit tests read them.
"""

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.existing import nodes_of
from tests.cluster.layout import TIER_LABEL, Layout

ENGINES = ("docker", "podman")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind cluster with the nodes of a layout."""

    layout: Layout

    def up(self) -> Path:
        """Creates it unless it is there."""
        kind = self._kind()
        if self.status() != "up":
            self._folder().mkdir(parents=True, exist_ok=True)
            config = self._folder() / "kind.json"  # JSON is YAML
            config.write_text(json.dumps(kind_config(self.layout), indent=1))
            run(*kind, "create", "cluster", *create_words(self.layout, config, self._path()),
                timeout_s=900)  # fmt: skip
        return self._path()

    def down(self) -> bool:
        """Deletes it."""
        existed = self.status() != "down"
        if existed:
            run(*self._kind(), "delete", "cluster", "--name", self.layout.name)
        return existed

    def status(self) -> str:
        """`up` or `down`."""
        known = run(*self._kind(), "get", "clusters", check=False).split()
        return "up" if self.layout.name in known and self._path().exists() else "down"

    def kubeconfig(self) -> Path:
        """The cluster's own kubeconfig."""
        if self.status() == "down":
            raise ClusterError("no kind cluster is up: run `CLUSTER=kind make cluster-up`")
        return self._path()

    def load(self, paths: Sequence[Path]) -> None:
        """Brings images into all nodes: each layout folder as an archive."""
        with tempfile.TemporaryDirectory() as scratch:
            for path in paths:
                archive = path if path.is_file() else Path(scratch) / f"{path.name}.tar"
                if path.is_dir():
                    _pack(path, archive)
                run(*self._kind(), "load", "image-archive", str(archive), "--name",
                    self.layout.name, timeout_s=900)  # fmt: skip

    def node_exec(self, node: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` on a node, which is a container."""
        names = [item.name for item in nodes_of(self.kubeconfig())]
        if node not in names:
            raise ClusterError(f"no node {node!r}: the nodes are {', '.join(names)}")
        return [engine(), "exec", node, *command]

    def tool(self, name: str) -> Path:
        """kubectl or helm of this machine."""
        found = shutil.which(name)
        if found is None:
            raise ClusterError(f"CLUSTER=kind needs {name}: install it and put it in PATH")
        return Path(found)

    def _folder(self) -> Path:
        return Path.home() / ".kube" / "lockstep-kind" / self.layout.name

    def _path(self) -> Path:
        return self._folder() / "config"

    def _kind(self) -> tuple[str, ...]:
        found = shutil.which("kind")
        if found is None:
            raise ClusterError("CLUSTER=kind needs kind: install it and put it in PATH")
        os.environ.setdefault("KIND_EXPERIMENTAL_PROVIDER", engine())
        return (found,)


def engine() -> str:
    """Docker or Podman, whichever answers first.

    Raises:
        ClusterError: neither does.
    """
    for name in ENGINES:
        found = shutil.which(name)
        if found and run(found, "version", "--format", "{{.Server.Version}}", check=False).strip():
            return name
    raise ClusterError("CLUSTER=kind needs Docker or Podman, and neither answers: start one")


def create_words(layout: Layout, config: Path, kubeconfig: Path) -> list[str]:
    """What `kind create cluster` is told."""
    return [
        "--name", layout.name, "--config", str(config), "--kubeconfig", str(kubeconfig),
        "--wait", "180s",
    ]  # fmt: skip


def kind_config(layout: Layout) -> dict[str, object]:
    """A control plane and a worker for each node of the layout, labelled by tier."""
    workers = [{"role": "worker", "labels": {TIER_LABEL: str(node.tier)}} for node in layout.nodes]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane"}, *workers],
    }


def _pack(folder: Path, archive: Path) -> None:
    """An OCI archive: the layout folder as a tar."""
    with tarfile.open(archive, "w") as tar:
        for entry in sorted(folder.iterdir()):
            if entry.name in {"blobs", "index.json", "oci-layout"}:
                tar.add(entry, arcname=entry.name)
