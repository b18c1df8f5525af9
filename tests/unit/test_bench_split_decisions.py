"""What clusters and matchings are worth beside chance, as the benchmark page tells it."""

import numpy as np
import pytest

from lockstep_api.spec.tiers import ClusteringMethod
from tests.bench.split_decisions import (
    CLUSTER_SIZES,
    FLOORS,
    MATCHED_FLOORS,
    SEEDS,
    TWO_REGIONS,
    best_of_two,
    by_labels,
    evenness,
    made,
    matchings,
    members,
    noise,
    random_divergence,
    ratio,
)


@pytest.mark.parametrize(("clients", "clusters"), CLUSTER_SIZES)
def test_clusters_are_closer_to_the_round_than_random_ones(clients: int, clusters: int) -> None:
    assert np.mean(ratio(clients, clusters)) <= FLOORS[clients, clusters]


@pytest.mark.parametrize(("clients", "clusters"), CLUSTER_SIZES)
def test_no_cluster_is_empty_and_sizes_are_within_one(clients: int, clusters: int) -> None:
    for seed in range(SEEDS):
        sizes = [len(one.clients) for one in by_labels(clients, clusters, seed)]
        assert len(sizes) == clusters
        assert max(sizes) - min(sizes) <= 1


def test_two_clusters_of_four_are_as_close_as_can_be() -> None:
    best = [best_of_two(members(8, seed)) / random_divergence(8, 2, seed) for seed in range(SEEDS)]
    assert np.mean(ratio(8, 2)) <= np.mean(best) + 0.05


def test_noise_of_epsilon_one_costs_clusters_nothing() -> None:
    assert abs(np.mean(noise(20, 4, 1.0)) - np.mean(ratio(20, 4))) < 0.03


def test_examples_are_spread_more_evenly_than_by_labels_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def uneven() -> float:
        of = [members(100, seed) for seed in range(5)]
        return float(
            np.mean([evenness(made(one, ClusteringMethod.KL, 10, seed=0), one) for one in of])
        )

    weighed = uneven()
    monkeypatch.setattr("lockstep_operator.core.clustering.SAMPLES_WEIGHT", 0.0)
    assert weighed < 0.6 * uneven()


@pytest.mark.parametrize("size", [*MATCHED_FLOORS])
def test_matched_rounds_are_shorter_than_random_ones_and_none_is_shorter(
    size: tuple[int, int],
) -> None:
    found = matchings(TWO_REGIONS, *size)
    assert np.mean(found["bottleneck"]) <= MATCHED_FLOORS[size]
    assert found["bottleneck"] == pytest.approx(found["best"])
