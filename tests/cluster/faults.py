"""What can go wrong on the embedded cluster, done on purpose: kills, stopped programs, full disks,
a slow apiserver.

Tests call it through `api`. A program is stopped by its record and started again with the same
words, so `status` and `down` know it as before.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import process, slow_way
from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec
from tests.cluster.process import ProcessId
from tests.cluster.programs import Programs

_CGROUPS = Path("/sys/fs/cgroup")
API_PORT = 6443


SLOW_WAY = "slow-way"
SLOW_PORT = 16443
"""One of those where the chart's policies look for apiservers."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A program that was stopped, and how to start it again."""

    node: NodeSpec
    name: str
    words: tuple[str, ...]


def stop_program(programs: Programs, node: NodeSpec, name: str) -> Stopped:
    """SIGKILL to a recorded program.

    Raises:
        ClusterError: it does not run.
    """
    record = process.recorded(programs.records).get(name)
    if record is None or not record.alive:
        raise ClusterError(f"{name} does not run: see {programs.layout.logs / name}.log")
    words = _command_line(record.pid)
    process.stop([record])
    return Stopped(node, name, words)


def start_program(programs: Programs, stopped: Stopped) -> None:
    """Starts a stopped program with the words it had."""
    programs.start(stopped.node, stopped.name, *stopped.words)


def _command_line(pid: int) -> tuple[str, ...]:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return tuple(words[:-1])


@dataclass(frozen=True, slots=True)
class SlowWay:
    """Another address of the apiserver, where calls take longer when a test says so."""

    host: str
    port: int
    file: Path

    def delay(self, seconds: float) -> None:
        """So much longer each call takes from now on."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self.file)


def start_slow_way(programs: Programs) -> tuple[SlowWay, ProcessId]:
    """Starts the program of the slow way, which is not slow yet."""
    layout = programs.layout
    way = SlowWay(str(layout.api_address), SLOW_PORT, layout.state / SLOW_WAY)
    way.delay(0)
    at, target = f"{way.host}:{way.port}", f"{way.host}:{API_PORT}"
    words = (sys.executable, str(Path(slow_way.__file__)), at, target, str(way.file))
    return way, programs.start(layout.nodes[0], SLOW_WAY, *words)


def stop_slow_way(programs: Programs, started: ProcessId) -> None:
    """Ends it; the cluster is whole without it."""
    process.stop([started])
    (programs.records / f"{SLOW_WAY}.json").unlink()


def kill_container(layout: Layout, pod: dict[str, Any]) -> None:
    """SIGKILL to the first process of a running pod's first container.

    Args:
        layout: the cluster's.
        pod: the pod as `kubectl get -o json` shows it.

    Raises:
        ClusterError: it has no such process now.
    """
    identity = _first_process(layout, pod)
    identity.send(signal.SIGKILL)
    process.wait_gone([identity], timeout_s=10)


def processes_of(layout: Layout, pod: dict[str, Any]) -> list[int]:
    """The processes of a running pod's first container, as the machine numbers them.

    Raises:
        ClusterError: it has none now.
    """
    name = pod["metadata"]["name"]
    containers = pod["status"].get("containerStatuses") or []
    if not containers or "running" not in containers[0]["state"]:
        raise ClusterError(f"pod {name} runs no container now")
    container = containers[0]["containerID"].rpartition("/")[2]
    node = layout.node(pod["spec"]["nodeName"])
    files = _CGROUPS.glob(f"*/{layout.cgroup(node)}/**/{container}/cgroup.procs")
    found = {int(pid) for file in files for pid in file.read_text().split()}
    if not found:
        raise ClusterError(f"pod {name} has no process on node {node.name}")
    return sorted(found)


def _first_process(layout: Layout, pod: dict[str, Any]) -> ProcessId:
    for pid in processes_of(layout, pod):
        identity = ProcessId.of(pid)
        if identity is not None and _is_first(pid):
            return identity
    raise ClusterError(f"the first process of pod {pod['metadata']['name']} has ended")


def _is_first(pid: int) -> bool:
    """Whether a process has the number 1 in its container."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)


@dataclass(frozen=True, slots=True)
class SmallVolume:
    """A mounted volume of a fixed size."""

    folder: Path

    def fill(self) -> None:
        """Writes until nothing more fits."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                while _fits(file.fileno(), size):
                    pass

    def empty(self) -> None:
        """Makes room again."""
        (self.folder / "filler").unlink()


def _fits(file: int, size: int) -> bool:
    try:
        return os.write(file, bytes(size)) == size
    except OSError:
        return False


@contextmanager
def mounted(layout: Layout, name: str, megabytes: int) -> Iterator[SmallVolume]:
    """A tmpfs of this size below the cluster's folder, where `down` finds it after a crash."""
    folder = layout.state / "small-volumes" / name
    folder.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "lockstep-small", str(folder))
    try:
        yield SmallVolume(folder)
    finally:
        run("umount", "--lazy", str(folder))
        folder.rmdir()


def volume_manifest(
    name: str, folder: Path, node: NodeSpec, *, claim: tuple[str, str], megabytes: int
) -> dict[str, object]:
    """A PersistentVolume of this folder on this node, for the claim (namespace, name)."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": f"{megabytes}Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": name,
            "claimRef": {"namespace": claim[0], "name": claim[1]},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
