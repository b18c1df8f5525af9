"""The links between nodes: one bridge, one network namespace and one veth pair per node.

The host gets an address on the bridge and routes to pods and Services, but no packet filter rule;
rules, forwarding and routes of a node live and die with its namespace.
"""

import json
from collections.abc import Iterable
from ipaddress import IPv4Network

from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec


def check_addresses_free(layout: Layout) -> None:
    """Refuse address ranges that this machine already routes elsewhere."""
    routes = json.loads(run("ip", "-4", "-json", "route", "show"))
    used = [route["dst"] for route in routes if route.get("dev") != layout.bridge]
    for wanted in (layout.node_net, layout.pod_net, layout.service_net):
        if taken := overlapping(wanted, used):
            raise ClusterError(
                f"address range {wanted} is taken: this machine has a route to {taken}; "
                "remove it (`ip route`, `ip link`) or run where it is absent"
            )


def overlapping(wanted: IPv4Network, routes: Iterable[str]) -> str | None:
    for route in routes:
        if route != "default" and wanted.overlaps(IPv4Network(route, strict=False)):
            return route
    return None


def create_network(layout: Layout) -> None:
    for node in layout.nodes:
        run("ip", "netns", "add", layout.namespace(node))
    run("ip", "-batch", "-", stdin="\n".join(_host_lines(layout)))
    for node in layout.nodes:
        lines = "\n".join(_node_lines(layout, node))
        run("ip", "-netns", layout.namespace(node), "-batch", "-", stdin=lines)
        inside = ("nsenter", f"--net={layout.namespace_path(node)}", "sysctl", "-qw")
        run(*inside, "net.ipv4.ip_forward=1")


def _host_lines(layout: Layout) -> Iterable[str]:
    bridge = layout.bridge
    yield f"link add {bridge} type bridge"
    yield f"addr add {layout.host_address}/{layout.node_net.prefixlen} dev {bridge}"
    yield f"link set {bridge} up"
    for node in layout.nodes:
        link = layout.link(node)
        yield f"link add {link} type veth peer name eth0 netns {layout.namespace(node)}"
        yield f"link set {link} master {bridge} up"
        yield f"route add {layout.pod_subnet(node)} via {layout.address(node)}"
    yield f"route add {layout.service_net} via {layout.api_address}"


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
    for node in layout.nodes:
        if layout.namespace(node) in names:
            run("ip", "netns", "delete", layout.namespace(node))
        run("ip", "link", "delete", layout.link(node), check=False)
    run("ip", "link", "delete", layout.bridge, check=False)
