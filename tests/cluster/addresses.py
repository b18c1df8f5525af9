"""Address ranges of clusters, and whether this machine routes them elsewhere already.

`layout` takes a cluster's ranges from here, `lifecycle` and `preflight` ask which are free.
Standard library only, and nothing newer than Python 3.8: it is asked before anything is installed.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Collection, Iterable, NamedTuple  # noqa: UP035 -- as Python 3.8 has it

from tests.cluster.command import run
from tests.cluster.errors import ClusterError

SLOTS = 10
"""Sets of ranges that are tried when none was asked for; two clusters have different ones."""
ENVIRONMENT_NAME = "LOCKSTEP_ADDRESSES"
_NODE_NETS = IPv4Network("10.89.0.0/16")
_WIDEST_CLASH = 8
"""Routes of shorter prefixes stand in for a default route, and ours win over them."""
_LONGEST_BASE = 20
_ELSEWHERE = (
    "172.28.0.0/14",
    "192.168.128.0/18",
    "100.64.0.0/14",
    "172.20.0.0/14",
    "10.128.0.0/14",
)


class Ranges(NamedTuple):
    """Where a cluster's nodes, pods and Services have their addresses."""

    nodes: IPv4Network
    pods: IPv4Network
    services: IPv4Network

    @property
    def all(self) -> tuple[IPv4Network, ...]:
        return self.nodes, self.pods, self.services


class Route(NamedTuple):
    """Addresses that this machine sends somewhere."""

    to: IPv4Network
    device: str = ""

    def __str__(self) -> str:
        return f"{self.to} ({self.device})" if self.device else str(self.to)


def ranges_of_slot(slot: int) -> Ranges:
    return Ranges(
        nodes=IPv4Network(f"{_NODE_NETS[256 * slot]}/24"),
        pods=IPv4Network(f"10.{244 - slot}.0.0/16"),
        services=IPv4Network(f"10.{96 + slot}.0.0/16"),
    )


def ranges_within(base: IPv4Network) -> Ranges:
    """Quarters of a range that was asked for: nodes, pods, Services, and one to spare."""
    nodes, pods, services, _ = base.subnets(prefixlen_diff=2)
    return Ranges(next(nodes.subnets(new_prefix=24)), pods, services)


def places(base: IPv4Network | None) -> list[Ranges]:
    """All ranges that a cluster may have: within the one that was asked for, or of any slot."""
    return [ranges_within(base)] if base else [ranges_of_slot(slot) for slot in range(SLOTS)]


def parse_base(text: str) -> IPv4Network:
    """A range to take all addresses from.

    Raises:
        ClusterError: it is none, or too small.
    """
    wrong = f"{ENVIRONMENT_NAME}={text} is no range of /{_LONGEST_BASE} or larger, such as "
    try:
        base = IPv4Network(text)
    except ValueError as error:
        raise ClusterError(wrong + _ELSEWHERE[0]) from error
    if base.prefixlen > _LONGEST_BASE:
        raise ClusterError(wrong + _ELSEWHERE[0])
    return base


def overlapping(wanted: IPv4Network, routes: Iterable[Route]) -> Route | None:
    for route in routes:
        if route.to.prefixlen >= _WIDEST_CLASH and wanted.overlaps(route.to):
            return route
    return None


def clash(ranges: Ranges, routes: Collection[Route]) -> Route | None:
    """A route of the machine that these ranges would take something from."""
    return next((found for net in ranges.all if (found := overlapping(net, routes))), None)


def elsewhere(routes: Collection[Route]) -> IPv4Network | None:
    """A range that is free here, to be set instead."""
    bases = (IPv4Network(text) for text in _ELSEWHERE)
    return next((base for base in bases if clash(ranges_within(base), routes) is None), None)


def told(clashing: Iterable[Route], routes: Collection[Route]) -> str:
    """What is wrong when no ranges are free, and what to set."""
    free = elsewhere(routes)
    suggestion = f"such as {ENVIRONMENT_NAME}={free}" if free else f"{ENVIRONMENT_NAME}=RANGE"
    taken = ", ".join(sorted({str(route) for route in clashing}))
    return (
        f"the address ranges of the cluster are taken: this machine has routes to {taken}; "
        f"set a free range of /{_LONGEST_BASE} or larger, {suggestion}"
    )


def machine_routes(ours: Collection[str] = ()) -> list[Route]:
    """Routes of all tables, this machine's own addresses too, without those by our own links."""
    text = run("ip", "-4", "-json", "route", "show", "table", "all")
    return [route for route in parse_routes(text) if route.device not in ours]


def parse_routes(text: str) -> list[Route]:
    rows = json.loads(text or "[]")
    return [
        Route(IPv4Network(row["dst"], strict=False), row.get("dev", ""))
        for row in rows
        if row["dst"] != "default" and row.get("type") not in {"broadcast", "multicast"}
    ]
