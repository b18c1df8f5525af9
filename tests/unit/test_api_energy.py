"""Frequency, CPU limit and modelled energy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.energy import (
    EnergyModel,
    PowerPoint,
    busy_watts,
    cycles,
    frequency_ghz,
    limit_cores,
    modelled_joules,
)

TABLE = (PowerPoint(2.0, 8.0), PowerPoint(1.0, 2.0))
KAPPA = EnergyModel(1e-28, (), 0.0)
positive = st.floats(min_value=0.01, max_value=10)


@given(positive, positive, positive)
def test_limit_and_frequency_are_inverse(ghz: float, cpu: float, top: float) -> None:
    assert frequency_ghz(limit_cores(ghz, cpu, top), cpu, top) == pytest.approx(ghz)


def test_the_limit_at_the_maximum_is_cpu_at_max() -> None:
    assert limit_cores(2.4, 0.4, 2.4) == pytest.approx(0.4)
    assert limit_cores(1.2, 0.4, 2.4) == pytest.approx(0.2)


def test_cycles_of_a_second_at_the_limit() -> None:
    """A device at its maximum uses cpuAtMax core-seconds a second and does maxGHz·1e9 cycles."""
    assert cycles(0.4, 0.4, 2.4) == pytest.approx(2.4e9)


@pytest.mark.parametrize(
    ("ghz", "watts"), [(0.5, 2.0), (1.0, 2.0), (1.5, 5.0), (2.0, 8.0), (3.0, 8.0)]
)
def test_power_between_and_beyond_the_points(ghz: float, watts: float) -> None:
    assert busy_watts(TABLE, ghz) == pytest.approx(watts)


def test_energy_by_kappa() -> None:
    joules = modelled_joules(KAPPA, n_cycles=1e9, ghz=1.0, on_s=5.0)
    assert joules == pytest.approx(1e-28 * 1e9 * 1e18)


def test_energy_by_table_and_idle_power() -> None:
    model = EnergyModel(1e-28, TABLE, 0.5)
    assert modelled_joules(model, n_cycles=3e9, ghz=1.5, on_s=6.0) == pytest.approx(5 * 2 + 2)


@given(positive, positive)
def test_slower_is_never_dearer_by_kappa(one: float, other: float) -> None:
    low, high = sorted((one, other))
    at_low = modelled_joules(KAPPA, n_cycles=1e9, ghz=low, on_s=0)
    assert at_low <= modelled_joules(KAPPA, n_cycles=1e9, ghz=high, on_s=0)
