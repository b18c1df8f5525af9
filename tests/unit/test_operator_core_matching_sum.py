"""Objective `sum`: the matching of the least sum of all clusters' seconds."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from lockstep_operator.core import matching
from lockstep_operator.core.matching import (
    Costs,
    least_bottleneck,
    least_sum,
    match,
)

seconds = st.floats(0, 100, allow_subnormal=False)


@st.composite
def problems(draw: st.DrawFn) -> Costs:
    clusters, edges = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    room = draw(
        st.lists(st.integers(0, clusters), min_size=edges, max_size=edges).filter(
            lambda rooms: sum(rooms) >= clusters
        )
    )
    row = st.lists(seconds, min_size=edges, max_size=edges)
    rows = st.lists(row, min_size=clusters, max_size=clusters)
    return Costs(draw(rows), draw(rows), tuple(room))


def every_sum(costs: Costs) -> list[float]:
    clusters, edges = len(costs.devices_s), len(costs.room)
    matchings = (
        [[k for k in range(clusters) if chosen[k] == e] for e in range(edges)]
        for chosen in product(range(edges), repeat=clusters)
    )
    return [
        costs.score(held)[1]
        for held in matchings
        if all(len(on) <= room for on, room in zip(held, costs.room, strict=True))
    ]


@given(costs=problems())
def test_no_matching_has_a_smaller_sum(costs: Costs) -> None:
    held = least_sum(costs)
    assert sorted(k for on in held for k in on) == [*range(len(costs.devices_s))]
    assert all(len(on) <= room for on, room in zip(held, costs.room, strict=True))
    assert costs.score(held)[1] == pytest.approx(min(every_sum(costs)), rel=1e-6)


def test_the_two_objectives_differ() -> None:
    """Two clusters at the fast edge take less together, one at each end earlier."""
    costs = Costs([[1.0, 9.0], [1.0, 9.0]], [[3.0, 0.0], [3.0, 0.0]], (2, 2))
    assert costs.score(least_sum(costs))[1] == pytest.approx(13.0)
    apart = Costs([[1.0, 6.5], [1.0, 6.5]], [[3.0, 0.0], [3.0, 0.0]], (2, 2))
    assert sorted(map(len, least_bottleneck(apart))) == [1, 1]
    shared = Costs([[1.0, 6.5], [1.0, 9.0]], [[1.5, 0.0], [1.5, 0.0]], (2, 2))
    assert [len(on) for on in least_sum(shared)] == [2, 0]


def test_equal_edges_share_clusters_evenly() -> None:
    costs = Costs([[1.0] * 3] * 6, [[0.0] * 3] * 6, (9, 9, 9))
    found = match([*"abcdef"], ["e-0", "e-1", "e-2"], costs=costs, objective="sum")
    assert sorted(one.edge for one in found) == ["e-0", "e-0", "e-1", "e-1", "e-2", "e-2"]


def test_many_clusters_and_edges_are_matched_in_memory_that_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All places of 250 edges for 250 clusters would be 125 MB of costs, of 1000 8 GB."""
    looked_at: list[int] = []
    assign = optimize.linear_sum_assignment

    def seen(matrix: Any) -> Any:
        looked_at.append(matrix.size)
        return assign(matrix)

    monkeypatch.setattr(optimize, "linear_sum_assignment", seen)
    edges = 250
    costs = Costs([[1.0] * edges] * 250, [[1.0] * edges] * 250, (250,) * edges)
    assert [len(on) for on in least_sum(costs)] == [1] * edges
    assert looked_at[0] <= 1 << 22


def test_edges_have_as_many_places_as_clusters_need_however_few_edges_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matching, "_MOST_PLACES", 1)
    costs = Costs([[1.0, 1.0, 1.0]] * 7, [[1.0, 2.0, 1.0]] * 7, (1, 9, 9))
    held = least_sum(costs)
    assert sorted(k for on in held for k in on) == [*range(7)]
    assert [len(on) for on in held] == [1, 3, 3]
