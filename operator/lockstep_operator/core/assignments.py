"""Which cluster and edge each client has, as people, pods and the next plan are told; pure.

`planning` calls it around a plan, `labelling` for the labels of pods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lockstep_api.text import few
from lockstep_api.tiers import ClusterPlan
from lockstep_api.wire import PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.state import JobState

_EVERY = timedelta(seconds=60)
"""Clusters may be drawn anew each round: people are told no more often."""
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a client is in a round."""

    cluster: str
    edge: str


def assignments(clusters: Sequence[ClusterPlan]) -> dict[str, Assignment]:
    """Client → where it is."""
    return {client: Assignment(one.cluster, one.edge) for one in clusters for client in one.clients}


def edge_of_clients(plan: RoundPlan, report: RoundReport) -> dict[str, str]:
    """Client → the edge that it worked with in the end, in the round that is reported."""
    if plan.round != report.round:
        return {}
    ran = {one.cluster: one.edge for one in report.clusters}
    planned = assignments(plan.clusters)
    return {client: ran.get(one.cluster, one.edge) for client, one in planned.items()}


def examples_by_cluster(plan: RoundPlan, request: PlanRequest) -> dict[str, int]:
    """Cluster → training examples that its clients hold."""
    held = {one.client: one.examples for one in request.clients}
    return {
        one.cluster: sum(held.get(client, 0) for client in one.clients) for one in plan.clusters
    }


def told_assignment(
    state: JobState, plan: RoundPlan, *, now: datetime
) -> tuple[JobState, EventNote | None]:
    """The event that says what changed since people were told last, if it is time for one."""
    before, after = assignments(state.told_clusters), assignments(plan.clusters)
    if not after or before == after:
        return state, None
    if state.told_clusters_at is not None and now < state.told_clusters_at + _EVERY:
        return state, None
    told = replace(state, told_clusters=tuple(plan.clusters), told_clusters_at=now)
    message = f"round {plan.round}: {_changed(before, after) or _sizes(plan.clusters)}"
    return told, EventNote("Normal", "ClustersAssigned", message)


def _changed(before: Mapping[str, Assignment], after: Mapping[str, Assignment]) -> str:
    """In few words: who moved, and which clusters have another edge; empty: all is new."""
    if not before:
        return ""
    moved = sorted(c for c, one in after.items() if c in before and before[c] != one)
    came, went = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    counts = ((len(moved), "moved"), (came, "new"), (went, "not in it"))
    words = ", ".join(f"{count} {word}" for count, word in counts if count)
    shown = few([f"{c} to {after[c].cluster} at {after[c].edge}" for c in moved], _SHOWN)
    return f"{words} of {len(after)} clients" + (f": {shown}" if shown else "")


def _sizes(clusters: Sequence[ClusterPlan]) -> str:
    return few([f"{one.cluster} ({len(one.clients)} clients) at {one.edge}" for one in clusters],
               _SHOWN)  # fmt: skip
