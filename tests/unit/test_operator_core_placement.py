"""Placement by compute capacity: who goes where, and refusals in numbers."""

from collections import Counter
from typing import Any

import pytest

from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.model import NodeView
from lockstep_operator.core.placement import (
    CLOUD_POD,
    DoesNotFit,
    Placement,
    PodSet,
    capacity,
    place,
    pod_sets,
)

GIB = 2.0**30
MIB = 2.0**20
TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}


def node(
    name: str,
    cpu: float = 4.0,
    *,
    tier: str | None = None,
    free: float | None = None,
    memory: float = 8 * GIB,
    pods: float = 110,
    labels: dict[str, str] | None = None,
    ready: bool = True,
    taints: tuple[dict[str, str], ...] = (),
) -> NodeView:
    tiers = {} if tier is None else {"lockstep.dev/tier": tier}
    return NodeView(
        name=name,
        labels={**tiers, **(labels or {})},
        ready=ready,
        taints=taints,
        cpu=cpu,
        free=Amount(cpu if free is None else free, memory, pods),
    )


def spec(*devices: dict[str, Any], **other: Any) -> FederatedJobSpec:
    base = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 1},
        "cloud": {"cpu": "1"},
        "devices": list(devices) or [{"name": "d"}],
    }
    return FederatedJobSpec.model_validate(base | other)


def placed(result: Placement | DoesNotFit) -> Placement:
    assert isinstance(result, Placement), result
    return result


def placement(cloud: tuple[str, ...], **groups: tuple[str, ...]) -> Placement:
    return Placement({CLOUD_POD: cloud} | {PodSet(Role.DEVICE, g): n for g, n in groups.items()})


def groups(result: Placement | DoesNotFit) -> dict[str, tuple[str, ...]]:
    """The device groups of a placement, in its order."""
    by_set = placed(result).by_set
    return {pods.group: nodes for pods, nodes in by_set.items() if pods.role is Role.DEVICE}


def refused(result: Placement | DoesNotFit) -> str:
    assert isinstance(result, DoesNotFit), result
    return result.message


CLOUD = node("c", tier="cloud")


def test_each_tier_uses_its_own_nodes() -> None:
    nodes = [node("d", tier="device"), node("e", 64, tier="edge"), CLOUD, node("x", 64)]
    assert place(spec(), nodes) == placement(("c",), d=("d",))


def test_the_clock_label_decides_which_node_is_stronger() -> None:
    slow = node("slow", 8, tier="cloud")
    fast = node("fast", 6, tier="cloud", labels={"lockstep.dev/clock-ghz": "3.5"})
    assert capacity(fast) == pytest.approx(21)
    assert placed(place(spec(), [slow, fast, node("d", tier="device")]))[CLOUD_POD] == ("fast",)


def test_a_clock_label_that_is_no_number_counts_as_1() -> None:
    assert capacity(node("n", 4, labels={"lockstep.dev/clock-ghz": "quick"})) == 4


def test_the_cloud_goes_to_the_strongest_node_with_room() -> None:
    full = node("full", 16, tier="cloud", free=0.5)
    result = placed(place(spec(), [full, CLOUD, node("d", tier="device")]))
    assert result[CLOUD_POD] == ("c",)


def test_a_group_spans_nodes_when_one_is_too_small() -> None:
    nodes = [CLOUD, node("a", 1, tier="device"), node("b", 2, tier="device")]
    group = {"name": "g", "replicas": 6, "cpuAtMax": "500m"}
    assert groups(place(spec(group), nodes)) == {"g": ("b", "a")}


def test_larger_devices_are_packed_first() -> None:
    small = {"name": "small", "replicas": 2, "cpuAtMax": "500m"}
    large = {"name": "large", "cpuAtMax": "2"}
    nodes = [CLOUD, node("a", 2, tier="device"), node("b", 1, tier="device")]
    found = groups(place(spec(small, large), nodes))
    assert found == {"small": ("b",), "large": ("a",)}
    assert list(found) == ["small", "large"]


def test_without_tiers_every_node_serves_all_and_the_cloud_counts() -> None:
    group = {"name": "g", "replicas": 4, "cpuAtMax": "250m"}
    assert place(spec(group), [node("n", 2)]) == placement(("n",), g=("n",))
    message = refused(place(spec(group), [node("n", 1.5)]))
    assert message.startswith("needs 1.0 cores on tier device, 0.5 free: ")


def test_a_tier_that_no_node_has_is_named() -> None:
    message = refused(place(spec(), [CLOUD]))
    assert "lockstep.dev/tier=device" in message
    assert "kubectl label node" in message


def test_nodes_that_are_not_ready_do_not_count() -> None:
    nodes = [CLOUD, node("d", tier="device", ready=False)]
    assert "no ready node has label lockstep.dev/tier=device" in refused(place(spec(), nodes))
    assert "no node is ready" in refused(place(spec(), [node("n", ready=False)]))
    assert "no node is ready" in refused(place(spec(), []))


def test_too_few_cores_are_refused_in_numbers() -> None:
    nodes = [CLOUD, node("d", 4, tier="device", free=2.6)]
    group = {"name": "g", "replicas": 8, "cpuAtMax": "500m"}
    assert refused(place(spec(group), nodes)) == (
        "needs 4.0 cores on tier device, 2.6 free: "
        "lower devices[].cpuAtMax, memory or replicas, or add nodes"
    )


def test_numbers_that_would_look_the_same_get_more_digits() -> None:
    nodes = [CLOUD, node("d", 4, tier="device", free=0.98)]
    message = refused(place(spec({"name": "g", "cpuAtMax": "1"}), nodes))
    assert message.startswith("needs 1.00 cores on tier device, 0.98 free")


def test_too_little_memory_is_refused_in_numbers() -> None:
    nodes = [CLOUD, node("d", tier="device", memory=1024 * MIB)]
    group = {"name": "g", "replicas": 4, "memory": "512Mi"}
    message = refused(place(spec(group), nodes))
    assert message.startswith("needs 2048 MiB on tier device, 1024 MiB free: ")


def test_devices_that_fit_no_single_node_are_refused() -> None:
    nodes = [CLOUD, *(node(name, 1, tier="device") for name in "ab")]
    message = refused(place(spec({"name": "g", "cpuAtMax": "1500m"}), nodes))
    assert "device group g needs 1 × 1.5 cores" in message
    assert "2.0 cores" in message


def test_a_cloud_that_fits_nowhere_is_refused_in_numbers() -> None:
    nodes = [node("c", 2, tier="cloud"), node("d", tier="device")]
    message = refused(place(spec(cloud={"cpu": "3"}), nodes))
    assert message.startswith("needs 3.0 cores on tier cloud, 2.0 free: ")
    message = refused(place(spec(cloud={"memory": "16Gi"}), nodes))
    assert message.startswith("needs 16384 MiB on tier cloud, 8192 MiB free: ")


def test_a_cloud_whose_cores_and_memory_are_free_on_different_nodes() -> None:
    nodes = [
        node("cores", 4, tier="cloud", memory=MIB),
        node("memory", 0.1, tier="cloud"),
        node("d", tier="device"),
    ]
    assert "no node has both" in refused(place(spec(), nodes))


def test_node_selectors_of_template_and_group_both_hold() -> None:
    zone, disk = {"zone": "z1"}, {"disk": "ssd"}
    nodes = [
        node("c", tier="cloud", labels=zone),
        node("neither", 64, tier="device"),
        node("zone", 32, tier="device", labels=zone),
        node("both", 4, tier="device", labels=zone | disk),
    ]
    group = {"name": "g", "nodeSelector": disk}
    job = spec(group, podTemplate={"nodeSelector": zone})
    assert place(job, nodes) == placement(("c",), g=("both",))
    job = spec({"name": "g", "nodeSelector": {"disk": "tape"}})
    assert "nodeSelector" in refused(place(job, nodes))


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "gpu", "operator": "Exists"},
        {"key": "gpu", "value": "yes"},
        {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ],
)
def test_a_tolerated_taint_admits_the_pod(toleration: dict[str, str]) -> None:
    nodes = [CLOUD, node("d", tier="device", taints=(TAINT,))]
    job = spec(podTemplate={"tolerations": [toleration]})
    assert groups(place(job, nodes)) == {"d": ("d",)}


@pytest.mark.parametrize(
    "tolerations",
    [
        [],
        [{"key": "gpu", "value": "no"}],
        [{"key": "other", "operator": "Exists"}],
        [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}],
    ],
)
def test_a_taint_keeps_others_away(tolerations: list[dict[str, str]]) -> None:
    nodes = [CLOUD, node("d", tier="device", taints=(TAINT,))]
    job = spec(podTemplate={"tolerations": tolerations})
    assert "tolerations" in refused(place(job, nodes))


def test_a_preference_keeps_nobody_away() -> None:
    taint = TAINT | {"effect": "PreferNoSchedule"}
    nodes = [CLOUD, node("d", tier="device", taints=(taint,))]
    assert groups(place(spec(), nodes)) == {"d": ("d",)}


def test_a_status_names_sets_of_pods_as_stored_jobs_have_them() -> None:
    job = spec({"name": "fast"}, {"name": "slow"})
    assert [pods.shown for pods in pod_sets(job)] == ["cloud", "fast", "slow"]


def test_a_group_of_another_role_is_never_taken_for_devices() -> None:
    """Device groups have no slash in their names."""
    assert PodSet(Role.TRAINER, "fast").shown == "trainer/fast"


def kwok_like(nodes: int, *, pods: float) -> list[NodeView]:
    """Nodes with far more cores and memory than pods."""
    made = (node(f"n{i}", 128, tier="device", memory=256 * GIB, pods=pods) for i in range(nodes))
    return [CLOUD, *made]


def hundreds(groups: int) -> list[dict[str, Any]]:
    return [{"name": f"g{i}", "replicas": 100, "cpuAtMax": "200m"} for i in range(groups)]


def test_a_node_takes_no_more_pods_than_it_may_have() -> None:
    found = groups(place(spec(*hundreds(10)), kwok_like(10, pods=250)))
    on = Counter(node for nodes in found.values() for node in nodes)
    assert all(len(nodes) == 1 for nodes in found.values())
    assert on == {f"n{i}": 2 for i in range(5)}


def test_too_few_pods_are_refused_in_numbers() -> None:
    message = refused(place(spec(*hundreds(10), {"name": "one"}), kwok_like(3, pods=250)))
    assert message.startswith("needs 1,001 pods on tier device, 750 free: ")


def test_a_cloud_node_that_takes_no_more_pods_is_refused_in_numbers() -> None:
    nodes = [node("c", tier="cloud", pods=0), node("d", tier="device")]
    message = refused(place(spec(), nodes))
    assert message.startswith("needs 1 pods on tier cloud, 0 free: ")


def test_all_that_is_scarce_is_named() -> None:
    nodes = [CLOUD, node("d", 4, tier="device", pods=3)]
    group = {"name": "g", "replicas": 8, "cpuAtMax": "1"}
    message = refused(place(spec(group), nodes))
    assert message.startswith(
        "needs 8.0 cores and 8 pods on tier device, 4.0 cores and 3 pods free"
    )


def test_the_nodes_of_a_groups_selector_are_what_it_is_compared_with() -> None:
    nodes = [CLOUD, node("a", tier="device"), node("b", tier="device", pods=2, labels={"x": "y"})]
    group = {"name": "g", "replicas": 3, "nodeSelector": {"x": "y"}, "cpuAtMax": "100m"}
    message = refused(place(spec({"name": "any"}, group), nodes))
    assert "device group g needs 3 pods on the nodes that it may use, 2 free: " in message


def test_nodes_whose_taints_keep_the_job_away_are_not_free_for_it() -> None:
    nodes = [CLOUD, node("a", 1, tier="device"), node("b", 64, tier="device", taints=(TAINT,))]
    message = refused(place(spec({"name": "g", "replicas": 2, "cpuAtMax": "1"}), nodes))
    assert message.startswith("needs 2.0 cores on tier device, 1.0 free: ")


def test_a_group_stays_on_one_node_that_holds_all_of_it() -> None:
    nodes = [CLOUD, node("a", tier="device", pods=5), node("b", 2, tier="device", pods=10)]
    group = {"name": "g", "replicas": 8, "cpuAtMax": "100m"}
    assert groups(place(spec(group), nodes)) == {"g": ("b",)}


def test_groups_that_could_take_each_others_last_room_have_their_nodes_in_common() -> None:
    nodes = [CLOUD, node("a", tier="device", pods=6), node("b", tier="device", pods=4)]
    several = [{"name": f"g{i}", "replicas": 5, "cpuAtMax": "100m"} for i in range(2)]
    assert groups(place(spec(*several), nodes)) == {"g0": ("a", "b"), "g1": ("a", "b")}


def test_what_fits_only_when_groups_are_split_is_split() -> None:
    """On one node each, the second group would leave the third no room of its size."""
    nodes = [CLOUD, node("a", 3, tier="device"), node("b", 2, tier="device")]
    large = {"name": "large", "replicas": 2, "cpuAtMax": "1"}
    small = {"name": "small", "replicas": 6, "cpuAtMax": "500m"}
    assert set(groups(place(spec(large, small), nodes))) == {"large", "small"}
