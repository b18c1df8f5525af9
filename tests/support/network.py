"""Who may connect to whom under a set of NetworkPolicies, as Kubernetes defines it.

A small evaluator over manifests, for tests that say it as a table. It knows pods and addresses
outside; nodes, which get in always, it does not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from lockstep_operator.core.network import Network

Json = dict[str, Any]
_NAME = "kubernetes.io/metadata.name"
SYSTEM = {_NAME: "system"}
PROMETHEUS = {"app": "prometheus"}
OPERATOR = {"app": "operator"}
NETWORK = Network(
    metrics_from=(
        {"namespaceSelector": {"matchLabels": SYSTEM}, "podSelector": {"matchLabels": PROMETHEUS}},
    ),
    dns=(
        {"namespaceSelector": {"matchLabels": {_NAME: "kube-system"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ),
    dns_ports=(53,),
    planner=(
        {"namespaceSelector": {"matchLabels": SYSTEM}, "podSelector": {"matchLabels": OPERATOR}},
    ),
    planner_port=8443,
)


@dataclass(frozen=True, slots=True)
class End:
    """A pod, or with an address alone somebody outside of the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] | None = None
    address: str = ""

    @property
    def is_pod(self) -> bool:
        return self.labels is not None


@dataclass(frozen=True, slots=True)
class Door:
    """Where somebody knocks."""

    port: int
    protocol: str = "TCP"


def pod_of(template: Json, namespace: str) -> End:
    """A pod of a template."""
    return End(namespace, template["metadata"]["labels"])


def reaches(policies: Iterable[Json], source: End, target: End, *, door: Door) -> bool:
    """Whether the one's policies let it out to there, and the other's let it in."""
    every = list(policies)
    return _allowed(every, "Egress", source, other=target, door=door) and _allowed(
        every, "Ingress", target, other=source, door=door
    )


def _allowed(policies: list[Json], direction: str, subject: End, *, other: End, door: Door) -> bool:
    """Everything is, for an end that no policy of this direction is about."""
    about = [
        one
        for one in policies
        if one["metadata"]["namespace"] == subject.namespace
        and subject.is_pod
        and direction in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], subject.labels or {})
    ]
    rules = [
        (one["metadata"]["namespace"], rule)
        for one in about
        for rule in one["spec"].get(direction.lower()) or []
    ]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    return not about or any(
        _rule_allows(rule, side, other=other, door=door, own=own) for own, rule in rules
    )


def _rule_allows(rule: Json, side: str, *, other: End, door: Door, own: str) -> bool:
    peers, ports = rule.get(side) or [], rule.get("ports") or []
    named = not peers or any(_is_peer(peer, other, own=own) for peer in peers)
    return named and (not ports or any(_is_port(one, door) for one in ports))


def _is_port(said: Json, door: Door) -> bool:
    assert isinstance(said["port"], int), "names of ports are not for all plugins"
    return said.get("protocol", "TCP") == door.protocol and said["port"] == door.port


def _is_peer(peer: Json, other: End, *, own: str) -> bool:
    if block := peer.get("ipBlock"):
        return bool(other.address) and ip_address(other.address) in ip_network(block["cidr"])
    if not other.is_pod:
        return False
    if "namespaceSelector" in peer:
        spaced = selects(peer["namespaceSelector"], {_NAME: other.namespace})
    else:
        spaced = other.namespace == own
    return spaced and selects(peer.get("podSelector") or {}, other.labels or {})


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector with `In` and `Exists` chooses these labels; an empty one does."""
    fits = {
        "In": lambda one: labels.get(one["key"]) in one["values"],
        "Exists": lambda one: one["key"] in labels,
    }
    every = selector.get("matchExpressions") or []
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        fits[one["operator"]](one) for one in every
    )
