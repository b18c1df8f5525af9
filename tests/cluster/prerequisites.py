"""What the embedded cluster needs of the machine, as one `ClusterError` before anything is touched.

`preflight` decides; here it is asked by `up`, and `down` needs less.
"""

import os
import platform

from tests.cluster import preflight
from tests.cluster.errors import ClusterError


def check_all() -> None:
    """Everything that a cluster needs, in one list."""
    found, _ = preflight.check(os.environ)
    if found and not preflight.only_warns(os.environ):
        raise ClusterError(preflight.listed(found))


def check_machine() -> None:
    if platform.system() != "Linux":
        raise ClusterError(
            "the embedded cluster needs Linux: set CLUSTER=existing and KUBECONFIG to use another"
        )
    if os.geteuid() != 0:
        raise ClusterError(
            "the embedded cluster needs root: use sudo, or set CLUSTER=existing and KUBECONFIG"
        )
