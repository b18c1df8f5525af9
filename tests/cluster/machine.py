"""What this machine is: everything that `preflight` decides about, read without changing anything.

Standard library only, and nothing newer than Python 3.8: it is read before anything is installed,
also by a Python that is too old for the rest.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Iterable, Mapping, NamedTuple  # noqa: UP035 -- as Python 3.8 has it

GIB = 2**30
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
_CONTROLLERS_OF_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
_CAPABILITIES = {"SYS_ADMIN": 21, "NET_ADMIN": 12, "SYS_CHROOT": 18, "MKNOD": 27}


class Machine(NamedTuple):
    """A machine, as far as a cluster needs it."""

    system: str
    architecture: str
    root: bool
    python: tuple[int, int]
    has_venv: bool
    """Whether this Python can make virtual environments."""
    programs: frozenset[str]
    """Which of the programs that are asked for are there."""
    cpus: int
    memory_gib: float
    available_gib: float
    free_gib: Mapping[str, float]
    """Free disk space: folder → GiB."""
    filesystem: str
    """The kind of file system that images will lie on."""
    capabilities: frozenset[str] = frozenset(_CAPABILITIES)
    namespaces: frozenset[str] = frozenset(_NAMESPACES)
    controllers: frozenset[str] = frozenset()
    """Controllers of cgroups."""
    cgroups_writable: bool = True
    modules: frozenset[str] | None = None
    """Parts of the kernel that are built in or can be loaded; None: it does not tell."""
    kubelet: int = 0
    """The process of a kubelet that is not ours, or 0."""


def read_machine(programs: Iterable[str], folders: Iterable[Path], images: Path) -> Machine:
    """This machine; `images` is where the images will lie."""
    memory = _memory()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        root=os.geteuid() == 0,
        python=(sys.version_info[0], sys.version_info[1]),
        has_venv=_has_venv(),
        programs=frozenset(name for name in programs if _program(name)),
        cpus=os.cpu_count() or 1,
        memory_gib=memory.get("MemTotal", 0) / 2**20,
        available_gib=memory.get("MemAvailable", 0) / 2**20,
        free_gib={str(folder): _free_gib(folder) for folder in folders},
        filesystem=filesystem_of(nearest(images), _text("/proc/self/mounts")),
        capabilities=capabilities(_text("/proc/self/status")),
        namespaces=frozenset(n for n in _NAMESPACES if os.path.lexists(f"/proc/self/ns/{n}")),
        controllers=_controllers(),
        cgroups_writable=os.access("/sys/fs/cgroup", os.W_OK),
        modules=_modules(platform.release()),
        kubelet=_foreign_kubelet(),
    )


def _program(name: str) -> str | None:
    """A program in PATH, or where sudo and cron do not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _has_venv() -> bool:
    try:
        import ensurepip  # noqa: F401, PLC0415 -- Debian ships it apart
        import venv  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def _memory() -> dict[str, int]:
    """/proc/meminfo, in KiB."""
    found = re.findall(r"^(\w+): +(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return {name: int(value) for name, value in found}


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _free_gib(folder: Path) -> float:
    return shutil.disk_usage(nearest(folder)).free / GIB


def filesystem_of(folder: Path, table: str) -> str:
    """The kind of the mount that a folder lies in."""
    rows = [line.split() for line in table.splitlines()]
    above = [row for row in rows if len(row) > 2 and _is_above(row[1], str(folder.resolve()))]
    return max(above, key=lambda row: len(row[1]))[2] if above else ""


def _is_above(point: str, folder: str) -> bool:
    return f"{folder}/".startswith(f"{point.rstrip('/')}/")


def capabilities(status: str) -> frozenset[str]:
    """Of a process's status those that the cluster needs."""
    match = re.search(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)
    bits = int(match[1], 16) if match else 0
    return frozenset(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def _controllers() -> frozenset[str]:
    """Those of the pure second version of cgroups; else those that are mounted."""
    if _CONTROLLERS_OF_V2.exists():
        return frozenset(_CONTROLLERS_OF_V2.read_text().split())
    rows = (line.split() for line in _text("/proc/self/mounts").splitlines())
    options = [row[3].split(",") for row in rows if len(row) > 3 and row[2] == "cgroup"]
    return frozenset(name for each in options for name in each)


def _modules(release: str) -> frozenset[str] | None:
    folder = Path("/lib/modules") / release
    config = _config(release)
    names = re.findall(r"^CONFIG_(\w+)=y$", config, re.MULTILINE)
    listed = _text(str(folder / "modules.builtin")) + _text(str(folder / "modules.dep"))
    if not config and not listed:
        return None
    loaded = re.findall(r"^(\w+) ", _text("/proc/modules"), re.MULTILINE)
    files = re.findall(r"([\w-]+)\.ko", listed)
    return frozenset(name.lower().replace("-", "_") for name in (*names, *loaded, *files))


def _config(release: str) -> str:
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        return _text(f"/boot/config-{release}")


def _foreign_kubelet() -> int:
    """A kubelet outside containers that is no program of our clusters."""
    here = _link("/proc/self/ns/mnt")
    for folder in Path("/proc").glob("[0-9]*"):
        name = _text(str(folder / "comm")).strip()
        if name in {"kubelet", "k3s-server", "k3s-agent"} and _link(f"{folder}/ns/mnt") == here:
            return int(folder.name)
    return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
