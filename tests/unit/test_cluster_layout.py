"""Names, addresses and node sizes of the embedded cluster."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from lockstep_api.names import Tier
from tests.cluster.addresses import Route, overlapping
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec, cache_folder, layout_from, recall
from tests.cluster.node import reserved


def test_three_nodes_one_of_each_tier_by_default() -> None:
    assert [node.tier for node in Layout().nodes] == [Tier.CLOUD, Tier.EDGE, Tier.DEVICE]


def test_nodes_get_addresses_in_order_and_pods_a_subnet_each() -> None:
    layout = Layout()
    assert layout.address(layout.nodes[2]) == IPv4Address("10.89.0.3")
    assert layout.pod_subnet(layout.nodes[2]) == IPv4Network("10.244.3.0/24")
    assert layout.host_address == IPv4Address("10.89.0.254")
    assert layout.api_address == layout.address(layout.nodes[0])


def test_link_names_fit_the_kernel() -> None:
    nodes = tuple(NodeSpec(f"n{i}", Tier.DEVICE) for i in range(99))
    layout = Layout(name="a" * 10, nodes=nodes)
    assert max(len(layout.link(node)) for node in nodes) <= 15
    assert len(layout.bridge) <= 15
    assert len(layout.uplink) <= 15


def test_two_clusters_share_no_name() -> None:
    one, two = Layout(), Layout(name="second")
    node = one.nodes[0]
    for name in ("namespace", "link", "cgroup", "containerd_root"):
        assert getattr(one, name)(node) != getattr(two, name)(node)
    assert one.state != two.state


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a=cloud", NodeSpec("a", Tier.CLOUD)),
        ("b=edge:1500m", NodeSpec("b", Tier.EDGE, 1500)),
        ("c=device:1.5:8Gi", NodeSpec("c", Tier.DEVICE, 1500, 8192)),
        ("d=device:2:512Mi", NodeSpec("d", Tier.DEVICE, 2000, 512)),
    ],
)
def test_a_node_is_read_from_text_and_written_again(text: str, spec: NodeSpec) -> None:
    assert NodeSpec.parse(text) == spec
    assert NodeSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["a", "a=fog", "A=edge", "a=edge:much", "a=edge:1:8"])
def test_a_wrong_node_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClusterError, match="edge=edge:1500m:8Gi"):
        NodeSpec.parse(text)


def test_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(ClusterError, match="same name"):
        layout_from({"LOCKSTEP_NODES": "a=cloud a=edge"})


def test_options_win_over_the_environment() -> None:
    layout = layout_from({"LOCKSTEP_NODES": "a=cloud"}, ["b=edge"])
    assert [node.name for node in layout.nodes] == ["b"]


def test_a_cluster_remembers_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.layout.STATE_ROOT", tmp_path)
    layout = Layout(name="kept")
    assert recall(layout) == layout
    layout.state.mkdir()
    (layout.state / "nodes.txt").write_text("a=cloud:1500m\nb=device")
    wanted = (NodeSpec("a", Tier.CLOUD, 1500), NodeSpec("b", Tier.DEVICE))
    assert recall(layout) == replace(layout, nodes=wanted)


def test_an_unknown_node_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ClusterError, match="cloud, edge, device"):
        Layout().node("fog")


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/lockstep")


def test_what_a_node_does_not_offer_is_reserved() -> None:
    spec = NodeSpec("a", Tier.EDGE, 1500, 4096)
    assert reserved(spec, cpus=2, memory_mib=8192) == {"cpu": "500m", "memory": "3896Mi"}


def test_a_node_larger_than_the_machine_is_refused() -> None:
    with pytest.raises(ClusterError, match="larger than the machine"):
        reserved(NodeSpec("a", Tier.EDGE, 3000), cpus=2, memory_mib=8192)


@pytest.mark.parametrize(
    ("routes", "taken"),
    [
        (["0.0.0.0/0", "192.0.2.0/24"], None),
        (["0.0.0.0/0", "10.0.0.0/8"], "10.0.0.0/8"),
        (["10.89.0.7"], "10.89.0.7/32"),
    ],
)
def test_taken_address_ranges_are_seen(routes: list[str], taken: str | None) -> None:
    found = overlapping(IPv4Network("10.89.0.0/24"), [Route(IPv4Network(to)) for to in routes])
    assert (found and str(found)) == taken
