"""Packing: nothing exceeds what a node has, and kube-scheduler finds room for all of it."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lockstep_operator.core.amount import Amount
from lockstep_operator.core.packing import LeftOver, Nodes, Wanted, pack

MIB = 2.0**20
SMALL = Amount(0.2, 256 * MIB, 1, 10 * MIB)

amounts = st.builds(
    Amount,
    st.floats(-0.5, 8),
    st.floats(0, 4096 * MIB),
    st.integers(0, 30),
    st.floats(0, 200 * MIB),
)
needs = st.builds(
    Amount, st.floats(0.05, 2), st.floats(MIB, 1024 * MIB), st.just(1), st.floats(0, 40 * MIB)
)


def rooms_of(amounts: Sequence[Amount]) -> dict[str, Amount]:
    return {f"n{index}": amount for index, amount in enumerate(amounts)}


def bound(
    wanted: Sequence[Wanted], packed: Sequence[Nodes], *, free: dict[str, Amount], seed: int
) -> dict[str, Amount] | None:
    """What is left when a scheduler binds the pods in any order to any of their nodes with room."""
    rng, left = random.Random(seed), dict(free)
    pods = [index for index, one in enumerate(wanted) for _ in range(one.count)]
    rng.shuffle(pods)
    for index in pods:
        fitting = [node for node in packed[index] if left[node].holds(wanted[index].need)]
        if not fitting:
            return None
        left[rng.choice(fitting)] -= wanted[index].need
    return left


@given(
    free=st.lists(amounts, min_size=1, max_size=6),
    sizes=st.lists(st.tuples(st.integers(1, 12), needs), min_size=1, max_size=4),
)
def test_what_is_packed_is_there(free: list[Amount], sizes: list[tuple[int, Amount]]) -> None:
    """Every resource of every node, when the sets fill their nodes in the order of packing."""
    rooms = rooms_of(free)
    wanted = [Wanted(count, need, tuple(rooms)) for count, need in sizes]
    packed = pack(wanted, rooms)
    if isinstance(packed, LeftOver):
        return
    everything = sum((one.count * one.need for one in wanted), start=Amount())
    used = {node for nodes in packed for node in nodes}
    there = sum((rooms[node].larger(Amount()) for node in used), start=Amount())
    assert replace(there, memory=there.memory + 1, storage=there.storage + 1).covers(everything)
    alone = Counter(nodes[0] for nodes in packed if len(nodes) == 1)
    for node in alone:
        held = sum(
            (one.count * one.need for one, nodes in zip(wanted, packed, strict=True)
             if nodes == (node,)),
            start=Amount(),
        )  # fmt: skip
        assert rooms[node].covers(replace(held, memory=held.memory - 1, storage=held.storage - 1))


@given(
    free=st.lists(amounts, min_size=1, max_size=5),
    sets=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 1), st.booleans()), min_size=1, max_size=5
    ),
    seed=st.integers(0, 10**6),
)
def test_equal_pods_find_room_whichever_comes_first(
    free: list[Amount], sets: list[tuple[int, int, bool]], seed: int
) -> None:
    """However kube-scheduler spreads the pods over the nodes of their sets, none is left over."""
    rooms, counts = rooms_of(free), [count for count, _, _ in sets]
    wanted = [
        Wanted(count, SMALL, tuple(rooms), turn=turn, spread=spread) for count, turn, spread in sets
    ]
    packed = pack(wanted, rooms)
    capacity = sum(room.holds(SMALL) for room in rooms.values())
    assert isinstance(packed, LeftOver) == (sum(counts) > capacity)
    if not isinstance(packed, LeftOver):
        assert bound(wanted, packed, free=rooms, seed=seed) is not None


@given(
    pods=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_pods_that_fill_their_nodes_to_the_last_all_find_room(
    pods: list[int], cuts: list[float], seed: int
) -> None:
    """No room is left over, so that none may be taken by a pod that could have gone elsewhere."""
    rooms = rooms_of([Amount(64, 2.0**38, count, 2.0**38) for count in pods])
    marks = sorted({0, sum(pods), *(round(cut * sum(pods)) for cut in cuts)})
    wanted = [Wanted(after - before, SMALL, tuple(rooms)) for before, after in pairwise(marks)]
    packed = pack(wanted, rooms)
    assert not isinstance(packed, LeftOver)
    left = bound(wanted, packed, free=rooms, seed=seed)
    assert left is not None
    assert all(room.pods == 0 for room in left.values())
