"""Deployments of the chart that tests take away for a while, and bring back whatever happened.

Other tests of the process use the same chart: they would miss what stays away.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import api
from tests.e2e.running import NAMESPACE
from tests.support.patience import TIMEOUT


@contextmanager
def away(component: str) -> Iterator[None]:
    """The chart without its `operator` or `prometheus`, which is there again afterwards."""
    deployment = f"deployment/lockstep-{component}"
    pods = ("pods", "-l", f"app.kubernetes.io/component={component}")
    try:
        api.kubectl("-n", NAMESPACE, "scale", deployment, "--replicas=0")
        api.kubectl("-n", NAMESPACE, "wait", *pods, "--for=delete", TIMEOUT)
        yield
    finally:
        api.kubectl("-n", NAMESPACE, "scale", deployment, "--replicas=1")
        api.kubectl("-n", NAMESPACE, "rollout", "status", deployment, TIMEOUT)
