"""What the embedded cluster needs of the machine, checked before anything is touched.

Each missing thing is one `ClusterError` that says what to do.
"""

import os
import platform
import shutil
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.layout import STATE_ROOT, cache_folder

FREE_GIB = 6
FREE_GIB_AT_FIRST = 16  # Go's modules and objects, and the images on every node


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
