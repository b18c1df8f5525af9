"""Debian packages that the cluster's programs come from: which are missing, and installing them.

Invariant: no service of ours comes to run, now or at the next boot, and none that was there stops.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.command import run
from tests.cluster.errors import ClusterError

POLICY = Path("/usr/sbin/policy-rc.d")
"""What packages ask before they start a service; 101 forbids it."""
SERVICE = "containerd.service"
_UNITS = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
}
_CNI_PACKAGE = "containernetworking-plugins"
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_CNI_PLUGINS = ("ptp", "host-local", "loopback", "portmap", "bandwidth")


def cni_folder() -> Path:
    for folder in _CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in _CNI_PLUGINS):
            return folder
    raise ClusterError(f"no CNI plugins: install the package {_CNI_PACKAGE}")


def missing_packages() -> list[str]:
    missing = {package for program, package in _PROGRAMS.items() if not shutil.which(program)}
    folders = (all((folder / one).exists() for one in _CNI_PLUGINS) for folder in _CNI_FOLDERS)
    if not any(folders):
        missing.add(_CNI_PACKAGE)
    return sorted(missing)


def install_packages() -> None:
    """Install what is missing, or say what to install where that cannot be done here."""
    missing = missing_packages()
    if not missing:
        return
    words = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ClusterError(f"not installed: {words}: install them by this system's package manager")
    print(f"installing the Debian packages {words} (once; by apt-get)", flush=True)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "-q", "update", timeout_s=600)
    install = ("apt-get", "-qy", "install", "--no-install-recommends")
    with without_new_service():
        run(*install, *missing, timeout_s=900)
    if still := missing_packages():
        raise ClusterError(f"still missing after apt-get: {' '.join(still)}: install them by hand")


@contextmanager
def without_new_service() -> Iterator[None]:
    """While packages are installed: theirs is neither started nor enabled; one that was is left."""
    was_there = any((folder / SERVICE).exists() for folder in _UNITS)
    ours = not os.path.lexists(POLICY)
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()
        if not was_there and shutil.which("systemctl"):
            run("systemctl", "--quiet", "disable", SERVICE, check=False)
