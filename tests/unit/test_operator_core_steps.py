"""How many local steps each participant of a round does."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.budget import MOST_STEPS
from lockstep_api.spec import FederatedJobSpec, PerDeviceSteps
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.plan import NOTHING_KNOWN
from lockstep_operator.core.steps import drawn_steps, local_steps

CLIENTS = [*(f"fast-{i}" for i in range(6)), *(f"slow-{i}" for i in range(4))]
DISTRIBUTIONS = ("uniform", "gaussian", "linear", "extreme")


def spec(**rule: Any) -> FederatedJobSpec:
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9, "seed": 5, "localSteps": rule},
            "devices": [
                {"name": "fast", "replicas": 6, "cpuAtMax": "1"},
                {"name": "slow", "replicas": 4, "cpuAtMax": "250m"},
            ],
        }
    )


def steps(
    job: FederatedJobSpec,
    clients: Sequence[str] = CLIENTS,
    *,
    round: int = 1,
    insight: Insight = NOTHING_KNOWN,
) -> dict[str, int]:
    return local_steps(job, clients, round=round, insight=insight)


def drawn(distribution: str, *, count: int = 10, seed: int = 0, round: int = 1) -> list[int]:
    rule = PerDeviceSteps.model_validate(
        {"distribution": distribution, "min": 2, "max": 40, "redraw": True}
    )
    clients = [f"d-{i}" for i in range(count)]
    return [*drawn_steps(rule, clients, seed=seed, round=round).values()]


def test_fixed_steps_are_the_same_everywhere() -> None:
    assert steps(spec(fixed=7)) == dict.fromkeys(CLIENTS, 7)


@given(
    distribution=st.sampled_from(DISTRIBUTIONS),
    seed=st.integers(0, 2**31 - 1),
    round=st.integers(1, 10**6),
    count=st.integers(1, 60),
)
def test_drawn_steps_are_within_their_bounds(
    distribution: str, seed: int, round: int, count: int
) -> None:
    numbers = drawn(distribution, count=count, seed=seed, round=round)
    assert all(2 <= number <= 40 for number in numbers)
    assert numbers == drawn(distribution, count=count, seed=seed, round=round)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@given(taking_part=st.sets(st.sampled_from(CLIENTS), min_size=1))
def test_a_client_does_the_same_steps_whoever_else_takes_part(
    distribution: str, taking_part: set[str]
) -> None:
    job = spec(perDevice={"distribution": distribution, "min": 1, "max": 100, "redraw": True})
    everyone = steps(job, round=3)
    few = [client for client in CLIENTS if client in taking_part]
    assert steps(job, few, round=3) == {client: everyone[client] for client in few}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_without_redraw_all_rounds_are_alike(distribution: str) -> None:
    job = spec(perDevice={"distribution": distribution, "min": 1, "max": 100})
    assert all(steps(job, round=round) == steps(job, round=1) for round in range(2, 20))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_with_redraw_rounds_differ(distribution: str) -> None:
    assert len({tuple(drawn(distribution, round=round)) for round in range(1, 30)}) > 5


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_seeds_differ(distribution: str) -> None:
    assert len({tuple(drawn(distribution, seed=seed)) for seed in range(30)}) > 5


def test_uniform_steps_reach_all_numbers() -> None:
    assert set(drawn("uniform", count=5000)) == set(range(2, 41))


def test_gaussian_steps_have_the_mean_and_spread_that_is_documented() -> None:
    numbers = drawn("gaussian", count=20_000)
    assert fmean(numbers) == pytest.approx(21, abs=0.3)
    # sd 9.5, truncated at two of them: 0.88 of that
    assert pstdev(numbers) == pytest.approx(0.88 * 9.5, rel=0.03)


def test_linear_steps_are_spread_evenly_in_any_order() -> None:
    numbers = drawn("linear", count=20)
    assert sorted(numbers) == [2 + 2 * i for i in range(20)]
    assert numbers != sorted(numbers)


def test_extreme_steps_are_most_on_one_device_and_fewest_on_all_others() -> None:
    counts = [drawn("extreme", round=round) for round in range(1, 40)]
    assert all(sorted(numbers) == [2] * 9 + [40] for numbers in counts)
    assert len({numbers.index(40) for numbers in counts}) > 5


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_bounds_that_are_equal_leave_nothing_to_draw(distribution: str) -> None:
    job = spec(perDevice={"distribution": distribution, "min": 7, "max": 7})
    assert steps(job) == dict.fromkeys(CLIENTS, 7)


def known(**work: float) -> Insight:
    named = {name.replace("_", "-"): value for name, value in work.items()}
    return Insight({client: ClientInsight(work_per_step=w) for client, w in named.items()})


def test_a_budget_is_turned_into_steps_where_work_is_known() -> None:
    insight = known(fast_0=0.1, slow_0=0.05)
    asked = steps(spec(budgetSeconds=2.05), ["fast-0", "slow-0"], insight=insight)
    assert asked == {"fast-0": 20, "slow-0": 10}  # 0.1 s and 0.2 s a step


def test_a_device_of_several_cores_trains_on_one() -> None:
    job = spec(budgetSeconds=2)
    devices = [job.devices[0].model_copy(update={"cpu_at_max": "3"})]
    several = job.model_copy(update={"devices": devices})
    assert steps(several, ["fast-0"], insight=known(fast_0=0.1)) == {"fast-0": 20}


def test_a_step_that_ends_with_the_budget_fits_into_it() -> None:
    asked = steps(spec(budgetSeconds=0.3), ["fast-0"], insight=known(fast_0=0.1))
    assert asked == {"fast-0": 3}


def test_a_device_that_did_not_get_its_cores_is_asked_for_what_it_can_do() -> None:
    """Strategies reckon with the steps that are asked for: they should be those that are done."""
    clients = {
        "fast-0": ClientInsight(work_per_step=0.1, step_s=0.25),
        "fast-1": ClientInsight(work_per_step=0.1, step_s=0.1),
        "slow-0": ClientInsight(work_per_step=0.1, step_s=0.1),  # its limit was not in force yet
    }
    asked = steps(spec(budgetSeconds=2), [*clients], insight=Insight(clients))
    assert asked == {"fast-0": 8, "fast-1": 20, "slow-0": 5}


def test_a_budget_has_room_for_one_step_at_least() -> None:
    asked = steps(spec(budgetSeconds=0.01), ["fast-0"], insight=known(fast_0=5.0))
    assert asked == {"fast-0": 1}


def test_before_work_was_measured_the_budget_alone_bounds_the_steps() -> None:
    assert steps(spec(budgetSeconds=3)) == dict.fromkeys(CLIENTS, MOST_STEPS)


def test_a_device_that_was_never_measured_is_reckoned_by_the_others() -> None:
    asked = steps(spec(budgetSeconds=2), ["fast-1", "slow-1"], insight=known(fast_0=0.1))
    assert asked == {"fast-1": 20, "slow-1": 5}


def test_steps_that_take_no_time_are_bounded() -> None:
    asked = steps(spec(budgetSeconds=1e9), ["fast-0"], insight=known(fast_0=1e-9))
    assert asked == {"fast-0": MOST_STEPS}
