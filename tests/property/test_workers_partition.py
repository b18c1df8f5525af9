"""Properties of the partition: disjoint, complete, none empty, deterministic, skewed by alpha."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_api.spec import Partition, PartitionScheme
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.partition import partition

SCHEMES = st.sampled_from([PartitionScheme.IID, PartitionScheme.DIRICHLET, PartitionScheme.SHARDS])
LABELS = np.repeat(np.arange(10), 60)


@settings(max_examples=60, deadline=None)
@given(
    scheme=SCHEMES,
    shares=st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_example_belongs_to_one_client(
    scheme: PartitionScheme, shares: list[float], seed: int
) -> None:
    parts = partition(LABELS, shares, spec=Partition(scheme=scheme), seed=seed)
    assert len(parts) == len(shares)
    assert all(len(part) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    again = partition(LABELS, shares, spec=Partition(scheme=scheme), seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_smaller_alpha_is_more_skewed(seed: int) -> None:
    def skew(alpha: float) -> float:
        spec = Partition(scheme=PartitionScheme.DIRICHLET, alpha=alpha)
        parts = partition(LABELS, [1.0] * 8, spec=spec, seed=seed)
        tops = [np.bincount(LABELS[p], minlength=10).max() / len(p) for p in parts]
        return float(np.mean(tops))

    assert skew(0.05) > skew(100.0)


def test_shares_decide_how_much_a_client_gets() -> None:
    parts = partition(LABELS, [1, 2, 3], spec=Partition(), seed=1)
    assert [len(p) for p in parts] == [100, 200, 300]


def test_shards_give_few_labels_to_each_client() -> None:
    parts = partition(
        LABELS,
        [1.0] * 10,
        spec=Partition(scheme=PartitionScheme.SHARDS, shards_per_client=2),
        seed=3,
    )
    assert max(len(np.unique(LABELS[p])) for p in parts) <= 4


def test_the_partitions_own_seed_wins() -> None:
    own = Partition(seed=5)
    first = partition(LABELS, [1.0] * 4, spec=own, seed=1)
    second = partition(LABELS, [1.0] * 4, spec=own, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("labels", "scheme", "message"),
    [
        (LABELS, PartitionScheme.NATURAL, "use iid, dirichlet or shards"),
        (LABELS[:2], PartitionScheme.IID, r"2 training examples cannot be dealt out to 3 devices"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(
    labels: np.ndarray, scheme: PartitionScheme, message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        partition(labels, [1.0] * 3, spec=Partition(scheme=scheme), seed=0)
