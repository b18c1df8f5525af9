"""Names, addresses and folders of one cluster: pure data, read by every other module.

Layouts with different names and address ranges can stand beside each other: ranges are those of a
slot, unless some were asked for. Nothing outside this module makes up a name of a namespace, link,
cgroup or folder.
"""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from lockstep_api.names import Tier
from tests.cluster.addresses import (
    ENVIRONMENT_NAME,
    SLOTS,
    Ranges,
    Route,
    clash,
    parse_base,
    ranges_of_slot,
    ranges_within,
    told,
)
from tests.cluster.errors import ClusterError

STATE_ROOT = Path("/var/lib/lockstep-cluster")
_SLOT_FILE = "slot.txt"
TIER_LABEL = "lockstep.dev/tier"
PAUSE_IMAGE = "lockstep.local/pause:1"
DEFAULT_NODES = "cloud=cloud edge=edge device=device"
RESERVED_CPU_MILLI = 100
RESERVED_MEMORY_MIB = 512

DEFAULT_NAME = "lockstep"
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
    base: IPv4Network | None = None
    """The range that all its addresses are taken from instead, when one was asked for."""

    def __post_init__(self) -> None:
        if not _CLUSTER_NAME.fullmatch(self.name):
            raise ClusterError(f"cluster name {self.name!r}: at most 10 letters and digits, please")
        if len({node.name for node in self.nodes}) < len(self.nodes):
            raise ClusterError("two nodes have the same name: name each --node differently")
        if not 1 <= len(self.nodes) <= 99:
            raise ClusterError("a cluster has 1 to 99 nodes")
        if self.pod_net.num_addresses < 256 * (len(self.nodes) + 1):
            raise ClusterError(
                f"{ENVIRONMENT_NAME}={self.base} is too small for {len(self.nodes)} nodes: "
                "name a larger range"
            )

    @property
    def ranges(self) -> Ranges:
        return ranges_of_slot(self.slot) if self.base is None else ranges_within(self.base)

    @property
    def node_net(self) -> IPv4Network:
        return self.ranges.nodes

    @property
    def pod_net(self) -> IPv4Network:
        return self.ranges.pods

    @property
    def service_net(self) -> IPv4Network:
        return self.ranges.services

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
    def switch(self) -> str:
        """The network namespace that holds nothing but the bridge between the nodes."""
        return self.name

    @property
    def bridge(self) -> str:
        """In the switch's namespace, as the nodes' links are."""
        return f"{self.name}-br"

    @property
    def uplink(self) -> str:
        """The one link of the cluster in the machine's own namespace."""
        return f"{self.name}-up"

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
    """Note nodes and addresses, so that `down` finds what `up` made, whatever is asked then."""
    (layout.state / "nodes.txt").write_text("\n".join(map(str, layout.nodes)))
    addresses = layout.slot if layout.base is None else layout.base
    (layout.state / _SLOT_FILE).write_text(str(addresses))


def recall(layout: Layout) -> Layout:
    """The layout with the nodes that its cluster was brought up with, if there is one."""
    try:
        texts = (layout.state / "nodes.txt").read_text().split()
    except FileNotFoundError:
        return layout
    nodes = tuple(NodeSpec.parse(text) for text in texts)
    return _at_noted(replace(layout, nodes=nodes, slot=0, base=None), layout.state)


def _at_noted(layout: Layout, state: Path) -> Layout:
    """The layout at the addresses that a state folder notes: a slot, or a range."""
    try:
        noted = (state / _SLOT_FILE).read_text().strip()
        return replace(layout, base=IPv4Network(noted)) if "/" in noted else _in_slot(layout, noted)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return layout


def _in_slot(layout: Layout, noted: str) -> Layout:
    return replace(layout, slot=int(noted))


def ranges_of_others(layout: Layout) -> list[Route]:
    """The ranges of the other clusters on this machine, up or crashed."""
    others = STATE_ROOT.iterdir() if STATE_ROOT.is_dir() else ()
    noted = [state for state in others if state != layout.state and (state / _SLOT_FILE).is_file()]
    return [
        Route(net, f"cluster {state.name}")
        for state in noted
        for net in _at_noted(Layout(), state).ranges.all
    ]


def with_free_addresses(layout: Layout, taken: Collection[Route]) -> Layout:
    """The layout at addresses that nothing else has; the default name prefers the first slot.

    Raises:
        ClusterError: there are none left, or the range that was asked for is taken.
    """
    slots = range(SLOTS) if layout.name == DEFAULT_NAME else [*range(1, SLOTS), 0]
    places = [replace(layout, slot=slot) for slot in slots] if layout.base is None else [layout]
    clashes = [clash(place.ranges, taken) for place in places]
    free = next((place for place, found in zip(places, clashes, strict=True) if not found), None)
    if free is None:
        raise ClusterError(told(filter(None, clashes), taken))
    return free


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lockstep"


def layout_from(
    environment: Mapping[str, str], nodes: list[str] | None = None, name: str | None = None
) -> Layout:
    """The layout that options and LOCKSTEP_{NODES,CLUSTER_NAME,ADDRESSES} ask for; options win."""
    texts = nodes or environment.get("LOCKSTEP_NODES", DEFAULT_NODES).split()
    name = name or environment.get("LOCKSTEP_CLUSTER_NAME", DEFAULT_NAME)
    base = environment.get(ENVIRONMENT_NAME)
    return Layout(
        name=name,
        nodes=tuple(NodeSpec.parse(text) for text in texts),
        base=parse_base(base) if base else None,
    )
