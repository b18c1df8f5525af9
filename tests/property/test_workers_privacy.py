"""No update, whatever is in it, moves a sum by more than the norm."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lockstep_workers.learning.privacy import clip

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)
SANE = st.floats(-100, 100, width=32)


@given(
    arrays(np.float32, 40, elements=ANY),
    arrays(np.float32, 40, elements=SANE),
    st.floats(1e-6, 1e6),
)
def test_the_sensitivity_of_a_sum_is_at_most_the_norm(
    update: np.ndarray, model: np.ndarray, norm: float
) -> None:
    clip(update, model, norm=norm)
    assert np.isfinite(update).all()
    assert np.linalg.norm(update.astype(np.float64) - model) <= norm * (1 + 1e-12)


@given(
    arrays(np.float32, 40, elements=SANE),
    arrays(np.float32, 40, elements=SANE),
    st.floats(1e-3, 1e3),
)
def test_an_update_keeps_its_direction(update: np.ndarray, model: np.ndarray, norm: float) -> None:
    wanted = update.astype(np.float64) - model
    length = np.linalg.norm(wanted)
    if length > norm:
        wanted *= norm / length
    clip(update, model, norm=norm)
    np.testing.assert_allclose(update, model + wanted, atol=1e-4, rtol=1e-4)


@given(st.floats(1, 100), st.floats(1e-3, 1), st.floats(0, 1e-6))
def test_a_change_that_is_small_beside_the_model_is_cut_not_lost(
    value: float, norm: float, excess: float
) -> None:
    """Rounding makes it longer than asked for again and again: it is what float32 holds of it."""
    model = np.full(40, value, np.float32)
    update = (model + norm * (1 + excess) / np.sqrt(40)).astype(np.float32)
    clip(update, model, norm=norm)
    length = np.linalg.norm(update.astype(np.float64) - model)
    assert norm - 4 * np.sqrt(40) * np.spacing(np.float32(2 * value)) <= length <= norm
