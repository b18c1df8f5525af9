"""A round's participants become clusters by their labels."""

from collections.abc import Sequence

import numpy as np
import pytest

from lockstep_api.spec.tiers import ClusteringMethod
from lockstep_operator.core.clustering import (
    Cluster,
    Floats,
    Kept,
    LeavesEmpty,
    Member,
    Rule,
    _Table,
    cluster,
)

KL = ClusteringMethod.KL


def members(*histograms: Sequence[float]) -> list[Member]:
    return [Member(f"d-{i}", tuple(one), int(max(1, sum(one)))) for i, one in enumerate(histograms)]


def skewed(clients: int, *, seed: int = 0, labels: int = 10) -> list[Member]:
    """Few labels a client, unequal amounts."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(labels, 0.1), clients)
    amounts = random.integers(20, 800, (clients, 1))
    return members(*np.rint(shares * amounts).tolist())


def made(
    of: Sequence[Member],
    method: ClusteringMethod = KL,
    clusters: int = 4,
    *,
    min_size: int | None = None,
    every: int = 1,
    seed: int = 0,
    round: int = 1,
    kept: Kept | None = None,
) -> tuple[Cluster, ...]:
    rule = Rule(method, clusters, min_size=min_size, every_rounds=every)
    return cluster(of, rule=rule, seed=seed, round=round, kept=kept)


def groups(of: Sequence[Cluster]) -> list[tuple[str, ...]]:
    return [one.clients for one in of]


def sizes(of: Sequence[Cluster]) -> list[int]:
    return sorted(len(one.clients) for one in of)


def mean_divergence(of: Sequence[Cluster]) -> float:
    return float(np.mean([one.divergence for one in of]))


def together(of: Sequence[Cluster], *clients: str) -> bool:
    return any(set(clients) <= set(one.clients) for one in of)


def test_a_cluster_has_the_labels_of_the_whole_round() -> None:
    found = made(members([50, 0], [50, 0], [0, 50], [0, 50]), clusters=2)
    assert sizes(found) == [2, 2]
    assert not together(found, "d-0", "d-1")
    assert not together(found, "d-2", "d-3")
    assert [one.divergence for one in found] == [0.0, 0.0]


def test_the_divergence_is_that_of_the_cluster_from_the_round_in_nats() -> None:
    (found,) = made(members([30, 10]), clusters=1)
    assert found.divergence == 0.0
    both = made(members([40, 0], [0, 40]), clusters=2)
    p, q = np.array([1.001, 0.001]) / 1.002, np.array([0.501, 0.501]) / 1.002
    assert [one.divergence for one in both] == [pytest.approx(float((p * np.log(p / q)).sum()))] * 2


def test_kl_is_closer_to_the_round_than_chance() -> None:
    of = skewed(40)
    drawn = np.mean([mean_divergence(made(of, ClusteringMethod.RANDOM, seed=s)) for s in range(20)])
    assert mean_divergence(made(of)) < 0.5 * drawn


def test_no_exchange_of_two_clients_would_help() -> None:
    """With equal amounts the divergence alone is judged."""
    random = np.random.default_rng(3)
    of = [
        Member(f"d-{i}", tuple(random.multinomial(100, random.dirichlet([0.2] * 5))), 100)
        for i in range(12)
    ]
    found = made(of, clusters=3)
    by_name = {one.client: np.array(one.histogram, float) for one in of}
    target = np.sum([*by_name.values()], axis=0)

    def objective(parts: Sequence[Sequence[str]]) -> float:
        total = 0.0
        for part in parts:
            counts = sum((by_name[client] for client in part), np.zeros(5))
            p = (counts / counts.sum() + 1e-3) / 1.005
            q = (target / target.sum() + 1e-3) / 1.005
            total += float((p * np.log(p / q)).sum())
        return total

    parts = [list(one.clients) for one in found]
    now = objective(parts)
    for a in range(3):
        for b in range(a):
            for i in range(4):
                for j in range(4):
                    other = [list(part) for part in parts]
                    other[a][i], other[b][j] = other[b][j], other[a][i]
                    assert objective(other) > now - 1e-6


@pytest.mark.parametrize("method", [KL, ClusteringMethod.RANDOM])
@pytest.mark.parametrize(("clients", "clusters"), [(11, 4), (8, 2), (20, 7), (250, 9)])
def test_sizes_are_within_one_of_each_other(
    method: ClusteringMethod, clients: int, clusters: int
) -> None:
    found = sizes(made(skewed(clients), method, clusters))
    assert sum(found) == clients
    assert len(found) == clusters
    assert found[-1] - found[0] <= 1


def test_with_a_least_size_clusters_may_be_larger_where_that_helps() -> None:
    """One large client needs three small ones of the other label beside it."""
    of = members([90, 0], [0, 30], [0, 30], [0, 30], [45, 45], [45, 45])
    assert sizes(made(of, clusters=2)) == [3, 3]
    free = made(of, clusters=2, min_size=2)
    assert sizes(free) == [2, 4]
    assert mean_divergence(free) == 0.0
    assert sizes(made(of, clusters=2, min_size=3)) == [3, 3]


def test_there_are_no_more_clusters_than_a_least_size_allows() -> None:
    assert sizes(made(skewed(10), clusters=4, min_size=5)) == [5, 5]
    assert len(made(skewed(11), clusters=4, min_size=4)) == 2
    assert sizes(made(skewed(3), clusters=4, min_size=4)) == [3]


def test_fewer_clients_than_clusters_make_fewer_clusters() -> None:
    assert groups(made(skewed(1))) == [("d-0",)]
    assert sizes(made(skewed(3))) == [1, 1, 1]
    assert made([]) == ()


def test_none_is_one_cluster_in_the_order_of_the_participants() -> None:
    of = skewed(5)[::-1]
    found = made(of, ClusteringMethod.NONE)
    assert groups(found) == [("d-4", "d-3", "d-2", "d-1", "d-0")]
    assert found[0].name == "c0"


def test_one_label_is_no_divergence() -> None:
    assert [one.divergence for one in made(members([5], [9], [1], [7]), clusters=2)] == [0.0, 0.0]


def test_nobody_told_labels_so_that_none_are_judged() -> None:
    found = made([Member(f"d-{i}", (), 10) for i in range(6)], clusters=3)
    assert sizes(found) == [2, 2, 2]
    assert {one.divergence for one in found} == {None}


def test_without_labels_examples_are_spread_evenly() -> None:
    found = made([Member(f"d-{i}", (), n) for i, n in enumerate([1, 1, 100, 100])], clusters=2)
    assert not together(found, "d-0", "d-1")


@pytest.mark.parametrize("silent", [(), (0, 0), (-3, -1), (0,)])
def test_who_told_nothing_counts_as_having_the_labels_of_the_round(
    silent: Sequence[float],
) -> None:
    """Of 100 examples of one label and 200 of either: two thirds to one third."""
    of = [*members([100, 0], [0, 100]), Member("s-0", silent, 200)]
    before = Kept(1, [("d-0", "s-0"), ("d-1",)])
    mixed, _ = made(of, clusters=2, every=2, round=2, kept=before)
    p = (np.array([2 / 3, 1 / 3]) + 1e-3) / 1.002
    assert mixed.divergence == pytest.approx(float((p * np.log(p / 0.5)).sum()))
    assert together(made(of, clusters=2), "d-0", "d-1")


def test_negative_counts_are_none() -> None:
    clipped, noised = members([50, 0], [0, 50], [50, 0], [0, 50]), []
    noised = [
        Member(one.client, [n or -4.0 for n in one.histogram], one.examples) for one in clipped
    ]
    assert made(noised, clusters=2) == made(clipped, clusters=2)


def test_examples_are_evened_out_where_labels_leave_the_choice() -> None:
    of = members([50, 50], [50, 50], [900, 900], [900, 900])
    assert not together(made(of, clusters=2), "d-0", "d-1")


def test_the_draw_depends_on_seed_and_number_of_the_draw_alone() -> None:
    of = skewed(30)
    first = made(of, ClusteringMethod.RANDOM, every=3, round=1)
    assert made(of, ClusteringMethod.RANDOM, every=3, round=3) == first
    assert made(of, ClusteringMethod.RANDOM, every=3, round=4) != first
    assert made(of, ClusteringMethod.RANDOM, every=1, round=2) == made(
        of, ClusteringMethod.RANDOM, every=3, round=4
    )
    assert made(of, ClusteringMethod.RANDOM, every=3, seed=1) != first


@pytest.mark.parametrize("method", [KL, ClusteringMethod.RANDOM])
def test_the_order_of_the_participants_changes_no_cluster(method: ClusteringMethod) -> None:
    of = skewed(23)
    as_sets = [{frozenset(one) for one in groups(made(o, method))} for o in (of, of[::-1])]
    assert as_sets[0] == as_sets[1]


def kept(of: Sequence[Cluster], *, round: int) -> Kept:
    return Kept(round, groups(of))


def test_between_draws_members_stay_and_newcomers_go_where_divergence_grows_least() -> None:
    of = members([40, 0], [0, 40], [40, 0], [0, 40])
    before = Kept(1, [("d-0", "d-1"), ("d-2",)])
    found = made(of, clusters=2, every=3, round=2, kept=before)
    assert groups(found) == [("d-0", "d-1"), ("d-2", "d-3")]
    later = made(of[:3], clusters=2, every=3, round=3, kept=before)
    assert groups(later) == [("d-0", "d-1"), ("d-2",)]


def test_newcomers_fill_the_cluster_that_lacks_clients_first() -> None:
    """By divergence d-3 would go to the first."""
    of = members([40, 0], [40, 0], [20, 20], [0, 40], [20, 20])
    before = Kept(1, [("d-0", "d-1"), ("d-2",)])
    found = made(of, clusters=2, min_size=2, every=9, round=2, kept=before)
    assert "d-3" in found[1].clients
    assert "d-3" in made(of, clusters=2, every=9, round=2, kept=before)[0].clients


def test_newcomers_leave_a_cluster_that_has_its_share_of_clients() -> None:
    """By divergence d-3 would go to the first."""
    of = members([40, 0], [40, 0], [20, 20], [0, 40])
    before = Kept(1, [("d-0", "d-1"), ("d-2",)])
    found = made(of, clusters=2, every=9, round=2, kept=before)
    assert groups(found) == [("d-0", "d-1"), ("d-2", "d-3")]


def test_a_new_draw_keeps_nothing() -> None:
    of = skewed(16)
    strange = kept(made(of, ClusteringMethod.RANDOM, every=2, seed=9), round=2)
    assert made(of, every=2, round=3, kept=strange) == made(of, every=2, round=3)
    assert made(of, every=2, round=4, kept=strange) == made(of, every=2, round=4)
    assert made(of, every=1, round=2, kept=strange) == made(of, every=1, round=2)
    assert made(of, every=2, round=2, kept=strange) != made(of, every=2, round=2)


def test_where_a_kept_cluster_would_be_empty_all_are_drawn_again() -> None:
    of = members([40, 0], [0, 40], [40, 0], [0, 40])
    before = Kept(1, [("d-0", "d-1", "d-2", "d-3"), ("gone-0", "gone-1")])
    found = made(of, clusters=2, every=3, round=2, kept=before)
    assert found == made(of, clusters=2, every=3, round=2)
    assert sizes(found) == [2, 2]


def test_another_number_of_clusters_is_drawn_again() -> None:
    of = skewed(12)
    before = kept(made(of, clusters=3, every=5), round=1)
    assert len(made(of, clusters=4, every=5, round=2, kept=before)) == 4


def test_the_literal_text_is_refused_with_numbers_where_it_leaves_clusters_empty() -> None:
    of = skewed(40, seed=1)
    with pytest.raises(LeavesEmpty, match=r"literal leaves \d of 8 clusters empty") as refused:
        made(of, ClusteringMethod.LITERAL, 8)
    assert "of 40 clients" in str(refused.value)


def test_the_literal_text_fills_its_clusters_one_after_another() -> None:
    """Of one label nobody lowers the divergence of the first: each gets its least size."""
    found = made(members(*([[10]] * 8)), ClusteringMethod.LITERAL, 2)
    assert sum(sizes(found)) == 8
    assert min(sizes(found)) >= 3


def test_the_literal_text_makes_no_more_clusters_than_there_are_clients() -> None:
    found = made(members([10], [10]), ClusteringMethod.LITERAL, 4)
    assert sizes(found) == [1, 1]


def test_a_thousand_clients_are_all_dealt_out() -> None:
    of = skewed(1000)
    found = made(of, clusters=10)
    assert sorted(client for one in found for client in one.clients) == sorted(
        one.client for one in of
    )
    drawn = mean_divergence(made(of, ClusteringMethod.RANDOM, clusters=10))
    assert mean_divergence(found) < 0.2 * drawn


def test_labels_that_no_data_set_has_make_a_draw_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device says itself how many there are, up to 1024; that many shares are looked at."""
    looked_at, kl = [0], _Table.kl

    def counted(table: _Table, counts: Floats) -> Floats:
        looked_at[0] += counts.size
        return kl(table, counts)

    monkeypatch.setattr(_Table, "kl", counted)
    found = made(skewed(150, labels=1024), clusters=10)
    assert sizes(found) == [15] * 10
    assert looked_at[0] < 100e6
