"""What Prometheus would say of virtual devices: bandwidth in slots, means, work per step."""

from dataclasses import replace
from typing import Any

import pytest

from lockstep_allocator.observation import EDGES_S
from lockstep_api.wire import ClientPlan
from lockstep_simulator.emulation import NO_OVERHEADS, VirtualDevice, build_devices
from lockstep_simulator.observing import Telemetry
from lockstep_simulator.simulation import settings_of
from tests.support.simulating import WORK, group, setup, spec

STEPS = "0,1\n10,3\n20,8\n"
"""Mbit/s: 1 for 10 s, 3 for 10 s, 8 for 10 s, and again."""


def devices(uplink: dict[str, object] | None, *, start_s: float = 0.0) -> dict[str, VirtualDevice]:
    """One device with a link."""
    more: dict[str, Any] = {} if uplink is None else {"uplink": uplink}
    job = spec(group("d", **more))
    return build_devices(
        settings_of(setup(job)),
        traces={"walk": {"a.csv": STEPS}},
        work={"d-0": WORK},
        overheads=replace(NO_OVERHEADS, start_s=start_s),
    )


def test_slots_are_means_of_the_link() -> None:
    found = devices({"trace": "walk"})
    link = found["d-0"].links.up
    told = Telemetry(found, up_since_s=-100.0).insight(25.0).of("d-0")
    assert told.slots_mbps is not None
    assert link.trace is not None
    for mbps, newer, older in zip(told.slots_mbps, EDGES_S, EDGES_S[1:], strict=False):
        begin, end = (30 + 25 - edge + link.offset_s for edge in (older, newer))
        begin, end = begin + 60, end + 60
        by_hand = (link.trace.bits_until(end) - link.trace.bits_until(begin)) / (older - newer)
        assert mbps == pytest.approx(by_hand / 1e6)


def test_before_a_device_came_up_the_mean_stands_in() -> None:
    found = devices({"mbps": 4.0})
    told = Telemetry(found, up_since_s=0.0).insight(2.5).of("d-0")
    assert told.slots_mbps == pytest.approx([4.0] * (len(EDGES_S) - 1))
    assert Telemetry(found, up_since_s=0.0).insight(0.0).of("d-0").slots_mbps is None


def test_links_go_on_from_the_jobs_creation() -> None:
    """A later first round finds the link elsewhere in its trace."""
    early = Telemetry(devices({"trace": "walk"}), up_since_s=0.0).insight(10.0).of("d-0")
    late_ones = devices({"trace": "walk"}, start_s=7.0)
    late = Telemetry(late_ones, up_since_s=-7.0).insight(3.0).of("d-0")
    assert early.slots_mbps == pytest.approx(late.slots_mbps)
    other = Telemetry(late_ones, up_since_s=-7.0).insight(10.0).of("d-0")
    assert other.slots_mbps != pytest.approx(early.slots_mbps)


def test_work_is_the_mean_of_five_minutes_and_uploads_of_all() -> None:
    found = devices({"mbps": 2.0})
    telemetry, device = Telemetry(found, up_since_s=0.0), found["d-0"]
    assert telemetry.insight(1.0).of("d-0").work_per_step is None

    one = ClientPlan(client="d-0", frequency_ghz=2, cpu_milli=1000, steps=10, applied=True)
    first = device.run(one, turn=1, at_s=0.0, down_bytes=0, up_bytes=250_000)
    telemetry.trained("d-0", at_s=first.trained_s, cpu_s=first.used.cpu_s, steps=first.steps)
    telemetry.uploaded("d-0", at_s=first.arrives_s, seconds=1.0, n_bytes=250_000)
    device.work_per_step = 3 * WORK
    later = device.run(one, turn=1, at_s=10.0, down_bytes=0, up_bytes=250_000)
    telemetry.trained("d-0", at_s=later.trained_s, cpu_s=later.used.cpu_s, steps=later.steps)
    telemetry.uploaded("d-0", at_s=later.arrives_s, seconds=3.0, n_bytes=250_000)
    known = telemetry.insight(20.0).of("d-0")
    assert known.work_per_step == pytest.approx(2 * WORK)
    assert known.mean_mbps == pytest.approx(1.0)
    assert telemetry.insight(305.0).of("d-0").work_per_step == pytest.approx(3 * WORK)


def test_without_a_link_the_last_upload_stands_for_it() -> None:
    found = devices(None)
    telemetry = Telemetry(found, up_since_s=0.0)
    assert telemetry.insight(5.0).of("d-0").slots_mbps is None
    telemetry.uploaded("d-0", at_s=10.0, seconds=1.0, n_bytes=1_000_000)
    telemetry.uploaded("d-0", at_s=70.0, seconds=2.0, n_bytes=1_000_000)
    slots = telemetry.insight(75.0).of("d-0").slots_mbps
    assert slots is not None
    assert slots[0] == pytest.approx(4.0)
    assert slots[-1] == pytest.approx(8.0)
