"""Which addresses a cluster takes, and what it leaves to the machine."""

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.cluster import layout as layout_module
from tests.cluster.addresses import Route, clash, elsewhere, parse_routes, ranges_of_slot
from tests.cluster.errors import ClusterError
from tests.cluster.layout import (
    Layout,
    layout_from,
    ranges_of_others,
    recall,
    with_free_addresses,
    write_down,
)


def route(text: str, device: str = "tun0") -> Route:
    return Route(IPv4Network(text), device)


@pytest.fixture
def state_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(layout_module, "STATE_ROOT", tmp_path)
    return tmp_path


def test_ranges_that_the_machine_uses_are_passed_over() -> None:
    podman = route("10.89.0.0/24", "podman1")
    assert with_free_addresses(Layout(), [podman]).slot == 1
    assert with_free_addresses(Layout(), []).slot == 0


@pytest.mark.parametrize("part", range(3), ids=["nodes", "pods", "services"])
def test_each_of_the_ranges_counts(part: int) -> None:
    taken = Route(ranges_of_slot(0).all[part], "vpn")
    assert with_free_addresses(Layout(), [taken]).slot == 1


def test_where_all_is_taken_it_says_by_what_and_what_to_set() -> None:
    with pytest.raises(ClusterError) as caught:
        with_free_addresses(Layout(), [route("10.0.0.0/8"), route("172.16.0.0/12", "eth1")])
    assert "10.0.0.0/8 (tun0)" in str(caught.value)
    assert "LOCKSTEP_ADDRESSES=192.168.128.0/18" in str(caught.value)


def test_what_it_says_to_set_is_taken() -> None:
    taken = [route("10.0.0.0/8")]
    free = elsewhere(taken)
    chosen = with_free_addresses(layout_from({"LOCKSTEP_ADDRESSES": str(free)}), taken)
    assert clash(chosen.ranges, taken) is None
    assert free is not None
    assert all(net.subnet_of(free) for net in chosen.ranges.all)


def test_a_range_that_was_asked_for_and_is_taken_is_refused() -> None:
    asked = layout_from({"LOCKSTEP_ADDRESSES": "172.20.0.0/16"})
    with pytest.raises(ClusterError, match=r"172\.20\.65\.0/24 \(docker0\)"):
        with_free_addresses(asked, [route("172.20.65.0/24", "docker0")])


@pytest.mark.parametrize("text", ["nonsense", "10.1.0.0/24", "10.1.0.1/16"])
def test_a_range_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClusterError, match=r"such as 172\.28\.0\.0/14"):
        layout_from({"LOCKSTEP_ADDRESSES": text})


def test_a_range_too_small_for_the_nodes_is_refused() -> None:
    nodes = [f"n{i}=device" for i in range(4)]
    with pytest.raises(ClusterError, match="too small for 4 nodes"):
        layout_from({"LOCKSTEP_ADDRESSES": "10.1.0.0/20"}, nodes)


def test_routes_that_stand_in_for_the_default_one_do_not_count() -> None:
    assert clash(ranges_of_slot(0), [route("0.0.0.0/1"), route("0.0.0.0/0")]) is None


def test_routes_are_read_with_the_machines_own_addresses() -> None:
    rows = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "10.0.0.0/8", "dev": "tun0"},
        {"dst": "10.89.0.7", "dev": "lo", "type": "local"},
        {"dst": "10.89.0.255", "dev": "eth0", "type": "broadcast"},
        {"dst": "10.96.0.0/16", "type": "unreachable"},
    ]
    assert parse_routes(json.dumps(rows)) == [
        route("10.0.0.0/8"),
        route("10.89.0.7/32", "lo"),
        route("10.96.0.0/16", ""),
    ]


@pytest.mark.parametrize("asked", [{}, {"LOCKSTEP_ADDRESSES": "172.20.0.0/16"}])
def test_a_cluster_remembers_its_addresses(state_root: Path, asked: dict[str, str]) -> None:
    placed = layout_from(asked, name="kept")
    placed.state.mkdir()
    write_down(placed)
    assert recall(Layout(name="kept")) == placed
    other = {f"{net} (cluster kept)" for net in placed.ranges.all}
    assert {str(taken) for taken in ranges_of_others(Layout())} == other


def test_a_cluster_of_an_older_version_is_known(state_root: Path) -> None:
    """It notes its slot only; one without a note has the first."""
    folder = state_root / "old"
    folder.mkdir()
    (folder / "nodes.txt").write_text("a=cloud")
    assert recall(Layout(name="old")).slot == 0
    (folder / "slot.txt").write_text("3")
    assert recall(Layout(name="old")).slot == 3
    assert Route(ranges_of_slot(3).nodes, "cluster old") in ranges_of_others(Layout())
