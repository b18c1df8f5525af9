"""Trimmed means, medians and krum beside formulae written out, whatever order updates come in."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lockstep_api.spec import Aggregation, Model
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.kept import KeptUpdates
from lockstep_workers.learning.safeguards import Safeguards
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.learning.sums import RoundSum, Share
from lockstep_workers.models import build_model

ONE = Share((1.0,), Contribution(examples=1, steps=1))
N, BLOCK = 4001, 8000
"""An update is in several blocks."""
ORIGIN = np.zeros(N, np.float32)


def rows(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, N)).astype(np.float32)


def combined(how: Aggregation, given: NDArray[np.float32], *, trim: float = 0.2,
             order: list[int] | None = None) -> NDArray[np.float32]:  # fmt: skip
    kept = KeptUpdates(given.shape[1], how=how, trim=trim, block_values=BLOCK)
    for place in order or range(len(given)):
        kept.add(f"d-{place:03}", given[place], share=ONE)
    return kept.mean(np.zeros(given.shape[1], np.float32))


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 2), (3, 1), (4, 2), (10, 6), (40, 24)])
def test_a_trimmed_mean_leaves_out_a_share_at_either_end(count: int, left: int) -> None:
    given = rows(count)
    out = (count - left) // 2
    expected = np.sort(given, axis=0)[out : count - out].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(combined(Aggregation.TRIMMED_MEAN, given), expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_a_median_is_that_of_each_value(count: int) -> None:
    given = rows(count)
    np.testing.assert_allclose(
        combined(Aggregation.MEDIAN, given), np.median(given, axis=0), atol=1e-6
    )


def test_krum_takes_the_mean_of_those_that_lie_closest() -> None:
    given = rows(10) + 3
    given[4], given[7] = -given[4], 1e16
    honest = [place for place in range(10) if place not in (4, 7)]
    np.testing.assert_allclose(
        combined(Aggregation.KRUM, given), given[honest].mean(axis=0, dtype=np.float64), atol=1e-6
    )


@pytest.mark.parametrize("how", [Aggregation.TRIMMED_MEAN, Aggregation.MEDIAN, Aggregation.KRUM])
def test_no_order_of_arrival_changes_a_bit(how: Aggregation) -> None:
    given = rows(9, seed=3)
    given[:, ::3] = 0.0
    given[::2, ::3] = -0.0
    expected = combined(how, given)
    for seed in range(3):
        order = [int(one) for one in np.random.default_rng(seed).permutation(9)]
        found = combined(how, given, order=order)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("how", [Aggregation.TRIMMED_MEAN, Aggregation.MEDIAN, Aggregation.KRUM])
def test_three_dishonest_updates_of_ten_stay_within_the_honest_ones(how: Aggregation) -> None:
    given = rows(10)
    given[:3] = 1e16
    found = combined(how, given, trim=0.3)
    assert np.all(found >= given[3:].min(axis=0))
    assert np.all(found <= given[3:].max(axis=0))


def test_a_round_begins_with_nothing_of_the_one_before() -> None:
    kept = KeptUpdates(N, how=Aggregation.MEDIAN, trim=0.2)
    for value in (5.0, 7.0):
        kept.reset()
        kept.add("d-0", np.full(N, value, np.float32), share=ONE)
        np.testing.assert_array_equal(kept.mean(ORIGIN), np.full(N, value, np.float32))


def test_sums_of_edges_are_refused() -> None:
    kept = KeptUpdates(4, how=Aggregation.MEDIAN, trim=0.2)
    with pytest.raises(RefusedUpdate, match="takes no sums of edges"):
        kept.merge(RoundSum(4).part())


def test_every_update_counts_the_same_whatever_its_client_holds() -> None:
    module = build_model(Model(name="mlp"), seed=0)
    held = {"a": 1, "b": 1, "c": 10**6}
    guarded = Safeguards(aggregation=Aggregation.MEDIAN)
    server = Server(fedavg(), module, examples=held, safeguards=guarded)
    server.begin(1, [*held])
    for client, value in zip(held, (1.0, 2.0, 9.0), strict=True):
        update = np.full(server.n_values, value, np.float32)
        server.add(client, update, contribution=Contribution(held[client], 1))
    server.aggregate()
    assert set(server.model.vector.tolist()) == {2.0}
