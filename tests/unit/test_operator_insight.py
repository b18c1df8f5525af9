"""What is known of devices: series, reports, the fleet that the allocator sees, frequencies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_allocator.baselines import maximum
from lockstep_allocator.observation import EDGES_S
from lockstep_api.energy import limit_cores
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.allocate import allocate
from lockstep_operator.core.insight import (
    ClientInsight,
    Insight,
    Member,
    Samples,
    combined,
    merged,
    observation_of,
    slots_from_counter,
    slots_from_gauge,
    stale,
)

NOW = 1000.0
SLOTS = len(EDGES_S) - 1


def counter(mbps: list[float], *, end_s: float = NOW) -> Samples:
    """Scraped once a second; bandwidth of each second, the newest last."""
    times = tuple(end_s - len(mbps) + i for i in range(len(mbps) + 1))
    return Samples(times, tuple(float(v) for v in np.concatenate([[5.0], 5 + np.cumsum(mbps)])))


def test_slots_are_means_of_what_the_link_carried() -> None:
    slots = slots_from_counter(counter([8.0] * 50 + [4.0] * 5 + [2.0] * 5), NOW)
    assert slots is not None
    assert slots[:10] == pytest.approx([2.0] * 5 + [4.0] * 5)
    assert slots[10:] == pytest.approx([8.0] * 6)


def test_slots_from_before_the_first_sample_have_the_mean() -> None:
    slots = slots_from_counter(counter([6.0, 6.0, 6.0]), NOW)
    assert slots == pytest.approx([6.0] * SLOTS)


def test_a_restarted_pod_begins_its_counter_anew() -> None:
    first, second = counter([4.0] * 5, end_s=NOW - 6), counter([4.0] * 5)
    both = Samples(first.times_s + second.times_s, first.values + second.values)
    slots = slots_from_counter(both, NOW)
    assert slots is not None
    assert slots[:5] == pytest.approx([4.0] * 5)


def test_old_samples_say_nothing_of_now() -> None:
    assert slots_from_counter(counter([4.0] * 30, end_s=NOW - 11), NOW) is None
    assert slots_from_counter(Samples((NOW,), (1.0,)), NOW) is None
    assert slots_from_gauge(Samples((NOW - 11,), (3.0,)), NOW) is None
    assert slots_from_gauge(Samples((), ()), NOW) is None


def test_samples_of_a_device_that_is_scraped_rarely_are_as_new_as_they_can_be() -> None:
    """Of a job of a thousand devices each is scraped every 20 s."""
    times = tuple(NOW - 18 - 20 * i for i in range(3, -1, -1))
    slots = slots_from_counter(Samples(times, (0.0, 80.0, 160.0, 240.0)), NOW)
    assert slots == pytest.approx([4.0] * SLOTS)
    assert slots_from_counter(Samples(times, (0.0, 80.0, 160.0, 240.0)), NOW + 13) is None
    assert slots_from_gauge(Samples(times, (2.0,) * 4), NOW) == pytest.approx([2.0] * SLOTS)


def test_a_gauge_holds_until_the_next_upload() -> None:
    times = tuple(NOW - 20 + i for i in range(21))
    slots = slots_from_gauge(Samples(times, tuple([2.0] * 15 + [6.0] * 6)), NOW)
    assert slots is not None
    assert slots[0] == pytest.approx(6.0)
    assert slots[10] == pytest.approx(2.0)


def test_the_newer_word_counts_and_the_older_fills_in() -> None:
    newer, older = ClientInsight(last_mbps=2.0), ClientInsight(last_mbps=1.0, work_per_step=0.5)
    assert merged(newer, older) == ClientInsight(last_mbps=2.0, work_per_step=0.5)
    both = combined({"a": newer}, {"a": older, "b": older})
    assert both == {"a": merged(newer, older), "b": older}


def test_devices_without_fresh_bandwidth_are_named() -> None:
    fresh = ClientInsight(slots_mbps=(1.0,) * SLOTS)
    assert stale({"a": fresh, "b": fresh}, ["a", "b"]) is None
    assert stale({"a": fresh}, ["a", "b"]) == (
        "Prometheus has no fresh bandwidth of 1 of 2 devices: b"
    )


def spec(**allocation: Any) -> FederatedJobSpec:
    devices = [
        {"name": "fast", "replicas": 2, "cpuAtMax": "1", "frequency": {"minGHz": 0.5, "maxGHz": 2}},
        {"name": "slow", "replicas": 2, "cpuAtMax": "500m",
         "frequency": {"minGHz": 0.5, "maxGHz": 1}},
    ]  # fmt: skip
    return FederatedJobSpec.model_validate(
        {"model": {"name": "mlp"}, "data": {"name": "fashion-mnist"}, "devices": devices,
         "training": {"rounds": 3, "localSteps": {"fixed": 10}}, "allocation": allocation}
    )  # fmt: skip


CLIENTS = ("fast-0", "fast-1", "slow-0", "slow-1")
STEPS = dict.fromkeys(CLIENTS, 10)


def insight(**changes: ClientInsight) -> Insight:
    usual = ClientInsight(slots_mbps=(8.0,) * SLOTS, work_per_step=0.1, upload_mbit=8.0)
    named = {name.replace("_", "-"): one for name, one in changes.items()}
    return Insight({client: named.get(client, usual) for client in CLIENTS})


def finish_s(
    job: FederatedJobSpec,
    ghz: Mapping[str, float],
    uploads: dict[str, float],
    steps: dict[str, int] = STEPS,
) -> list[float]:
    """When each device is done, reckoned from CPU limits, not from cycles."""
    groups = {g.name: g for g in job.devices}
    done = []
    for client, f in ghz.items():
        group = groups[client.rsplit("-", 1)[0]]
        cores = limit_cores(
            f, cpu_at_max={"1": 1.0, "500m": 0.5}[group.cpu_at_max], max_ghz=group.frequency.max_ghz
        )
        done.append(steps[client] * 0.1 / cores + uploads[client])
    return done


def test_equalize_makes_devices_finish_together() -> None:
    job = spec(policy="equalize", energyWeight=0.001)
    slower = ClientInsight(slots_mbps=(4.0,) * SLOTS, work_per_step=0.1, upload_mbit=8.0)
    ghz = allocate(job, STEPS, insight=insight(slow_1=slower)).ghz
    assert ghz["slow-1"] == pytest.approx(1.0)
    assert ghz["fast-0"] < 1.0
    done = finish_s(job, ghz, {"fast-0": 1, "fast-1": 1, "slow-0": 1, "slow-1": 2})
    assert max(done) - min(done) < 1e-3


@given(
    steps=st.lists(st.integers(8, 12), min_size=4, max_size=4),
    upload_s=st.lists(st.floats(1.0, 1.5), min_size=4, max_size=4),
)
def test_equalize_makes_devices_with_unequal_steps_finish_together(
    steps: list[int], upload_s: list[float]
) -> None:
    job = spec(policy="equalize", energyWeight=0.001)
    asked = dict(zip(CLIENTS, steps, strict=True))
    uploads = dict(zip(CLIENTS, upload_s, strict=True))
    known = {
        client: ClientInsight(slots_mbps=(8 / s,) * SLOTS, work_per_step=0.1, upload_mbit=8.0)
        for client, s in uploads.items()
    }
    done = finish_s(job, allocate(job, asked, insight=Insight(known)).ghz, uploads, asked)
    assert max(done) - min(done) < 2e-3


def test_a_device_that_has_another_frequency_is_planned_with_that() -> None:
    job = spec(policy="equalize", energyWeight=0.001)
    free = allocate(job, STEPS, insight=insight()).ghz
    bound = allocate(job, STEPS, insight=insight(), fixed={"slow-0": 0.5}).ghz
    assert bound["fast-0"] < free["fast-0"]  # it has to wait for slow-0 anyway
    assert bound["slow-1"] < free["slow-1"]


def test_what_nobody_measured_is_taken_from_the_others() -> None:
    job = spec(policy="equalize", energyWeight=0.001)
    unknown = allocate(job, STEPS, insight=insight(fast_1=ClientInsight())).ghz
    known = allocate(job, STEPS, insight=insight()).ghz
    assert unknown == pytest.approx(known)


def test_a_round_of_devices_that_nobody_measured_is_planned_by_what_the_others_said() -> None:
    """With a share of the devices a round, those of the next one may all be new."""
    job = spec(policy="equalize", energyWeight=0.001)
    asked = {"fast-1": 10, "slow-1": 10}
    known = insight(fast_1=ClientInsight(), slow_1=ClientInsight())
    assert allocate(job, asked, insight=known).ghz == pytest.approx(
        allocate(job, asked, insight=insight()).ghz
    )


def test_a_trained_policy_decides_and_stays_in_range() -> None:
    job = spec(policy="ppo")
    asked = allocate(job, STEPS, insight=insight(), policy=lambda seen: 3 * maximum(seen)).ghz
    assert asked == {"fast-0": 2.0, "fast-1": 2.0, "slow-0": 1.0, "slow-1": 1.0}


def test_work_and_energy_are_those_of_the_job() -> None:
    job = spec(policy="equalize")
    members = [Member("fast-0", job.devices[0], 10), Member("slow-0", job.devices[1], 10)]
    seen = observation_of(members, insight(), energy_weight=0.3)
    assert seen is not None
    devices = seen.devices
    assert devices.work[0] == pytest.approx([2.0, 2.0])  # 1 core-second at 1 core, at 0.5 cores
    assert devices.shortest[0] == pytest.approx([1.0, 2.0])
    assert devices.upload[0] == pytest.approx([8.0, 8.0])
    assert devices.kappa[0] == pytest.approx([0.1, 0.1])  # 1e-28 J/(cycle·Hz²)
    assert devices.weight[0, 0] == 0.3


def test_static_goes_by_the_mean_bandwidth() -> None:
    job = spec(policy="static", energyWeight=0.001)
    now_slow = ClientInsight(
        slots_mbps=(0.1,) * SLOTS, mean_mbps=8.0, work_per_step=0.1, upload_mbit=8.0
    )
    steady = ClientInsight(
        slots_mbps=(8.0,) * SLOTS, mean_mbps=8.0, work_per_step=0.1, upload_mbit=8.0
    )
    changing = allocate(job, STEPS, insight=insight(fast_0=now_slow)).ghz
    assert changing == pytest.approx(allocate(job, STEPS, insight=insight(fast_0=steady)).ghz)
