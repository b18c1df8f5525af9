"""Distances of updates and their clipping, beside NumPy's own over whole vectors."""

import numpy as np
import pytest

from lockstep_workers.learning.bounding import clip, distance, scale

N = 200_001
RNG = np.random.default_rng(3)
ORIGIN = RNG.normal(size=N).astype(np.float32)
VECTOR = (ORIGIN + RNG.normal(scale=0.1, size=N)).astype(np.float32)


@pytest.mark.parametrize("origin", [None, ORIGIN])
def test_a_distance_is_that_of_all_values(origin: np.ndarray | None) -> None:
    from_zero = VECTOR.astype(np.float64)
    apart = from_zero if origin is None else from_zero - origin
    assert distance(VECTOR, origin) == pytest.approx(np.linalg.norm(apart), rel=1e-12)


def test_a_distance_whose_square_is_beyond_float32_is_finite() -> None:
    assert distance(np.full(N, 1e19, np.float32)) == pytest.approx(1e19 * np.sqrt(N))


def test_a_vector_within_its_bound_stays_as_it_is() -> None:
    vector = VECTOR.copy()
    assert clip(vector, distance(VECTOR, ORIGIN), origin=ORIGIN) == 1.0
    np.testing.assert_array_equal(vector, VECTOR)


@pytest.mark.parametrize("origin", [None, ORIGIN])
def test_a_vector_beyond_its_bound_ends_on_it_in_its_own_direction(
    origin: np.ndarray | None,
) -> None:
    vector, apart = VECTOR.copy(), distance(VECTOR, origin)
    assert clip(vector, apart / 3, origin=origin) == pytest.approx(1 / 3)
    assert distance(vector, origin) == pytest.approx(apart / 3, rel=1e-5)
    begun = 0.0 if origin is None else origin
    np.testing.assert_allclose(vector - begun, (VECTOR - begun) / 3, atol=1e-6)


def test_a_huge_vector_ends_on_its_bound_too() -> None:
    vector = np.full(N, 1e16, np.float32)
    clip(vector, 2.0, origin=ORIGIN)
    assert distance(vector, ORIGIN) == pytest.approx(2.0, rel=1e-5)


def test_a_bound_of_nothing_leaves_the_origin() -> None:
    vector = VECTOR.copy()
    clip(vector, 0.0, origin=ORIGIN)
    np.testing.assert_array_equal(vector, ORIGIN)


def test_a_part_of_a_vector_is_scaled_as_it_is_in_the_whole() -> None:
    """An edge and a cloud pod have the same bits, however an update lies in memory."""
    whole, part = VECTOR.copy(), VECTOR[:1000].copy()
    scale(whole, 0.3, origin=ORIGIN)
    scale(part, 0.3, origin=ORIGIN[:1000])
    np.testing.assert_array_equal(whole[:1000], part)
