"""NetworkPolicies hold in the embedded cluster: on a node and between nodes, by name, for probes.

Other network plugins have tests of their own.
"""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from lockstep_api.names import Tier
from tests.cluster import api
from tests.cluster.drivers import Embedded
from tests.cluster.errors import ClusterError
from tests.e2e.knocking import KEPT_OUT, PORT, TAKEN, heard, knocker
from tests.e2e.running import a_namespace
from tests.support.patience import TIMEOUT

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
NAMES = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
SYSTEM = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}


def policy(name: str, **sides: Any) -> Json:
    """What is allowed to the pod of a name; nothing else is."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": name}},
            "policyTypes": [side.capitalize() for side in sides],
            **sides,
        },
    }


def peer(name: str) -> Json:
    return {"podSelector": {"matchLabels": {"app": name}}}


def service(name: str) -> Json:
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def apply(namespace: str, *objects: Json) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    api.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(items))


@pytest.fixture(scope="module")
def walled(cluster: Path) -> Iterator[str]:
    """A namespace with a server, a friend on another node, and strangers on both."""
    if not isinstance(api.driver(), Embedded):
        pytest.skip("whether this cluster's network plugin enforces policies is not ours")
    with a_namespace() as namespace:
        apply(
            namespace,
            policy(
                "server",
                ingress=[{"from": [peer("friend")], "ports": [{"port": PORT}]}],
                egress=[],
            ),
            policy(
                "friend",
                egress=[{"to": [SYSTEM], **NAMES}, {"to": [peer("server")]}],
            ),
            service("server"),
            service("near"),
            service("far"),
            knocker("server"),
            knocker("friend", tier=Tier.EDGE),
            knocker("near"),
            knocker("far", tier=Tier.EDGE),
        )
        api.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", TIMEOUT)
        yield namespace


def test_a_pod_that_nobody_may_reach_is_ready(walled: str) -> None:
    """The kubelet's probe gets in: it comes from the node. `walled` has waited for it."""
    apply(walled, policy("alone", ingress=[], egress=[]), knocker("alone"))
    api.kubectl("-n", walled, "wait", "--for=condition=Ready", "pod/alone", TIMEOUT)
    expected = {(address(walled, "alone"), PORT): KEPT_OUT}
    assert heard(walled, "near", expected) == expected


def test_a_port_forward_gets_in_and_the_apiserver_does_not_from_another_node(
    walled: str,
) -> None:
    """`kubectl port-forward` ends in the pod itself; the proxy for Services is a stranger."""
    apply(walled, policy("shut", ingress=[]), knocker("shut", tier=Tier.EDGE), service("shut"))
    api.kubectl("-n", walled, "wait", "--for=condition=Ready", "pod/shut", TIMEOUT)
    expected = {(address(walled, "shut"), PORT): KEPT_OUT}
    assert heard(walled, "near", expected) == expected
    kubectl = [str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", "-n", walled]
    words = [*kubectl, "port-forward", "pod/shut", f":{PORT}"]
    with subprocess.Popen(words, stdout=PIPE, text=True) as forward:
        assert forward.stdout
        try:
            local = re.search(r"127.0.0.1:(\d+)", forward.stdout.readline())
            assert local
            with urllib.request.urlopen(f"http://127.0.0.1:{local[1]}/", timeout=60) as answer:
                assert answer.status == 200
        finally:
            forward.terminate()
    path = f"/api/v1/namespaces/{walled}/services/shut:80/proxy/"
    with pytest.raises(ClusterError, match="no route to host"):
        api.kubectl("get", "--raw", path)


def address(namespace: str, pod: str) -> str:
    """By which it is reached without a name."""
    return api.kubectl("-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def test_a_friend_gets_in_by_the_name_of_a_service(walled: str) -> None:
    expected = {("server", 80): TAKEN, (address(walled, "server"), PORT): TAKEN}
    assert heard(walled, "friend", expected) == expected


@pytest.mark.parametrize(("stranger", "other"), [("near", "far"), ("far", "near")])
def test_strangers_do_not_on_its_node_and_from_another(
    walled: str, stranger: str, other: str
) -> None:
    expected = {("server", 80): KEPT_OUT, (address(walled, "server"), PORT): KEPT_OUT}
    assert heard(walled, stranger, expected) == expected
    open_to_all = {(other, 80): TAKEN}
    assert heard(walled, stranger, open_to_all) == open_to_all, "no policy is about it"


def test_a_pod_gets_out_only_where_it_may(walled: str) -> None:
    expected = {("near", 80): KEPT_OUT, (address(walled, "far"), PORT): KEPT_OUT}
    assert heard(walled, "friend", expected) == expected
    nowhere = {(address(walled, "near"), PORT): KEPT_OUT}
    assert heard(walled, "server", nowhere) == nowhere


TALK = """
import socket
link = socket.create_connection(("server", 80), timeout=300)
print("begun", flush=True)
input()
link.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
print(link.recv(8, socket.MSG_WAITALL).decode(), flush=True)
"""


def test_a_connection_that_is_there_goes_on_when_no_new_one_gets_in(walled: str) -> None:
    opened = {("server", 80): TAKEN}
    assert heard(walled, "friend", opened) == opened
    kubectl = [str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", "-n", walled]
    words = [*kubectl, "exec", "-i", "friend", "--", "python3", "-c", TALK]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, text=True) as talk:
        assert talk.stdin
        assert talk.stdout
        assert talk.stdout.readline() == "begun\n"
        apply(walled, policy("server", ingress=[], egress=[]))
        expected = {(address(walled, "server"), PORT): KEPT_OUT}
        assert heard(walled, "friend", expected) == expected
        talk.stdin.write("\n")
        talk.stdin.flush()
        assert talk.stdout.readline() == "HTTP/1.0\n"


def test_a_policy_that_is_gone_holds_no_more(walled: str) -> None:
    api.kubectl("-n", walled, "delete", "networkpolicy", "server")
    expected = {("server", 80): TAKEN}
    assert heard(walled, "near", expected) == expected
