"""What a cloud pod tells of groups of devices: the last round, and sums of all rounds."""

import pytest

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.learning.group_rounds import Part, Stat, by_group
from lockstep_workers.learning.rounds import Progress
from tests.support.rounds import a_report, a_round, arrived, asked

PLAN = a_round(asked("fast-0", 1.0), asked("fast-1", 2.0), asked("old-one-0", 3.0))
REPORT = a_report(
    arrived("fast-0", frequency_ghz=1.0, cpu_seconds=2.0),
    arrived("fast-1", frequency_ghz=1.5, cpu_seconds=6.0, energy_joules=EnergyJoules(model=5.0)),
    lost=["old-one-0"],
)


def value(metrics: CloudMetrics, of: Series, *labels: str) -> float | None:
    """A sample of a group's series; `labels` are the last ones."""
    told = dict(zip(of.labels, ("j", *labels), strict=True))
    return metrics.registry.get_sample_value(of.queried, told)


@pytest.fixture
def metrics() -> CloudMetrics:
    """After the round."""
    made = CloudMetrics("j", groups=["fast", "old-one", "idle"])
    made.ended(REPORT, PLAN)
    return made


@pytest.mark.parametrize(
    ("of", "mean", "least", "most"),
    [
        (series.GROUP_FREQUENCY_ASKED_GHZ, 1.5, 1.0, 2.0),
        (series.GROUP_FREQUENCY_APPLIED_GHZ, 1.25, 1.0, 1.5),
        (series.GROUP_WORK_CORE_SECONDS, 4.0, 2.0, 6.0),
    ],
)
def test_of_a_groups_figures_mean_least_and_most_are_told(
    metrics: CloudMetrics, of: Series, mean: float, least: float, most: float
) -> None:
    assert [value(metrics, of, "fast", stat) for stat in Stat] == [mean, least, most]


def test_a_group_whose_devices_were_lost_was_asked_and_did_nothing(metrics: CloudMetrics) -> None:
    assert value(metrics, series.GROUP_FREQUENCY_ASKED_GHZ, "old-one", "mean") == 3.0
    assert value(metrics, series.GROUP_FREQUENCY_APPLIED_GHZ, "old-one", "mean") is None
    assert value(metrics, series.GROUP_BANDWIDTH_MBITS_PER_SECOND, "old-one") is None
    assert value(metrics, series.GROUP_CLIENTS, "old-one", "lost") == 1
    assert value(metrics, series.GROUP_CLIENTS, "old-one", "updated") == 0


def test_the_parts_of_a_round_are_its_seconds_times_devices(metrics: CloudMetrics) -> None:
    told = {part: value(metrics, series.GROUP_SECONDS, "fast", part) for part in Part}
    assert told == {"download": 1, "compute": 8, "upload": 4, "wait": 7, "throttled": 2}
    whole = sum(seconds or 0 for part, seconds in told.items() if part is not Part.THROTTLED)
    assert whole == 2 * REPORT.seconds


def test_bandwidth_is_all_bits_over_all_upload_seconds(metrics: CloudMetrics) -> None:
    assert value(metrics, series.GROUP_BANDWIDTH_MBITS_PER_SECOND, "fast") == pytest.approx(4.0)


def test_uploads_that_took_no_time_have_no_bandwidth() -> None:
    told = arrived("d-0").model_copy(update={"upload_seconds": 0.0})
    assert by_group(a_report(told), a_round("d-0"))["d"].mbps is None


def test_energy_is_summed_over_rounds_by_source(metrics: CloudMetrics) -> None:
    metrics.ended(a_report("fast-0"), PLAN)
    assert value(metrics, series.GROUP_ENERGY_JOULES, "fast", "model") == 3 + 5 + 3
    assert value(metrics, series.GROUP_ENERGY_JOULES, "fast", "cpu") == 2 + 2


def test_a_group_that_took_no_part_in_the_last_round_has_no_figures_of_it(
    metrics: CloudMetrics,
) -> None:
    metrics.ended(a_report("old-one-0"), a_round("old-one-0"))
    assert value(metrics, series.GROUP_FREQUENCY_APPLIED_GHZ, "fast", "mean") is None
    assert value(metrics, series.GROUP_CLIENTS, "fast", "updated") is None
    assert value(metrics, series.GROUP_SECONDS, "fast", "compute") == 8, "sums stay"


def test_counters_of_a_group_are_there_before_its_first_round() -> None:
    """So that the first round is an increase."""
    made = CloudMetrics("j", groups=["fast"])
    assert [value(made, series.GROUP_SECONDS, "fast", part) for part in Part] == [0] * len(Part)
    assert value(made, series.GROUP_ENERGY_JOULES, "fast", "model") == 0
    assert value(made, series.GROUP_CLIENTS, "fast", "connected") == 0


def test_who_is_connected_is_told_as_of_now(metrics: CloudMetrics) -> None:
    there = {"fast-0", "fast-1", "old-one-0"}
    metrics.sessions(there)
    assert value(metrics, series.GROUP_CLIENTS, "fast", "connected") == 2
    there.remove("fast-1")
    assert value(metrics, series.GROUP_CLIENTS, "fast", "connected") == 1


def test_a_resumed_job_tells_its_last_round_and_counts_it_no_more() -> None:
    made = CloudMetrics("j", groups=["fast"])
    made.resumed(Progress(began_at=1.0).after(REPORT, PLAN), written=2.0, now=3.0)
    assert value(made, series.GROUP_WORK_CORE_SECONDS, "fast", "max") == 6.0
    assert value(made, series.GROUP_SECONDS, "fast", "compute") == 0


def test_groups_of_a_thousand_devices_are_few_series() -> None:
    clients = [f"g{index // 250}-{index % 250}" for index in range(1000)]
    made = CloudMetrics(
        "j", told=series.of(series.Owner.CLOUD, per_device=False), groups=["g0", "g1", "g2", "g3"]
    )
    plans: list[ClientPlan] = [asked(one) for one in clients]
    made.ended(a_report(*clients), a_round(*plans))
    samples = [one for family in made.registry.collect() for one in family.samples]
    assert len(samples) < 250
