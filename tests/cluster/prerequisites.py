"""What the embedded cluster needs of the machine, checked before anything is touched.

Each missing thing is one `ClusterError` that says what to do. Debian packages are installed when
root and apt-get are there.
"""

import os
import platform
import shutil
from pathlib import Path

from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import STATE_ROOT, cache_folder

FREE_GIB = 6
FREE_GIB_AT_FIRST = 16  # Go's modules and objects, and the images on every node
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


def check_machine() -> None:
    if platform.system() != "Linux":
        raise ClusterError(
            "the embedded cluster needs Linux: set CLUSTER=existing and KUBECONFIG to use another"
        )
    if os.geteuid() != 0:
        raise ClusterError(
            "the embedded cluster needs root: use sudo, or set CLUSTER=existing and KUBECONFIG"
        )


def check_disk() -> None:
    wanted = FREE_GIB if (cache_folder() / "cluster").exists() else FREE_GIB_AT_FIRST
    for folder in (cache_folder(), STATE_ROOT):
        free = shutil.disk_usage(_nearest(folder)).free / 2**30
        if free < wanted:
            raise ClusterError(
                f"{free:.1f} GiB are free for {folder}, {wanted} are needed: free some, "
                "or set XDG_CACHE_HOME to a larger disk"
            )


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def cni_folder() -> Path:
    for folder in _CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in _CNI_PLUGINS):
            return folder
    raise ClusterError(f"no CNI plugins: install the package {_CNI_PACKAGE}")


def missing_packages() -> list[str]:
    missing = {package for program, package in _PROGRAMS.items() if not shutil.which(program)}
    if not any((folder / _CNI_PLUGINS[0]).exists() for folder in _CNI_FOLDERS):
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
    run(*install, *missing, timeout_s=900)
    if still := missing_packages():
        raise ClusterError(f"still missing after apt-get: {' '.join(still)}: install them by hand")
