"""Edges as people see them with kubectl: pods on their tier, labels, Ready, metrics, drains.

Their job has pods of all roles but trainers: so it tells, too, who reaches whom.
"""

import json
from collections.abc import Iterator

import pytest

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.spec import Privacy
from lockstep_operator.core.privacy import spent
from tests.cluster import api
from tests.cluster.drivers import Embedded
from tests.cluster.errors import ClusterError
from tests.e2e.knocking import KEPT_OUT, PORT, TAKEN, heard, knocker
from tests.e2e.program import cli
from tests.e2e.running import (
    NAMESPACE,
    Json,
    a_namespace,
    apply,
    condition,
    eventually,
    get,
    in_phase,
    in_pod,
    kill_edge_at_work,
    lone_job,
    past_round,
    patch,
    pods,
    rounds_go_on,
    watch,
)
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "tiered"
PRIVACY = {"clipNorm": 0.1, "noiseMultiplier": 0.01}
"""So little noise that even one device learns."""
EDGES = [{"name": "near", "replicas": 2, "cpu": "100m", "memory": "512Mi"}]
ANSWER = """
from lockstep_workers.device.connection import connect
from lockstep_workers.environment import Environment
here = Environment()
url = here.job().edge_urls["near-{ordinal}"]
asked = connect(url, here.trust())
asked.request("GET", "/nothing")
print(url.partition("//")[2], asked.getresponse().status)
"""
"""As a device does: where the edge speaks TLS it shows who it is."""


def tiered(name: str, **edge: str) -> Json:
    """A job with one device and two edges that runs for as long as it is let; a round lasts some
    seconds, so that a kill meets one."""
    groups = [EDGES[0] | edge]
    training = {"rounds": 100_000, "localSteps": {"fixed": 200}}
    return lone_job(name, training=training, mode="hierarchical", edges=groups, privacy=PRIVACY)


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
        said = in_pod(NAMESPACE, device["metadata"]["name"], ANSWER.format(ordinal=ordinal))
        assert said == f"{host} 404\n", "an answer of the edge"


OPENING = """
import sys
from lockstep_api.sessions import Registration
from lockstep_workers.device.connection import connect, open_session
from lockstep_workers.environment import Environment
here = Environment()
known = Registration(client="slow-0", incarnation="stranger", examples=1)
proof = {{"authorization": "Bearer {token}"}} if "{token}" else {{}}
try:
    open_session(connect(here.job().cloud_url, here.trust()), known, proof=proof)
except Exception as error:
    print(error)
else:
    print("it is in")
"""
"""A pod that can reach the cloud pod tries to be the job's device."""


def token_of(namespace: str, account: str, *, uid: str, pod: str = "") -> str:
    """A real token for this job, as whoever has the right to make tokens gets it."""
    bound = ("--bound-object-kind", "Pod", "--bound-object-name", pod) if pod else ()
    words = ("create", "token", account, "--audience", names.job_audience(uid), *bound)
    return api.kubectl("-n", namespace, *words).strip()


def twin(namespace: str, device: Json, *, uid: str) -> str:
    """The token of a pod with a device's name and account in another namespace; it never runs."""
    name, account = device["metadata"]["name"], device["spec"]["serviceAccountName"]
    api.kubectl("-n", namespace, "create", "serviceaccount", account)
    spec = {
        "serviceAccountName": account,
        "nodeSelector": {"lockstep.dev/none": "none"},
        "containers": [{"name": "c", "image": "example.invalid/none"}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    api.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(pod))
    return token_of(namespace, account, uid=uid, pod=name)


def test_no_other_pod_is_a_device_with_whatever_token(running: Json) -> None:
    """They are real tokens of this cluster, for this job: of its other pods, of accounts of its
    namespace, and of a pod in another one that is named like the device."""
    uid, (device,) = running["metadata"]["uid"], pods(NAMESPACE, JOB, "device")
    tokens = {
        "": "401: show the pod's token",
        token_of(NAMESPACE, "default", uid=uid): "401: this is not the token of a pod",
        token_of(NAMESPACE, f"{JOB}-device", uid=uid): "401: this is not the token of a pod",
        token_of(NAMESPACE, f"{JOB}-cloud", uid=uid, pod=f"{JOB}-cloud-0"): "is not slow-0",
        token_of(NAMESPACE, f"{JOB}-edge", uid=uid, pod=f"{JOB}-edge-near-0"): "is not slow-0",
    }
    with a_namespace() as other:
        tokens[twin(other, device, uid=uid)] = "is not slow-0"
        for token, words in tokens.items():
            said = in_pod(NAMESPACE, device["metadata"]["name"], OPENING.format(token=token))
            assert words in said, said
    assert get(NAMESPACE, JOB)["status"]["clients"] == "1/1", "nobody took its place"


IMPOSTOR = """
import socket, sys, time
from urllib.parse import urlsplit
from lockstep_workers.device.connection import connect
from lockstep_workers.environment import Environment
here, (_, address, patience_s) = Environment(), sys.argv
at = urlsplit(here.job().cloud_url)
resolved, until = socket.getaddrinfo, time.monotonic() + float(patience_s)
while address not in {found[4][0] for found in resolved(at.hostname, at.port)}:
    assert time.monotonic() < until, "its Service does not lead there"
    time.sleep(0.5)
socket.getaddrinfo = lambda _host, *rest, **named: resolved(address, *rest, **named)
try:
    connect(here.job().cloud_url, here.trust())
except ConnectionError as error:
    print(error)
else:
    print("it is taken for the server")
"""
"""A device connects to its cloud pod, and the name's answer leads it to the impostor."""


def test_who_has_the_cloud_pods_labels_is_told_nothing(running: Json) -> None:
    """Its Service leads devices there, too; a device knows the server by its certificate."""
    apply(NAMESPACE, knocker("impostor", labels=names.role_labels(JOB, Role.CLOUD)))
    try:
        ready = ("wait", "--for=condition=Ready", "pod/impostor", TIMEOUT)
        api.kubectl("-n", NAMESPACE, *ready)
        (device,) = pods(NAMESPACE, JOB, "device")
        run = ("exec", device["metadata"]["name"], "--", "python3", "-c", IMPOSTOR)
        address = str(get(NAMESPACE, "impostor", "pod")["status"]["podIP"])
        said = api.kubectl("-n", NAMESPACE, *run, address, str(PATIENCE_S))
        assert "is not the server asked for" in said
        told = api.kubectl("-n", NAMESPACE, "logs", "impostor")
        assert '"GET / HTTP/1.1" 200' in told, "it tells what it hears: probes"
        assert "/v1/" not in told
        rounds_go_on(NAMESPACE, JOB)
    finally:
        api.kubectl("-n", NAMESPACE, "delete", "pod", "impostor", "--wait")


def test_prometheus_scrapes_edges(running: Json) -> None:
    eventually(NAMESPACE, f'up{{pod=~"{JOB}-edge-near-.", job="{JOB}"}} == 1', series=2)


@pytest.fixture(scope="module")
def strangers(running: Json) -> Iterator[list[tuple[str, str]]]:
    """Pods that are none of the job: beside it, and in another namespace with its labels."""
    if not isinstance(api.driver(), Embedded):
        pytest.skip("whether this cluster's network plugin enforces policies is not ours")
    with a_namespace() as elsewhere:
        apply(NAMESPACE, knocker("stranger"))
        apply(elsewhere, knocker("likeness", labels=names.role_labels(JOB, Role.DEVICE)))
        found = [(NAMESPACE, "stranger"), (elsewhere, "likeness")]
        for namespace, pod in found:
            ready = ("wait", "--for=condition=Ready", f"pod/{pod}", TIMEOUT)
            api.kubectl("-n", namespace, *ready)
        yield found
        api.kubectl("-n", NAMESPACE, "delete", "pod", "stranger", "--wait=false")


def addresses(namespace: str, labels: str) -> list[str]:
    text = api.kubectl("-n", namespace, "get", "pods", "-l", labels, "-o", "json")
    return [str(pod["status"]["podIP"]) for pod in json.loads(text)["items"]]


def of_role(role: Role) -> list[str]:
    return addresses(NAMESPACE, names.role_selector(JOB, role))


def of_release(component: str) -> str:
    (address,) = addresses(NAMESPACE, f"app.kubernetes.io/component={component}")
    return address


def doors(port: int, *roles: Role) -> list[tuple[str, int]]:
    return [(address, port) for role in roles for address in of_role(role)]


SERVING = (Role.CLOUD, Role.EDGE)


def test_strangers_reach_no_pod_of_a_job_no_operator_and_no_prometheus(
    strangers: list[tuple[str, str]],
) -> None:
    closed = [
        *doors(names.HTTP_PORT, *SERVING),
        *doors(names.METRICS_PORT, *SERVING, Role.DEVICE),
        (of_release("operator"), names.HTTP_PORT),
        (of_release("operator"), names.METRICS_PORT),
        (of_release("prometheus"), 9090),
    ]
    assert len(closed) == 10
    expected = dict.fromkeys(closed, KEPT_OUT)
    for namespace, pod in strangers:
        assert heard(namespace, pod, expected) == expected


def test_the_pods_of_a_job_reach_each_other_and_nobody_else(
    strangers: list[tuple[str, str]],
) -> None:
    operator, prometheus = of_release("operator"), of_release("prometheus")
    (stranger,) = addresses(NAMESPACE, "app=stranger")
    nowhere = dict.fromkeys([(prometheus, 9090), (stranger, PORT)], KEPT_OUT)
    planner = (operator, names.HTTP_PORT)
    ways = {
        f"{JOB}-device-slow-0": {
            **dict.fromkeys(doors(names.HTTP_PORT, *SERVING), TAKEN),
            **dict.fromkeys(doors(names.METRICS_PORT, *SERVING), KEPT_OUT),
            planner: KEPT_OUT,
        },
        f"{JOB}-edge-near-0": {
            **dict.fromkeys(doors(names.HTTP_PORT, Role.CLOUD), TAKEN),
            **dict.fromkeys(doors(names.METRICS_PORT, Role.DEVICE), KEPT_OUT),
            planner: KEPT_OUT,
        },
        names.cloud_pod(JOB): {
            planner: TAKEN,
            **dict.fromkeys(doors(names.HTTP_PORT, Role.EDGE), KEPT_OUT),
        },
    }
    for pod, expected in ways.items():
        assert heard(NAMESPACE, pod, nowhere | expected) == nowhere | expected, pod


def test_a_job_can_do_without_policies_and_get_them_back(
    strangers: list[tuple[str, str]],
) -> None:
    open_to_all = dict.fromkeys(doors(names.HTTP_PORT, *SERVING), TAKEN)
    closed = dict.fromkeys(open_to_all, KEPT_OUT)
    patch(NAMESPACE, JOB, {"security": {"networkPolicy": "disabled"}})
    try:
        for namespace, pod in strangers:
            assert heard(namespace, pod, open_to_all) == open_to_all
    finally:
        patch(NAMESPACE, JOB, {"security": {"networkPolicy": "auto"}})
    for namespace, pod in strangers:
        assert heard(namespace, pod, closed) == closed


def test_the_status_of_a_private_job_has_the_accountants_figure(running: Json) -> None:
    """Its edges clip; every round so far is in it, and what a device tells of labels beside it."""
    job = watch(NAMESPACE, JOB, past_round(2))
    told = job["status"]["privacy"]
    assert told["rounds"] >= 2
    epsilon = spent(Privacy.model_validate(PRIVACY), clients=1, rounds=told["rounds"])
    assert told["epsilon"] == pytest.approx(epsilon)
    assert (told["delta"], told["labelEpsilon"]) == (0.1, 2.0)
    ran = cli("describe", JOB)
    assert ran.code == 0, ran.err
    assert "of a client (δ 0.1), in " in ran.out


def evict(pod: str) -> None:
    """What `kubectl drain` asks for."""
    metadata = {"name": pod, "namespace": NAMESPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def refused(pod: str) -> str:
    """Evicts a pod; why not, or nothing."""
    try:
        evict(pod)
    except ClusterError as error:
        return str(error)
    return ""


def is_back(pod: str, before: str) -> bool:
    """Whether another pod has come in the place of the one with this UID."""
    uid: str = get(NAMESPACE, pod, "pod")["metadata"]["uid"]
    return uid != before


def may_take_one(budget: Json) -> bool:
    """Whether all edges are there, so that one may be evicted."""
    return bool(budget.get("status", {}).get("disruptionsAllowed") == 1)


def test_a_drain_takes_one_edge_at_a_time(running: Json) -> None:
    """The next one may go when the first is back; rounds go on."""
    first, second = (f"{JOB}-edge-near-{ordinal}" for ordinal in (0, 1))
    before = get(NAMESPACE, first, "pod")["metadata"]["uid"]
    watch(NAMESPACE, f"{JOB}-edges", may_take_one, kind="pdb")
    evict(first)
    assert "disruption budget" in refused(second) or is_back(first, before)
    watch(NAMESPACE, f"{JOB}-edges", may_take_one, kind="pdb")
    assert is_back(first, before)
    rounds_go_on(NAMESPACE, JOB)


def test_another_edge_does_a_killed_ones_cluster_again(running: Json) -> None:
    kind, message = kill_edge_at_work(NAMESPACE, JOB)
    assert kind == "Warning"
    assert "cluster c0 " in message
    assert rounds_go_on(NAMESPACE, JOB)["status"]["phase"] == "Running"


def test_edges_that_do_not_fit_say_by_how_much(lockstep: str) -> None:
    """Where jobs of other tests take most of a tier, that is said first."""
    apply(lockstep, tiered("vast", cpu="4000", memory="16Mi"))
    words = "needs 8000.0 cores on tier edge, "
    job = watch(
        lockstep, "vast", lambda one: words in condition(one, "Progressing").get("message", "")
    )
    assert in_phase("Pending")(job)
    api.kubectl("-n", lockstep, "delete", "fj", "vast", "--wait", TIMEOUT)
