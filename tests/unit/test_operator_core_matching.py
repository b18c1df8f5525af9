"""Which edge runs which cluster."""

from collections.abc import Mapping
from itertools import product
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_operator.core.matching import (
    MOST_SECONDS,
    Costs,
    Demand,
    Held,
    Match,
    NoRoom,
    Path,
    Supply,
    Traffic,
    least_bottleneck,
    match,
)

seconds = st.floats(0, 100, allow_subnormal=False)


def brute_force(costs: Costs, *, by: int) -> float:
    """The least longest (0) or sum (1) of all matchings."""
    clusters, edges = len(costs.transfer_s), len(costs.room)
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
    assert sorted(k for on in held for k in on) == [*range(len(costs.transfer_s))]
    assert all(len(on) <= room for on, room in zip(held, costs.room, strict=True))
    assert costs.score(held)[0] == pytest.approx(brute_force(costs, by=0))


@settings(max_examples=30, deadline=None)
@given(costs=problems(most_clusters=6, most_edges=3))
def test_the_longest_of_more_clusters_is_within_a_hundredth_of_the_shortest(costs: Costs) -> None:
    assert costs.score(least_bottleneck(costs))[0] <= 1.01 * brute_force(costs, by=0) + 1e-9


def split(samples: float, clients: str = "a", *, exchange_bytes: float = 1e6) -> Demand:
    """A cluster of as many clients as letters."""
    traffic = {client: Traffic(exchange_bytes, exchanges=10) for client in clients}
    return Demand(f"c-{clients}", traffic, flops=samples)


def matched(
    clusters: list[Demand],
    edges: list[Supply],
    links: Mapping[tuple[str, str], Path] | None = None,
    objective: Literal["bottleneck", "sum"] = "bottleneck",
) -> tuple[Match, ...]:
    known = links or {}
    usual = Path(bandwidth_mbps=8.0)
    return match(
        clusters,
        edges,
        path=lambda client, edge: known.get((client, edge), usual),
        objective=objective,
    )


def test_a_step_waits_for_the_slowest_device_of_the_cluster_and_two_latencies() -> None:
    links = {("a", "e-0"): Path(8.0, latency_s=0.05), ("b", "e-0"): Path(4.0, latency_s=0.1)}
    (found,) = matched([split(0, "ab")], [Supply("e-0", 1.0, 1)], links)
    assert found.seconds == pytest.approx(10 * (1e6 * 8 / 4e6 + 2 * 0.1))


def test_the_edges_work_is_operations_over_its_free_speed() -> None:
    (found,) = matched([split(600.0)], [Supply("e-0", 100.0, 1)])
    assert found.seconds == pytest.approx(10 * 1.0 + 6.0)


def test_clusters_on_one_edge_wait_for_the_smaller_of_the_two_works() -> None:
    found = matched([split(600.0, "a"), split(200.0, "b")], [Supply("e-0", 100.0, 2)])
    assert [one.seconds for one in found] == pytest.approx([10 + 6 + 2, 10 + 2 + 2])


def test_a_model_there_and_back_is_one_exchange() -> None:
    assert Traffic(2e6).seconds(Path(16.0, latency_s=0.5)) == pytest.approx(1.0 + 1.0)


def test_the_near_edge_is_taken_and_the_sentence_says_why() -> None:
    links = {("a", "e-1"): Path(16.0)}
    (found,) = matched([split(0, "a")], [Supply("e-0", 1.0, 1), Supply("e-1", 1.0, 1)], links)
    assert found.edge == "e-1"
    assert found.why == "e-1: 5 s against 10 s at e-0"
    assert found.fallbacks == ("e-0",)
    assert [offer.seconds for offer in found.ranking] == pytest.approx([5.0, 10.0])


def test_every_edge_is_ranked_and_those_without_room_come_last() -> None:
    links = {("a", "e-0"): Path(80.0), ("b", "e-0"): Path(4.0), ("b", "e-1"): Path(16.0)}
    edges = [Supply("e-0", 1.0, 1), Supply("e-1", 1.0, 1), Supply("e-2", 1.0, 1)]
    _, b = matched([split(0, "a"), split(0, "b")], edges, links)
    assert [(offer.edge, offer.full) for offer in b.ranking] == [
        ("e-1", False),
        ("e-2", False),
        ("e-0", True),
    ]
    assert b.fallbacks == ("e-2", "e-0")


def test_a_ranking_tells_what_a_cluster_would_take_beside_those_that_are_there() -> None:
    edges = [Supply("e-0", 100.0, 2), Supply("e-1", 100.0, 2)]
    a, b = matched([split(400.0, "a"), split(400.0, "b")], edges)
    assert {a.edge, b.edge} == {"e-0", "e-1"}
    assert [offer.seconds for offer in a.ranking] == pytest.approx([14.0, 18.0])


def test_who_gives_way_to_others_says_so() -> None:
    """Both are nearer to e-0, one by more."""
    links = {("a", "e-0"): Path(80.0), ("a", "e-1"): Path(40.0)}
    links |= {("b", "e-0"): Path(80.0), ("b", "e-1"): Path(4.0)}
    edges = [Supply("e-0", 10.0, 2), Supply("e-1", 10.0, 2)]
    a, b = matched([split(30.0, "a"), split(30.0, "b")], edges, links)
    assert (a.edge, b.edge) == ("e-1", "e-0")
    one_place = [Supply("e-0", 1e9, 1), Supply("e-1", 1e9, 1)]
    a, b = matched([split(0.0, "a"), split(0.0, "b")], one_place, links)
    assert a.why == "e-1: 2 s against 1 s at e-0, which is full"


def test_equal_edges_share_clusters_evenly() -> None:
    """Also where nothing is known of work and links."""
    edges = [Supply(f"e-{i}", 1.0, 9) for i in range(3)]
    found = matched([split(0, letter) for letter in "abcdef"], edges)
    assert np.unique([one.edge for one in found], return_counts=True)[1].tolist() == [2, 2, 2]


def test_more_clusters_than_room_are_refused_with_numbers() -> None:
    five = [split(0, letter) for letter in "abcde"]
    with pytest.raises(NoRoom, match=r"^5 clusters, 2 edges with room for 2 each: 1 have no place"):
        matched(five, [Supply("e-0", 1.0, 2), Supply("e-1", 1.0, 2)])
    with pytest.raises(NoRoom, match="2 edges with room for 4 together"):
        matched(five, [Supply("e-0", 1.0, 1), Supply("e-1", 1.0, 3)])
    with pytest.raises(NoRoom, match=r"^5 clusters, no edge is connected"):
        matched(five, [])


def test_what_cannot_be_reached_costs_most_but_has_an_end() -> None:
    links = {("a", "e-0"): Path(0.0)}
    (found,) = matched([split(1.0)], [Supply("e-0", 0.0, 1)], links)
    assert found.seconds == pytest.approx(2 * MOST_SECONDS)
    (found,) = matched([split(1.0)], [Supply("e-0", 1.0, 1), Supply("e-1", 1.0, 1)], links)
    assert found.edge == "e-1"


def test_no_cluster_needs_no_edge() -> None:
    assert matched([], []) == ()


def test_a_hundred_clusters_find_twenty_edges() -> None:
    """Never longer than where each cluster takes the edge that suits it beside the earlier ones."""
    random = np.random.default_rng(0)
    transfer, compute = random.lognormal(0, 0.6, (100, 20)), random.lognormal(-0.5, 0.7, (100, 20))
    costs = Costs(transfer.tolist(), compute.tolist(), (6,) * 20)
    held = least_bottleneck(costs)
    assert sorted(k for on in held for k in on) == [*range(100)]
    assert max(map(len, held)) <= 6
    in_turn: Held = [[] for _ in range(20)]
    for k in range(100):
        free = [e for e in range(20) if len(in_turn[e]) < 6]
        in_turn[min(free, key=lambda e: costs.part([*in_turn[e], k], edge=e))].append(k)
    assert costs.score(held)[0] < costs.score(in_turn)[0]
