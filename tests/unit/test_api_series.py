"""A series has one name: what the planner queries is exported, and docs/metrics.md lists each."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry

from lockstep_allocator.bandwidth import Trace
from lockstep_api import series
from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundReport
from lockstep_operator.core.model import JobKey
from lockstep_operator.metrics import Metrics
from lockstep_operator.telemetry import Prometheus
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.link import Link, Links
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.split_metrics import SplitMetrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
BASE = {
    "device": {"job", "client"}, "edges": {"job", "edge"}, "cloud": {"job"},
    "operator": set[str](),
}  # fmt: skip


def device() -> CollectorRegistry:
    """Of a device with emulated links."""
    metrics = DeviceMetrics("j", "d-0")
    metrics.show_links(Links(Link(Trace.constant(1.0)), Link(Trace.constant(2.0))))
    return metrics.registry


def cloud() -> CollectorRegistry:
    """Of a cloud pod that has seen a round and refused an update."""
    metrics = CloudMetrics("j")
    metrics.refused(Refusal.SHAPE)
    metrics.ended(
        RoundReport(
            round=1, planned=True, seconds=1, elapsed_seconds=1, clients=[],
            energy_joules=EnergyJoules(model=1.0),
        )
    )  # fmt: skip
    return metrics.registry


def operator() -> CollectorRegistry:
    """Of an operator; the labels that it has used."""
    metrics = Metrics(CollectorRegistry())
    for counted in (
        metrics.jobs, metrics.reconcile_errors, metrics.resize_failures, metrics.policies,
    ):  # fmt: skip
        counted.labels("x")
    return metrics.registry


def edge() -> CollectorRegistry:
    """Of an edge of mode split that has refused an update."""
    metrics = EdgeMetrics("j", "e-0")
    SplitMetrics(metrics.registry, job="j", edge="e-0")
    metrics.refused(Refusal.SHAPE)
    return metrics.registry


PARTS = {"device": device, "edges": edge, "cloud": cloud, "operator": operator}


def exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Name as Prometheus has it → labels of its samples; none where it has no sample yet."""
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        name = series.total(family.name) if family.type == "counter" else family.name
        own = {"le"} if family.type == "histogram" else set()
        found[name] = {label for sample in family.samples for label in sample.labels} - own
    return found


def listed(part: str) -> dict[str, str]:
    """Series in the part's table of the docs → the row's text."""
    text = DOCS.read_text(encoding="utf-8")
    sections = {head.split()[0].rstrip(":").lower(): head for head in text.split("\n## ")[1:]}
    rows: dict[str, str] = {}
    for line in sections[part].splitlines():
        cells = line.split(" | ")
        if line.startswith("| `"):
            names = re.findall(r"`([^`]+)`", cells[0])
            rows |= dict.fromkeys((name for name in names if "*" not in name), line)
    return rows


@dataclass
class Recorder:
    """Stands in for an HTTP session: keeps queries, answers that nothing is known."""

    queries: list[str] = field(default_factory=list)
    status: int = 200

    def post(self, url: str, *, data: Mapping[str, str]) -> Self:
        self.queries.append(data["query"])
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def json(self, *, content_type: str | None) -> Any:
        return {"status": "success", "data": {"result": []}}


async def queries() -> list[str]:
    """What the planner asks Prometheus before a round."""
    recorder = Recorder()
    prometheus = Prometheus("http://x", _session=recorder)  # type: ignore[arg-type]
    await prometheus.insight(JobKey("n", "j"))
    return recorder.queries


def queried(texts: Iterable[str]) -> dict[str, set[str]]:
    """Series in queries → the labels that they select by, but for what Prometheus adds."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"(lockstep_\w+)\{([^}]*)\}", " ".join(texts)):
        labels = set(re.findall(r"(\w+)=", selector)) - {"namespace"}
        found[name] = found.get(name, set()) | labels
    return found


async def test_every_series_that_the_planner_queries_is_exported_by_devices() -> None:
    asked, there = queried(await queries()), exported(device())
    assert len(asked) >= 6
    for name, labels in asked.items():
        assert name in there
        assert labels | {series.CLIENT} <= there[name]


async def test_the_contract_names_what_is_queried_and_nothing_else() -> None:
    named = {getattr(series, name) for name in dir(series) if name.isupper()}
    named = {name for name in named if name.startswith("lockstep_")}
    asked = await queries()
    assert named == {name.removesuffix("_total") for name in queried(asked)}


@pytest.mark.parametrize("part", PARTS)
def test_the_docs_list_every_series_and_no_other(part: str) -> None:
    assert set(listed(part)) == set(exported(PARTS[part]()))


@pytest.mark.parametrize("part", PARTS)
def test_the_docs_name_the_labels(part: str) -> None:
    rows = listed(part)
    for name, labels in exported(PARTS[part]()).items():
        assert set(re.findall(r"label `(\w+)`", rows[name])) == labels - BASE[part], name


def test_the_docs_list_every_reason_of_a_refusal() -> None:
    row = listed("cloud")["lockstep_updates_refused_total"]
    assert set(re.findall(r"`(\w+)`", row.partition("label `reason`:")[2])) == set(Refusal)
