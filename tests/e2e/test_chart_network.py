"""The chart's NetworkPolicies, with those that its operator makes: who reaches whom, as a table."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.config import NetworkConfig, OperatorConfig
from lockstep_operator.core.children import children
from lockstep_operator.core.model import JobKey, JobView
from lockstep_operator.core.placement import Placement, pod_sets
from tests.cluster import api
from tests.e2e.running import CHART
from tests.support.manifests import MINIMAL
from tests.support.network import Door, End, pod_of, reaches
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
TIERED = {"mode": "hierarchical", "edges": [{"name": "near"}]}
PLANNER, METRICS, PROMETHEUS, APISERVER = Door(8080), Door(8081), Door(9090), Door(6443)
STRANGER = End("elsewhere", {"app": "stranger"})
OUTSIDE = End(address="203.0.113.7")
PEER = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watching"}}}]
WATCHER = End("watching", {"app": "prometheus"})


def rendered(*words: str) -> list[Json]:
    text = api.helm("template", "lockstep", str(CHART), "--namespace", "system", *words)
    return [document for document in yaml.safe_load_all(text) if document]


def given(**values: Any) -> list[str]:
    """Values of `networkPolicy`."""
    return [
        word
        for name, value in values.items()
        for word in ("--set-json", f"networkPolicy.{name}={json.dumps(value)}")
    ]


def told(made: list[Json]) -> OperatorConfig:
    """What the operator is told of the network."""
    (deployment,) = (
        one
        for one in made
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "lockstep-operator")
    )
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    (text,) = (one["value"] for one in env if one["name"] == "LOCKSTEP_NETWORK")
    url = "http://lockstep-operator.system.svc:8080"
    return OperatorConfig(network=NetworkConfig.model_validate_json(text), planner_url=url)


def of_a_job(config: OperatorConfig) -> list[Json]:
    spec = FederatedJobSpec.model_validate(MINIMAL | TIERED)
    job = JobView(JobKey("ml", "digits"), "uid-1", 1, spec, None, FederatedJobStatus(), 0.0)
    placement = Placement(dict.fromkeys(pod_sets(spec), ("n",)))
    return list(children(job, placement, settings=config.settings()))


def templates(made: list[Json]) -> Iterator[tuple[str, End]]:
    for one in made:
        if one["kind"] in ("Deployment", "StatefulSet"):
            labels = one["metadata"]["labels"]
            component = labels["app.kubernetes.io/component"]
            namespace = one["metadata"]["namespace"]
            yield component, pod_of(one["spec"]["template"], namespace)


class World:
    """Pods of a release and of a job, under all policies there are."""

    def __init__(self, *words: str) -> None:
        made = rendered(*words)
        made += of_a_job(told(made))
        self.policies = [one for one in made if one["kind"] == "NetworkPolicy"]
        self.pods = dict(templates(made))

    def lets(self, source: str | End, target: str | End, door: Door) -> bool:
        one, other = (self.pods[end] if isinstance(end, str) else end for end in (source, target))
        return reaches(self.policies, one, other, door=door)


@pytest.fixture(scope="module")
def world(cluster: Path) -> World:
    return World()


@pytest.mark.parametrize(
    ("source", "target", "door", "passes"),
    [
        ("cloud", "operator", PLANNER, True),
        ("device", "operator", PLANNER, False),
        ("edge", "operator", PLANNER, False),
        (STRANGER, "operator", PLANNER, False),
        (End("system", {"app": "stranger"}), "operator", PLANNER, False),
        (STRANGER, "operator", METRICS, False),
        ("prometheus", "operator", METRICS, True),
        ("prometheus", "operator", PLANNER, False),
        ("cloud", "operator", METRICS, False),
        ("operator", "prometheus", PROMETHEUS, True),
        (STRANGER, "prometheus", PROMETHEUS, False),
        (WATCHER, "prometheus", PROMETHEUS, False),
        ("cloud", "prometheus", PROMETHEUS, False),
        ("prometheus", "cloud", METRICS, True),
        ("prometheus", "edge", METRICS, True),
        ("prometheus", "device", METRICS, True),
        ("prometheus", "device", PLANNER, False),
        ("prometheus", STRANGER, METRICS, False),
        ("prometheus", OUTSIDE, APISERVER, False),
        (WATCHER, "device", METRICS, False),
        ("operator", "device", METRICS, False),
        ("operator", "cloud", PLANNER, False),
        ("operator", OUTSIDE, APISERVER, True),
        ("operator", OUTSIDE, Door(443), True),
        ("operator", OUTSIDE, Door(80), False),
        ("operator", End("kube-system", {}), Door(53, "UDP"), True),
        ("prometheus", End("kube-system", {}), Door(53), True),
        ("operator", STRANGER, Door(53), False),
    ],
)
def test_who_reaches_whom(
    world: World, source: str | End, target: str | End, door: Door, passes: bool
) -> None:
    assert world.lets(source, target, door) is passes


def test_whom_the_values_name_is_let_in(cluster: Path) -> None:
    world = World(*given(metricsFrom=PEER, prometheusFrom=PEER))
    for target in ("operator", "cloud", "edge", "device"):
        assert world.lets(WATCHER, target, METRICS)
        assert world.lets("prometheus", target, METRICS)
        assert not world.lets(WATCHER, target, PLANNER)
    assert world.lets(WATCHER, "prometheus", PROMETHEUS)
    assert not world.lets(STRANGER, "prometheus", PROMETHEUS)


def test_dns_is_where_the_values_say(cluster: Path) -> None:
    world = World(*given(dns={"to": PEER, "ports": [5353]}))
    for source in ("operator", "prometheus", "cloud", "device"):
        assert world.lets(source, WATCHER, Door(5353, "UDP"))
        assert not world.lets(source, End("kube-system", {}), Door(53, "UDP"))


def test_operator_and_prometheus_reach_what_the_values_name(cluster: Path) -> None:
    further = [{"to": PEER, "ports": [{"port": 7, "protocol": "TCP"}]}]
    more = "prometheus.alertmanagers={alerts.example:9093,https://alerts.example/x}"
    url = "operator.prometheusUrl=http://prometheus.example:9091"
    world = World(*given(egress=further), "--set", more, "--set", url, *given(metricsFrom=PEER))
    assert world.lets("operator", WATCHER, Door(7))
    assert world.lets("prometheus", WATCHER, Door(7))
    assert world.lets("operator", OUTSIDE, Door(9091))
    assert [world.lets("prometheus", OUTSIDE, Door(port)) for port in (9093, 443, 80)] == [
        True,
        True,
        False,
    ]
    assert not world.lets("device", WATCHER, Door(7))


def test_without_policies_there_are_none_and_the_operator_makes_none(cluster: Path) -> None:
    made = rendered("--set", "networkPolicy.enabled=false")
    assert "NetworkPolicy" not in {one["kind"] for one in made}
    assert "LOCKSTEP_NETWORK" not in json.dumps(made)


@pytest.mark.parametrize(
    "values",
    [
        "prometheus.enabled=false,operator.prometheusUrl=http://prometheus.example",
        "monitoring.podMonitor.enabled=true",
        "monitoring.serviceMonitor.enabled=true",
    ],
)
def test_a_prometheus_that_nothing_lets_in_is_refused_in_words(cluster: Path, values: str) -> None:
    done = subprocess.run(
        [str(api.tools() / "helm"), "template", "lockstep", str(CHART), "--set", values],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "name its pods in networkPolicy.metricsFrom" in done.stderr
    assert rendered("--set", values, *given(metricsFrom=PEER))
    assert rendered("--set", values, "--set", "networkPolicy.enabled=false")
