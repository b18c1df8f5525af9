"""The control groups below which a node's kubelet keeps its pods, in every hierarchy there is.

Tried on cgroup v1 with a cgroup2 mount beside it, and on pure cgroup v2, which takes the same path
except that controllers must be delegated downwards.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.process import ProcessId


def create(name: str) -> None:
    mounts = list(hierarchies())
    only_v2 = all(kind == "cgroup2" for _, kind in mounts)
    for root, kind in mounts:
        if kind == "cgroup2" and not only_v2:
            continue  # beside v1 hierarchies it has no controllers to give
        folder = root / name
        folder.mkdir(exist_ok=True)
        if kind == "cgroup2":
            _delegate(root)
            _delegate(folder)
        for file in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty and takes no process
            if kind == "cgroup" and (root / file).exists():
                (folder / file).write_text((root / file).read_text())


def _delegate(folder: Path) -> None:
    controllers = (folder / "cgroup.controllers").read_text().split()
    for controller in controllers:
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def hierarchies() -> Iterator[tuple[Path, str]]:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"}:
            yield Path(point), kind


def _folders(name: str) -> Iterator[Path]:
    """All folders of a node, deepest first."""
    for root, _ in hierarchies():
        for path, _, _ in os.walk(root / name, topdown=False):
            yield Path(path)


def has_members(name: str) -> bool:
    """Whether processes live below a name."""
    return any(_members(folder) for folder in _folders(name))


def kill_members(name: str) -> None:
    """End every process that lives in a pod of this node."""
    for folder in _folders(name):
        for pid in _members(folder):
            if identity := ProcessId.of(pid):
                identity.send(signal.SIGKILL)


def _members(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split() if pid != "0"]
    except (FileNotFoundError, OSError):
        return []  # the group went away meanwhile, or is a threaded one


def remove(name: str, *, timeout_s: float = 5) -> None:
    """Remove the folders; killed processes need a moment to leave them."""
    deadline = time.monotonic() + timeout_s
    while not _remove_once(name) and time.monotonic() < deadline:
        kill_members(name)
        time.sleep(0.05)


def _remove_once(name: str) -> bool:
    for folder in _folders(name):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
