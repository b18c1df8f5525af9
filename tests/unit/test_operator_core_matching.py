"""Which edge runs which cluster."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_operator.core.matching import (
    Costs,
    Held,
    Match,
    NoRoom,
    _greedy,
    least_bottleneck,
    match,
)

seconds = st.floats(0, 100, allow_subnormal=False)


def brute_force(costs: Costs, *, by: int) -> float:
    """The least longest (0) or sum (1) of all matchings."""
    clusters, edges = len(costs.devices_s), len(costs.room)
    every = []
    for chosen in product(range(edges), repeat=clusters):
        held: Held = [[k for k in range(clusters) if chosen[k] == e] for e in range(edges)]
        if all(len(on) <= room for on, room in zip(held, costs.room, strict=True)):
            every.append(costs.score(held)[by])
    return min(every)


@st.composite
def problems(draw: st.DrawFn, *, most_clusters: int, most_edges: int) -> Costs:
    clusters = draw(st.integers(1, most_clusters))
    edges = draw(st.integers(1, most_edges))
    room = draw(
        st.lists(st.integers(0, clusters), min_size=edges, max_size=edges).filter(
            lambda rooms: sum(rooms) >= clusters
        )
    )
    rows = st.lists(
        st.lists(seconds, min_size=edges, max_size=edges), min_size=clusters, max_size=clusters
    )
    return Costs(draw(rows), draw(rows), tuple(room))


@given(costs=problems(most_clusters=4, most_edges=3))
def test_the_longest_cluster_is_the_shortest_that_can_be(costs: Costs) -> None:
    held = least_bottleneck(costs)
    assert sorted(k for on in held for k in on) == [*range(len(costs.devices_s))]
    assert all(len(on) <= room for on, room in zip(held, costs.room, strict=True))
    assert costs.score(held)[0] == pytest.approx(brute_force(costs, by=0))


@settings(max_examples=30, deadline=None)
@given(costs=problems(most_clusters=6, most_edges=3))
def test_the_longest_of_more_clusters_is_within_a_hundredth_of_the_shortest(costs: Costs) -> None:
    assert costs.score(least_bottleneck(costs))[0] <= 1.01 * brute_force(costs, by=0) + 1e-9


def matched(
    devices_s: Sequence[Sequence[float]],
    work_s: Sequence[Sequence[float]] | float = 0.0,
    *,
    room: Sequence[int],
) -> tuple[Match, ...]:
    """Of clusters c0, c1, … and edges e-0, e-1, …; work may be the same everywhere."""
    if not isinstance(work_s, Sequence):
        work_s = [[work_s] * len(room)] * len(devices_s)
    names = [f"c{k}" for k in range(len(devices_s))]
    edges = [f"e-{e}" for e in range(len(room))]
    return match(names, edges, costs=Costs(devices_s, work_s, tuple(room)))


def test_a_cluster_takes_what_its_devices_take_and_the_edges_work() -> None:
    (found,) = matched([[10.0]], 6.0, room=[1])
    assert found == Match("c0", "e-0", 16.0, found.ranking, "e-0: 16 s, the only edge")
    assert found.fallbacks == ()


def test_clusters_on_one_edge_wait_for_the_smaller_of_the_two_works() -> None:
    found = matched([[10.0], [10.0]], [[6.0], [2.0]], room=[2])
    assert [one.seconds for one in found] == [10 + 6 + 2, 10 + 2 + 2]


def test_the_near_edge_is_taken_and_the_sentence_says_why() -> None:
    (found,) = matched([[0.61, 0.42]], room=[1, 1])
    assert found.edge == "e-1"
    assert found.why == "e-1: 0.42 s against 0.61 s at e-0"
    assert found.fallbacks == ("e-0",)
    assert [offer.seconds for offer in found.ranking] == [0.42, 0.61]


def test_every_edge_is_ranked_and_those_without_room_come_last() -> None:
    _, second = matched([[1.0, 90.0, 90.0], [2.0, 5.0, 10.0]], room=[1, 1, 1])
    assert [(offer.edge, offer.full) for offer in second.ranking] == [
        ("e-1", False),
        ("e-2", False),
        ("e-0", True),
    ]
    assert second.fallbacks == ("e-2", "e-0")


def test_a_ranking_tells_what_a_cluster_would_take_beside_those_that_are_there() -> None:
    first, second = matched([[10.0, 10.0]] * 2, 4.0, room=[2, 2])
    assert {first.edge, second.edge} == {"e-0", "e-1"}
    assert [offer.seconds for offer in first.ranking] == [14.0, 18.0]


def test_who_gives_way_to_others_says_so() -> None:
    """Both are nearer to e-0, the second by more."""
    near = [[1.0, 2.0], [1.0, 20.0]]
    first, second = matched(near, 3.0, room=[2, 2])
    assert (first.edge, second.edge) == ("e-1", "e-0")
    first, _ = matched(near, room=[1, 1])
    assert first.why == "e-1: 2 s against 1 s at e-0, which is full"
    shared = [[1.0, 6.0], [1.0, 20.0]]
    first, second = matched(shared, [[1.0, 0.0], [6.0, 0.0]], room=[2, 2])
    assert (first.edge, second.edge) == ("e-1", "e-0")
    assert first.why == "e-1: 6 s against 3 s at e-0, where others would take longer"


@pytest.mark.parametrize("devices_s", [1.0, 0.0])
def test_equal_edges_share_clusters_evenly(devices_s: float) -> None:
    """Also where nothing is known of work and links."""
    found = matched([[devices_s] * 3] * 6, room=[9] * 3)
    assert np.unique([one.edge for one in found], return_counts=True)[1].tolist() == [2, 2, 2]


def test_more_clusters_than_room_are_refused_with_numbers() -> None:
    five = [[1.0, 1.0]] * 5
    with pytest.raises(NoRoom, match=r"^5 clusters, 2 edges with room for 2 each: 1 has no place"):
        matched(five, room=[2, 2])
    with pytest.raises(NoRoom, match="2 edges with room for 3 together: 2 have no place"):
        matched(five, room=[0, 3])
    with pytest.raises(NoRoom, match="1 edge with room for 4: 1 has no place"):
        matched([[1.0]] * 5, room=[4])
    assert len(matched(five, room=[2, 3])) == 5


def test_no_cluster_needs_no_edge() -> None:
    assert matched([], room=[]) == ()


def test_a_hundred_clusters_find_twenty_edges() -> None:
    """Exchanges make the longest shorter than where each takes the best that is left."""
    random = np.random.default_rng(0)
    transfer, compute = random.lognormal(0, 0.6, (100, 20)), random.lognormal(-0.5, 0.7, (100, 20))
    costs = Costs(transfer.tolist(), compute.tolist(), (6,) * 20)
    held = least_bottleneck(costs)
    assert sorted(k for on in held for k in on) == [*range(100)]
    assert max(map(len, held)) <= 6
    assert costs.score(held)[0] < 0.95 * costs.score(_greedy(costs))[0]
