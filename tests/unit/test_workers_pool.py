"""The activations that go on to the cloud: bounded, fairly drawn, whoever comes first."""

from itertools import permutations

import numpy as np
import pytest

from lockstep_workers.learning.pool import Pool, Reservoir, pooled

SEED = (3, 8, 0)


def batch(step: int, rows: int = 4) -> Pool:
    """A step's examples; an activation says step and row."""
    rows_of = np.arange(rows)
    activations = np.stack([np.full(rows, step), rows_of], axis=1).astype(np.float32)
    return Pool(activations, (10 * step + rows_of).astype(np.int64), np.ones(rows, np.float32))


def kept(most: int, steps: list[int], seed: tuple[int, ...] = SEED) -> list[int]:
    """Labels of what stays of these steps' batches."""
    reservoir = Reservoir(most, seed)
    for step in steps:
        reservoir.add(step, batch(step))
    found = reservoir.take()
    return [] if found is None else found.labels.tolist()


def test_all_stay_while_there_is_room() -> None:
    assert kept(8, [1, 2]) == [10, 11, 12, 13, 20, 21, 22, 23]


@pytest.mark.parametrize("most", [1, 3, 7])
def test_no_more_than_asked_for_stay_in_the_order_of_steps(most: int) -> None:
    found = kept(most, [1, 2, 3])
    assert len(found) == most
    assert found == sorted(found)


def test_nothing_stays_where_nothing_is_asked_for() -> None:
    assert kept(0, [1, 2]) == []
    assert kept(5, []) == []


@pytest.mark.parametrize("again", [[2], [1, 2, 3, 1], [3, 3, 2]])
def test_a_step_that_is_told_again_changes_nothing(again: list[int]) -> None:
    assert kept(5, [1, 2, 3, *again]) == kept(5, [1, 2, 3])


def test_the_order_of_arrival_changes_nothing() -> None:
    assert {tuple(kept(5, list(order))) for order in permutations([1, 2, 3])} == {
        tuple(kept(5, [1, 2, 3]))
    }


def test_each_example_is_as_likely_to_stay() -> None:
    """Over 2000 seeds each of 12 stays about 500 times, whatever its step."""
    counts = np.zeros(40, int)
    for seed in range(2000):
        counts[kept(3, [1, 2, 3], (seed, 1, 0))] += 1
    seen = counts[[10 * step + row for step in (1, 2, 3) for row in range(4)]]
    assert seen.sum() == 6000
    assert seen.min() > 420
    assert seen.max() < 580


def test_activations_labels_and_weights_stay_together() -> None:
    reservoir = Reservoir(5, SEED)
    for step in (1, 2, 3):
        one = batch(step)
        reservoir.add(step, Pool(one.activations, one.labels, one.labels.astype(np.float32)))
    found = reservoir.take()
    assert found is not None
    assert (found.activations @ np.array([10, 1])).tolist() == found.labels.tolist()
    assert found.weights.tolist() == found.labels.tolist()


def test_what_is_kept_is_a_copy() -> None:
    """The batch is overwritten by the next step's."""
    one, reservoir = batch(1), Reservoir(5, SEED)
    reservoir.add(1, one)
    one.activations.fill(0)
    found = reservoir.take()
    assert found is not None
    assert found.activations[:, 0].tolist() == [1, 1, 1, 1]


def test_clusters_come_one_after_the_other() -> None:
    assert pooled([batch(2), batch(1)], most=10, seed=(1, 2)).labels.tolist() == [
        20, 21, 22, 23, 10, 11, 12, 13,
    ]  # fmt: skip


def test_too_many_are_drawn_by_the_seed_and_keep_their_order() -> None:
    def drawn(seed: int) -> list[int]:
        found = pooled([batch(1, 30), batch(4, 30)], most=9, seed=(seed, 2))
        return [int(label) for label in found.labels]

    assert len(drawn(1)) == 9
    assert drawn(1) == sorted(drawn(1)) == drawn(1)
    assert drawn(1) != drawn(2)
