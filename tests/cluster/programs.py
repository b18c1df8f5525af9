"""Starts the programs of one cluster: what `control_plane`, `runtime` and `node` share.

Invariant: every program it starts is recorded, so `teardown` can end it.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.cluster import process
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec
from tests.cluster.process import ProcessId


@dataclass(frozen=True, slots=True)
class Programs:
    layout: Layout
    kubeall: Path
    """The multi-call binary that `binary` built."""

    @property
    def records(self) -> Path:
        return self.layout.state / "run"

    def start(self, node: NodeSpec, name: str, *command: str | Path) -> ProcessId:
        """Start any program in the node's network namespace."""
        return process.start(
            name,
            [str(word) for word in command],
            records=self.records,
            logs=self.layout.logs,
            namespace=self.layout.namespace_path(node),
        )

    def start_kube(
        self,
        node: NodeSpec,
        name: str,
        program: str,
        /,
        **flags: str | int | Path | IPv4Address | IPv4Network,
    ) -> ProcessId:
        """Start a program of the multi-call binary; `a_b=1` becomes `--a-b=1`."""
        words = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
        return self.start(node, name, self.kubeall, program, *words)

    def check_alive(self) -> None:
        """Raise if one of them ended, with the last line it wrote."""
        for name, identity in process.recorded(self.records).items():
            if not identity.alive:
                log = self.layout.logs / f"{name}.log"
                lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                raise ClusterError(f"{name} ended, saying: {lines[-1][:300]} (all of it in {log})")
