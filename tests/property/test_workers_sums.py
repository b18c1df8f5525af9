"""Exact sums: whatever arrives when, in which groups, whoever is lost, the bits are the same."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.learning.sums import RoundSum, Share
from lockstep_workers.tensors import Flat

CLIENTS = [f"c-{i}" for i in range(6)]
N_VALUES = 50


def updates(seed: int) -> dict[str, Flat]:
    """An update for each client, of values that lose bits when added in another order."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (len(CLIENTS), N_VALUES))
    values = (signs * 10 ** rng.uniform(-12, 6, signs.shape)).astype(np.float32)
    return dict(zip(CLIENTS, values, strict=True))


def shares(seed: int) -> dict[str, Share]:
    """What they count: whole numbers as by examples, and fractions as by steps."""
    rng = np.random.default_rng(seed)
    return {
        client: Share((float(n), n / 7.3), Contribution(examples=n, steps=2))
        for client, n in zip(CLIENTS, rng.integers(1, 3000, len(CLIENTS)).tolist(), strict=True)
    }


def summed(order: list[str], seed: int) -> RoundSum:
    """The sum of these clients' updates, added in this order."""
    total = RoundSum(N_VALUES, vectors=2, exact=True)
    given_updates, counts = updates(seed), shares(seed)
    for client in order:
        passing = given_updates[client].copy()  # the caller's buffer is used again
        total.add(client, passing, share=counts[client])
        passing.fill(np.nan)
    return total


def bits(total: RoundSum) -> tuple[bytes, list[float], bytes]:
    """All that must not depend on the order."""
    sums = total.part().sums.tobytes()
    return sums, total.weights, total.mean().tobytes()


@given(
    seed=st.integers(0, 1000),
    order=st.permutations(CLIENTS),
    lost=st.sets(st.sampled_from(CLIENTS), max_size=5),
    edges=st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_neither_order_nor_grouping_nor_who_is_lost_changes_a_bit(
    seed: int, order: list[str], lost: set[str], edges: list[int]
) -> None:
    there = [client for client in CLIENTS if client not in lost]
    expected = bits(summed(there, seed))
    arrived = [client for client in order if client not in lost]
    assert bits(summed(arrived, seed)) == expected
    merged = RoundSum(N_VALUES, vectors=2, exact=True)
    for edge in dict.fromkeys(edges):  # in the order that was drawn
        of_edge = [c for c in arrived if edges[CLIENTS.index(c)] == edge]
        merged.merge(summed(of_edge, seed).part())
    assert bits(merged) == expected
    assert merged.contributions(CLIENTS) == summed(there, seed).contributions(CLIENTS)


@given(seed=st.integers(0, 1000), order=st.permutations(CLIENTS))
def test_an_exact_sum_is_the_sum(seed: int, order: list[str]) -> None:
    """Beside whole fractions: within a rounding of each product, and of the mean to float32."""
    given_updates, counts = updates(seed), shares(seed)
    total = summed(order, seed)
    weights, mean = total.weights, total.mean()
    for index in range(N_VALUES):
        vector = index // (N_VALUES // 2)
        terms = [
            Fraction(float(given_updates[c][index])) * Fraction(counts[c].weights[vector])
            for c in CLIENTS
        ]
        exact = sum(terms) / Fraction(weights[vector])
        slack = sum(map(abs, terms)) / Fraction(weights[vector]) / 2**50 + Fraction(2) ** -60
        assert abs(Fraction(float(mean[index])) - exact) <= abs(exact) / 2**24 + slack


@given(
    scale=st.sampled_from([1e-38, 1e-20, 1e12, 1e18]),
    order=st.permutations(CLIENTS),
    weight=st.sampled_from([1.0, 1e3, 2.0**31]),
)
def test_beyond_its_bounds_it_is_still_a_sum(scale: float, order: list[str], weight: float) -> None:
    """Tiny values are lost below the last slice, huge ones are rounded: never more than that."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=(len(CLIENTS), N_VALUES)) * scale).astype(np.float32)
    total = RoundSum(N_VALUES, exact=True)
    for client in order:
        share = Share((weight,), Contribution(1, 1))
        total.add(client, values[CLIENTS.index(client)], share=share)
    expected = values.astype(np.float64).mean(0)
    rounded = 1e-6 * scale if scale > 1 else 1e-19
    np.testing.assert_allclose(total.mean(), expected, rtol=1e-5, atol=rounded)
