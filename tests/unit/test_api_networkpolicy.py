"""docs/examples/networkpolicy.yaml lets a job's own pods, operator and Prometheus in, nobody else.

The apiserver's dry run of all examples is in tests/e2e/test_api.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.children import children
from lockstep_operator.core.model import JobKey, JobView, Settings
from lockstep_operator.core.placement import Placement, pod_sets

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]
Labels = Mapping[str, str]


def example(name: str) -> Json:
    read: Json = yaml.safe_load((ROOT / "docs" / "examples" / name).read_text())
    return read


POLICY = example("networkpolicy.yaml")["spec"]


def pods(name: str) -> dict[str, Json]:
    """Role → a pod of the example's job, with an edge, under another name."""
    tiered = {"mode": "hierarchical", "edges": [{"name": "near"}]}
    spec = FederatedJobSpec.model_validate(example("fashion-mnist.yaml")["spec"] | tiered)
    job = JobView(JobKey("ml", name), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)
    placement = Placement(dict.fromkeys(pod_sets(spec), ("n",)))
    settings = Settings(worker_image="worker:1", planner_url="http://planner")
    made = [m for m in children(job, placement, settings=settings) if m["kind"] == "StatefulSet"]
    templates = [one["spec"]["template"] for one in made]
    return {one["metadata"]["labels"]["lockstep.dev/role"]: one for one in templates}


def chart(component: str) -> Labels:
    """Labels of the chart's pods, as its helper has them."""
    helper = (ROOT / "charts/lockstep/templates/_helpers.tpl").read_text()
    assert "app.kubernetes.io/name: lockstep\n" in helper
    return {"app.kubernetes.io/name": "lockstep", "app.kubernetes.io/component": component}


def selects(selector: Json, labels: Labels) -> bool:
    """As Kubernetes has it, for `In` only."""
    every = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in every)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in every
    )


def let_in(labels: Labels, namespace: str) -> bool:
    """Whether a pod of a job in namespace `ml` that it is about may be reached from such a pod."""
    (rule,) = POLICY["ingress"]
    return any(
        selects(peer["podSelector"], labels)
        and (
            selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
            if "namespaceSelector" in peer
            else namespace == "ml"
        )
        for peer in rule["from"]
    )


def test_it_is_about_the_cloud_pod_and_the_edges_of_the_example_alone() -> None:
    ours, others = pods("fashion-mnist"), pods("another")
    chosen = POLICY["podSelector"]
    for role in ("cloud", "edge"):
        assert selects(chosen, ours[role]["metadata"]["labels"])
        assert not selects(chosen, others[role]["metadata"]["labels"])
    assert not selects(chosen, ours["device"]["metadata"]["labels"])
    assert POLICY["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("role", ["cloud", "edge"])
def test_the_port_is_the_one_that_these_pods_name(role: str) -> None:
    (container,) = pods("fashion-mnist")[role]["spec"]["containers"]
    (rule,) = POLICY["ingress"]
    assert [one["port"] for one in rule["ports"]] == [one["name"] for one in container["ports"]]


@pytest.mark.parametrize(
    ("labels", "namespace", "welcome"),
    [
        (pods("fashion-mnist")["device"]["metadata"]["labels"], "ml", True),
        (pods("fashion-mnist")["edge"]["metadata"]["labels"], "ml", True),
        (pods("fashion-mnist")["device"]["metadata"]["labels"], "elsewhere", False),
        (pods("another")["device"]["metadata"]["labels"], "ml", False),
        (chart("operator"), "lockstep-system", True),
        (chart("prometheus"), "lockstep-system", True),
        (chart("operator"), "elsewhere", False),
        ({"app": "stranger"}, "ml", False),
        ({"app": "stranger"}, "lockstep-system", False),
    ],
)
def test_who_reaches_them(labels: Labels, namespace: str, welcome: bool) -> None:
    assert let_in(labels, namespace) is welcome
