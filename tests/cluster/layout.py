"""Names, addresses and folders of one cluster: pure data, read by every other module.

Layouts with different names and slots can stand beside each other: a slot is a set of address
ranges, and nothing outside this module makes up a name of a namespace, link, cgroup or folder.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from lockstep_api.names import Tier
from tests.cluster.errors import ClusterError

STATE_ROOT = Path("/var/lib/lockstep-cluster")
_SLOT_FILE = "slot.txt"
TIER_LABEL = "lockstep.dev/tier"
PAUSE_IMAGE = "lockstep.local/pause:1"
DEFAULT_NODES = "cloud=cloud edge=edge device=device"
RESERVED_CPU_MILLI = 100
RESERVED_MEMORY_MIB = 512

DEFAULT_NAME = "lockstep"
SLOTS = 10
_NODE_NETS = IPv4Network("10.89.0.0/16")
_CLUSTER_NAME = re.compile(r"[a-z][a-z0-9]{0,9}")  # link names hold 15 bytes, ours add up to 4
_NODE = re.compile(
    r"(?P<name>[a-z][a-z0-9-]{0,40})=(?P<tier>\w+)"
    r"(:(?P<cpu>\d+m|\d+(\.\d+)?))?(:(?P<memory>\d+)(?P<unit>[MG])i)?"
)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str
    tier: Tier
    cpu_milli: int | None = None
    """CPU that pods may request; None: the machine's less a small reserve."""
    memory_mib: int | None = None
    """Memory that pods may request; None: the machine's less a small reserve."""

    @classmethod
    def parse(cls, text: str) -> "NodeSpec":
        """Read `name=tier[:cpu[:memory]]`, such as `edge=edge:1500m:8Gi`."""
        match = _NODE.fullmatch(text)
        if match is None or match["tier"] not in set(Tier):
            raise ClusterError(
                f"node {text!r} is not name=tier[:cpu[:memory]], such as edge=edge:1500m:8Gi; "
                f"a tier is one of {', '.join(Tier)}"
            )
        memory = match["memory"] and int(match["memory"]) * (1024 if match["unit"] == "G" else 1)
        return cls(match["name"], Tier(match["tier"]), _milli(match["cpu"]), memory or None)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        cpu = "" if self.cpu_milli is None else f":{self.cpu_milli}m"
        memory = "" if self.memory_mib is None else f":{self.memory_mib}Mi"
        return f"{self.name}={self.tier}{cpu}{memory}"


def _milli(cpu: str | None) -> int | None:
    if cpu is None:
        return None
    return int(cpu[:-1]) if cpu.endswith("m") else round(float(cpu) * 1000)


@dataclass(frozen=True, slots=True)
class Layout:
    name: str = DEFAULT_NAME
    nodes: tuple[NodeSpec, ...] = tuple(NodeSpec.parse(n) for n in DEFAULT_NODES.split())
    slot: int = 0
    """Which address ranges it has; two clusters that are up have different ones."""

    def __post_init__(self) -> None:
        if not _CLUSTER_NAME.fullmatch(self.name):
            raise ClusterError(f"cluster name {self.name!r}: at most 10 letters and digits, please")
        if len({node.name for node in self.nodes}) < len(self.nodes):
            raise ClusterError("two nodes have the same name: name each --node differently")
        if not 1 <= len(self.nodes) <= 99:
            raise ClusterError("a cluster has 1 to 99 nodes")

    @property
    def node_net(self) -> IPv4Network:
        return IPv4Network(f"{_NODE_NETS[256 * self.slot]}/24")

    @property
    def pod_net(self) -> IPv4Network:
        return IPv4Network(f"10.{244 - self.slot}.0.0/16")

    @property
    def service_net(self) -> IPv4Network:
        return IPv4Network(f"10.{96 + self.slot}.0.0/16")

    @property
    def state(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.state / "pki" / "admin.kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def bridge(self) -> str:
        return f"{self.name}-br"

    @property
    def host_address(self) -> IPv4Address:
        """Where pods reach this machine itself."""
        return self.node_net[-2]

    @property
    def api_address(self) -> IPv4Address:
        """The control plane lives in the first node's namespace."""
        return self.address(self.nodes[0])

    @property
    def api_service_address(self) -> IPv4Address:
        return self.service_net[1]

    @property
    def dns_address(self) -> IPv4Address:
        return self.service_net[10]

    def _number(self, node: NodeSpec) -> int:
        return self.nodes.index(node) + 1

    def address(self, node: NodeSpec) -> IPv4Address:
        return self.node_net[self._number(node)]

    def pod_subnet(self, node: NodeSpec) -> IPv4Network:
        first = self.pod_net[256 * self._number(node)]
        return IPv4Network(f"{first}/24")

    def link(self, node: NodeSpec) -> str:
        return f"{self.name}-n{self._number(node)}"

    def namespace(self, node: NodeSpec) -> str:
        return f"{self.name}-{node.name}"

    def namespace_path(self, node: NodeSpec) -> Path:
        return Path("/run/netns") / self.namespace(node)

    def cgroup(self, node: NodeSpec) -> str:
        return f"{self.name}-{node.name}"

    def node_folder(self, node: NodeSpec) -> Path:
        return self.state / "nodes" / node.name

    def containerd_socket(self, node: NodeSpec) -> Path:
        return self.node_folder(node) / "containerd.sock"

    def containerd_root(self, node: NodeSpec) -> Path:
        """Images and their unpacked layers: kept across `down`, so outside the state folder."""
        return cache_folder() / "cluster" / self.name / node.name / "containerd"

    def node(self, name: str) -> NodeSpec:
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise ClusterError(f"no node {name!r}: the nodes are {names}")


def write_down(layout: Layout) -> None:
    """Note nodes and slot, so that `down` finds what `up` made, whatever is asked then."""
    (layout.state / "nodes.txt").write_text("\n".join(map(str, layout.nodes)))
    (layout.state / _SLOT_FILE).write_text(str(layout.slot))


def recall(layout: Layout) -> Layout:
    """The layout with the nodes that its cluster was brought up with, if there is one."""
    try:
        texts = (layout.state / "nodes.txt").read_text().split()
    except FileNotFoundError:
        return layout
    slot = _noted_slot(layout.state)
    return replace(layout, nodes=tuple(NodeSpec.parse(text) for text in texts), slot=slot or 0)


def _noted_slot(state: Path) -> int | None:
    try:
        return int((state / _SLOT_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def slots_taken(layout: Layout) -> set[int]:
    """The slots of the other clusters on this machine, up or crashed."""
    others = STATE_ROOT.iterdir() if STATE_ROOT.is_dir() else ()
    noted = (_noted_slot(state) for state in others if state != layout.state)
    return {slot for slot in noted if slot is not None}


def with_free_slot(layout: Layout, taken: set[int]) -> Layout:
    """The layout in a slot that no other cluster has; the default name prefers the first.

    Raises:
        ClusterError: there is none left.
    """
    wanted = range(SLOTS) if layout.name == DEFAULT_NAME else [*range(1, SLOTS), 0]
    free = next((slot for slot in wanted if slot not in taken), None)
    if free is None:
        raise ClusterError(f"{SLOTS} clusters are here already: take one down first")
    return replace(layout, slot=free)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lockstep"


def layout_from(
    environment: Mapping[str, str], nodes: list[str] | None = None, name: str | None = None
) -> Layout:
    """The layout that options, LOCKSTEP_NODES and LOCKSTEP_CLUSTER_NAME ask for; options win."""
    texts = nodes or environment.get("LOCKSTEP_NODES", DEFAULT_NODES).split()
    name = name or environment.get("LOCKSTEP_CLUSTER_NAME", DEFAULT_NAME)
    return Layout(name=name, nodes=tuple(NodeSpec.parse(text) for text in texts))
