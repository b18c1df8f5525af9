"""An image is stored and unpacked once for all nodes, and pods run from it on each."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.cli import layout_folder
from images.command import cache_folder
from images.recipe import project_version, reference
from tests.cluster.drivers import Embedded, kubectl
from tests.cluster.layout import Layout, recall
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

NAME = "sharing"
IMAGE = layout_folder(cache_folder(), "operator")
LARGE = 1 << 20


def command(*words: str | Path) -> None:
    argv = [sys.executable, "-m", "tests.cluster", "--name", NAME, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def layout() -> Iterator[Layout]:
    """A cluster of two nodes whose stores were empty."""
    stores = Layout(name=NAME).containerd_root(Layout().nodes[0]).parents[1]
    shutil.rmtree(stores, ignore_errors=True)
    try:
        command("--node", "one=cloud", "--node", "two=device", "up", IMAGE)
        yield recall(Layout(name=NAME))
    finally:
        command("down")
        shutil.rmtree(stores)


def inodes(folder: Path) -> set[int]:
    """Of the large files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.stat().st_ino for path in files if path.stat().st_size >= LARGE}


def pod(node: str) -> str:
    container = {
        "name": "main",
        "image": reference("operator", project_version()),
        "command": ["python3", "-m", "http.server", "8000"],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
    }
    spec = {"nodeName": node, "containers": [container]}
    metadata = {"name": f"on-{node}"}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def test_nodes_share_the_files_of_an_image(layout: Layout) -> None:
    first, second = (layout.containerd_root(node) for node in layout.nodes)
    blobs = inodes(IMAGE / "blobs")
    content = "io.containerd.content.v1.content"
    assert blobs
    assert blobs <= inodes(first / content)
    assert blobs <= inodes(second / content)
    snapshots = "io.containerd.snapshotter.v1.overlayfs"
    unpacked = inodes(first / snapshots)
    assert len(unpacked) > 3
    assert inodes(second / snapshots) == unpacked

    driver = Embedded(layout)
    for node in layout.nodes:
        kubectl(driver, "apply", "-f", "-", stdin=pod(node.name))
    for node in layout.nodes:
        kubectl(driver, "wait", f"pod/on-{node.name}", "--for=condition=Ready", TIMEOUT)
    driver.load([IMAGE])  # again: nothing is lost by what collects garbage
    assert inodes(second / snapshots) == unpacked
