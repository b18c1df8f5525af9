"""The links between nodes: one bridge, one network namespace and one veth pair per node.

The bridge has a namespace of its own, the switch. This machine gets one link to it, with an address
and routes to pods and Services, and forwards nothing: whatever its packet filter says of forwarding
(Docker, ufw and firewalld refuse it) does not reach what nodes say to each other. Rules, forwarding
and routes of a node live and die with its namespace.
"""

from collections.abc import Iterable
from pathlib import Path

from tests.cluster import cgroups
from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec

LINKS = Path("/sys/class/net")
NAMESPACES = Path("/run/netns")


def check_names_free(layout: Layout) -> None:
    """Refuse names that something else on this machine has: `down` would take it away.

    Raises:
        ClusterError: which, and what to do.
    """
    spaces = [layout.switch, *map(layout.namespace, layout.nodes)]
    taken = [f"link {one}" for one in our_links(layout) if (LINKS / one).exists()]
    taken += [f"network namespace {one}" for one in spaces if (NAMESPACES / one).exists()]
    groups = [layout.cgroup(node) for node in layout.nodes]
    taken += [f"control group {one}" for one in groups if cgroups.has_members(one)]
    if taken:
        raise ClusterError(
            f"this machine has a {', a '.join(taken)} that no cluster of ours made: remove it, or "
            "choose another name for the cluster (--name, LOCKSTEP_CLUSTER_NAME)"
        )


def create_network(layout: Layout) -> None:
    for name in (layout.switch, *map(layout.namespace, layout.nodes)):
        run("ip", "netns", "add", name)
    run("ip", "-batch", "-", stdin="\n".join(_host_lines(layout)))
    run("ip", "-netns", layout.switch, "-batch", "-", stdin="\n".join(_switch_lines(layout)))
    for node in layout.nodes:
        lines = "\n".join(_node_lines(layout, node))
        run("ip", "-netns", layout.namespace(node), "-batch", "-", stdin=lines)
        inside = ("nsenter", f"--net={layout.namespace_path(node)}", "sysctl", "-qw")
        run(*inside, "net.ipv4.ip_forward=1")


def _host_lines(layout: Layout) -> Iterable[str]:
    uplink = layout.uplink
    yield f"link add {uplink} type veth peer name {uplink} netns {layout.switch}"
    yield f"addr add {layout.host_address}/{layout.node_net.prefixlen} dev {uplink}"
    yield f"link set {uplink} up"
    for node in layout.nodes:
        yield f"route add {layout.pod_subnet(node)} via {layout.address(node)}"
    yield f"route add {layout.service_net} via {layout.api_address}"


def _switch_lines(layout: Layout) -> Iterable[str]:
    yield f"link add {layout.bridge} type bridge"
    yield f"link set {layout.bridge} up"
    yield f"link set {layout.uplink} master {layout.bridge} up"
    for node in layout.nodes:
        link = layout.link(node)
        yield f"link add {link} type veth peer name eth0 netns {layout.namespace(node)}"
        yield f"link set {link} master {layout.bridge} up"


def _node_lines(layout: Layout, node: NodeSpec) -> Iterable[str]:
    yield "link set lo up"
    yield f"addr add {layout.address(node)}/{layout.node_net.prefixlen} dev eth0"
    yield "link set eth0 up"
    yield f"route add default via {layout.host_address}"
    for other in layout.nodes:
        if other != node:
            yield f"route add {layout.pod_subnet(other)} via {layout.address(other)}"
    # A pod's packet to a Service that kube-proxy does not know yet is refused at once; sent on, it
    # would leave an entry in the connection table that swallows every retry of that connection.
    yield f"rule add pref 100 iif lo to {layout.service_net} lookup main"
    yield f"rule add pref 101 to {layout.service_net} unreachable"


def remove_network(layout: Layout) -> None:
    """Remove what is there of it, whatever stands; pods' links go with their node's namespace."""
    names = {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line}
    for name in (layout.switch, *map(layout.namespace, layout.nodes)):
        if name in names:
            run("ip", "netns", "delete", name)
    for link in our_links(layout):  # a namespace's end takes its links, but only a while later
        run("ip", "link", "delete", link, check=False)


def our_links(layout: Layout) -> list[str]:
    """What this machine may have of the cluster: the uplink; of older versions bridge and ports."""
    return [layout.uplink, layout.bridge, *map(layout.link, layout.nodes)]
