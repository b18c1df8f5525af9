"""What NetworkPolicies come to on one node: rules of the packet filter, from what the API says.

Pure; `enforcing` loads them. A pod that a policy is about has a chain a direction: whatever it
allows returns, the rest is refused at once (EHOSTUNREACH, which no closed port says). A packet
passes the chain of its source on that pod's node and the chain of its target on the other's, after
the addresses of Services were replaced. Connections that are there go on. What a node itself says
to its pods, and they to it, is not forwarded: it passes always, as Kubernetes wants it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import Any

Json = dict[str, Any]
Chains = dict[str, list[str]]
"""Name → its rules, in order."""
ENTRY = "LOCKSTEP-POLICY"
PREFIXES = ("LOCKSTEP-OUT-", "LOCKSTEP-IN-")
_KNOWN = f"-A {ENTRY} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
_REFUSE = "-j REJECT --reject-with icmp-admin-prohibited"
_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]
    address: str
    node: str = ""
    ports: Mapping[str, int] | None = None
    """By name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that policies speak of."""

    pods: tuple[Pod, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    """Labels by name."""
    policies: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class _Side:
    """A direction, as policies and rules have it."""

    type: str
    peers: str
    own: str
    other: str
    prefix: str


_OUT = _Side("Egress", "to", "-s", "-d", PREFIXES[0])
_IN = _Side("Ingress", "from", "-d", "-s", PREFIXES[1])


def pod_of(manifest: Json) -> Pod | None:
    """A pod with an address of its own, as long as it has it."""
    meta, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status", {})
    address = status.get("podIP")
    if not address or spec.get("hostNetwork") or status.get("phase") in _ENDED:
        return None
    named = (port for one in spec["containers"] for port in one.get("ports") or [])
    ports = {port["name"]: int(port["containerPort"]) for port in named if "name" in port}
    labels = meta.get("labels") or {}
    return Pod(meta["namespace"], labels, address, spec.get("nodeName", ""), ports)


def chains_of(node: str, seen: Seen) -> Chains:
    """The chains of a node: the first one, and one a direction for each of its restricted pods."""
    chains: Chains = {ENTRY: [_KNOWN]}
    for pod in sorted((one for one in seen.pods if one.node == node), key=lambda p: p.address):
        for side in (_OUT, _IN):
            about = [one for one in seen.policies if _is_about(one, pod, side=side)]
            if about:
                name = side.prefix + pod.address
                chains[ENTRY].append(f"-A {ENTRY} {side.own} {pod.address}/32 -j {name}")
                allowed = [
                    f"-A {name} {match}-j RETURN"
                    for policy in about
                    for match in _matches(policy, pod, side=side, seen=seen)
                ]
                chains[name] = [*dict.fromkeys(allowed), f"-A {name} {_REFUSE}"]
    return chains


def script(chains: Chains, *, stale: Iterable[str] = ()) -> str:
    """For `iptables-restore --noflush`: these chains and no others, in one step."""
    gone = sorted(set(stale) - set(chains))
    heads = [f":{name} - [0:0]" for name in (*chains, *gone)]
    rules = [rule for of_chain in chains.values() for rule in of_chain]
    return "\n".join(["*filter", *heads, *rules, *(f"-X {name}" for name in gone), "COMMIT", ""])


def _is_about(policy: Json, pod: Pod, *, side: _Side) -> bool:
    spec = policy["spec"]
    default = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and side.type in spec.get("policyTypes", default)
        and selects(spec["podSelector"], pod.labels)
    )


def _matches(policy: Json, pod: Pod, *, side: _Side, seen: Seen) -> Iterator[str]:
    """What of a packet each thing that is allowed matches; an empty text matches all."""
    own = policy["metadata"]["namespace"]
    for rule in policy["spec"].get(side.type.lower()) or []:
        peers = rule.get(side.peers)
        others = _anybody() if not peers else _peers(peers, own=own, seen=seen)
        for where, other in others:
            match = f"{side.other} {where} " if where else ""
            target = pod if side is _IN else other
            for door in _doors(rule.get("ports"), target):
                yield match + door


def _anybody() -> Iterator[tuple[str, Pod | None]]:
    yield "", None


def _peers(peers: Iterable[Json], *, own: str, seen: Seen) -> Iterator[tuple[str, Pod | None]]:
    """Addresses, and the pod of each that is a pod's."""
    for peer in peers:
        if block := peer.get("ipBlock"):
            yield from ((str(net), None) for net in _without(block["cidr"], block.get("except")))
            continue
        for pod in seen.pods:
            if _is_peer(peer, pod, own=own, seen=seen):
                yield f"{pod.address}/32", pod


def _is_peer(peer: Json, pod: Pod, *, own: str, seen: Seen) -> bool:
    spaces = peer.get("namespaceSelector")
    if spaces is None:
        there = pod.namespace == own
    else:
        there = selects(spaces, seen.namespaces.get(pod.namespace, {}))
    return there and selects(peer.get("podSelector") or {}, pod.labels)


def _without(cidr: str, excepted: Iterable[str] | None) -> list[IPv4Network]:
    """A range less others; of IPv6 the cluster has none."""
    whole = ip_network(cidr, strict=False)
    left = [whole] if isinstance(whole, IPv4Network) else []
    for text in excepted or ():
        hole = IPv4Network(text, strict=False)
        left = [
            part
            for net in left
            for part in (net.address_exclude(hole) if hole.subnet_of(net) else [net])
            if not part.subnet_of(hole)
        ]
    return left


def _doors(ports: Iterable[Json] | None, target: Pod | None) -> Iterator[str]:
    """Protocols and ports; a name is one of the pod's that is knocked at."""
    if not ports:
        yield ""
    for said in ports or ():
        protocol = said.get("protocol", "TCP").lower()
        number = said.get("port")
        if isinstance(number, str):
            number = ((target and target.ports) or {}).get(number)
            if number is None:
                continue
        if number is None:
            yield f"-p {protocol} "
        else:
            span = f"{number}:{said['endPort']}" if "endPort" in said else str(number)
            yield f"-p {protocol} -m {protocol} --dport {span} "


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector chooses these labels; an empty one does."""
    wanted = (selector.get("matchLabels") or {}).items()
    every = selector.get("matchExpressions") or []
    return wanted <= labels.items() and all(_fits(one, labels) for one in every)


def _fits(said: Json, labels: Mapping[str, str]) -> bool:
    key, values = said["key"], said.get("values") or []
    match said["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
