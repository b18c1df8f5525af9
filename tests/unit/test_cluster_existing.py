"""Tiers and images of a cluster that is there already."""

import pytest

from lockstep_api.names import Tier
from tests.cluster.drivers import Embedded, Existing, driver_for
from tests.cluster.errors import ClusterError
from tests.cluster.existing import Node, assign_tiers, lacking_images, parse_cpu
from tests.cluster.layout import Layout


def test_the_strongest_node_becomes_the_cloud_and_the_rest_devices() -> None:
    nodes = [Node("a", 1000, None), Node("b", 4000, None), Node("c", 2000, None)]
    nodes.append(Node("d", 500, None))
    tiers = {"b": Tier.CLOUD, "c": Tier.EDGE, "a": Tier.DEVICE, "d": Tier.DEVICE}
    assert assign_tiers(nodes) == tiers


def test_labels_are_kept_and_only_lacking_tiers_filled() -> None:
    nodes = [Node("a", 8000, "device"), Node("b", 4000, "cloud"), Node("c", 2000, None)]
    assert assign_tiers(nodes) == {"c": Tier.EDGE}


def test_nothing_is_labelled_when_every_tier_has_a_node() -> None:
    nodes = [Node(tier, 1000, tier) for tier in Tier]
    assert assign_tiers([*nodes, Node("spare", 9000, None)]) == {}


def test_images_must_be_on_every_node() -> None:
    nodes = [Node("a", 1, None, frozenset({"x:1", "y:1"})), Node("b", 1, None, frozenset({"x:1"}))]
    assert lacking_images(nodes, ["x:1", "y:1"]) == ["y:1"]


@pytest.mark.parametrize(("text", "milli"), [("1900m", 1900), ("2", 2000), ("1.5", 1500)])
def test_cpu_quantities(text: str, milli: int) -> None:
    assert parse_cpu(text) == milli


def test_the_environment_chooses_the_driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("k") / "config"
    path.touch()
    layout = Layout()
    assert driver_for({}, layout) == Embedded(layout)
    assert driver_for({"CLUSTER": "existing", "KUBECONFIG": str(path)}, layout) == Existing(path)


@pytest.mark.parametrize(
    ("environment", "says"),
    [({"CLUSTER": "minikube"}, "embedded"), ({"CLUSTER": "existing"}, "KUBECONFIG")],
)
def test_a_wrong_choice_is_explained(environment: dict[str, str], says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        driver_for(environment, Layout())
