"""Waiting for a cluster: until its API server answers, its nodes are ready, its names resolve.

`lifecycle` calls it. A wait ends at once when a program of the cluster ended; one for nodes that
took too long says which are not ready, and why.
"""

import http.client
from collections.abc import Callable

from tests.cluster import control_plane, diagnosis, enforcing
from tests.cluster.apiclient import PATIENCE_S, ApiClient, wait_until
from tests.cluster.errors import ClusterError, NoAnswerError
from tests.cluster.layout import Layout
from tests.cluster.programs import Programs


def wait_ready(programs: Programs, api: ApiClient) -> None:
    """Until pods can be run."""
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_for_nodes(programs, api)
    _wait(programs, lambda: api.answers(account), what="the default ServiceAccount")
    _wait(programs, lambda: _dns_ready(programs.layout), what="CoreDNS getting ready")
    _wait(programs, enforcing.mark(programs.layout).exists, what="NetworkPolicies being enforced")


def wait_for_api(programs: Programs, api: ApiClient) -> None:
    _wait(programs, lambda: api.answers("/readyz"), what="the API server getting ready")


def wait_for_nodes(programs: Programs, api: ApiClient, *, timeout_s: float = PATIENCE_S) -> None:
    """Until all nodes are ready.

    Raises:
        ClusterError: some are not in time: which, what their kubelets say, and the likely cause.
    """

    def ready() -> bool:
        return not _unready(programs.layout, api)

    try:
        _wait(programs, ready, what="all nodes getting ready", timeout_s=timeout_s)
    except ClusterError as error:
        found = _why(programs.layout, api)
        raise ClusterError(f"{error}\n{found}" if found else str(error)) from error


def _unready(layout: Layout, api: ApiClient) -> dict[str, str]:
    items = api.request("GET", "/api/v1/nodes").get("items", [])
    return diagnosis.unready(items, [spec.name for spec in layout.nodes])


def _why(layout: Layout, api: ApiClient) -> str:
    try:
        states = _unready(layout, api)
    except NoAnswerError as error:
        return f"  {error}"
    logs = {name: diagnosis.tail(layout.logs / f"kubelet-{name}.log") for name in states}
    return diagnosis.report(states, logs, facts=diagnosis.machine_facts())


def _wait(
    programs: Programs, done: Callable[[], bool], *, what: str, timeout_s: float = PATIENCE_S
) -> None:
    """Wait, but give up at once when a program of the cluster ended."""

    def check() -> bool:
        programs.check_alive()
        return done()

    wait_until(check, what, timeout_s=timeout_s)


def _dns_ready(layout: Layout) -> bool:
    address = str(layout.api_address)
    link = http.client.HTTPConnection(address, control_plane.DNS_READY_PORT, timeout=2)
    try:
        link.request("GET", "/ready")
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()
