"""A series has one name: pods export the catalogue and nothing else, and queries are of it."""

import ast
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from lockstep_allocator.bandwidth import Trace
from lockstep_api import names, series
from lockstep_api.privacy import PrivacyPlan
from lockstep_api.series import Kind, Owner, Series, Where, labels
from lockstep_api.sessions import Refusal
from lockstep_api.spec import AllocationPolicy, Mode
from lockstep_api.status import EnergyJoules, Phase
from lockstep_api.tiers import ClusterPlan, DistillationReport
from lockstep_operator.core.alternatives import Method
from lockstep_operator.core.learn import Verdict
from lockstep_operator.core.model import JobKey
from lockstep_operator.core.policy_source import PolicyProblem, PolicySource, PolicyUse
from lockstep_operator.core.round_cost import RoundCost
from lockstep_operator.metrics import Metrics
from lockstep_operator.telemetry import Prometheus
from lockstep_serving import exporting
from lockstep_serving.exporting import Exports
from lockstep_serving.probes import Told
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.link import Link, Links
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.probes import Probed
from lockstep_workers.edge.metrics import EdgeMetrics
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.hosting.front import Front
from lockstep_workers.learning.group_rounds import Part, Stat
from tests.support.kube import KEY
from tests.support.planner import Setup
from tests.support.probing import asked
from tests.support.rounds import a_report, a_round

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "operator" / "lockstep_api" / "series"
DOCS = ROOT / "docs" / "metrics.md"
BY_PROMETHEUS = {labels.NAMESPACE, labels.POD, "instance"}
COMMON = {
    Owner.DEVICE: (labels.JOB, labels.CLIENT), Owner.CLOUD: (labels.JOB,),
    Owner.EDGE: (labels.JOB, labels.EDGE), Owner.OPERATOR: (),
}  # fmt: skip
DISTILLED = DistillationReport(samples=1, edge_taught=True, cloud_taught=True, cloud_accuracy=0.5)
NAMED = {name: one for one in series.ALL for name in one.names}
"""Name in Prometheus → its series."""


def device() -> CollectorRegistry:
    """Of a device with emulated links."""
    metrics = DeviceMetrics("j", "d-0")
    metrics.show_links(Links(Link(Trace.constant(1.0)), Link(Trace.constant(2.0))))
    return metrics.registry


def cloud() -> CollectorRegistry:
    """Of a cloud pod that has seen a round, and has all that can be missing."""
    metrics = CloudMetrics("j")
    plan, report = a_round(), a_report("d-0")
    metrics.began(plan, now=2.0, job_began=1.0)
    metrics.ended(report.model_copy(update={"distillation": DISTILLED}), plan)
    metrics.saved(1, 100, seconds=1.0, now=3.0)
    metrics.certified(4.0)
    return metrics.registry


def operator() -> Metrics:
    """Of an operator that has seen a job with edges; the labels that it has used."""
    metrics = Metrics(CollectorRegistry())
    for counted in (metrics.jobs, metrics.reconcile_errors, metrics.resize_failures):
        counted.labels("x")
    metrics.count_request("get", "Pod")
    metrics.planner_certified(4.0)
    cluster = ClusterPlan(
        cluster="c0", edge="e-0", clients=["d-0"], divergence=0.1, cost_seconds=1.0
    )
    of, key = metrics.of_jobs, JobKey("n", "j")
    of.clusters("uid", key, plan=[cluster])
    of.plan_costs("uid", key, costs=dict.fromkeys(Method, 1.0))
    of.round_cost("uid", key, found=RoundCost(2.0, 1.0))
    of.privacy("uid", key, account=PrivacyPlan(rounds=0, epsilon=0, epsilon_after=1, delta=0.1))
    of.policy("uid", key, use=PolicyUse(AllocationPolicy.PPO, PolicySource.SHIPPED))
    return metrics


def edge() -> CollectorRegistry:
    """Of an edge of mode split."""
    metrics = EdgeMetrics("j", "e-0")
    metrics.certified(4.0)
    SplitMetrics(metrics.registry, job="j", edge="e-0")
    return metrics.registry


PARTS = {Owner.EDGE: edge, Owner.CLOUD: cloud}


def page(text: str) -> dict[str, set[str]]:
    """What `/metrics` says: name of a sample → its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(set(sample.labels) - {"le"})
    return found


async def answered(told: Told) -> dict[str, set[str]]:
    """What a pod's server says."""
    return page((await asked(told, names.METRICS_ROUTE)).text)


def expected(owner: Owner, mode: Mode | None = None) -> dict[str, set[str]]:
    """What the catalogue says of a pod's page."""
    return {name: set(one.labels) for one in series.of(owner, mode=mode) for name in one.names}


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, but for what is said about it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in prose:
            yield one.value


def listed(owner: Owner) -> dict[str, list[str]]:
    """Series in the owner's table of the docs → the row's cells."""
    text = DOCS.read_text(encoding="utf-8")
    sections = {head.split()[0].lower().rstrip("s"): head for head in text.split("\n## ")[1:]}
    rows = [line for line in sections[owner].splitlines() if line.startswith("| `")]
    return {row.split("`")[1]: row.strip("| ").split(" | ") for row in rows}


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

    @property
    def content(self) -> Self:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield b'{"status": "success", "data": {"result": []}}'


async def queries() -> list[str]:
    """What the planner asks Prometheus before a round."""
    recorder = Recorder()
    prometheus = Prometheus("http://x", _session=recorder)  # type: ignore[arg-type]
    await prometheus.insight(JobKey("n", "j"), clients=1)
    return recorder.queries


def queried(texts: Iterable[str]) -> dict[str, set[str]]:
    """Series in queries → the labels that they select by, but for what Prometheus adds."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"(\b(?:lockstep|process)_\w+)(\{[^}]*\})?", " ".join(texts)):
        selected = set(re.findall(r"(\w+)=", selector)) - BY_PROMETHEUS
        found[name] = found.get(name, set()) | selected
    return found


async def test_every_series_that_the_planner_queries_is_exported_by_devices() -> None:
    asked, there = queried(await queries()), page(exporting.page(device()).decode())
    assert len(asked) >= 6
    for name, selected in asked.items():
        assert name in there
        assert selected | {labels.CLIENT} <= there[name]


async def test_a_device_tells_the_series_of_the_catalogue_and_nothing_else() -> None:
    assert await answered(Probed(device(), lambda: True)) == expected(Owner.DEVICE)


@pytest.mark.parametrize("owner", [Owner.CLOUD, Owner.EDGE])
async def test_a_pod_that_serves_tells_the_series_of_the_catalogue_and_nothing_else(
    owner: Owner,
) -> None:
    assert await answered(Front(PARTS[owner]())) == expected(owner)


async def test_the_operator_tells_the_series_of_the_catalogue_and_nothing_else(
    setup: Setup,
) -> None:
    probes = replace(setup.probes, deps=replace(setup.deps, metrics=operator()))
    await setup.planner.runtime.pass_now(KEY)
    assert await answered(probes) == expected(Owner.OPERATOR)


def test_a_device_tells_of_links_only_when_they_are_emulated() -> None:
    registry = DeviceMetrics("j", "d-0").registry
    links = {name for one in series.ALL if one.where is Where.LINKS for name in one.names}
    assert set(page(exporting.page(registry).decode())) == set(expected(Owner.DEVICE)) - links


@pytest.mark.parametrize("mode", Mode)
def test_a_pod_tells_only_what_its_mode_has(mode: Mode) -> None:
    made = (
        DeviceMetrics("j", "d-0", told=series.of(Owner.DEVICE, mode=mode)).registry,
        CloudMetrics("j", told=series.of(Owner.CLOUD, mode=mode)).registry,
        EdgeMetrics("j", "e-0", told=series.of(Owner.EDGE, mode=mode)).registry,
    )
    told = {name for each in made for name in page(exporting.page(each).decode())}
    of_splits = {series.SAMPLES.queried, series.EDGE_BACK_CPU_SECONDS.queried}
    assert told & of_splits == (of_splits if mode is Mode.SPLIT else set())
    assert (series.EDGES_CONNECTED.queried in told) is (mode is not Mode.FEDERATED)
    assert series.CLIENT_ROUND.queried in told


@pytest.mark.parametrize("mode", Mode)
async def test_a_device_that_tells_little_tells_what_the_planner_asks_for(mode: Mode) -> None:
    told = series.of(Owner.DEVICE, mode=mode, per_device=False)
    asked = queried(await queries())
    assert {name for one in told for name in one.names} == set(asked)
    assert set(told) == set(series.PLANNED)


def test_without_series_of_devices_a_cloud_pod_tells_of_groups() -> None:
    told = set(series.of(Owner.CLOUD, mode=Mode.FEDERATED, per_device=False))
    left_out = set(series.of(Owner.CLOUD, mode=Mode.FEDERATED)) - told
    assert left_out == {series.CLIENT_ARRIVED_SECONDS}
    assert {one for one in series.ALL if labels.GROUP in one.labels} <= told


def test_what_is_not_told_is_on_no_page_and_counts_all_the_same() -> None:
    metrics = DeviceMetrics("j", "d-0", told=[series.STEPS])
    metrics.show_links(Links(Link(Trace.constant(1.0)), Link(Trace.constant(2.0))))
    metrics.uploaded(seconds=1.0, n_bytes=1)
    assert set(page(exporting.page(metrics.registry).decode())) == {series.STEPS.queried}


def test_no_series_is_named_outside_the_catalogue() -> None:
    known = {one.name for one in series.ALL} | set(NAMED)
    found = {
        (path.name, name)
        for folder in ("operator", "workers")
        for path in (ROOT / folder).rglob("*.py")
        if CATALOGUE not in path.parents
        for text in texts(path)
        for name in re.findall(r"(?:lockstep|process)_\w+", text)
        if name in known
    }
    assert found == set()


def test_a_constant_is_called_as_its_series() -> None:
    for one in series.ALL:
        assert getattr(series, one.name.removeprefix("lockstep_").upper()) is one
    assert len({one.name for one in series.ALL}) == len(series.ALL)


def test_labels_that_all_series_of_a_pod_have_come_first() -> None:
    for one in series.ALL:
        common = COMMON[one.owner]
        assert one.labels[: len(common)] == common, one.name


def test_examples_ask_for_series_of_the_catalogue_by_labels_that_these_have() -> None:
    for one in series.ALL:
        asked = queried([one.example])
        assert set(asked) & set(one.names), f"{one.name}: its example asks for others"
        for name, selected in asked.items():
            assert name in NAMED, f"{one.name} asks for {name}"
            assert selected <= set(NAMED[name].labels), one.name
        grouped = set(
            re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", one.example)))
        )
        assert grouped <= set(one.labels) | BY_PROMETHEUS | {"le"}, one.name


@pytest.mark.parametrize("owner", Owner)
def test_the_docs_list_every_series_with_its_labels_and_no_other(owner: Owner) -> None:
    there = listed(owner)
    names = {
        one.name if one.kind is Kind.HISTOGRAM else one.queried: one for one in series.of(owner)
    }
    assert set(there) == set(names)
    for name, one in names.items():
        told = re.findall(r"`(\w+)`", there[name][3])
        assert told == [*one.labels, *one.values], name
        assert there[name][1:3] == [one.kind, one.unit], name


def test_the_docs_list_every_reason_of_a_refusal() -> None:
    cell = listed(Owner.CLOUD)[series.UPDATES_REFUSED.queried][3]
    assert set(re.findall(r"`(\w+)`", cell)) - {"job", "reason"} == set(Refusal)


def test_what_a_label_can_say_is_what_is_said() -> None:
    assert series.UPDATES_REFUSED.values == series.EDGE_UPDATES_REFUSED.values == tuple(Refusal)
    assert series.POLICIES_OFFERED.values == tuple(Verdict)
    assert series.JOBS.values == tuple(Phase)
    assert series.PLAN_COST_SECONDS.values == tuple(Method)
    assert series.POLICY_IN_USE.values == tuple(PolicySource)
    assert series.POLICY_FALLBACKS.values == tuple(PolicyProblem)
    assert series.ENERGY_JOULES.values == series.JOB_ENERGY_JOULES.values
    assert series.ENERGY_JOULES.values == series.GROUP_ENERGY_JOULES.values
    assert series.GROUP_SECONDS.values == tuple(Part)
    assert series.GROUP_WORK_CORE_SECONDS.values == tuple(Stat)
    assert set(series.ENERGY_JOULES.values) <= set(EnergyJoules.model_fields)


def test_a_refusal_that_never_came_is_a_zero() -> None:
    """So that the first one is an increase."""
    registry = CloudMetrics("j").registry
    for reason in Refusal:
        told = {"job": "j", "reason": reason.value}
        assert registry.get_sample_value(series.UPDATES_REFUSED.queried, told) == 0


def test_a_series_is_built_as_what_it_is() -> None:
    with pytest.raises(ValueError, match="lockstep_steps is a counter"):
        Exports(CollectorRegistry(), "j", "d-0").gauge(series.STEPS)


def test_names_in_queries_are_those_of_the_kind() -> None:
    assert series.STEPS.queried == "lockstep_steps_total"
    assert series.ROUND.queried == "lockstep_round"
    histogram: Series = series.PLAN_SECONDS
    assert histogram.names == (histogram.bucket, histogram.sum, histogram.count)
    with pytest.raises(ValueError, match="ask for bucket, sum or count"):
        _ = histogram.queried
    with pytest.raises(ValueError, match="it has no bucket"):
        _ = series.ROUND.bucket
    assert all(one.buckets for one in series.ALL if one.kind is Kind.HISTOGRAM)
