"""Local steps in a time that is given: planner, devices and simulations reckon them alike; pure."""

import math

MOST_STEPS = 1_000_000
"""More local steps are never asked for: a device told so many does what its budget allows."""
_ROUNDING = 1e-9
"""A step that ends with the budget fits into it."""


def step_seconds(work_core_s: float, *, cores: float) -> float:
    """What a step takes whose work is so many core-seconds: a device trains in one thread."""
    return work_core_s / min(cores, 1.0)


def steps_within(budget_s: float, *, step_s: float) -> int:
    """Whole local steps of `step_s` that fit into `budget_s`; at least 1."""
    if step_s * MOST_STEPS <= budget_s:
        return MOST_STEPS
    return max(1, math.floor(budget_s / step_s * (1 + _ROUNDING)))


def is_used_up(budget_s: float, *, elapsed_s: float) -> bool:
    """Whether a device that has trained so long begins no further step."""
    return elapsed_s >= budget_s


def steps_done(asked: int, *, budget_s: float | None, step_s: float) -> int:
    """What a device does of the steps it is asked for: it ends with the one that uses its budget
    up, so that it does one at least."""
    if budget_s is None or asked * step_s <= budget_s:
        return asked
    return min(asked, max(1, math.ceil(budget_s / step_s * (1 - _ROUNDING))))


def bound_steps(asked: int, budget_s: float | None) -> int | None:
    """The number for people; None: the budget alone bounds it."""
    return None if budget_s is not None and asked >= MOST_STEPS else asked
