"""A second embedded cluster beside the first: both serve; its end, even a bad one, is its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from images.cli import layout_folder
from images.command import cache_folder
from images.recipe import project_version, reference
from tests.cluster import api, faults
from tests.cluster.drivers import Embedded, kubectl
from tests.cluster.layout import Layout, recall
from tests.cluster.programs import Programs
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

NAME = "second"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "there"},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": reference("operator", project_version()),
                "command": ["python3", "-m", "http.server", "8000"],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
            }
        ]
    },
}


def command(*words: str | Path) -> str:
    """The cluster tool for the second cluster, as a person would call it."""
    argv = [sys.executable, "-m", "tests.cluster", "--name", NAME, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def second(cluster: Path) -> Iterator[Embedded]:
    """One node beside the cluster of all other tests."""
    driver = Embedded(Layout(name=NAME))
    argv = ("--node", "one=cloud", "up", layout_folder(cache_folder(), "operator"))
    try:
        command(*argv)
        yield driver
    finally:
        command("down")


def pod_is_ready(driver: Embedded, namespace: str) -> str:
    """A pod answers its probe; its address."""
    where = ("-n", namespace)
    kubectl(driver, *where, "apply", "-f", "-", stdin=json.dumps(POD))
    kubectl(driver, *where, "wait", "pod/there", "--for=condition=Ready", TIMEOUT)
    found = json.loads(kubectl(driver, *where, "get", "pod", "there", "-o", "json"))
    return str(found["status"]["podIP"])


def test_both_serve_and_the_end_of_one_is_its_own(second: Embedded, namespace: str) -> None:
    first = api.driver()
    assert isinstance(first, Embedded)
    theirs = pod_is_ready(second, "default")
    ours = pod_is_ready(first, namespace)
    layouts = [recall(driver.layout) for driver in (first, second)]
    assert layouts[0].slot != layouts[1].slot
    assert IPv4Address(ours) in layouts[0].pod_net
    assert IPv4Address(theirs) in layouts[1].pod_net
    nodes = json.loads(kubectl(second, "get", "nodes", "-o", "json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["one"]

    programs = Programs(layouts[1], Path("kubeall"))
    node = layouts[1].nodes[0]
    for name in (f"containerd-{node.name}", f"kubelet-{node.name}", "etcd"):
        faults.stop_program(programs, node, name)
    assert second.status() == "broken"
    assert "cluster is down" in command("down")
    assert not layouts[1].state.exists()
    assert not layouts[1].namespace_path(node).exists()
    assert f"{NAME}-" not in Path("/proc/self/mounts").read_text()
    assert first.status() == "up"
    kubectl(first, "-n", namespace, "wait", "pod/there", "--for=condition=Ready", TIMEOUT)
