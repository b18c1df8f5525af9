"""Batches with which a cluster's devices finish a step together, and frequencies for the rest."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_allocator.devices import Array
from lockstep_allocator.equalize import equalize
from lockstep_operator.core.batches import (
    Bounds,
    bounds_of,
    equal_batches,
    proportional_batches,
    split_round,
    step_seconds,
)
from lockstep_operator.core.insight import Member, devices_of
from lockstep_operator.core.split_steps import PROCESS_BYTES, Load, Paces, load_of, most_examples
from tests.support.tiered import CNN, group, split_job

LOAD = Load(flops=1e6, back_flops=1e7, up_mbit=0.2, down_mbit=0.2, front_mbit=0.01,
            every_step=True)  # fmt: skip
WIDE = 10_000


def paced(core_s: float = 0.001, mbps: float = 100.0, **rows: list[float]) -> Paces:
    count = max(map(len, rows.values()))
    usual = {"cores": 1.0, "core_s": core_s, "up_mbps": mbps, "down_mbps": mbps, "latency_s": 0.0}
    full = {name: np.array(rows.get(name, [value] * count)) for name, value in usual.items()}
    return Paces(**full)


def bounds(count: int, low: int = 1, high: int = WIDE) -> Bounds:
    return Bounds(np.full(count, low), np.full(count, high))


def test_faster_devices_take_more_and_all_are_done_together() -> None:
    devices = paced(cores=[0.1, 0.2, 0.4], mbps=1e9)
    batches = proportional_batches(devices, LOAD, batch_size=70, bounds=bounds(3))
    assert batches.tolist() == [30, 60, 120]


def test_links_and_latency_count_like_slow_cores() -> None:
    devices = paced(cores=[1.0, 1.0, 1.0], up_mbps=[100, 10, 100], latency_s=[0, 0, 0.1])
    fast, thin, far = proportional_batches(devices, LOAD, batch_size=32, bounds=bounds(3)).tolist()
    assert fast > far
    assert fast > thin
    assert fast + thin + far == 96


def test_bounds_hold_and_the_sum_stays() -> None:
    devices = paced(cores=[0.01, 1.0, 1.0, 1.0], mbps=1e9)
    batches = proportional_batches(devices, LOAD, batch_size=32, bounds=bounds(4, 8, 64))
    assert batches[0] == 8
    assert batches.sum() == 4 * 32
    assert batches.max() <= 64


def test_bounds_are_a_quarter_and_twice_the_batch_size_or_what_memory_holds() -> None:
    tight = group("tight", memory=str(PROCESS_BYTES + 45 * 136_000))
    full = group("full", memory=str(PROCESS_BYTES + 136_000))
    spec = split_job(group("wide"), tight, full)
    found = bounds_of(32, [most_examples(CNN[2], one) for one in spec.devices])
    assert found.low.tolist() == [8, 8, 8]
    assert found.high.tolist() == [64, 45, 32]


@given(
    cores=st.lists(st.integers(1, 50), min_size=1, max_size=4),
    latency_ms=st.integers(0, 30),
    size=st.integers(1, 6),
)
def test_no_whole_batches_of_the_same_sum_have_a_shorter_step(
    cores: list[int], latency_ms: int, size: int
) -> None:
    count = len(cores)
    latency = [latency_ms / 1000 * (i % 2) for i in range(count)]
    devices = paced(cores=[one / 10 for one in cores], latency_s=latency)
    within = bounds(count, 1, 2 * size)
    batches = proportional_batches(devices, LOAD, batch_size=size, bounds=within)
    assert batches.sum() == count * size
    assert ((within.low <= batches) & (batches <= within.high)).all()
    every = itertools.product(range(1, 2 * size + 1), repeat=count)
    least = min(
        step_seconds(np.array(one), paced=devices, load=LOAD)
        for one in every
        if sum(one) == count * size
    )
    assert step_seconds(batches, paced=devices, load=LOAD) == pytest.approx(least)


def members(devices: Paces, steps: int = 10) -> list[Member]:
    spec = split_job(*(group(f"d{i}", f"{cores}") for i, cores in enumerate(devices.cores)))
    return [Member(f"{one.name}-0", one, steps) for one in spec.devices]


def asked(devices: Paces, batches: list[int], *, back_s: list[float]) -> Array:
    return split_round(
        members(devices), np.array(batches), paced=devices, load=LOAD, back_s=np.array(back_s),
        energy_weight=0.0,
    ).equalized()  # fmt: skip


def of(devices: Paces, index: list[int]) -> Paces:
    rows = {name: getattr(devices, name)[index] for name in Paces.__dataclass_fields__}
    return Paces(**rows)


def finish_s(devices: Paces, batches: list[int], *, back_s: list[float], ghz: Array) -> Array:
    work_s = devices.core_s / devices.cores * np.array(batches) / (ghz / 2.0)
    links = LOAD.up_mbit / devices.up_mbps + LOAD.down_mbit / devices.down_mbps
    fronts = LOAD.front_mbit / devices.up_mbps + LOAD.front_mbit / devices.down_mbps
    sent_s = np.array(batches) * links + fronts + 2 * devices.latency_s
    return np.asarray(work_s + sent_s + np.array(back_s))


def test_whoever_would_be_done_first_is_slowed_to_the_last_of_the_round() -> None:
    devices = paced(core_s=0.01, cores=[1.0, 1.0, 0.8])
    ghz = asked(devices, [10, 20, 20], back_s=[0.1, 0.1, 0.1])
    assert ghz[2] == 2.0
    assert ghz[0] < ghz[1] < 2.0
    done = finish_s(devices, [10, 20, 20], back_s=[0.1, 0.1, 0.1], ghz=ghz)
    assert np.ptp(done) < 1e-6 * done.max()


def test_one_call_over_the_round_is_each_cluster_equalised_and_then_slowed_to_the_longest() -> None:
    """The two nested calls: in each cluster a T of its own, then all clusters at the longest T."""
    devices = paced(core_s=0.01, cores=[1.0, 0.9, 0.8, 0.7], latency_s=[0.0, 0.01, 0.0, 0.02])
    batches, back_s = [20, 18, 30, 26], [0.05, 0.05, 0.2, 0.2]
    once = asked(devices, batches, back_s=back_s)
    ends = []
    for index in ([0, 1], [2, 3]):
        part, sizes = of(devices, index), [batches[i] for i in index]
        backs = [back_s[i] for i in index]
        ends.append(finish_s(part, sizes, back_s=backs, ghz=asked(part, sizes, back_s=backs)).max())
    assert ends[0] < 0.8 * ends[1]
    longest = max(ends)
    for index in ([0, 1], [2, 3]):
        part, many = of(devices, index), np.array([batches[i] for i in index])
        links = LOAD.up_mbit / part.up_mbps + LOAD.down_mbit / part.down_mbps
        fronts = LOAD.front_mbit / part.up_mbps + LOAD.front_mbit / part.down_mbps
        left = longest - (many * links + fronts + 2 * part.latency_s + back_s[index[0]])
        ghz = np.clip(2.0 * part.core_s / part.cores * many / left, 0.2, 2.0)
        assert once[index] == pytest.approx(ghz, rel=1e-6)


def test_the_equaliser_is_the_allocators_with_what_travels_as_the_upload() -> None:
    devices = paced(core_s=0.01, cores=[1.0, 0.6])
    batches, steps = np.array([20, 12]), 7
    every = members(devices, steps)
    fleet = devices_of(every, devices.core_s * batches, sizes=np.ones(2), energy_weight=0.5)
    sent = LOAD.up_mbit / devices.up_mbps + LOAD.down_mbit / devices.down_mbps
    fronts = 2 * LOAD.front_mbit / devices.up_mbps
    away = steps * (batches * sent + fronts + 0.03)
    ghz = fleet.frequency(equalize(fleet, away[None]).compute_s)[0]
    ours = split_round(every, batches, paced=devices, load=LOAD, back_s=np.full(2, 0.03),
                       energy_weight=0.5)  # fmt: skip
    assert ours.equalized() == pytest.approx(ghz)


def test_fronts_travel_twice_a_step_or_once_a_round() -> None:
    step = load_of(CNN[2], split_job(split={"frontUpdate": "step"}).split)  # type: ignore[arg-type]
    once = load_of(CNN[2], split_job(split={"frontUpdate": "round"}).split)  # type: ignore[arg-type]
    assert (step.trips, once.trips) == (2, 1)
    assert step.up_mbit == pytest.approx((2 * 3136 + 4) * 8e-6)
    assert step.down_mbit == pytest.approx(2 * 3136 * 8e-6)
    assert (step.every_step, once.every_step) == (True, False)


def test_devices_that_take_no_time_share_what_is_missing_without_being_asked_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A minute of latency beside links of a terabit: no time tells 400,000 examples apart."""
    count, batch_size = 8, 65_536
    every = bounds_of(batch_size, [2 * batch_size] * count)
    asked, where = [], np.where

    def counted(*args: Any) -> Any:
        asked.append(1)
        return where(*args)

    monkeypatch.setattr(np, "where", counted)
    numbers = proportional_batches(
        paced(core_s=1e-15, mbps=1e15, latency_s=[60.0] * count),
        LOAD,
        batch_size=batch_size,
        bounds=every,
    )
    assert numbers.sum() == batch_size * count
    assert (numbers <= every.high).all()
    assert len(asked) <= count


def test_equal_batches_are_the_batch_size() -> None:
    assert equal_batches(3, 32).tolist() == [32, 32, 32]
