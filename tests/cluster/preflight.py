"""Whether a cluster and its images can be made here: asked before anything is fetched or installed.

`make demo`, `make cluster-up`, `make test` and `python -m tests.cluster up` begin with it; by hand
it is `python3 -m tests.cluster.preflight`. All that is wrong comes in one list, each line with what
to do; a machine that will do gets one line. With LOCKSTEP_PREFLIGHT=warn the list is said and ends
nothing. Standard library only, also that of older Pythons.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple, Sequence  # noqa: UP035 -- as Python 3.8 has it

from tests.cluster import addresses
from tests.cluster.errors import ClusterError
from tests.cluster.machine import Machine, read_machine

CPUS = 2
"""The example's devices ask for 1.7 cores in all, and a node keeps 0.1 for itself."""
MEMORY_GB = 8
_LEAST_MEMORY_GIB = 7.0  # of 8 GB firmware and kernel keep some
_LEAST_AVAILABLE_GIB = 4.5
FREE_GB_AT_FIRST = 20
"""A first run: Go's modules and objects, packages, layers, and the images in the nodes."""
FREE_GB = 6
PYTHONS = ((3, 11), (3, 13))
STATE_ROOT = Path("/var/lib/lockstep-cluster")
_CONTROLLERS = ("cpu", "memory", "pids")
# What a node needs of the kernel: each by the names that configurations and module files give it.
_KERNEL = {
    "overlay file systems": ("overlay", "overlay_fs"),
    "veth links": ("veth",),
    "bridges": ("bridge",),
    "connection tracking": ("nf_conntrack",),
    "iptables": ("ip_tables", "ip_nf_iptables", "nf_tables", "ip_nf_iptables_legacy"),
}
_NO_UPPER = ("overlay", "nfs", "nfs4", "9p", "fuse", "tmpfs", "vfat")
# Program → Debian's package; those that apt-get can bring are asked for only where it is absent.
_BASIC = {"make": "make"}
_INSTALLED = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
}
PROGRAMS = ("apt-get", "systemctl", *_BASIC, *_INSTALLED)


class Wanted(NamedTuple):
    """What is to be done on the machine."""

    embedded: bool = True
    """A cluster of our own is to run here, not one that is there already."""
    first: bool = True
    """Nothing is cached yet."""
    running: bool = False
    """A cluster of ours is here: what one takes is taken already, and a second one is small."""


def problems(machine: Machine, wanted: Wanted) -> list[str]:
    """All that is wrong, each with what to do."""
    found = list(_tools(machine))
    if machine.system != "Linux":
        return [*found, f"this is {machine.system}, and a cluster needs Linux: {_ELSEWHERE}"]
    if wanted.embedded:
        found += _rights(machine)
        found += _kernel(machine)
        found += _sizes(machine, wanted)
    return [*found, *_disk(machine, wanted)]


_ELSEWHERE = "use one that is there with CLUSTER=existing KUBECONFIG=…"


def _tools(machine: Machine) -> Iterator[str]:
    if not PYTHONS[0] <= machine.python <= PYTHONS[1]:
        have = ".".join(map(str, machine.python))
        yield f"this is Python {have}, and 3.11 to 3.13 will do: name one with PYTHON=python3.12"
    elif not machine.has_venv:
        yield "Python cannot make virtual environments: apt-get install python3-venv"
    missing = [package for name, package in _BASIC.items() if name not in machine.programs]
    if missing:
        yield f"not installed: apt-get install {' '.join(missing)}"


def _rights(machine: Machine) -> Iterator[str]:
    if not machine.root:
        yield f"a cluster on this machine needs root: use sudo, or {_ELSEWHERE}"
    elif len(machine.capabilities) < len(Machine._field_defaults["capabilities"]):
        yield (
            "this root may not make namespaces, mounts and links, as in a container: "
            f"run it on the machine itself, or {_ELSEWHERE}"
        )
    if machine.architecture not in {"x86_64", "aarch64"}:
        yield f"this machine is {machine.architecture}, and clusters run on x86_64: {_ELSEWHERE}"
    absent = sorted({p for name, p in _INSTALLED.items() if name not in machine.programs})
    if absent and "apt-get" not in machine.programs:
        words = " ".join(absent)
        yield f"there is no apt-get to bring {words}: install them by this system's package manager"
    if machine.kubelet:
        yield (
            f"another Kubernetes runs here (process {machine.kubelet}) and would share its folders "
            f"with ours: stop it, or {_ELSEWHERE}"
        )


def _kernel(machine: Machine) -> Iterator[str]:
    lacking = sorted(Machine._field_defaults["namespaces"] - machine.namespaces)
    if lacking:
        yield f"the kernel has no namespaces of kind {', '.join(lacking)}: boot one that has"
    groups = [name for name in _CONTROLLERS if name not in machine.controllers]
    if groups:
        yield (
            f"the kernel offers no cgroup controller {', '.join(groups)}: mount it, or boot "
            "without cgroup_disable= (and with cgroup_enable=memory)"
        )
    elif not machine.cgroups_writable and machine.root:
        yield "/sys/fs/cgroup cannot be written: run it on the machine itself, not in a container"
    if machine.modules is not None:
        for what, names in _KERNEL.items():
            if machine.modules.isdisjoint(names):
                yield (
                    f"the kernel that runs has no {what} ({names[0]}): boot the newest installed "
                    "one (it may have been updated without a reboot), or another"
                )
    if machine.filesystem in _NO_UPPER:
        yield (
            f"images cannot lie on {machine.filesystem}: set XDG_CACHE_HOME to a folder on a disk "
            "with ext4, xfs or btrfs"
        )


def _sizes(machine: Machine, wanted: Wanted) -> Iterator[str]:
    if machine.cpus < CPUS:
        yield f"{machine.cpus} CPU is here, and the example needs {CPUS}: use a larger machine"
    if machine.memory_gib < _LEAST_MEMORY_GIB:
        yield (
            f"{machine.memory_gib:.1f} GiB of memory are here, and {MEMORY_GB} GB are needed: "
            "use a larger machine"
        )
    elif machine.available_gib < _LEAST_AVAILABLE_GIB and not wanted.running:
        yield (
            f"{rounded_down(machine.available_gib)} GiB of memory are free, and "
            f"{_LEAST_AVAILABLE_GIB} are needed: end other programs"
        )


def _disk(machine: Machine, wanted: Wanted) -> Iterator[str]:
    need = FREE_GB_AT_FIRST if wanted.first else FREE_GB
    for folder, free in machine.free_gib.items():
        if free * 2**30 < need * 10**9:
            yield (
                f"{rounded_down(free * 2**30 / 10**9)} GB are free for {folder}, and {need} are "
                "needed: free some, or set XDG_CACHE_HOME to a larger disk"
            )


def rounded_down(value: float) -> str:
    """With one decimal, and never so much that it looks enough when it is not."""
    return f"{int(value * 10) / 10:.1f}"


def summary(machine: Machine) -> str:
    """The line that a machine gets that will do."""
    free = min(machine.free_gib.values(), default=0.0) * 2**30 / 10**9
    return (
        f"this machine will do: {machine.cpus} CPUs, {machine.memory_gib:.1f} GiB of memory, "
        f"{rounded_down(free)} GB of disk free"
    )


def cache_folder() -> Path:
    """As `layout.cache_folder`, for a Python that cannot read that module."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lockstep"


def check(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """What is wrong with this machine, and the line for one that will do."""
    cache, here = cache_folder(), Path(__file__).resolve().parents[2]
    wanted = Wanted(
        embedded=environment.get("CLUSTER", "embedded") in {"", "embedded"},
        first=not (cache / "cluster").exists(),
        running=STATE_ROOT.exists(),
    )
    machine = read_machine(PROGRAMS, (cache, STATE_ROOT, here), images=cache)
    found = problems(machine, wanted)
    if wanted.embedded and not wanted.running and "ip" in machine.programs:
        found += _addresses(environment)
    return found, summary(machine)


def _addresses(environment: Mapping[str, str]) -> Iterator[str]:
    """Whether any ranges of addresses are left for a cluster."""
    try:
        routes = addresses.machine_routes()
        asked = environment.get(addresses.ENVIRONMENT_NAME)
        places = addresses.places(addresses.parse_base(asked) if asked else None)
    except ClusterError as error:
        yield str(error)
        return
    clashes = [addresses.clash(ranges, routes) for ranges in places]
    if all(clashes):
        yield addresses.told((route for route in clashes if route), routes)


def only_warns(environment: Mapping[str, str]) -> bool:
    """Whether somebody wants to go on whatever is wrong."""
    return environment.get("LOCKSTEP_PREFLIGHT") == "warn"


def listed(found: Sequence[str]) -> str:
    """All that is wrong, and how to go on all the same."""
    lines = (f"  - {each}" for each in found)
    return "\n".join(("this machine will not do yet:", *lines, _ALL_THE_SAME))


_ALL_THE_SAME = "  (LOCKSTEP_PREFLIGHT=warn goes on all the same)"


def main() -> int:
    """One line, or the list of what is wrong."""
    found, line = check(os.environ)
    if not found:
        print(line)
        return 0
    print(listed(found), file=sys.stderr)
    return 0 if only_warns(os.environ) else 1


if __name__ == "__main__":
    sys.exit(main())
