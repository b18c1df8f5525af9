"""Every series of the workers is in docs/metrics.md, with its labels on every sample."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lockstep_allocator.bandwidth import Trace
from lockstep_api import series
from lockstep_api.series import Series
from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import Task, UpdateReport
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.link import Link, Links
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.learning.rounds import Progress
from tests.support.rounds import a_report, a_round, arrived

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def with_links(metrics: DeviceMetrics) -> DeviceMetrics:
    """The series of a device whose link is emulated."""
    metrics.show_links(Links(Link(Trace.constant(1.0)), Link(Trace.constant(2.0))))
    return metrics


def split_registry() -> CollectorRegistry:
    """What an edge tells of split training."""
    registry = CollectorRegistry()
    SplitMetrics(registry, job="j", edge="e-0")
    return registry


@pytest.mark.parametrize(
    ("registry", "labels"),
    [
        (CloudMetrics("j").registry, {"job": "j"}),
        (split_registry(), {"job": "j", "edge": "e-0"}),
        (with_links(DeviceMetrics("j", "d-0")).registry, {"job": "j", "client": "d-0"}),
    ],
)
def test_each_series_is_documented_and_labelled(
    registry: CollectorRegistry, labels: dict[str, str]
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert f"`{name}`" in text
        for sample in family.samples:
            assert labels.items() <= sample.labels.items()


def test_a_device_counts_its_own_energy_and_uploads() -> None:
    metrics = DeviceMetrics("j", "d-0")
    report = UpdateReport(
        client="d-0", round=1, examples=1, steps=7, download_seconds=0, compute_seconds=2,
        cpu_seconds=1, throttled_seconds=0.5, quota_cores=0.25, frequency_ghz=1,
        energy_joules=EnergyJoules(model=9.0, cpu=8.0),
    )  # fmt: skip
    metrics.began(
        Task(round=1, turn=1, steps=9, budget_seconds=2, frequency_ghz=1.5, throttle_milli=300),
        seconds=0.5,
        n_bytes=100,
    )
    metrics.trained(report, EnergyJoules(model=3.0, cpu=2.0))
    metrics.uploaded(seconds=2.0, n_bytes=1_000_000)
    labels = {"job": "j", "client": "d-0"}

    def value(name: str, **more: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels | more)

    assert value("lockstep_steps_total") == 7
    assert (value("lockstep_steps_asked"), value("lockstep_steps_done")) == (9, 7)
    assert value("lockstep_throttled_seconds_total") == 0.5
    assert value("lockstep_work_core_seconds") == 1
    assert value("lockstep_cpu_seconds_total") == 1
    assert value("lockstep_throttle_cores") == 0.3
    assert value("lockstep_uplink_mbits_per_second") == pytest.approx(4.0)
    assert value("lockstep_frequency_asked_ghz") == 1.5
    assert value("lockstep_frequency_applied_ghz") == 1.0
    assert value("lockstep_energy_joules_total", source="model") == 3.0
    assert value("lockstep_energy_joules_total", source="cpu") == 2.0


def test_refusals_are_counted_by_reason() -> None:
    metrics = CloudMetrics("j")
    metrics.refused(Refusal.SHAPE)
    labels = {"job": "j", "reason": "shape"}
    assert metrics.registry.get_sample_value("lockstep_updates_refused_total", labels) == 1


def test_the_bytes_of_all_updates_of_a_round_are_told() -> None:
    metrics = CloudMetrics("j")
    metrics.ended(a_report("d-0", "d-1"), a_round("d-0", "d-1"))
    name = "lockstep_last_round_upload_bytes"
    assert metrics.registry.get_sample_value(name, {"job": "j"}) == 2_000_000


def value(metrics: CloudMetrics, of: Series, **more: str) -> float | None:
    """A sample of a cloud pod's series."""
    return metrics.registry.get_sample_value(of.queried, {"job": "j", **more})


WHEN_KNOWN = (
    series.JOB_START_SECONDS, series.ROUND_BEGAN_SECONDS, series.ENERGY_BUDGET_JOULES,
    series.CHECKPOINT_WRITTEN_SECONDS, series.CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS,
    series.CLOUD_ACCURACY,
)  # fmt: skip


def test_what_nothing_is_known_of_is_not_there() -> None:
    metrics = CloudMetrics("j")
    assert [value(metrics, one) for one in WHEN_KNOWN] == [None] * len(WHEN_KNOWN)
    metrics.began(a_round("d-0"), now=20.0, job_began=10.0)
    metrics.saved(1, 100, seconds=1.0, now=30.0)
    metrics.certified(40.0)
    assert [value(metrics, one) for one in WHEN_KNOWN] == [10.0, 20.0, 1000.0, 30.0, 40.0, None]


def test_a_resumed_job_waits_for_its_round_from_then_on_under_the_plan_before() -> None:
    """So that one whose devices never come back is seen to be stuck."""
    metrics = CloudMetrics("j")
    progress = Progress(began_at=10.0).after(a_report("d-0"), a_round("d-0"))
    metrics.resumed(progress, written=30.0, now=40.0)
    assert [value(metrics, one) for one in WHEN_KNOWN] == [10.0, 40.0, 1000.0, 30.0, None, None]
    assert (value(metrics, series.ROUND) or 0) < (value(metrics, series.ROUNDS) or 0)


def test_an_energy_budget_that_is_taken_away_is_gone_with_the_next_round() -> None:
    metrics = CloudMetrics("j")
    metrics.began(a_round("d-0"), now=20.0, job_began=10.0)
    metrics.began(a_round("d-0", energy_budget_joules=None), now=21.0, job_began=10.0)
    assert value(metrics, series.ENERGY_BUDGET_JOULES) is None


def test_stragglers_cost_what_comes_after_the_median_device() -> None:
    metrics = CloudMetrics("j")
    three = (arrived("d-0", 3.0), arrived("d-1", 4.0), arrived("d-2", 9.5))
    metrics.ended(a_report(*three), a_round("d-0", "d-1", "d-2"))
    assert value(metrics, series.STRAGGLER_SECONDS) == 6.0
    assert value(metrics, series.CLIENT_ARRIVED_SECONDS, client="d-2") == 9.5
    metrics.ended(a_report(lost=["d-2"]), a_round("d-0", "d-1", "d-2"))
    assert value(metrics, series.STRAGGLER_SECONDS) == 0.0
    assert value(metrics, series.CLIENT_ARRIVED_SECONDS, client="d-2") is None
