"""The cost of a round: energy as the workers report it, the equaliser, the hindsight optimum."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lockstep_allocator.devices import Array, Devices, energy_curve, stack_curves
from lockstep_allocator.equalize import equalize
from lockstep_allocator.fleet import Fleet, run_round
from lockstep_allocator.optimum import optimum
from lockstep_api.energy import EnergyModel, PowerPoint, modelled_joules
from tests.allocator.fleets import cost_of, fleet, fleet_on, trace

convex_tables = st.lists(
    st.tuples(st.floats(0.1, 0.9), st.floats(0.05, 2.0)), min_size=2, max_size=6
).map(
    lambda steps: tuple(
        PowerPoint(0.3 + sum(f for f, _ in steps[: i + 1]), 0.2 + watts)
        for i, watts in enumerate(np.cumsum(np.cumsum([w for _, w in steps])))
    )
)
models = st.one_of(
    st.builds(EnergyModel, st.floats(1e-29, 1e-27), st.just(()), st.floats(0, 1), st.floats(0, 2)),
    st.builds(EnergyModel, st.just(0.0), convex_tables, st.floats(0, 0.2), st.floats(0, 2)),
)


def devices_of(
    models: list[EnergyModel], work: list[float], *, low: float, high: float, weight: float
) -> Devices:
    """One fleet."""
    curves = [energy_curve(model, min_ghz=low, max_ghz=high) for model in models]
    alpha, beta = stack_curves(curves)
    ones = np.ones((1, len(models)))
    return Devices(
        work=np.array([work]),
        upload=8 * ones,
        min_ghz=np.array([[c.efficient_ghz for c in curves]]),
        max_ghz=high * ones,
        kappa=np.array([[c.kappa for c in curves]]),
        alpha=alpha[None],
        beta=beta[None],
        idle_watts=np.array([[c.idle_watts for c in curves]]),
        transmit_watts=np.array([[c.transmit_watts for c in curves]]),
        weight=np.array([[weight]]),
    )


def is_convex(model: EnergyModel) -> bool:
    """Whether the table's power is convex in frequency."""
    slopes = np.diff([p.watts for p in model.table]) / np.diff([p.ghz for p in model.table])
    return bool((np.diff(slopes) >= -1e-9).all())


@given(model=models, work=st.floats(0.1, 10), share=st.floats(0, 1), wait_s=st.floats(0, 5))
def test_energy_is_what_workers_report(
    model: EnergyModel, work: float, share: float, wait_s: float
) -> None:
    """At every frequency: the same for κ and for tables whose power is convex; for others less."""
    low, high = 0.5, 2.0
    devices = devices_of([model], [work], low=low, high=high, weight=1.0)
    efficient = float(devices.min_ghz[0, 0])
    ghz = efficient + share * (high - efficient)
    compute_s = np.array([[work / ghz]])
    on_s, upload_s = np.array([work / ghz + wait_s]), 0.7 * wait_s
    told = modelled_joules(
        model, n_cycles=work * 1e9, ghz=ghz, on_s=float(on_s[0]), transmit_s=upload_s
    )
    got = devices.energy(on_s, compute_s, upload_s=np.array([[upload_s]]))[0]
    if not model.table or (is_convex(model) and max(p.ghz for p in model.table) >= high):
        assert got == pytest.approx(told, rel=1e-6)
    else:
        assert got <= told * (1 + 1e-6)  # a dent, or constant above the table's end: below the hull


def test_nobody_goes_below_the_efficient_frequency() -> None:
    leaky = EnergyModel(0.0, (PowerPoint(0.5, 1.0), PowerPoint(1.0, 1.1), PowerPoint(2.0, 4.0)), 0)
    assert energy_curve(leaky, min_ghz=0.5, max_ghz=2.0).efficient_ghz == pytest.approx(1.0)
    assert energy_curve(leaky, min_ghz=1.2, max_ghz=2.0).efficient_ghz == pytest.approx(1.2)


def test_a_device_of_one_frequency_has_no_choice() -> None:
    table = EnergyModel(0.0, (PowerPoint(1.0, 2.0), PowerPoint(2.0, 4.0)), 0.0)
    devices = devices_of([table], [3.0], low=1.5, high=1.5, weight=1.0)
    even = equalize(devices, np.array([[1.0]]))
    assert even.compute_s[0, 0] == pytest.approx(2.0)
    assert devices.joules(even.compute_s)[0, 0] == pytest.approx(3.0 * 2)


def brute_constant(devices: Devices, upload_s: Array) -> float:
    """The least cost on a fine grid of T."""
    low = float((upload_s + devices.shortest).max())
    high = float((upload_s + devices.longest).max())
    best = np.inf
    for finish in np.linspace(low, high, 4001):
        compute_s = np.clip(finish - upload_s, devices.shortest, devices.longest)
        best = min(best, float(cost_of(devices, np.array([finish]), compute_s, upload_s)[0]))
    return best


@settings(max_examples=60)
@given(
    drawn=st.lists(
        st.tuples(models, st.floats(0.2, 8), st.floats(0.05, 10)), min_size=1, max_size=5
    ),
    weight=st.floats(1e-3, 3),
)
def test_the_equaliser_is_the_optimum_for_known_uploads(
    drawn: list[tuple[EnergyModel, float, float]], weight: float
) -> None:
    devices = devices_of(
        [m for m, _, _ in drawn], [w for _, w, _ in drawn], low=0.5, high=2.0, weight=weight
    )
    upload_s = np.array([[u for _, _, u in drawn]])
    even = equalize(devices, upload_s)
    cost = float(cost_of(devices, even.finish_s[:, 0], even.compute_s, upload_s)[0])
    best = brute_constant(devices, upload_s)
    assert cost <= best * (1 + 1e-9)
    assert cost >= best * (1 - 2e-3)
    assert (even.compute_s + upload_s <= even.finish_s * (1 + 1e-9)).all()


def test_the_equaliser_solves_a_batch_as_it_solves_each() -> None:
    drawn = fleet(20, 7, weight=5.0)
    upload_s = np.random.default_rng(1).uniform(0.2, 9, (20, 7))
    every = equalize(drawn.devices, upload_s)
    for row in range(20):
        one = equalize(drawn.devices.rows(np.array([row])), upload_s[row : row + 1])
        assert one.finish_s[0] == pytest.approx(every.finish_s[row], rel=1e-9)


def brute_hindsight(drawn: Fleet, points: int = 20_001) -> float:
    """The least cost of the round: a grid of compute times for each device, and one of T."""
    start_s, devices = np.zeros((1, 1)), drawn.devices
    share = np.linspace(0, 1, points)
    compute_s = devices.shortest[..., None] * (1 - share) + devices.longest[..., None] * share
    upload_s = drawn.upload_s(start_s, compute_s)
    arrival = (compute_s + upload_s)[0]
    least = np.minimum.accumulate(devices.joules(compute_s) + devices.sending(upload_s), -1)[0]
    finish = np.linspace(arrival[:, 0].max(), arrival[:, -1].max(), points)
    energy = np.zeros(points)
    for arrived, spent in zip(arrival, least, strict=True):
        energy += spent[np.searchsorted(arrived, finish, side="right") - 1]
    weight = float(devices.weight[0, 0])
    return float((float(devices.second_cost[0, 0]) * finish + weight * energy).min())


@settings(max_examples=60, deadline=None)
@example(seed=1574, devices=5, weight=10.0, watts=5.0)
@given(
    seed=st.integers(0, 10_000), devices=st.integers(1, 5),
    weight=st.sampled_from([0.3, 1.0, 10.0, 40.0]), watts=st.sampled_from([0.0, 0.2, 1.0, 5.0]),
)  # fmt: skip
def test_the_optimum_is_not_beaten_by_brute_force(
    seed: int, devices: int, weight: float, watts: float
) -> None:
    """But for the tolerance that it was given."""
    drawn = sending(fleet(1, devices, weight=weight, seed=seed), watts)
    best = optimum(drawn, np.zeros((1, 1)), tolerance=1e-5)
    brute = brute_hindsight(drawn)
    assert best.cost[0] <= brute * (1 + 1.01e-5)
    assert best.cost[0] >= brute * (1 - 2e-3)
    assert best.bound[0] >= best.cost[0] * (1 - 1.01e-5)
    played = run_round(drawn, np.zeros((1, 1)), ghz=drawn.devices.work / best.compute_s)
    assert played.cost[0] == pytest.approx(best.cost[0], rel=1e-9)


def sending(drawn: Fleet, watts: float) -> Fleet:
    """The same devices with a radio."""
    drain = np.full(drawn.devices.shape, watts)
    return replace(drawn, devices=replace(drawn.devices, transmit_watts=drain))


@settings(max_examples=30, deadline=None)
@given(
    drawn=st.lists(st.tuples(models, st.floats(0.5, 8)), min_size=1, max_size=3),
    weight=st.floats(0.01, 3), mbps=st.lists(st.floats(1, 40), min_size=2, max_size=9),
)  # fmt: skip
def test_the_optimum_with_tables_and_radios(
    drawn: list[tuple[EnergyModel, float]], weight: float, mbps: list[float]
) -> None:
    """Where a second of the radio may cost as much as one of computing."""
    models = [model for model, _ in drawn]
    devices = devices_of(models, [w for _, w in drawn], low=0.5, high=2.0, weight=weight)
    links = [trace(*mbps[i:], *mbps[:i], step_s=0.7) for i in range(len(drawn))]
    on = fleet_on(devices, *links)
    best = optimum(on, np.zeros((1, 1)), tolerance=1e-5)
    brute = brute_hindsight(on)
    assert best.cost[0] <= brute * (1 + 1e-5)
    assert best.bound[0] <= brute * (1 + 1e-12)
    assert best.cost[0] >= brute * (1 - 2e-3)


def test_a_device_sends_while_its_link_is_good() -> None:
    """10 Mbit/s for five seconds, then 1: with a radio of 10 W it pays to be early."""
    devices = replace(fleet(1, 2, weight=100.0).devices, upload=np.full((1, 2), 8.0))
    devices = replace(devices, work=np.full((1, 2), 8.0))
    on = fleet_on(devices, trace(*([10.0] * 5), *([1.0] * 95)), trace(1.0))
    silent = optimum(on, np.zeros((1, 1)))
    early = optimum(sending(on, 10.0), np.zeros((1, 1)))
    assert early.compute_s[0, 0] == pytest.approx(4.2, abs=1e-3)
    assert silent.compute_s[0, 0] > 4.5
    assert early.finish_s[0] > 8.0  # the other is not back before


def test_the_optimum_on_constant_links_is_the_equaliser() -> None:
    devices = replace(fleet(1, 3, weight=10.0).devices, upload=np.array([[8.0, 16.0, 40.0]]))
    drawn = fleet_on(devices, trace(8.0), trace(4.0), trace(20.0))
    even = equalize(devices, np.array([[1.0, 4.0, 2.0]]))
    best = optimum(drawn, np.zeros((1, 1)), tolerance=1e-6)
    cost = cost_of(devices, even.finish_s[:, 0], even.compute_s, np.zeros((1, 3)))
    assert best.cost[0] == pytest.approx(cost[0], rel=1e-6)


def test_starting_later_never_finishes_earlier() -> None:
    drawn = fleet(4, 6)
    early = drawn.upload_s(np.zeros((4, 1)), drawn.devices.shortest) + drawn.devices.shortest
    late = drawn.upload_s(np.zeros((4, 1)), drawn.devices.longest) + drawn.devices.longest
    assert (late >= early - 1e-9).all()


def test_the_latest_start_still_arrives() -> None:
    drawn = fleet(2, 5)
    start_s = np.zeros((2, 1))
    finish = np.full((2, 1, 1), 30.0)
    latest = drawn.latest_compute_s(start_s, finish)[..., 0]
    assert latest + drawn.upload_s(start_s, latest) == pytest.approx(np.full((2, 5), 30.0))


def test_energy_for_sending_is_counted() -> None:
    plain = fleet(1, 3)
    ghz = plain.devices.max_ghz
    without, with_ = (
        run_round(one, np.zeros((1, 1)), ghz=ghz) for one in (plain, sending(plain, 2.0))
    )
    assert with_.joules - without.joules == pytest.approx(2 * without.upload_s.sum(-1))


def test_idle_power_makes_a_second_dearer() -> None:
    idle: Any = EnergyModel(1e-28, (), 2.0)
    devices = devices_of([idle, idle], [2.0, 2.0], low=0.5, high=2.0, weight=0.5)
    assert devices.second_cost[0, 0] == pytest.approx(1 + 0.5 * 4)
