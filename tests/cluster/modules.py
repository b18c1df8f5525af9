"""Kernel modules that nodes need: loaded by `up`, since nothing in a namespace can load them.

Where a module is built in, or modprobe absent, there is nothing to do; what is really missing is
told by whoever needs it. They stay loaded: nobody can know who else came to use them.
"""

import shutil

from tests.cluster.command import run

# kube-proxy sets conntrack's time-outs before any rule of its own would load it.
NEEDED = ("nf_conntrack", "overlay", "veth", "bridge")


def load_modules() -> None:
    modprobe = shutil.which("modprobe") or shutil.which("modprobe", path="/usr/sbin:/sbin")
    if modprobe is not None:
        run(modprobe, "--quiet", "--all", *NEEDED, check=False)
