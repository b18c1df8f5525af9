"""Local steps in a given time: what fits in, and what a device does of it."""

from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.budget import MOST_STEPS, bound_steps, is_used_up, steps_done, steps_within

STEP_S = st.floats(1e-3, 10)
BUDGET_S = st.floats(1e-2, 100)


@given(budget_s=BUDGET_S, step_s=STEP_S)
def test_steps_that_are_planned_fit_and_one_more_would_not(budget_s: float, step_s: float) -> None:
    planned = steps_within(budget_s, step_s=step_s)
    assert planned == 1 or planned * step_s <= budget_s * (1 + 1e-6)
    assert (planned + 1) * step_s > budget_s * (1 - 1e-6)


@given(asked=st.integers(1, 500), budget_s=BUDGET_S, step_s=STEP_S)
def test_steps_done_are_those_of_a_device_that_looks_at_its_clock(
    asked: int, budget_s: float, step_s: float
) -> None:
    done = 1
    while done < asked and not is_used_up(budget_s, elapsed_s=done * step_s * (1 + 1e-7)):
        done += 1
    assert steps_done(asked, budget_s=budget_s, step_s=step_s) - done in {0, 1}
    if abs(budget_s / step_s - round(budget_s / step_s)) > 1e-3:
        assert steps_done(asked, budget_s=budget_s, step_s=step_s) == done


@given(asked=st.integers(1, MOST_STEPS), step_s=STEP_S)
def test_without_a_budget_all_steps_are_done(asked: int, step_s: float) -> None:
    assert steps_done(asked, budget_s=None, step_s=step_s) == asked


@given(budget_s=BUDGET_S, step_s=STEP_S)
def test_a_device_does_all_that_was_planned_into_its_budget(budget_s: float, step_s: float) -> None:
    planned = steps_within(budget_s, step_s=step_s)
    assert steps_done(planned, budget_s=budget_s, step_s=step_s) == planned


def test_a_budget_alone_is_no_number_of_steps() -> None:
    assert bound_steps(MOST_STEPS, 2.0) is None
    assert bound_steps(MOST_STEPS, None) == MOST_STEPS
    assert bound_steps(7, 2.0) == 7
