"""Sums in client order: whatever arrives when and whoever is lost, the bits are the same."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.cloud.holding import Holding
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.learning.sums import Accumulator, InOrder, Share
from lockstep_workers.tensors import Flat

SHARE = Share((3.0,), Contribution(examples=3, steps=2))
CLIENTS = [f"c-{i}" for i in range(6)]


def updates(seed: int) -> dict[str, Flat]:
    """An update for each client, of values that lose bits when added in another order."""
    rng = np.random.default_rng(seed)
    return {c: (10 ** rng.uniform(-6, 6, 50)).astype(np.float32) for c in CLIENTS}


@given(
    seed=st.integers(0, 1000),
    order=st.permutations(CLIENTS),
    lost=st.sets(st.sampled_from(CLIENTS), max_size=5),
    budget=st.sampled_from([0, 200, 500, 1 << 20]),
)
def test_order_and_budget_change_no_bit(
    seed: int, order: list[str], lost: set[str], budget: int
) -> None:
    given_updates = updates(seed)
    plain = Accumulator(50)
    for client in CLIENTS:
        if client not in lost:
            plain.add(given_updates[client], SHARE)

    into, holding = Accumulator(50), Holding(budget)
    in_order = InOrder(into)
    in_order.begin(CLIENTS)
    for client in order:
        if client in lost:
            in_order.skip(client)
        elif in_order.is_next(client):
            in_order.add(client, given_updates[client], share=SHARE)
        else:
            passing = given_updates[client].copy()  # the caller's buffer is used again
            in_order.hold(client, holding.put(passing), share=SHARE)
            passing.fill(np.nan)
    assert into.weights == plain.weights
    np.testing.assert_array_equal(into.mean(), plain.mean())


@given(sizes=st.lists(st.integers(1, 40), max_size=20), seed=st.integers(0, 99))
def test_what_is_put_is_what_is_taken(sizes: list[int], seed: int) -> None:
    holding = Holding(100)
    vectors = [np.arange(n, dtype=np.float32) + n for n in sizes]
    takes = [(v, holding.put(v)) for v in vectors]
    random.Random(seed).shuffle(takes)
    for vector, take in takes:
        np.testing.assert_array_equal(take(), vector)
    assert holding._in_memory == 0
