"""Packs sets of equal pods into the room on nodes; `placement` calls it once a job.

kube-scheduler binds each pod to any of the nodes of its set. So sets that could take each other's
last room get the same nodes: whichever pod comes first, equal pods leave room for the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lockstep_operator.core.amount import Amount, total

MAX_NODES = 200

Nodes = tuple[str, ...]
"""Of one set of pods, strongest first."""
Rooms = dict[str, Amount]
"""What is still free on each node."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A set of equal pods that needs a place."""

    count: int
    need: Amount
    """Of one pod."""
    eligible: Nodes
    """The nodes that it may use."""
    turn: int = 0
    """Sets with a lower one choose first."""
    spread: bool = False
    """Its pods go to as many nodes as there are, evenly, not to as few as hold them."""


@dataclass(frozen=True, slots=True)
class LeftOver:
    """Not all pods found a place."""

    index: int
    """Of the first set that did not."""
    free: Mapping[str, Amount]
    """What there was for the sets of its turn."""


def pack(wanted: Sequence[Wanted], free: Mapping[str, Amount]) -> list[Nodes] | LeftOver:
    """The nodes for each set, in order; of a turn the largest pods are placed first.

    A set stays on one node if one holds all of it, unless only splitting it makes all sets fit; one
    that is to be spread is, unless only packing it makes all sets fit.
    """
    packed = _fit(wanted, free, onto=_whole)
    if isinstance(packed, LeftOver):
        packed = _fit(wanted, free, onto=_in_parts)
    if isinstance(packed, LeftOver):
        packed = _fit(wanted, free, onto=_split)
    return packed if isinstance(packed, LeftOver) else _shared(wanted, packed, free=free)


def _fit(
    wanted: Sequence[Wanted],
    free: Mapping[str, Amount],
    *,
    onto: Callable[[Wanted, Rooms], Nodes | None],
) -> list[Nodes] | LeftOver:
    rooms, placed = dict(free), dict[int, Nodes]()
    for turn in sorted({one.turn for one in wanted}):
        there = dict(rooms)
        of_turn = [index for index, one in enumerate(wanted) if one.turn == turn]
        for index in sorted(of_turn, key=lambda i: _largest_first(wanted[i].need)):
            nodes = onto(wanted[index], rooms)
            if nodes is None:
                return LeftOver(index, there)
            placed[index] = nodes
    return [placed[index] for index in range(len(wanted))]


def _largest_first(need: Amount) -> tuple[float, float]:
    return -need.cpu, -need.memory


def _whole(one: Wanted, rooms: Rooms) -> Nodes | None:
    """The strongest node that holds all pods, else as many nodes as it takes."""
    if one.spread:
        return _spread(one, rooms)
    for node in one.eligible:
        if rooms[node].holds(one.need) >= one.count:
            rooms[node] -= one.count * one.need
            return (node,)
    return _split(one, rooms)


def _in_parts(one: Wanted, rooms: Rooms) -> Nodes | None:
    return _spread(one, rooms) if one.spread else _split(one, rooms)


def _spread(one: Wanted, rooms: Rooms) -> Nodes | None:
    """A pod a node, the strongest first, and again; None when some pods are left over."""
    holds = {node: rooms[node].holds(one.need) for node in one.eligible}
    counts = dict.fromkeys([node for node in one.eligible if holds[node]][:MAX_NODES], 0)
    left = one.count
    while left and (able := [node for node in counts if counts[node] < holds[node]]):
        for node in able[:left]:
            counts[node] += 1
        left -= min(left, len(able))
    if left:
        return None
    used = {node: count for node, count in counts.items() if count}
    for node, count in used.items():
        rooms[node] -= count * one.need
    return tuple(used)


def _split(one: Wanted, rooms: Rooms) -> Nodes | None:
    """First fit; None when some pods are left over."""
    used: list[str] = []
    count = one.count
    for node in one.eligible:
        here = min(count, rooms[node].holds(one.need))
        if here and len(used) < MAX_NODES:
            rooms[node] -= here * one.need
            used.append(node)
            count -= here
    return tuple(used) if count == 0 else None


def _shared(
    wanted: Sequence[Wanted], packed: list[Nodes], *, free: Mapping[str, Amount]
) -> list[Nodes]:
    """The same places; sets that could take each other's room have all their nodes in common."""
    while True:
        before = packed
        for node in _contended(wanted, packed, free=free):
            packed = _common(wanted, packed, node=node)
        if packed == before:
            return packed


def _common(wanted: Sequence[Wanted], packed: list[Nodes], *, node: str) -> list[Nodes]:
    """All sets of a node get the nodes of all of them, as far as they may use them."""
    common = {one for nodes in packed if node in nodes for one in nodes}
    return [
        _widened(one, common, before=nodes) if node in nodes else nodes
        for one, nodes in zip(wanted, packed, strict=True)
    ]


def _widened(one: Wanted, common: set[str], *, before: Nodes) -> Nodes:
    nodes = tuple(node for node in one.eligible if node in common)
    return nodes if len(nodes) <= MAX_NODES else before


def _contended(
    wanted: Sequence[Wanted], packed: Sequence[Nodes], *, free: Mapping[str, Amount]
) -> list[str]:
    """Nodes of which the sets, in the worst case, take more than there is."""
    users: dict[str, list[Wanted]] = {}
    for one, nodes in zip(wanted, packed, strict=True):
        for node in nodes:
            users.setdefault(node, []).append(one)
    most = {node: total(_most(one, free[node]) for one in sets) for node, sets in users.items()}
    return [node for node, amount in most.items() if not free[node].covers(amount)]


def _most(one: Wanted, room: Amount) -> Amount:
    """What a set can take of a node at the most."""
    return min(one.count, room.holds(one.need)) * one.need
