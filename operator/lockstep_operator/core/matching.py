"""Which edge runs which cluster of a round; pure, nothing is kept.

`tiers` calls it once a round, after `clustering`; `offload` says what a cluster costs on an edge,
in seconds: what its slowest device takes (all wait for it), and the edge's work for it. Clusters on
one edge share it evenly: beside others a cluster waits for the smaller of its own work and theirs,
so the sum of all waits is exactly that of slots of which the j-th costs 2j - 1 times the work.

Invariants: no edge has more clusters than it has room for; `sum` is optimal where all places on
edges can be looked at (`_MOST_PLACES`), else of the first on each; `bottleneck` is optimal where
the search ends within `MOST_STEPS`, as it does for few clusters and edges.
Of equal matchings the one that spreads the clusters most evenly is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

MOST_STEPS = 4000
"""Partial matchings that the search for the least bottleneck looks at."""
_SAME = 1e-9
"""Relative difference below which two costs are one."""
_FEW = 20
"""Above so many clusters only those on the edge that takes longest are moved, without a search."""
_MOST_PLACES = 1 << 22
"""Clusters times places on edges that the least sum is chosen from: 32 MiB of costs."""
_EVEN = 1e-9
"""Of the largest cost: what spreads clusters where nothing else does."""

Rows = Sequence[Sequence[float]]
"""Of each cluster, of each edge."""
Held = list[list[int]]
"""A matching: the clusters of each edge, by their places."""
Change = tuple[int, list[int]]
"""An edge, and what it holds then."""
Score = tuple[float, float, int]
"""The longest cluster, the sum of all, how unevenly they are spread."""


class NoRoom(Exception):
    """More clusters than the edges have room for; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a cluster would take on an edge while the others stay where they are."""

    edge: str
    seconds: float
    full: bool
    """Whether the edge has no room for it."""


@dataclass(frozen=True, slots=True)
class Match:
    """The edge of a cluster."""

    cluster: str
    edge: str
    seconds: float
    """What its part of the round is expected to take there, beside the edge's other clusters."""
    ranking: tuple[Offer, ...]
    """All edges: those with room before the full ones, cheapest first."""
    why: str
    """For people."""

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The other edges, cheapest first."""
        return tuple(offer.edge for offer in self.ranking if offer.edge != self.edge)


@dataclass(frozen=True, slots=True)
class Costs:
    """What clusters would take on edges, and how many an edge holds."""

    devices_s: Rows
    """Of each cluster on each edge: what its slowest device takes, with all that it sends and
    receives; whoever shares the edge makes it no longer."""
    work_s: Rows
    """The edge's work for the cluster, were it alone there."""
    room: tuple[int, ...]
    """Of each edge: clusters that fit into its memory."""

    def alone(self) -> list[list[float]]:
        """What each cluster takes on each edge without others."""
        return [
            [moved + work for moved, work in zip(moves, works, strict=True)]
            for moves, works in zip(self.devices_s, self.work_s, strict=True)
        ]

    def seconds(self, on: Sequence[int], *, edge: int) -> list[float]:
        """What each of the clusters on an edge takes there beside the others."""
        work = [self.work_s[k][edge] for k in on]
        return [
            self.devices_s[k][edge] + sum([own if own < other else other for other in work])
            for k, own in zip(on, work, strict=True)
        ]

    def part(self, on: Sequence[int], *, edge: int) -> Score:
        """What an edge with such clusters is judged by."""
        found = self.seconds(on, edge=edge)
        return max(found, default=0.0), sum(found), len(on) ** 2

    def score(self, held: Held) -> Score:
        """What a matching is judged by, smaller is better."""
        return _total([self.part(on, edge=e) for e, on in enumerate(held)])


def _total(parts: Sequence[Score]) -> Score:
    longest, sums, squares = zip(*parts, strict=True)
    return max(longest), sum(sums), sum(squares)


def match(
    clusters: Sequence[str],
    edges: Sequence[str],
    *,
    costs: Costs,
    objective: Literal["bottleneck", "sum"] = "bottleneck",
) -> tuple[Match, ...]:
    """The edge of each cluster, in their order; both by name.

    Raises:
        NoRoom: there are more clusters than room.
    """
    if not clusters:
        return ()
    if sum(costs.room) < len(clusters):
        raise NoRoom(_no_room(len(clusters), costs.room))
    held = least_sum(costs) if objective == "sum" else least_bottleneck(costs)
    edge_of = {k: e for e, on in enumerate(held) for k in on}
    return tuple(
        _matched(one, _ranking(k, held, costs=costs, names=edges), here=edges[edge_of[k]])
        for k, one in enumerate(clusters)
    )


def least_sum(costs: Costs) -> Held:
    """The matching of the least sum of all clusters' seconds."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - 50 MB, and few jobs ask

    most = _most_on_one(len(costs.devices_s), costs.room)
    slots = [(e, j) for e, room in enumerate(costs.room) for j in range(1, min(room, most) + 1)]
    edge_of, position = np.array(slots).T
    devices, work = np.array(costs.devices_s), np.array(costs.work_s)
    spread = _EVEN * np.max(devices + work)
    of_slots = devices[:, edge_of] + (2 * position - 1) * (work[:, edge_of] + spread)
    _, chosen = linear_sum_assignment(of_slots)
    held: Held = [[] for _ in costs.room]
    for cluster, slot in enumerate(chosen):
        held[edge_of[slot]].append(cluster)
    return held


def _most_on_one(clusters: int, room: Sequence[int]) -> int:
    """How many of the clusters one edge may have: all, where that can be looked at; never fewer
    than have to share one."""
    most = min(clusters, max(1, _MOST_PLACES // (clusters * len(room))))
    while sum(min(one, most) for one in room) < clusters:
        most += 1
    return most


def least_bottleneck(costs: Costs) -> Held:
    """The matching of the least longest cluster; of those a small sum."""
    start = _improved(_greedy(costs), costs)
    if len(costs.devices_s) > _FEW:
        return start
    return _improved(_searched(start, costs), costs)


def _hardest_first(costs: Costs) -> list[int]:
    least = [min(row) for row in costs.alone()]
    return sorted(range(len(least)), key=lambda k: -least[k])


def _greedy(costs: Costs) -> Held:
    """Each cluster where the edge's longest is least with it, the hardest first."""
    held: Held = [[] for _ in costs.room]
    for cluster in _hardest_first(costs):
        open_edges = [e for e, on in enumerate(held) if len(on) < costs.room[e]]
        best = min(open_edges, key=lambda e: costs.part([*held[e], cluster], edge=e))
        held[best].append(cluster)
    return held


def _improved(held: Held, costs: Costs) -> Held:
    """Moves clusters and exchanges pairs of them, until none makes the score smaller."""
    best = [[*on] for on in held]
    while True:
        parts = [costs.part(on, edge=e) for e, on in enumerate(best)]
        score = _total(parts)
        for (a, on_a), (b, on_b) in _changes(best, costs, parts=parts):
            there = costs.part(on_b, edge=b)
            if there[0] > score[0]:
                continue
            new = {a: costs.part(on_a, edge=a), b: there}
            if _better(_total([new.get(e, part) for e, part in enumerate(parts)]), score):
                best[a], best[b] = on_a, on_b
                break
        else:
            return best


def _changes(
    held: Held, costs: Costs, *, parts: Sequence[Score]
) -> Iterator[tuple[Change, Change]]:
    """What two edges hold after a move or an exchange that may help, the longest edge's first."""
    ranked = sorted(range(len(parts)), key=lambda e: -parts[e][0])
    bound, alone = parts[ranked[0]][0], costs.alone()
    many = sum(map(len, held)) > _FEW
    for a in ranked[:1] if many else ranked:
        for k, b in product(held[a], reversed(ranked)):
            if b == a or alone[k][b] >= bound:
                continue
            rest = [each for each in held[a] if each != k]
            if len(held[b]) < costs.room[b]:
                yield (a, rest), (b, [*held[b], k])
            for other in held[b]:
                if alone[other][a] < bound:
                    left = [each for each in held[b] if each != other]
                    yield (a, [*rest, other]), (b, [*left, k])


def _searched(start: Held, costs: Costs) -> Held:
    """Depth first over all matchings that may be better than `start`, the hardest cluster first.

    A partial matching is given up once a cluster takes as long as in the best: more clusters only
    make it longer.
    """
    order = _hardest_first(costs)
    alone = costs.alone()
    floor = max(map(min, alone)) * (1 + _SAME)
    best, bound, steps = start, costs.score(start)[0], 0
    held: Held = [[] for _ in costs.room]

    def descend(depth: int) -> None:
        nonlocal best, bound, steps
        if depth == len(order):
            best = [[*on] for on in held]
            bound = costs.score(best)[0]
            return
        cluster = order[depth]
        for edge in sorted(range(len(held)), key=alone[cluster].__getitem__):
            if bound <= floor or steps >= MOST_STEPS:
                return
            on = held[edge]
            if len(on) == costs.room[edge] or alone[cluster][edge] >= bound * (1 - _SAME):
                continue
            steps += 1
            on.append(cluster)
            if max(costs.seconds(on, edge=edge)) < bound * (1 - _SAME):
                descend(depth + 1)
            on.remove(cluster)

    descend(0)
    return best


def _better(one: Score, other: Score) -> bool:
    for a, b in zip(one, other, strict=True):
        if abs(a - b) > _SAME * max(abs(a), abs(b)):
            return a < b
    return False


def _matched(cluster: str, ranking: tuple[Offer, ...], *, here: str) -> Match:
    seconds = next(offer.seconds for offer in ranking if offer.edge == here)
    return Match(cluster, here, seconds, ranking, _why(here, seconds, ranking=ranking))


def _ranking(cluster: int, held: Held, *, costs: Costs, names: Sequence[str]) -> tuple[Offer, ...]:
    offers = []
    for e, on in enumerate(held):
        others = [each for each in on if each != cluster]
        seconds = costs.seconds([cluster, *others], edge=e)[0]
        offers.append(Offer(names[e], seconds, full=len(others) >= costs.room[e]))
    return tuple(sorted(offers, key=lambda offer: (offer.full, offer.seconds)))


def _why(here: str, seconds: float, *, ranking: Sequence[Offer]) -> str:
    """ "edge-1: 0.42 s against 0.61 s at edge-0", the next best being named."""
    other = next((offer for offer in ranking if offer.edge != here), None)
    if other is None:
        return f"{here}: {seconds:.3g} s, the only edge"
    full = ", which is full" if other.full else ""
    cheaper = ", where others would take longer" if other.seconds < seconds and not full else ""
    return f"{here}: {seconds:.3g} s against {other.seconds:.3g} s at {other.edge}{full or cheaper}"


def _no_room(clusters: int, rooms: Sequence[int]) -> str:
    edges, total = ("edge" if len(rooms) == 1 else "edges"), sum(rooms)
    room = f"{len(rooms)} {edges} with room for {total}"
    if len(rooms) > 1:
        same = len({*rooms}) == 1
        room = f"{len(rooms)} {edges} with room for {rooms[0] if same else total} "
        room += "each" if same else "together"
    left = clusters - total
    return (
        f"{clusters} clusters, {room}: {left} {'has' if left == 1 else 'have'} no place; lower "
        "clustering.clusters, or give edges more memory or replicas"
    )
