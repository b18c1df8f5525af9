"""A device's view of its CPU: cgroup v1 and v2, frequency and energy of a round."""

from pathlib import Path

import pytest

from lockstep_api.settings import GroupSettings
from lockstep_workers.device.cgroup import CpuCgroup, CpuReading
from lockstep_workers.device.spending import NOTHING, Account, Spent, energy, spent
from tests.wire.jobs import settings

GROUP = GroupSettings(
    name="d", replicas=1, min_ghz=0.5, max_ghz=2.0, cpu_at_max=0.5, kappa=1e-28, idle_watts=0.5
)


def cgroup_v1(tmp_path: Path, *, quota: int, path: str) -> CpuCgroup:
    """A container's files under cgroup v1."""
    (tmp_path / "cgroup").write_text(f"4:cpu,cpuacct:{path}\n0::{path}\n")
    mount = f"{tmp_path}/cpu ro,nosuid - cgroup cgroup rw,cpu,cpuacct"
    (tmp_path / "mountinfo").write_text(f"30 29 0:26 /kubepods/pod1/c1 {mount}\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.stat").write_text("nr_periods 4\nthrottled_time 2500000000\n")
    return CpuCgroup(tmp_path)


@pytest.mark.parametrize(("quota", "cores"), [(25_000, 0.25), (-1, None)])
@pytest.mark.parametrize("path", ["/kubepods/pod1/c1", "/"])
def test_cgroup_v1(tmp_path: Path, quota: int, cores: float | None, path: str) -> None:
    assert cgroup_v1(tmp_path, quota=quota, path=path).read() == CpuReading(cores, 2.5)


@pytest.mark.parametrize(("quota", "cores"), [("20000 100000", 0.2), ("max 100000", None)])
def test_cgroup_v2(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"30 29 0:26 / {tmp_path}/cg ro - cgroup2 cgroup rw\n")
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg" / "cpu.max").write_text(quota + "\n")
    (tmp_path / "cg" / "cpu.stat").write_text("usage_usec 1500000\nthrottled_usec 2500000\n")
    assert CpuCgroup(tmp_path).read() == CpuReading(cores, 2.5)


def test_without_accounting_nothing_is_invented(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("")
    (tmp_path / "mountinfo").write_text("")
    assert CpuCgroup(tmp_path).read() == CpuReading(None, None)


@pytest.mark.parametrize(
    ("quota", "ghz"), [(0.25, 1.0), (0.5, 2.0), (1.0, 2.0), (None, 2.0), (0.125, 0.5)]
)
def test_the_quota_is_the_frequency(quota: float | None, ghz: float) -> None:
    before, after = CpuReading(1.0, 0.5), CpuReading(quota, 0.75)
    used = spent(GROUP, before=before, after=after, compute_s=9.0, cpu_s=2.0)
    assert used.frequency_ghz == pytest.approx(ghz)
    assert (used.cpu_s, used.throttled_s, used.compute_s) == (2.0, 0.25, 9.0)


def test_without_a_quota_the_device_runs_at_its_maximum() -> None:
    nothing = CpuReading(None, None)
    used = spent(GROUP, before=nothing, after=nothing, compute_s=9.0, cpu_s=4.0)
    assert (used.cpu_s, used.throttled_s, used.quota_cores) == (4.0, 0.0, None)
    assert used.frequency_ghz == GROUP.max_ghz


@pytest.mark.parametrize(
    ("quota", "asked", "ghz"),
    [
        (1.0, 0.25, 0.88),  # 2 core-seconds in 9 s: 0.22 cores, measured
        (None, 0.25, 0.88),
        (0.25, 0.25, 0.88),
        (0.125, 0.25, 0.5),  # the quota is lower: it rules
        (1.0, 0.5, 0.88),
    ],
)
def test_a_device_that_slowed_itself_reports_what_was_measured(
    quota: float | None, asked: float, ghz: float
) -> None:
    after = CpuReading(quota, 0.0)
    used = spent(GROUP, before=after, after=after, compute_s=9.0, cpu_s=1.98, throttle_cores=asked)
    assert used.frequency_ghz == pytest.approx(ghz)


def test_a_round_without_work_has_no_frequency_and_costs_only_idle_power() -> None:
    nothing = CpuReading(None, None)
    used = spent(GROUP, before=nothing, after=nothing, compute_s=0.0, cpu_s=0.0, throttle_cores=0.2)
    assert used.frequency_ghz == 0.0
    for group in (GROUP, GROUP.model_copy(update={"power_table": ((1.0, 2.0),)})):
        joules = energy(
            settings(cloud_port=1, planner_port=2), group, used=used, idle_s=4.0, upload_s=0.0
        )
        assert joules.model == pytest.approx(2.0)


def test_energy_by_a_table_is_busy_power_while_it_works_and_idle_power_else() -> None:
    """A made-up table: 2 W at 1 GHz, 6 W at 2 GHz. At 1.5 GHz the line between them gives 4 W.

    0.5 cores stand for 2 GHz, so 0.375 cores for 1.5 GHz. 1.5 core-seconds there are 4 s of work.
    The device was on for 3 s before and 4 s while training: 4 W · 4 s + 0.5 W · 3 s = 17.5 J.
    """
    group = GROUP.model_copy(update={"power_table": ((2.0, 6.0), (1.0, 2.0))})
    before, after = CpuReading(None, 0.0), CpuReading(0.375, 0.0)
    used = spent(group, before=before, after=after, compute_s=4.0, cpu_s=1.5)
    job = settings(cloud_port=1, planner_port=2)
    assert energy(job, group, used=used, idle_s=3.0, upload_s=0.0).model == pytest.approx(17.5)


def test_energy_by_source() -> None:
    """1 core-second at cpuAtMax 0.5 and 2 GHz is 4e9 cycles: κ·c·f² = 1e-28·4e9·(1e9)² = 0.4 J."""
    before, after = CpuReading(None, 0.0), CpuReading(0.25, 0.0)
    used = spent(GROUP, before=before, after=after, compute_s=4.0, cpu_s=1.0)
    job = settings(cloud_port=1, planner_port=2)
    joules = energy(job, GROUP, used=used, idle_s=2.0, upload_s=0.0)
    assert joules.model is not None
    assert joules.model == pytest.approx(0.4 + 0.5 * (2.0 + 4.0))
    assert joules.cpu == pytest.approx(1.0 * job.cpu_watts)
    assert joules.measured is None
    radio = GROUP.model_copy(update={"transmit_watts": 1.5})
    sent = energy(job, radio, used=used, idle_s=2.0, upload_s=0.8)
    assert sent.model == pytest.approx(joules.model + 1.2)


def test_an_account_tells_idle_time_uploads_and_what_was_not_taken() -> None:
    job = settings(cloud_port=1, planner_port=2)
    account = Account(job, GROUP)
    used = Spent(compute_s=2.0, cpu_s=1.0, throttled_s=0.0, quota_cores=0.5, frequency_ghz=2.0)
    first = account.trained(used, began_s=10.0, ended_s=12.0, download_s=1.5)
    assert first == energy(job, GROUP, used=used, idle_s=1.5, upload_s=0.0)
    account.uploaded(3.0, taken=False)
    second = account.trained(used, began_s=20.0, ended_s=22.0, download_s=1.5)
    assert second == energy(job, GROUP, used=used, idle_s=8.0, upload_s=3.0)
    assert account.untold == first.plus(second)
    account.uploaded(4.0, taken=True)
    assert account.untold.model is None
    assert account.waited(30.0) == energy(job, GROUP, used=NOTHING, idle_s=8.0, upload_s=4.0)
