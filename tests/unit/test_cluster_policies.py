"""Rules of the packet filter say what NetworkPolicies say, packet by packet."""

import itertools
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.policies import ENTRY, Chains, Pod, Seen, chains_of, pod_of, script, selects
from tests.support.network import Door, End, reaches

Json = dict[str, Any]
SPACES = ("ml", "web")
LABELS: list[dict[str, str]] = [{"role": "cloud"}, {"role": "device"}, {"app": "shop"}, {}]
PODS = tuple(
    Pod(space, labels, f"10.9.{index % 2}.{index}", f"node-{index % 2}")
    for index, (space, labels) in enumerate(itertools.product(SPACES, LABELS))
)
NAMESPACES = {space: {"kubernetes.io/metadata.name": space} for space in SPACES}
OUTSIDE = "203.0.113.7"
DOORS = [Door(53, "UDP"), Door(53), Door(8080), Door(8081), Door(9)]


def policy(space: str, spec: Json) -> Json:
    return {"metadata": {"namespace": space, "name": "p"}, "spec": spec}


def seen(*policies: Json, pods: tuple[Pod, ...] = PODS) -> Seen:
    return Seen(pods, NAMESPACES, policies)


class Filters:
    """The rules of all nodes."""

    def __init__(self, known: Seen) -> None:
        self._nodes = {pod.address: pod.node for pod in known.pods}
        self._chains = {node: chains_of(node, known) for node in {*self._nodes.values()}}

    def pass_(self, source: str, target: str, *, door: Door) -> bool:
        """Whether the rules of both ends' nodes let a first packet through."""
        nodes = {self._nodes[end] for end in (source, target) if end in self._nodes}
        return all(
            _returns(self._chains[node], ENTRY, (source, target), door=door) for node in nodes
        )


def passes(known: Seen, source: str, target: str, *, door: Door) -> bool:
    return Filters(known).pass_(source, target, door=door)


def _returns(chains: Chains, name: str, ends: tuple[str, str], *, door: Door) -> bool:
    """As the kernel has it: a chain's first rule that matches counts; its end returns."""
    for rule in chains[name]:
        if not _matches(rule, ends, door=door):
            continue
        goes = re.search(r"-j (\S+)", rule)
        assert goes is not None
        if goes[1] == "RETURN":
            return True
        if goes[1] == "REJECT" or not _returns(chains, goes[1], ends, door=door):
            return False
    return True


def _matches(rule: str, ends: tuple[str, str], *, door: Door) -> bool:
    if "ESTABLISHED" in rule:
        return False
    for flag, end in zip(("-s", "-d"), ends, strict=True):
        said = re.search(rf"{flag} (\S+)", rule)
        if said and ip_address(end) not in ip_network(said[1]):
            return False
    protocol = re.search(r"-p (\S+)", rule)
    if protocol and protocol[1] != door.protocol.lower():
        return False
    span = re.search(r"--dport (\d+)(?::(\d+))?", rule)
    return not span or int(span[1]) <= door.port <= int(span[2] or span[1])


def ends() -> list[tuple[str, End]]:
    pods = [(pod.address, End(pod.namespace, pod.labels, pod.address)) for pod in PODS]
    return [*pods, (OUTSIDE, End(address=OUTSIDE))]


SELECTORS = st.sampled_from(
    [
        {},
        {"matchLabels": {"role": "cloud"}},
        {"matchLabels": {"role": "device"}},
        {"matchExpressions": [{"key": "role", "operator": "In", "values": ["cloud", "device"]}]},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
    ]
)
NAMED = st.sampled_from([{}, *({"matchLabels": labels} for labels in NAMESPACES.values())])
PEERS = st.one_of(
    st.fixed_dictionaries({"podSelector": SELECTORS}, optional={"namespaceSelector": NAMED}),
    st.sampled_from(
        [
            {"ipBlock": {"cidr": "203.0.113.0/24"}},
            {"ipBlock": {"cidr": "10.9.0.0/24"}},
        ]
    ),
)
PORTS = st.lists(
    st.sampled_from(
        [{"port": one.port, "protocol": one.protocol} for one in DOORS[:4]] + [{"port": 8080}]
    ),
    max_size=2,
)


def rules(side: str) -> st.SearchStrategy[list[Json]]:
    rule = st.fixed_dictionaries({side: st.lists(PEERS, max_size=2), "ports": PORTS})
    return st.lists(rule, max_size=2)


POLICIES = st.lists(
    st.builds(
        policy,
        st.sampled_from(SPACES),
        st.fixed_dictionaries(
            {
                "podSelector": SELECTORS,
                "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
                "ingress": rules("from"),
                "egress": rules("to"),
            }
        ),
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(made=POLICIES)
def test_rules_let_through_what_policies_allow_and_nothing_else(made: list[Json]) -> None:
    filters = Filters(seen(*made))
    for (source, one), (target, other) in itertools.permutations(ends(), 2):
        for door in DOORS:
            allowed = reaches(made, one, other, door=door)
            assert filters.pass_(source, target, door=door) is allowed, (source, target, door)


def test_ranges_of_addresses_have_holes() -> None:
    block = {"cidr": "203.0.113.0/24", "except": ["203.0.113.0/29", "198.51.100.0/24"]}
    known = seen(policy("ml", {"podSelector": {}, "egress": [{"to": [{"ipBlock": block}]}]}))
    source = PODS[0].address
    assert not passes(known, source, "203.0.113.7", door=DOORS[0])
    assert passes(known, source, "203.0.113.8", door=DOORS[0])
    assert passes(known, source, "203.0.113.255", door=DOORS[0])
    assert not passes(known, source, "198.51.100.1", door=DOORS[0])


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_a_port_by_name_is_that_of_the_pod_that_is_knocked_at(side: str) -> None:
    web = Pod("ml", {"app": "web"}, "10.9.0.1", "n", {"http": 8080})
    old = Pod("ml", {"app": "web"}, "10.9.0.2", "n", {"http": 80})
    asks = Pod("ml", {"app": "asks"}, "10.9.0.3", "n")
    key = {"ingress": "from", "egress": "to"}[side]
    rule = {key: [{"podSelector": {}}], "ports": [{"port": "http"}]}
    types = [side.capitalize()]
    known = seen(
        policy("ml", {"podSelector": {}, "policyTypes": types, side: [rule]}),
        pods=(web, old, asks),
    )
    for pod, port in ((web, 8080), (old, 80)):
        assert passes(known, asks.address, pod.address, door=Door(port))
    assert not passes(known, asks.address, old.address, door=Door(8080))
    assert not passes(known, web.address, asks.address, door=Door(8080)), "it has no such port"


def test_a_span_of_ports_and_all_ports_of_a_protocol() -> None:
    ports: list[Json] = [{"port": 8000, "endPort": 8080}, {"protocol": "UDP"}]
    known = seen(policy("ml", {"podSelector": {}, "ingress": [{"ports": ports}]}))
    ways = ("203.0.113.7", PODS[0].address)
    found = [passes(known, *ways, door=door) for door in DOORS]
    assert found == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("operator", "chosen"), [("NotIn", {"device", ""}), ("DoesNotExist", {""})]
)
def test_selectors_choose_by_what_is_not_there(operator: str, chosen: set[str]) -> None:
    selector = {"matchExpressions": [{"key": "role", "operator": operator, "values": ["cloud"]}]}
    roles = ("cloud", "device", "")
    assert {role for role in roles if selects(selector, {"role": role} if role else {})} == chosen


def manifest(**changes: Any) -> Json:
    ports = [{"name": "data", "containerPort": 8080}, {"containerPort": 9}]
    return {
        "metadata": {"namespace": "ml", "name": "p", "labels": {"a": "b"}},
        "spec": {"nodeName": "n", "containers": [{"ports": ports}, {}]} | changes.pop("spec", {}),
        "status": {"podIP": "10.9.0.1", "phase": "Running"} | changes,
    }


def test_a_pod_counts_while_it_has_an_address_of_its_own() -> None:
    assert pod_of(manifest()) == Pod("ml", {"a": "b"}, "10.9.0.1", "n", {"data": 8080})
    assert pod_of(manifest(podIP=None)) is None
    assert pod_of(manifest(phase="Succeeded")) is None
    assert pod_of(manifest(spec={"hostNetwork": True})) is None


def test_a_script_brings_all_chains_and_takes_away_those_of_before() -> None:
    made = script({ENTRY: [f"-A {ENTRY} -j X"], "X": []}, stale=["X", "LOCKSTEP-IN-10.9.0.9"])
    assert made.splitlines() == [
        "*filter",
        f":{ENTRY} - [0:0]",
        ":X - [0:0]",
        ":LOCKSTEP-IN-10.9.0.9 - [0:0]",
        f"-A {ENTRY} -j X",
        "-X LOCKSTEP-IN-10.9.0.9",
        "COMMIT",
    ]


def test_names_of_chains_are_short_enough_for_the_kernel() -> None:
    long = Pod("ml", {}, "192.168.100.100", "n")
    known = seen(policy("ml", {"podSelector": {}, "egress": [{}]}), pods=(long,))
    assert max(map(len, chains_of("n", known))) <= 28
