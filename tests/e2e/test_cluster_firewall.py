"""A cluster on a machine that forwards nothing, as one with Docker, ufw or firewalld does.

The machine is a network namespace, so that the real one and its other clusters notice nothing.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

NAME = "firewall"
MACHINE = "firewalled-machine"
NODES = ("--node", "one=cloud", "--node", "two=device")
BRIDGED_IS_FILTERED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def there(*words: str) -> str:
    """Run a command on the machine that forwards nothing."""
    argv = ["nsenter", f"--net=/run/netns/{MACHINE}", "--", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cluster_tool(*words: str) -> str:
    return there(sys.executable, "-m", "tests.cluster", "--name", NAME, *words)


@pytest.fixture
def machine() -> Iterator[None]:
    """A machine of its own, with the policy that Docker sets."""
    if not BRIDGED_IS_FILTERED.exists():
        pytest.skip("without br_netfilter this machine's packet filter never sees bridged packets")
    subprocess.run(["ip", "netns", "add", MACHINE], check=True)
    try:
        there("ip", "link", "set", "lo", "up")
        there("iptables", "-P", "FORWARD", "DROP")
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", MACHINE], check=True)


@pytest.fixture
def firewalled(machine: None) -> Iterator[None]:
    """A cluster of two nodes on it."""
    try:
        cluster_tool(*NODES, "up")
        yield
    finally:
        cluster_tool("down")


def test_nodes_get_ready_where_the_machine_forwards_nothing(firewalled: None) -> None:
    assert there("cat", str(BRIDGED_IS_FILTERED)).strip() == "1"
    assert "-P FORWARD DROP" in there("iptables", "-S", "FORWARD")
    kubectl = f"{cluster_tool('tools').strip()}/kubectl"
    config = f"--kubeconfig={cluster_tool('kubeconfig').strip()}"
    nodes = json.loads(there(kubectl, config, "get", "nodes", "-o", "json"))["items"]
    ready = [
        condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    assert ready == ["True", "True"]


def test_nothing_of_the_cluster_stays_on_the_machine(firewalled: None) -> None:
    cluster_tool("down")
    links = [link["ifname"] for link in json.loads(there("ip", "-json", "link", "show"))]
    assert [link for link in links if link.startswith(f"{NAME}-")] == []
    named = json.loads(subprocess.check_output(["ip", "-json", "netns", "list"]) or "[]")
    assert not {one["name"] for one in named} & {NAME, f"{NAME}-one", f"{NAME}-two"}
    assert "-P FORWARD DROP" in there("iptables", "-S", "FORWARD")
