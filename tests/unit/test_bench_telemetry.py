"""The bench of Prometheus: its exporters are those of pods, its page has what was measured."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lockstep_api import series
from lockstep_api.series import Owner
from lockstep_api.spec import Mode
from lockstep_operator.core.targets import INTERVAL_LABEL
from lockstep_serving import exporting
from tests.bench.exporters import CLOUD, Fleet, fleet
from tests.bench.prometheus import Chart, targets
from tests.bench.telemetry import Measured, page

ROW = Measured(
    devices=1000, per_device="auto (few)", interval="20 s", series=9000, samples=450.0,
    memory_mib=100.0, most_mib=120.0, cores=0.03, scrape_ms=2.5, slowest_ms=40.0, planner_ms=33.0,
    planner_cpu_ms=9.0,
)  # fmt: skip


def names(job: Fleet, pod: str) -> set[str]:
    """Of the samples on a pod's page."""
    text = exporting.page(job.registry(pod)).decode()
    return {one.name for each in text_string_to_metric_families(text) for one in each.samples}


@pytest.mark.parametrize("per_device", [True, False])
def test_the_benchs_pods_tell_what_pods_tell(per_device: bool) -> None:
    job = fleet(2, per_device=per_device)
    job.play(1, now=1e9)
    absent = (
        series.CHECKPOINT_WRITTEN_SECONDS,
        series.ENERGY_BUDGET_JOULES,
        series.CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS,
    )
    missing = {one.queried for one in absent}
    for pod, owner in (("g0-1", Owner.DEVICE), (CLOUD, Owner.CLOUD)):
        told = series.of(owner, mode=Mode.FEDERATED, per_device=per_device)
        assert names(job, pod) == {name for one in told for name in one.names} - missing


def test_figures_differ_from_round_to_round_and_repeat_by_seed() -> None:
    def pages() -> list[bytes]:
        job = fleet(2, per_device=True, seed=3)
        found = []
        for number in (1, 2):
            job.play(number, now=1e9)
            found.append(exporting.page(job.registry(CLOUD)))
        return found

    first, second = pages()
    assert first != second
    assert pages() == [first, second]


def test_devices_of_a_large_job_are_scraped_as_rarely_as_their_pods_say() -> None:
    found = targets("127.0.0.1:1", 1000)
    intervals = [one["labels"].get(INTERVAL_LABEL) for one in found]
    assert intervals == [None, *["20s"] * 1000]


def test_the_page_has_a_row_for_each_job_and_the_limit() -> None:
    text = page([ROW, ROW], seconds=100, made=Chart({}, [], "1Gi"))
    assert text.count("| 1,000 | auto (few) | 20 s | 9,000 | 450 | 100 | 120 | 0.03 |") == 2
    assert "limit of 1024 MiB" in text
    assert "{" not in text
