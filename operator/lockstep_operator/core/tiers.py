"""The clusters of a round and the edges that run them (modes hierarchical and split); pure.

`plan` calls it for each round. `clustering` groups the participants by their labels, `offload` says
what each cluster would take on each edge that is connected, `matching` gives each one an edge.
Invariant: in a deterministic job clusters and batches, on which weights depend, follow from who
takes part, the seed and the spec, never from what was measured. Edges are matched by what was
measured all the same: weights do not depend on them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lockstep_api.names import client_name
from lockstep_api.spec import (
    AllocationPolicy,
    Clustering,
    FederatedJobSpec,
    Mode,
    Offload,
)
from lockstep_api.text import few
from lockstep_api.tiers import MOST_OFFERS, ClusterPlan, CutCandidate, EdgeOffer
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_operator.core import clustering, matching
from lockstep_operator.core.allocate import NotComputable, groups_by_client, within
from lockstep_operator.core.basis import Allocation, Counted, had_ghz, told
from lockstep_operator.core.batches import SplitRound, split_round
from lockstep_operator.core.clustering import Cluster
from lockstep_operator.core.insight import Insight, Member
from lockstep_operator.core.offload import Averaging, Site, Splitting, averaging_of, splitting_of
from lockstep_operator.core.split_steps import Paces, joined
from lockstep_operator.errors import UnfitRequest

_SHOWN = 5
_SPREAD = "nothing is measured yet: clusters are spread evenly"


@dataclass(frozen=True, slots=True)
class Grouping:
    """The clusters of a round."""

    clusters: tuple[ClusterPlan, ...]
    batches: Mapping[str, int]
    """Client → examples of each of its steps; empty in mode hierarchical."""


NOT_GROUPED = Grouping((), {})


def sites(spec: FederatedJobSpec) -> dict[str, Site]:
    """All edges of a job, by name."""
    every = [
        Site(client_name(group.name, index), group)
        for group in spec.edge_groups()
        for index in range(group.replicas)
    ]
    return {site.name: site for site in every}


def grouped(
    spec: FederatedJobSpec,
    request: PlanRequest,
    *,
    steps: Mapping[str, int],
    insight: Insight,
    before: RoundPlan | None = None,
    cut: CutCandidate | None = None,
) -> Grouping:
    """The clusters of a round's participants, and their edges.

    Args:
        spec: of a job in a mode with edges.
        request: who is connected, and what devices hold.
        steps: who takes part → local steps.
        insight: what is known of devices and edges.
        before: the newest plan, whose clusters may stay.
        cut: where the model is cut, in mode split.

    Raises:
        UnfitRequest: no edge is connected, or clusters cannot be made or matched as asked.
    """
    connected = _connected(spec, request)
    made = _clusters(spec, request, clients=[*steps], before=before)
    work = offload_of(spec, steps, insight=insight, cut=cut)
    members = [one.clients for one in made]
    costs = matching.Costs(
        [
            _member_seconds(work, clients, connected=connected, insight=insight)
            for clients in members
        ],
        [[work.edge_seconds(clients, site) for site in connected] for clients in members],
        tuple(work.room(site, members) for site in connected),
    )
    matches = _matched(spec, made, connected=connected, costs=costs)
    clusters = tuple(
        _planned(one, match, known=work.known) for one, match in zip(made, matches, strict=True)
    )
    return Grouping(clusters, _batches(work, clusters, known=sites(spec)))


def _member_seconds(
    work: Averaging | Splitting,
    clients: Sequence[str],
    *,
    connected: Sequence[Site],
    insight: Insight,
) -> list[float]:
    """What a cluster's devices take with each edge; those that they have not met are all alike."""
    met = insight.met(clients)
    unmet = next((site for site in connected if site.name not in met), None)
    alike = None if unmet is None else work.member_seconds(clients, unmet)
    return [
        alike if alike is not None and site.name not in met else work.member_seconds(clients, site)
        for site in connected
    ]


def offload_of(
    spec: FederatedJobSpec,
    steps: Mapping[str, int],
    *,
    insight: Insight,
    cut: CutCandidate | None,
) -> Averaging | Splitting:
    """What clusters ask of edges in the job's mode."""
    groups = groups_by_client(spec)
    if spec.mode is not Mode.SPLIT:
        return averaging_of(groups, steps, insight=insight)
    assert cut is not None  # chosen before
    mine = {client: groups[client] for client in steps}
    return splitting_of(spec, mine, steps=max(steps.values()), insight=insight, candidate=cut)


def _connected(spec: FederatedJobSpec, request: PlanRequest) -> list[Site]:
    """The connected edges in the order of the spec, however they were listed."""
    known, asked = sites(spec), {one.edge for one in request.edges}
    if unknown := sorted(asked - known.keys()):
        raise UnfitRequest(f"no such edges in this job: {few(unknown, _SHOWN)}")
    if not asked:
        raise UnfitRequest(
            f"none of the {len(known)} edges is connected: a round needs one at least"
        )
    return [site for name, site in known.items() if name in asked]


def _clusters(
    spec: FederatedJobSpec,
    request: PlanRequest,
    *,
    clients: Sequence[str],
    before: RoundPlan | None,
) -> tuple[Cluster, ...]:
    wanted = spec.clustering or Clustering()
    told = {one.client: one for one in request.clients}
    members = [
        clustering.Member(client, told[client].label_histogram, told[client].examples)
        for client in clients
    ]
    rule = clustering.Rule(
        wanted.method,
        clusters=wanted.clusters or len(sites(spec)),
        min_size=wanted.min_size,
        every_rounds=wanted.every_rounds,
    )
    kept = None
    if before is not None and before.clusters and not spec.training.deterministic:
        kept = clustering.Kept(before.round, [one.clients for one in before.clusters])
    try:
        made = clustering.cluster(
            members, rule=rule, seed=spec.training.seed, round=request.round, kept=kept
        )
    except clustering.LeavesEmpty as error:
        raise UnfitRequest(str(error)) from error
    return _named(made, clients)


def _named(made: Sequence[Cluster], clients: Sequence[str]) -> tuple[Cluster, ...]:
    """The clusters, c0 with the first participant and so on: those that were drawn before keep
    their names, without anybody's having to remember them."""
    place = {client: number for number, client in enumerate(clients)}
    ordered = sorted(made, key=lambda one: place[one.clients[0]])
    return tuple(replace(one, name=f"c{number}") for number, one in enumerate(ordered))


def _matched(
    spec: FederatedJobSpec,
    made: Sequence[Cluster],
    *,
    connected: Sequence[Site],
    costs: matching.Costs,
) -> tuple[matching.Match, ...]:
    wanted = spec.offload or Offload()
    try:
        return matching.match(
            [one.name for one in made],
            [site.name for site in connected],
            costs=costs,
            objective=wanted.objective,
        )
    except matching.NoRoom as error:
        raise UnfitRequest(str(error)) from error


def _planned(made: Cluster, match: matching.Match, *, known: bool) -> ClusterPlan:
    return ClusterPlan(
        cluster=made.name,
        edge=match.edge,
        fallbacks=list(match.fallbacks),
        clients=list(made.clients),
        divergence=made.divergence,
        cost_seconds=match.seconds if known else None,
        why=match.why if known else _SPREAD,
        offers=_offers(match) if known else [],
    )


def _offers(match: matching.Match) -> list[EdgeOffer]:
    others = [one for one in match.ranking if one.edge != match.edge][:MOST_OFFERS]
    return [EdgeOffer(edge=one.edge, cost_seconds=one.seconds, full=one.full) for one in others]


def _batches(
    work: Averaging | Splitting, clusters: Sequence[ClusterPlan], *, known: Mapping[str, Site]
) -> dict[str, int]:
    if isinstance(work, Averaging):
        return {}
    return {
        client: int(batch)
        for one in clusters
        for client, batch in zip(
            one.clients, work.batches(one.clients, known[one.edge]), strict=True
        )
    }


def split_frequencies(
    spec: FederatedJobSpec,
    grouping: Grouping,
    *,
    steps: Mapping[str, int],
    insight: Insight,
    cut: CutCandidate,
    fixed: Mapping[str, float],
) -> Allocation:
    """The frequency of each participant of a round of split training, and what it was made of.

    Until work was measured once, `static` goes by what the spec says, others have devices run at
    their maximum.

    Raises:
        NotComputable: what is known has no answer.
    """
    groups, policy = groups_by_client(spec), spec.allocation.policy
    most = {client: groups[client].frequency.max_ghz for client in steps}
    measured = any(one.work_per_example is not None for one in insight.clients.values())
    if not (measured or policy is AllocationPolicy.STATIC):
        return Allocation(most)
    work = offload_of(spec, steps, insight=insight, cut=cut)
    assert isinstance(work, Splitting)
    members = [
        Member(client, groups[client], steps[client], fixed.get(client))
        for one in grouping.clusters
        for client in one.clients
    ]
    try:
        with np.errstate(all="ignore"):
            paced, asked = _round_of(spec, grouping, members=members, work=work)
            ghz = most if policy is AllocationPolicy.MAX else _equalized(members, asked)
    except (ArithmeticError, ValueError) as error:
        raise NotComputable(f"policy {policy} has no answer to what is known ({error})") from error
    if not all(map(math.isfinite, ghz.values())):
        raise NotComputable(f"policy {policy} gives frequencies that are no numbers")
    ghz = {client: within(groups[client], ghz[client]) for client in steps}
    counted = Counted(
        mbps=paced.up_mbps,
        upload_mbit=asked.sent_mbit,
        work_cores=paced.core_s * np.array([grouping.batches[one.client] for one in members]),
        finish_s=asked.devices.work[0] / had_ghz(members, ghz) + asked.away_s,
    )
    return Allocation(ghz, told(members, counted))


def _equalized(members: Sequence[Member], asked: SplitRound) -> dict[str, float]:
    return {one.client: float(ghz) for one, ghz in zip(members, asked.equalized(), strict=True)}


def _round_of(
    spec: FederatedJobSpec, grouping: Grouping, *, members: Sequence[Member], work: Splitting
) -> tuple[Paces, SplitRound]:
    """How fast its devices are, in their clusters' order, and what the round asks of them."""
    known, mean = sites(spec), spec.allocation.policy is AllocationPolicy.STATIC
    parts = [work.paces(one.clients, known[one.edge], mean=mean) for one in grouping.clusters]
    back = [_back_seconds(one, work, site=known[one.edge]) for one in grouping.clusters]
    paced = joined(parts)
    asked = split_round(
        members,
        np.array([grouping.batches[one.client] for one in members]),
        paced=paced,
        load=work.load,
        back_s=np.repeat(back, [len(one.clients) for one in grouping.clusters]),
        energy_weight=spec.allocation.energy_weight,
    )
    return paced, asked


def _back_seconds(one: ClusterPlan, work: Splitting, *, site: Site) -> float:
    """What the back half takes in a step, beside the edge's other clusters."""
    assert one.cost_seconds is not None
    return max(0.0, one.cost_seconds - work.member_seconds(one.clients, site)) / work.steps
