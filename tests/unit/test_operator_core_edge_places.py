"""Where edges go: by capacity, spread over nodes, counted for jobs that come later."""

from dataclasses import replace
from typing import Any

from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_operator.core.amount import UNBOUNDED, Amount
from lockstep_operator.core.model import (
    JobKey,
    NodeView,
    Settings,
)
from lockstep_operator.core.occupancy import Holding, free, own_pods, shares
from lockstep_operator.core.placement import DoesNotFit, Placement, place
from lockstep_operator.core.resources import device_resources
from lockstep_operator.core.status import read_placement, written_placement
from tests.support.tiered import group, split_job

SETTINGS = Settings(worker_image="worker:1", planner_url="http://planner")
GIB = 2.0**30
NEAR: dict[str, Any] = {"name": "near", "replicas": 2, "cpu": "2", "memory": "2Gi"}
ZONE = {"zone": "z"}
FAR: dict[str, Any] = {"name": "far", "cpu": "500m", "nodeSelector": ZONE}


def node(
    name: str,
    cpu: float = 4.0,
    tier: str | None = None,
    *,
    left: float | None = None,
    labels: dict[str, str] | None = None,
) -> NodeView:
    labels = ({} if tier is None else {"lockstep.dev/tier": tier}) | (labels or {})
    return NodeView(name, labels, True, (), cpu, Amount(left or cpu, 8 * GIB, 110))


CLOUD, DEVICE = node("c", tier="cloud"), node("d", tier="device")


def where(result: Placement | DoesNotFit) -> dict[str, tuple[str, ...]]:
    assert isinstance(result, Placement), result
    return {pods.group: nodes for pods, nodes in result.by_set.items() if pods.role is Role.EDGE}


def refused(result: Placement | DoesNotFit) -> str:
    assert isinstance(result, DoesNotFit), result
    return result.message


def job(*edges: dict[str, Any], **change: Any) -> FederatedJobSpec:
    return split_job(group("d", "500m", replicas=2), edges=list(edges), **change)


def test_edges_go_to_nodes_of_their_tier() -> None:
    nodes = [CLOUD, DEVICE, node("e", 3, "edge"), node("x", 64)]
    found = place(job({"name": "near"}), nodes)
    assert where(found) == {"near": ("e",)}
    assert isinstance(found, Placement)
    assert found.nodes() == {"c", "d", "e"}


def test_a_lone_edge_gets_the_strongest_node_with_room() -> None:
    nodes = [CLOUD, DEVICE, node("full", 16, "edge", left=0.5), node("weak", 2, "edge")]
    assert where(place(job({"name": "near"}), nodes)) == {"near": ("weak",)}
    strong = node("strong", 2, "edge", labels={"lockstep.dev/clock-ghz": "3.5"})
    assert where(place(job({"name": "near"}), [*nodes, strong])) == {"near": ("strong",)}


def test_several_edges_of_a_group_are_spread_strongest_first() -> None:
    nodes = [CLOUD, DEVICE, *(node(f"e{cpu}", cpu, "edge") for cpu in (2, 8, 4))]
    assert where(place(job({"name": "near", "replicas": 2}), nodes)) == {"near": ("e8", "e4")}
    assert where(place(job({"name": "near", "replicas": 9}), nodes)) == {"near": ("e8", "e4", "e2")}
    assert refused(place(job({"name": "near", "replicas": 15}), nodes)) == (
        "needs 15.0 cores on tier edge, 14.0 free: "
        "lower edges[].cpu, memory or replicas, or add nodes"
    )


def test_a_node_is_given_no_more_edges_than_it_holds() -> None:
    """Two of the small one and four of the large one are what both hold."""
    nodes = [CLOUD, DEVICE, node("large", 4, "edge"), node("small", 2, "edge")]
    spec = job({"name": "near", "replicas": 6}, {"name": "far", "cpu": "100m"})
    assert "on tier edge" in refused(place(spec, nodes))
    assert where(place(job({"name": "near", "replicas": 6}), nodes)) == {"near": ("large", "small")}


def test_edges_are_packed_where_only_that_leaves_room_for_all() -> None:
    nodes = [CLOUD, DEVICE, node("a", 4, "edge"), node("b", 4, "edge")]
    spread = {"name": "spread", "replicas": 2, "cpu": "2"}
    whole = {"name": "whole", "cpu": "1900m", "replicas": 2}
    assert where(place(job(spread, whole), nodes)) == {
        "spread": ("a", "b"),
        "whole": ("a", "b"),
    }
    memory = {"name": "whole", "cpu": "100m", "memory": "7Gi"}
    several = {"name": "spread", "cpu": "1", "replicas": 2, "memory": "4Gi"}
    assert where(place(job(several, memory), nodes)) == {"spread": ("a",), "whole": ("b",)}


def test_edges_stay_spread_where_only_devices_have_to_be_split() -> None:
    """On one node, the two middle ones would leave the three small ones too little."""
    devices = [node("x", 5.5, "device"), node("y", 5, "device"), node("z", 1.5, "device")]
    middle, small = group("middle", "2", replicas=2), group("small", "1500m", replicas=3)
    groups = (group("large", "3"), middle, small)
    spec = split_job(*groups, edges=[{"name": "near", "replicas": 2}])
    nodes = [CLOUD, *devices, node("e", 8, "edge"), node("f", 8, "edge")]
    assert where(place(spec, nodes)) == {"near": ("e", "f")}


def test_a_tier_without_a_node_for_edges_is_named() -> None:
    message = refused(place(job({"name": "near"}), [CLOUD, DEVICE]))
    assert message == (
        "no ready node has label lockstep.dev/tier=edge: set it with kubectl label node"
    )
    nodes = [CLOUD, DEVICE, node("e", tier="edge")]
    assert "nodeSelector" in refused(place(job(FAR), nodes))


def test_edges_that_no_node_holds_are_refused_in_numbers() -> None:
    nodes = [CLOUD, DEVICE, node("a", 1, "edge"), node("b", 1, "edge")]
    message = refused(place(job({"name": "near", "cpu": "1500m"}), nodes))
    assert message.startswith("edge group near needs 1 × 1.5 cores and 1024 MiB each on tier edge")
    assert message.endswith("lower cpu or memory, or widen nodeSelector")
    chosen = job({"name": "any"}, {**FAR, "cpu": "2"})
    nodes = [CLOUD, DEVICE, node("a", 8, "edge"), node("b", 1, "edge", labels=ZONE)]
    assert refused(place(chosen, nodes)).startswith(
        "edge group far needs 2.0 cores on the nodes that it may use, 1.0 free: lower edges[].cpu"
    )


def test_without_tiers_cloud_edges_and_devices_share_the_nodes_in_this_order() -> None:
    spec = job({"name": "near", "replicas": 2})
    assert where(place(spec, [node("n", 4)])) == {"near": ("n",)}
    message = refused(place(spec, [node("n", 3)]))
    assert message.startswith("needs 1.0 cores on tier device, 0.5 free: "), "3 - 0.5 - 2 × 1"
    assert refused(place(spec, [node("n", 2)])).startswith("needs 2.0 cores on tier edge, 1.5 free")


def test_a_placement_with_edges_is_read_back_from_the_status() -> None:
    spec = job(NEAR, FAR)
    nodes = [CLOUD, DEVICE, node("e", 8, "edge", labels=ZONE), node("f", 8, "edge")]
    found = place(spec, nodes)
    assert isinstance(found, Placement)
    written = written_placement(found)
    assert [(one.name, one.nodes) for one in written] == [
        ("cloud", ["c"]),
        ("edge/near", ["e", "f"]),
        ("edge/far", ["e"]),
        ("d", ["d"]),
    ]
    assert read_placement(FederatedJobStatus(placement=written), spec) == found
    without = [one for one in written if one.name != "edge/far"]
    assert read_placement(FederatedJobStatus(placement=without), spec) is None


def test_edges_of_placed_jobs_hold_their_cores_before_they_are_there() -> None:
    spec = job({"name": "near", "replicas": 2, "cpu": "1500m"})
    nodes = [CLOUD, DEVICE, node("e", 4, "edge")]
    found = place(spec, nodes)
    assert isinstance(found, Placement)
    status = FederatedJobStatus(placement=written_placement(found), phase=Phase.STARTING)
    held = shares(JobKey("ml", "demo"), spec, status=status)
    there = Holding("ml", "demo-edge-near-0", "e", Amount(1.5, GIB, 1))
    left = free(nodes, used={}, pods=[there], placed=held, allowed=lambda _: UNBOUNDED)
    assert {one.name: one.free.cpu for one in left} == {"c": 3.5, "d": 3.0, "e": 1.0}
    assert own_pods(JobKey("ml", "demo"), spec)(there)
    assert not own_pods(JobKey("ml", "demo"), spec)(replace(there, pod="demo-edge-near-2"))


def test_a_quota_of_limits_leaves_the_boost_what_edges_do_not_have() -> None:
    """6 cores less 0.5 of the cloud pod, 2 × 1.5 of edges and 2 × 0.5 of devices: 0.75 each."""
    spec = job({"name": "near", "replicas": 2, "cpu": "1", "cpuLimit": "1500m"})
    bounds = replace(SETTINGS.bounds, total_cpu=6.0)
    settings = replace(SETTINGS, bounds=bounds, boost_cores=4.0)
    made = device_resources(spec, spec.devices[0], settings=settings)
    assert made["limits"]["cpu"] == "1250m"
