"""What a job's status says of cuts, clusters and edges; pure. `status` calls it.

Like all that was heard it is never taken back: an operator that has restarted leaves what it finds
until a round is planned.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lockstep_api.settings import edge_names
from lockstep_api.spec import FederatedJobSpec, Mode
from lockstep_api.status import (
    ClusterState,
    Cut,
    CutLayer,
    EdgeState,
    FederatedJobStatus,
    LastDistillation,
)
from lockstep_api.text import cut
from lockstep_api.tiers import ClusterPlan, ClusterReport, CutCandidate
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_operator.core.cuts import Choice, flops_share

_MOST_SHOWN = 64
_MOST_LAYERS = 16
_MOST_WHY = 1024
_MOST_REFUSED = 512


@dataclass(frozen=True, slots=True)
class TiersHeard:
    """What was heard of a job in a mode with edges."""

    report: RoundReport | None
    plan: RoundPlan | None
    examples: Mapping[str, int]
    """Cluster → training examples that its clients hold."""
    edges: tuple[str, ...]
    """Those that are connected."""
    choice: Choice | None
    """Where the model is cut."""


def of_tiers(
    status: FederatedJobStatus, heard: TiersHeard, *, spec: FederatedJobSpec
) -> dict[str, object]:
    """The fields that say it; none of a job without edges, or of which nothing was heard yet."""
    told: dict[str, object] = {}
    if spec.mode is Mode.FEDERATED:
        return told
    if heard.choice is not None:
        told["cut"] = _cut(heard.choice)
    if heard.plan is not None and heard.plan.clusters:
        told["clusters"] = _clusters(heard.plan, heard)
    if heard.plan is not None or heard.edges:
        told["edges"] = _edges(status, heard, spec=spec)
    return told


def _cut(choice: Choice) -> Cut:
    others = [name for name in choice.seconds if name != choice.layer][: _MOST_LAYERS - 1]
    shown = [name for name in choice.seconds if name in {choice.layer, *others}]
    layers = {one.layer: one for one in choice.candidates}
    return Cut(
        layer=choice.layer,
        why=cut(choice.why, _MOST_WHY),
        candidates=[_layer(layers[name], choice) for name in shown],
    )


def _layer(one: CutCandidate, choice: Choice) -> CutLayer:
    refused = choice.refused.get(one.layer)
    whole = one.whole_saved_bytes
    return CutLayer(
        layer=one.layer,
        device_flops=round(flops_share(one), 4),
        device_memory=round(one.saved_bytes / whole, 4) if whole else 0.0,
        values=one.cut_values,
        step_seconds=_figures(choice.seconds[one.layer]),
        refused=None if refused is None else cut(refused, _MOST_REFUSED),
    )


def _clusters(plan: RoundPlan, heard: TiersHeard) -> list[ClusterState]:
    done = {} if heard.report is None else {one.cluster: one for one in heard.report.clusters}
    return [
        _cluster(one, examples=heard.examples.get(one.cluster, 0), done=done.get(one.cluster))
        for one in plan.clusters[:_MOST_SHOWN]
    ]


def _cluster(one: ClusterPlan, *, examples: int, done: ClusterReport | None) -> ClusterState:
    return ClusterState(
        name=one.cluster,
        edge=one.edge,
        clients=len(one.clients),
        examples=examples,
        divergence=None if one.divergence is None else round(one.divergence, 4),
        cost_seconds=None if one.cost_seconds is None else _figures(one.cost_seconds),
        why=cut(one.why, _MOST_WHY),
        tries=None if done is None else done.tries,
        seconds=None if done is None else round(done.seconds, 3),
    )


def _edges(
    status: FederatedJobStatus, heard: TiersHeard, *, spec: FederatedJobSpec
) -> list[EdgeState]:
    before = {one.name: one.seconds for one in status.edges or ()}
    has = Counter(one.edge for one in heard.plan.clusters) if heard.plan else Counter[str]()
    took: dict[str, float] = {}
    for one in () if heard.report is None else heard.report.clusters:
        took[one.edge] = max(took.get(one.edge, 0.0), round(one.seconds, 3))
    return [
        EdgeState(
            name=name,
            connected=name in heard.edges,
            clusters=has[name],
            seconds=took.get(name, before.get(name)),
        )
        for name in edge_names(spec)[:_MOST_SHOWN]
    ]


def _figures(seconds: float) -> float:
    """Four significant ones: what is expected is no better known."""
    return float(f"{seconds:.4g}")


def missed_steps(report: RoundReport) -> int | None:
    """Of all clusters of a round of split training; None: it is another."""
    if not any(one.steps for one in report.clusters):
        return None
    return sum(one.missed for one in report.clusters)


def last_distillation(report: RoundReport) -> LastDistillation | None:
    """What distillation did after a round."""
    done = report.distillation
    if done is None:
        return None
    return LastDistillation(
        samples=done.samples,
        edge_taught=done.edge_taught,
        cloud_taught=done.cloud_taught,
        seconds=round(done.seconds, 3),
    )


def from_distillation(report: RoundReport) -> dict[str, object]:
    """The cloud model's accuracy, where there is one."""
    done = report.distillation
    if done is None or done.cloud_accuracy is None:
        return {}
    return {"cloud_accuracy": round(done.cloud_accuracy, 4)}
