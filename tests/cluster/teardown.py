"""Takes a cluster away completely, whatever its state: running, half started, crashed, rebooted.

It trusts no order and no single record: recorded processes first, then what runs in our cgroups,
then processes whose command line names our state folder; then mounts, links, cgroups, settings,
files. What stays is the cache folder: binary, images. `lifecycle` calls it for `down` and before
`up`.
"""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import cgroups, enforcing, process, runtime
from tests.cluster.command import run
from tests.cluster.layout import STATE_ROOT, Layout, NodeSpec
from tests.cluster.network import remove_network
from tests.cluster.process import ProcessId
from tests.cluster.programs import Programs
from tests.cluster.settings import restore_settings

_OUR_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "runc", "kubeall", "nsenter")
# Folders that kubelet and CNI make whatever their settings say; removed when nothing is in them.
_SHARED = tuple(
    Path(path)
    for path in (
        STATE_ROOT,
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd",
    )
)


def remove_cluster(programs: Programs) -> None:
    layout, records = programs.layout, process.recorded(programs.records)
    sockets = [path for node in layout.nodes for path in runtime.shim_sockets(layout, node)]
    process.stop(id for name, id in records.items() if not name.startswith("containerd"))
    with ThreadPoolExecutor(len(layout.nodes)) as pool:
        list(pool.map(lambda node: _empty_node(programs, node), layout.nodes))
    process.stop(_strays(programs))
    _unmount_below(layout.state)
    remove_network(layout)
    for node in layout.nodes:
        cgroups.remove(layout.cgroup(node))
    restore_settings(layout)
    _remove_files(layout, sockets)


def _empty_node(programs: Programs, node: NodeSpec) -> None:
    layout = programs.layout
    cgroups.kill_members(layout.cgroup(node))
    record = process.recorded(programs.records).get(f"containerd-{node.name}")
    if record is not None and record.alive:
        runtime.remove_containers(layout, node)
        runtime.stop_containerd(programs, node)
    else:
        process.stop(_strays(programs, node))
        runtime.sweep_root(layout, node)
    runtime.forget_pods(layout, node)


def _strays(programs: Programs, node: NodeSpec | None = None) -> list[ProcessId]:
    """Our programs that no record names, such as the shims of a containerd that died."""
    layout = programs.layout
    folder = layout.node_folder(node) if node else layout.state
    names = {*_OUR_PROGRAMS, programs.kubeall.name}
    return process.find(lambda words: belongs_to(words, folder, names))


def belongs_to(words: list[str], folder: Path, names: set[str]) -> bool:
    """Whether a command line is one of these programs, or of ours, at work in this folder."""
    inside = re.compile(rf"(^|[=/]){re.escape(str(folder).lstrip('/'))}(/|$)")
    ours = Path(words[0]).name in names or enforcing.MODULE in words
    return ours and any(inside.search(word) for word in words[1:])


def _unmount_below(folder: Path) -> None:
    for point in reversed(mounts_below(folder, Path("/proc/self/mounts").read_text())):
        run("umount", "--lazy", point, check=False)


def mounts_below(folder: Path, table: str) -> list[str]:
    """Mount points below a folder, outer ones first; the table writes a space as \\040."""
    points = [line.split()[1] for line in table.splitlines()]
    plain = [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), point) for point in points]
    return sorted(point for point in plain if point.startswith(f"{folder}/"))


def _remove_files(layout: Layout, sockets: list[Path]) -> None:
    for socket in sockets:
        socket.unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{layout.state}/"):
            link.unlink()
    shutil.rmtree(layout.state)
    if not any(STATE_ROOT.iterdir()):
        _remove_shared()


def _remove_shared() -> None:
    Path("/var/lib/kubelet/device-plugins/kubelet.sock").unlink(missing_ok=True)
    for folder in _SHARED:
        try:
            folder.rmdir()
        except OSError:
            continue  # absent, or used by someone else
