"""Why a round was planned as it was: for each device the bound that binds, for each cluster its
edge, and what other plans would have cost; pure.

Whoever shows plans to people calls it, with a plan of the history (and what came of it), or with
what a job's status says of the round that runs. Invariant: it decides nothing and estimates nothing
itself. All figures are the plan's own (`basis`) or come from `alternatives`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from lockstep_allocator.devices import energy_curve
from lockstep_api.budget import MOST_STEPS
from lockstep_api.settings import energy_model_of
from lockstep_api.spec import AllocationPolicy, DeviceGroup, FederatedJobSpec
from lockstep_api.status import (
    ClusterState,
    FederatedJobStatus,
    LastPlan,
    PlannedClient,
)
from lockstep_api.text import few
from lockstep_api.tiers import ClusterPlan, ClusterReport, EdgeOffer
from lockstep_api.wire import ClientPlan, ClientReport, PlanBasis, RoundPlan, RoundReport
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.alternatives import Alternative, Expected, Method, alternatives
from lockstep_operator.core.status import MOST_PLANNED
from lockstep_operator.core.steps import why_steps
from lockstep_operator.errors import UnfitRequest

_SHOWN = 5
_SAME_GHZ = 2e-4
"""A plan's frequencies are rounded."""
_SAME = 0.01
"""Of the round's seconds: whoever is in so little before its end is in with the last."""
_BEGINS = "it runs at its highest frequency"
_BEGINS_STATIC = "devices are levelled by cpuAtMax and steps"


class Bound(StrEnum):
    """What a device's frequency is bound by."""

    NOT_APPLIED = "not_applied"
    BUDGET = "budget"
    POLICY_MAX = "policy_max"
    NOT_MEASURED = "not_measured"
    HIGHEST = "highest"
    LOWEST = "lowest"
    LEVELLED = "levelled"
    LEEWAY = "leeway"


_WHY = {
    Bound.NOT_APPLIED: "it keeps {has}, since its CPU limit is not in force",
    Bound.BUDGET: "it has {budget} s to train, and does what fits in at its highest frequency",
    Bound.POLICY_MAX: "policy max has every device run at its highest frequency",
    Bound.NOT_MEASURED: "no work was measured yet: {begins}",
    Bound.HIGHEST: "at its highest frequency it is in after {finish} s: the round waits for it",
    Bound.LOWEST: "at its lowest frequency it is in after {finish} s, before the round's {seconds}",
    Bound.LEVELLED: "it runs so slowly that it is in with the last, after {finish} s",
    Bound.LEEWAY: "the policy leaves it time for a link that varies: it is in after {finish} s of "
    "{seconds} if the link stays as it was",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What came of a device in the round."""

    frequency_ghz: float
    """That it had, by its own report."""
    steps: int
    compute_s: float
    upload_s: float
    """Of its update; in mode split of all that it sent."""
    arrived_s: float
    """When its part of the round was in."""
    joules: float
    """Modelled, since its update before."""
    mbps: float | None
    """Bandwidth of what it sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientExplanation:
    """A device of a round."""

    client: str
    group: str
    frequency_ghz: float
    """That it was asked for."""
    min_ghz: float
    """The lowest that makes sense: below it work takes more energy, not less."""
    max_ghz: float
    cpu_milli: int
    steps: int | None
    """That it was asked for; None: its budget alone bounded them."""
    batch_size: int | None
    budget_seconds: float | None
    applied: bool
    reason: str | None
    """Why its limit is not in force, or why it keeps to it itself."""
    cluster: str | None
    edge: str | None
    bound: Bound
    why: str
    """The bound in a sentence."""
    mbps: float | None
    upload_mbit: float | None
    work_per_step: float | None
    expected: Expected | None
    """None: nothing was measured yet."""
    happened: Happened | None
    """None: the round runs, or the device gave nothing to it."""
    lost: bool
    """Whether the round has ended without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterExplanation:
    """A cluster of a round."""

    cluster: str
    edge: str
    clients: tuple[str, ...]
    """Empty: the status does not say them."""
    divergence: float | None
    cost_s: float | None
    """What its part of the round was expected to take on its edge."""
    why: str
    """Why this edge."""
    offers: tuple[EdgeOffer, ...]
    """What other edges would have cost, as far as that is known."""
    happened: ClusterReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundHappened:
    """What a round came to."""

    seconds: float
    joules: float
    """Modelled, of all accepted updates."""
    cost: float
    """Seconds + energyWeight · joules."""
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanExplanation:
    """Why a round was planned as it was."""

    round: int
    policy: AllocationPolicy
    """Of the job as it is now."""
    planned: bool
    """False: the planner could not be reached, and the plan before was used again."""
    energy_weight: float
    cut: str | None
    why_steps: str
    """How the job's rule, as it is now, comes to the steps."""
    clients: tuple[ClientExplanation, ...]
    clusters: tuple[ClusterExplanation, ...]
    alternatives: tuple[Alternative, ...]
    """The plan and others, of these clients; empty: nothing was measured yet."""
    happened: RoundHappened | None
    """None: the round runs."""
    shortened: bool = False
    """Whether there are more clients: a status has the first of them only."""


def explained(
    spec: FederatedJobSpec, plan: RoundPlan, *, report: RoundReport | None = None
) -> PlanExplanation:
    """Explains a plan, beside what came of it if its round has finished.

    Raises:
        UnfitRequest: the plan is of another job, or the report of another round.
    """
    _check(spec, plan, report=report)
    weight, found = spec.allocation.energy_weight, alternatives(spec, plan)
    told = _Told(spec, plan, report=report, found=found)
    return PlanExplanation(
        round=plan.round,
        policy=spec.allocation.policy,
        planned=plan.planned,
        energy_weight=weight,
        cut=plan.cut,
        why_steps=why_steps(spec),
        clients=tuple(told.client(one) for one in plan.participants),
        clusters=tuple(told.cluster(one) for one in plan.clusters),
        alternatives=found,
        happened=None if report is None else _round(report, weight),
    )


def explained_now(spec: FederatedJobSpec, status: FederatedJobStatus) -> PlanExplanation | None:
    """Explains the newest plan of a job by its status; None: there is none yet.

    Raises:
        UnfitRequest: the status is of another job.
    """
    if status.last_plan is None:
        return None
    found = explained(spec, _plan_of(status.last_plan, spec))
    clients = len(status.last_plan.clients)
    return replace(
        found,
        cut=None if status.cut is None else status.cut.layer,
        clusters=tuple(_cluster_of(one) for one in status.clusters or ()),
        shortened=clients == MOST_PLANNED and clients < spec.clients(),
    )


def _check(spec: FederatedJobSpec, plan: RoundPlan, *, report: RoundReport | None) -> None:
    planned = {one.client for one in plan.participants}
    if unknown := sorted(planned - groups_by_client(spec).keys()):
        raise UnfitRequest(f"the plan is of another job: this one has no {few(unknown, _SHOWN)}")
    if report is not None and report.round != plan.round:
        raise UnfitRequest(f"the report is of round {report.round}, the plan of {plan.round}")


class _Told:
    """What is known of a round, by client and cluster."""

    def __init__(
        self,
        spec: FederatedJobSpec,
        plan: RoundPlan,
        *,
        report: RoundReport | None,
        found: Sequence[Alternative],
    ) -> None:
        """Looks everything up once."""
        self._spec, self._ended = spec, report is not None
        self._groups = groups_by_client(spec)
        self._low = {group.name: _lowest_ghz(group) for group in spec.devices}
        self._planned = next((one for one in found if one.method is Method.PLANNED), None)
        self._done = {} if report is None else {one.update.client: one for one in report.clients}
        self._ran = {} if report is None else {one.cluster: one for one in report.clusters}
        self._cluster_of = {client: one for one in plan.clusters for client in one.clients}

    def client(self, one: ClientPlan) -> ClientExplanation:
        """Of a participant."""
        group, cluster = self._groups[one.client], self._cluster_of.get(one.client)
        done, bound, basis = self._done.get(one.client), self._bound(one), one.basis
        return ClientExplanation(
            client=one.client,
            group=group.name,
            frequency_ghz=one.frequency_ghz,
            min_ghz=self._low[group.name],
            max_ghz=group.frequency.max_ghz,
            cpu_milli=one.cpu_milli,
            steps=one.asked_steps(),
            batch_size=one.batch_size,
            budget_seconds=one.budget_seconds,
            applied=one.applied,
            reason=one.reason,
            cluster=None if cluster is None else cluster.cluster,
            edge=None if cluster is None else cluster.edge,
            bound=bound,
            why=self._why(bound, one),
            mbps=None if basis is None else basis.mbps,
            upload_mbit=None if basis is None else basis.upload_mbit,
            work_per_step=None if basis is None else basis.work_per_step,
            expected=self._expected(one.client),
            happened=None if done is None else _happened(done),
            lost=self._ended and done is None,
        )

    def cluster(self, one: ClusterPlan) -> ClusterExplanation:
        """Of a cluster of the plan."""
        return ClusterExplanation(
            cluster=one.cluster,
            edge=one.edge,
            clients=tuple(one.clients),
            divergence=one.divergence,
            cost_s=one.cost_seconds,
            why=one.why,
            offers=tuple(one.offers),
            happened=self._ran.get(one.cluster),
        )

    def _expected(self, client: str) -> Expected | None:
        return None if self._planned is None else self._planned.clients.get(client)

    def _bound(self, one: ClientPlan) -> Bound:
        expected = self._expected(one.client)
        if not one.applied:
            return Bound.NOT_APPLIED
        if one.budget_seconds is not None:
            return Bound.BUDGET
        if self._spec.allocation.policy is AllocationPolicy.MAX:
            return Bound.POLICY_MAX
        return Bound.NOT_MEASURED if expected is None else self._by_figures(one, expected)

    def _by_figures(self, one: ClientPlan, expected: Expected) -> Bound:
        assert self._planned is not None
        group = self._groups[one.client]
        if expected.finish_s >= self._planned.seconds * (1 - _SAME):
            is_highest = one.frequency_ghz >= group.frequency.max_ghz - _SAME_GHZ
            return Bound.HIGHEST if is_highest else Bound.LEVELLED
        is_lowest = one.frequency_ghz <= self._low[group.name] + _SAME_GHZ
        return Bound.LOWEST if is_lowest else Bound.LEEWAY

    def _why(self, bound: Bound, one: ClientPlan) -> str:
        expected = self._expected(one.client)
        has = None if one.basis is None else one.basis.has_ghz
        is_static = self._spec.allocation.policy is AllocationPolicy.STATIC
        return _WHY[bound].format(
            has="the frequency that it has" if has is None else f"{has:.4g} GHz",
            budget=f"{one.budget_seconds or 0.0:g}",
            begins=_BEGINS_STATIC if is_static else _BEGINS,
            finish=f"{0.0 if expected is None else expected.finish_s:.3g}",
            seconds=f"{0.0 if self._planned is None else self._planned.seconds:.3g}",
        )


def _lowest_ghz(group: DeviceGroup) -> float:
    low, high = group.frequency.min_ghz, group.frequency.max_ghz
    return energy_curve(energy_model_of(group), min_ghz=low, max_ghz=high).efficient_ghz


def _happened(done: ClientReport) -> Happened:
    update, moved = done.update, done.update.moved
    upload_s = done.upload_seconds if moved is None else moved.up_seconds
    sent = done.bytes if moved is None else moved.up_bytes
    return Happened(
        frequency_ghz=update.frequency_ghz,
        steps=update.steps,
        compute_s=update.compute_seconds,
        upload_s=upload_s,
        arrived_s=done.arrived_seconds,
        joules=update.energy_joules.model or 0.0,
        mbps=sent * 8e-6 / upload_s if upload_s > 0 else None,
    )


def _round(report: RoundReport, weight: float) -> RoundHappened:
    joules = sum(one.update.energy_joules.model or 0.0 for one in report.clients)
    cost = report.seconds + weight * joules
    return RoundHappened(seconds=report.seconds, joules=joules, cost=cost, lost=tuple(report.lost))


# -- status → plan ---------------------------------------------------------------------------


def _plan_of(shown: LastPlan, spec: FederatedJobSpec) -> RoundPlan:
    budget_s = spec.training.local_steps.budget_seconds
    return RoundPlan(
        round=shown.round,
        rounds=spec.training.rounds,
        planned=shown.planned,
        participants=[_client_of(one, budget_s) for one in shown.clients],
    )


def _client_of(shown: PlannedClient, budget_s: float | None) -> ClientPlan:
    told = {name: getattr(shown, name) for name in PlanBasis.model_fields}
    is_known = shown.work_per_step is not None and shown.finish_seconds is not None
    return ClientPlan(
        client=shown.client,
        frequency_ghz=shown.frequency_ghz,
        cpu_milli=shown.cpu_milli,
        steps=MOST_STEPS if shown.steps is None else shown.steps,
        budget_seconds=budget_s,
        batch_size=shown.batch_size,
        actuator=shown.actuator,
        applied=shown.applied,
        reason=shown.reason,
        basis=PlanBasis.model_validate(told) if is_known else None,
    )


def _cluster_of(shown: ClusterState) -> ClusterExplanation:
    return ClusterExplanation(
        cluster=shown.name,
        edge=shown.edge,
        clients=(),
        divergence=shown.divergence,
        cost_s=shown.cost_seconds,
        why=shown.why,
        offers=(),
        happened=None,
    )
