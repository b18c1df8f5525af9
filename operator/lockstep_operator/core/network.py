"""Who may reach the pods of a job, and whom they may reach: its NetworkPolicies.

`children` makes objects of them, one a role. Both directions come from one table of ways, so that
what one pod may send another may receive. Ports are numbers: not all plugins know the names of
ports in egress. What is not said here is refused, but for what every plugin lets in: the node's own
(probes of the kubelet, port-forward).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lockstep_api import names
from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec, NetworkPolicy

Peers = Sequence[dict[str, Any]]
"""As a NetworkPolicy names them (`NetworkPolicyPeer`)."""
Rule = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """What a job's pods talk to beside each other; the operator's configuration says it."""

    metrics_from: Peers
    """Who reads metrics."""
    dns: Peers
    dns_ports: tuple[int, ...]
    planner: Peers
    """The operator's pods; empty where it runs outside of the cluster: anybody at its port."""
    planner_port: int


@dataclass(frozen=True, slots=True)
class _Way:
    """Who opens connections to whom; updates, orders and polls all go along them."""

    source: Role
    target: Role


_WAYS = (
    _Way(Role.DEVICE, Role.CLOUD),
    _Way(Role.DEVICE, Role.EDGE),
    _Way(Role.EDGE, Role.CLOUD),
)
_TO_PLANNER = frozenset({Role.CLOUD, Role.TRAINER})
_MEASURED = frozenset({Role.CLOUD, Role.EDGE, Role.DEVICE})


def wants_policies(spec: FederatedJobSpec) -> bool:
    """Whether the job's author leaves it to the operator who reaches its pods."""
    return spec.security.network_policy is NetworkPolicy.AUTO


def policy_name(job: str, role: Role) -> str:
    """The NetworkPolicy of a role's pods."""
    return names.service_account_name(job, role)


def policy_spec(
    job: str, role: Role, *, roles: Sequence[Role], spec: FederatedJobSpec, network: Network
) -> dict[str, Any]:
    """What is allowed to the pods of a role of a job that has these roles; nothing else is."""
    ways = [way for way in _WAYS if {way.source, way.target} <= set(roles)]
    return {
        "podSelector": {"matchLabels": names.role_labels(job, role)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": list(_ingress(job, role, ways=ways, network=network)),
        "egress": list(_egress(job, role, ways=ways, spec=spec, network=network)),
    }


def _ingress(job: str, role: Role, *, ways: Sequence[_Way], network: Network) -> Iterator[Rule]:
    if sources := [way.source for way in ways if way.target is role]:
        yield {"from": [_pods(job, one) for one in sources], "ports": _tcp(names.HTTP_PORT)}
    if role in _MEASURED and network.metrics_from:
        yield {"from": list(network.metrics_from), "ports": _tcp(names.METRICS_PORT)}


def _egress(
    job: str, role: Role, *, ways: Sequence[_Way], spec: FederatedJobSpec, network: Network
) -> Iterator[Rule]:
    both = [
        {"port": port, "protocol": protocol}
        for port in network.dns_ports
        for protocol in ("UDP", "TCP")
    ]
    yield {"to": list(network.dns), "ports": both}
    if targets := [way.target for way in ways if way.source is role]:
        yield {"to": [_pods(job, one) for one in targets], "ports": _tcp(names.HTTP_PORT)}
    if role in _TO_PLANNER:
        anywhere = {"ports": _tcp(network.planner_port)}
        yield {"to": list(network.planner), **anywhere} if network.planner else anywhere
    for further in spec.security.egress:
        to = {"to": [{"ipBlock": {"cidr": further.cidr}}]}
        yield {**to, "ports": _tcp(*further.ports)} if further.ports else to


def _pods(job: str, role: Role) -> dict[str, Any]:
    """Pods of the job: without a namespaceSelector, of its namespace only."""
    return {"podSelector": {"matchLabels": names.role_labels(job, role)}}


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in ports]
