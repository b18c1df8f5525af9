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
    assert frequency_ghz(
        limit_cores(ghz, cpu_at_max=cpu, max_ghz=top), cpu_at_max=cpu, max_ghz=top
    ) == pytest.approx(ghz)


def test_the_limit_at_the_maximum_is_cpu_at_max() -> None:
    assert limit_cores(2.4, cpu_at_max=0.4, max_ghz=2.4) == pytest.approx(0.4)
    assert limit_cores(1.2, cpu_at_max=0.4, max_ghz=2.4) == pytest.approx(0.2)


def test_cycles_of_a_second_at_the_limit() -> None:
    """A device at its maximum uses cpuAtMax core-seconds a second and does maxGHz·1e9 cycles."""
    assert cycles(0.4, cpu_at_max=0.4, max_ghz=2.4) == pytest.approx(2.4e9)


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


def test_idle_power_counts_all_the_time_beside_kappa() -> None:
    """κ·c·f² = 1e-28 · 2e9 · (1e9)² = 0.2 J in 2 s of work; 5 s on at 0.5 W: 2.5 J."""
    model = EnergyModel(1e-28, (), 0.5)
    assert modelled_joules(model, n_cycles=2e9, ghz=1.0, on_s=5.0) == pytest.approx(2.7)


def test_the_radio_counts_while_it_sends() -> None:
    for model in (EnergyModel(1e-28, (), 0.5, 2.0), EnergyModel(1e-28, TABLE, 0.5, 2.0)):
        silent, sending = (
            modelled_joules(model, n_cycles=2e9, ghz=1.0, on_s=5.0, transmit_s=s) for s in (0, 1.5)
        )
        assert sending - silent == pytest.approx(3.0)


def test_a_table_device_is_never_idle_for_less_than_nothing() -> None:
    """3e9 cycles at 1.5 GHz are 2 s of work, although it was on for 1 s only."""
    model = EnergyModel(1e-28, TABLE, 0.5)
    assert modelled_joules(model, n_cycles=3e9, ghz=1.5, on_s=1.0) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (((1.0, 2.0), (1.0, 3.0)), "has 1 GHz twice"),
        (((2.0, 3.0), (1.0, 4.0)), "falls from 4 W at 1 GHz to 3 W at 2 GHz"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    table: tuple[tuple[float, float], ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        EnergyModel(1e-28, tuple(PowerPoint(*point) for point in table), 0.0)


def test_a_table_of_one_point_and_a_flat_one() -> None:
    assert busy_watts(EnergyModel(1.0, (PowerPoint(1, 3),), 0.0).table, 5.0) == 3
    flat = EnergyModel(1.0, (PowerPoint(2, 3), PowerPoint(1, 3)), 0.0)
    assert busy_watts(flat.table, 1.7) == pytest.approx(3)


@given(positive, positive)
def test_slower_is_never_dearer_by_kappa(one: float, other: float) -> None:
    low, high = sorted((one, other))
    at_low = modelled_joules(KAPPA, n_cycles=1e9, ghz=low, on_s=0)
    assert at_low <= modelled_joules(KAPPA, n_cycles=1e9, ghz=high, on_s=0)
