"""Edges as people see them with kubectl: pods on their tier, labels, Ready, metrics, drains."""

import json

import pytest

from lockstep_api import names
from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    eventually,
    get,
    in_phase,
    in_pod,
    kill_edge_at_work,
    lone_job,
    pods,
    rounds_go_on,
    watch,
)
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "tiered"
EDGES = [{"name": "near", "replicas": 2, "cpu": "100m", "memory": "512Mi"}]
ANSWER = """
import http.client
asked = http.client.HTTPConnection("{host}", timeout=60)
asked.request("GET", "/nothing")
print(asked.getresponse().status)
"""


def tiered(name: str, **edge: str) -> Json:
    """A job with one device and two edges that runs for as long as it is let; a round lasts some
    seconds, so that a kill meets one."""
    groups = [EDGES[0] | edge]
    training = {"rounds": 100_000, "localSteps": {"fixed": 200}}
    return lone_job(name, training=training, mode="hierarchical", edges=groups)


@pytest.fixture(scope="module")
def running(lockstep: str) -> Json:
    """The job with all its pods ready."""
    apply(lockstep, tiered(JOB))
    return watch(lockstep, JOB, lambda job: condition(job, "Ready").get("reason") == "AllPodsReady")


def test_edges_run_on_nodes_of_their_tier(running: Json) -> None:
    placed = {one["name"]: one["nodes"] for one in running["status"]["placement"]}
    found = pods(NAMESPACE, JOB, "edge")
    assert {pod["metadata"]["name"] for pod in found} == {f"{JOB}-edge-near-{i}" for i in (0, 1)}
    for pod in found:
        assert pod["spec"]["nodeName"] in placed["edge/near"]
        node = json.loads(api.kubectl("get", "node", pod["spec"]["nodeName"], "-o", "json"))
        assert node["metadata"]["labels"][names.TIER_LABEL] == "edge"


def test_ready_counts_edges_and_clients_only_devices(running: Json) -> None:
    assert condition(running, "Ready")["message"] == "all 4 pods are ready, edges 2/2"
    assert running["status"]["clients"] == "1/1"


def labelled(pod: str, label: str) -> str:
    """The value of a pod's label, as soon as it has it."""
    seen = watch(NAMESPACE, pod, lambda one: label in one["metadata"]["labels"], kind="pod")
    value: str = seen["metadata"]["labels"][label]
    return value


def test_labels_tell_each_pods_edge_and_cluster(running: Json) -> None:
    """What `kubectl get pods -L lockstep.dev/cluster,lockstep.dev/edge` shows."""
    for ordinal in (0, 1):
        assert labelled(f"{JOB}-edge-near-{ordinal}", names.EDGE_LABEL) == f"near-{ordinal}"
    (device,) = (pod["metadata"]["name"] for pod in pods(NAMESPACE, JOB, "device"))
    assert labelled(device, names.CLUSTER_LABEL) == "c0"
    assert labelled(device, names.EDGE_LABEL) in {"near-0", "near-1"}


def test_a_device_reaches_each_edge_by_its_name(running: Json) -> None:
    (device,) = pods(NAMESPACE, JOB, "device")
    for ordinal in (0, 1):
        host = f"{JOB}-edge-near-{ordinal}.{JOB}-edges.{NAMESPACE}.svc:{names.HTTP_PORT}"
        said = in_pod(NAMESPACE, device["metadata"]["name"], ANSWER.format(host=host))
        assert said == "404\n", "an answer of the edge"


def test_prometheus_scrapes_edges(running: Json) -> None:
    eventually(NAMESPACE, f'up{{pod=~"{JOB}-edge-near-.", job="{JOB}"}} == 1', series=2)


def evict(pod: str) -> None:
    """What `kubectl drain` asks for."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def may_take_one(budget: Json) -> bool:
    """Whether all edges are there, so that one may be evicted."""
    return bool(budget.get("status", {}).get("disruptionsAllowed") == 1)


def test_a_drain_takes_one_edge_at_a_time(running: Json) -> None:
    """The next one may go when the first is back; rounds go on."""
    first, second = (f"{JOB}-edge-near-{ordinal}" for ordinal in (0, 1))
    before = get(NAMESPACE, first, "pod")["metadata"]["uid"]
    watch(NAMESPACE, f"{JOB}-edges", may_take_one, kind="pdb")
    evict(first)
    with pytest.raises(ClusterError, match="disruption budget"):
        evict(second)
    watch(NAMESPACE, f"{JOB}-edges", may_take_one, kind="pdb")
    assert get(NAMESPACE, first, "pod")["metadata"]["uid"] != before
    rounds_go_on(NAMESPACE, JOB)


def test_another_edge_does_a_killed_ones_cluster_again(running: Json) -> None:
    kind, message = kill_edge_at_work(NAMESPACE, JOB)
    assert kind == "Warning"
    assert "cluster c0 " in message
    assert rounds_go_on(NAMESPACE, JOB)["status"]["phase"] == "Running"


def test_edges_that_do_not_fit_say_by_how_much(lockstep: str) -> None:
    apply(lockstep, tiered("vast", cpu="4000"))
    job = watch(lockstep, "vast", in_phase("Pending"))
    assert "needs 8000.0 cores on tier edge, " in condition(job, "Progressing")["message"]
    api.kubectl("-n", lockstep, "delete", "fj", "vast", "--wait", TIMEOUT)
