"""The plan of a round and how it turned out; the planner calls it for every request.

Entries start as not applied: whoever sets the CPU limits says so with `with_applied`, whoever
leaves it to the devices with `left_to_devices`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lockstep_allocator.fleet import Method
from lockstep_api.spec import Actuator, AllocationPolicy, FederatedJobSpec, Mode
from lockstep_api.status import LastPlan
from lockstep_api.text import few
from lockstep_api.tiers import CutCandidate
from lockstep_api.wire import ClientPlan, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.allocate import allocate, cpu_milli, groups_by_client
from lockstep_operator.core.basis import Allocation
from lockstep_operator.core.cuts import choose_cut
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.planned import planned_steps
from lockstep_operator.core.sampling import sample
from lockstep_operator.core.steps import local_steps
from lockstep_operator.core.tiers import NOT_GROUPED, Grouping, grouped, split_frequencies
from lockstep_operator.errors import UnfitRequest

QUOTA_TOLERANCE = 0.05
MEASURED_TOLERANCE = 0.15
"""Of a frequency that was measured: rounds that last less than a period of CPU time are coarse."""
_SHOWN = 5

NOTHING_KNOWN = Insight()


def needs_telemetry(spec: FederatedJobSpec) -> bool:
    """Whether the job's policy looks at bandwidth and work."""
    return spec.allocation.policy is not AllocationPolicy.MAX


def plan_round(
    spec: FederatedJobSpec,
    request: PlanRequest,
    *,
    insight: Insight = NOTHING_KNOWN,
    policy: Method | None = None,
    before: RoundPlan | None = None,
    cut: CutCandidate | None = None,
) -> RoundPlan:
    """Participants, frequencies and steps of the requested round; clusters in modes with edges.

    Args:
        spec: of the job.
        request: who is connected.
        insight: what is known of the devices.
        policy: for policy ppo; None stands for the equaliser.
        before: the newest plan, whose clusters may stay.
        cut: where the model is cut; None: chosen here, in mode split.

    Raises:
        UnfitRequest: the request names clients or edges that are not of this job, or the job cannot
            be planned for those that are connected.
        NotComputable: what is known has no answer.
    """
    connected = _connected(spec, request)
    chosen = sample(
        connected,
        fraction=spec.participation.fraction,
        seed=spec.training.seed,
        round=request.round,
    )
    steps = local_steps(spec, chosen, round=request.round, insight=insight, policy=policy)
    grouping = NOT_GROUPED
    if spec.mode is Mode.SPLIT and cut is None:
        cut = choose_cut(spec, request.cuts, kept=request.cut).candidate
    if spec.mode is not Mode.FEDERATED and steps:
        grouping = grouped(spec, request, steps=steps, insight=insight, before=before, cut=cut)
    asked = _frequencies(spec, steps, grouping=grouping, cut=cut, insight=insight, policy=policy)
    return RoundPlan(
        round=request.round,
        rounds=spec.training.rounds,
        target=spec.training.target,
        participants=_participants(spec, asked, steps=steps, batches=grouping.batches),
        quorum=spec.participation.quorum,
        deadline_seconds=spec.participation.round_deadline_seconds,
        energy_budget_joules=spec.telemetry.energy_budget_joules,
        clusters=[*grouping.clusters],
        cut=None if cut is None else cut.layer,
    )


def _frequencies(
    spec: FederatedJobSpec,
    steps: Mapping[str, int],
    *,
    grouping: Grouping,
    cut: CutCandidate | None,
    insight: Insight,
    policy: Method | None,
    fixed: Mapping[str, float] | None = None,
) -> Allocation:
    """The frequency of each participant, and what it was made of."""
    if cut is None or not grouping.batches:
        return allocate(spec, steps, insight=insight, policy=policy, fixed=fixed)
    return split_frequencies(
        spec, grouping, steps=steps, insight=insight, cut=cut, fixed=fixed or {}
    )


def replanned(
    spec: FederatedJobSpec,
    plan: RoundPlan,
    *,
    has_ghz: Mapping[str, float],
    insight: Insight,
    policy: Method | None,
) -> RoundPlan:
    """The plan for devices of which some have a frequency of their own, whatever is asked.

    What devices whose limits are not in force are asked for stays: as soon as it can be applied,
    it is. Steps stay, but for those that are planned with frequencies.
    """
    steps = {entry.client: entry.steps for entry in plan.participants}
    if (rule := spec.training.local_steps.planned) is not None:
        steps = planned_steps(
            spec, [*steps], rule=rule, insight=insight, policy=policy, fixed=has_ghz
        )
    batches = {e.client: e.batch_size for e in plan.participants if e.batch_size is not None}
    asked = _frequencies(
        spec,
        steps,
        grouping=Grouping(tuple(plan.clusters), batches),
        cut=next((one for one in insight.cuts if one.layer == plan.cut), None),
        insight=insight,
        policy=policy,
        fixed=has_ghz,
    )
    kept = {e.client: e.frequency_ghz for e in plan.participants if not e.applied}
    again = _participants(
        spec, replace(asked, ghz={**asked.ghz, **kept}), steps=steps, batches=batches
    )
    return plan.model_copy(update={"participants": again})


def _connected(spec: FederatedJobSpec, request: PlanRequest) -> list[str]:
    """The connected clients in the order of the partition, however they were listed."""
    known = groups_by_client(spec)
    asked = {registration.client for registration in request.clients}
    if unknown := sorted(asked - known.keys()):
        raise UnfitRequest(f"no such clients in this job: {few(unknown, _SHOWN)}")
    return [client for client in known if client in asked]


def _participants(
    spec: FederatedJobSpec,
    asked: Allocation,
    *,
    steps: Mapping[str, int],
    batches: Mapping[str, int],
) -> list[ClientPlan]:
    groups = groups_by_client(spec)
    return [
        ClientPlan(
            client=client,
            frequency_ghz=ghz,
            cpu_milli=cpu_milli(groups[client], ghz),
            steps=steps[client],
            budget_seconds=spec.training.local_steps.budget_seconds,
            batch_size=batches.get(client),
            applied=False,
            basis=asked.basis.get(client),
        )
        for client, ghz in asked.ghz.items()
    ]


def has_anyway(plan: RoundPlan, insight: Insight) -> dict[str, float]:
    """Client → the frequency that it had last, for those whose limit is not in force."""
    return {
        entry.client: ghz
        for entry in plan.participants
        if not entry.applied and (ghz := insight.of(entry.client).has_ghz)
    }


def with_applied(
    plan: RoundPlan, failures: Mapping[str, str], *, refusals: Mapping[str, str]
) -> RoundPlan:
    """The plan with every limit in force but those of `failures` (client → reason).

    The devices of `refusals` (client → reason) keep to their limits themselves.
    """
    participants = [
        entry.model_copy(
            update={
                "actuator": Actuator.COOPERATIVE if entry.client in refusals else Actuator.RESIZE,
                "applied": entry.client not in failures,
                "reason": failures.get(entry.client) or refusals.get(entry.client),
            }
        )
        for entry in plan.participants
    ]
    return plan.model_copy(update={"participants": participants})


def left_to_devices(plan: RoundPlan) -> RoundPlan:
    """The plan of a job that asked for it: every device keeps to its limit itself."""
    told = {"actuator": Actuator.COOPERATIVE, "applied": True}
    participants = [entry.model_copy(update=told) for entry in plan.participants]
    return plan.model_copy(update={"participants": participants})


def fell_back(plan: RoundPlan | LastPlan) -> dict[str, str]:
    """Client → why it keeps to its limit itself although a resize was asked for."""
    entries = plan.participants if isinstance(plan, RoundPlan) else plan.clients
    return {
        entry.client: entry.reason
        for entry in entries
        if entry.actuator is Actuator.COOPERATIVE and entry.reason
    }


def fallback_note(
    plan: RoundPlan, before: Sequence[RoundPlan | LastPlan | None]
) -> EventNote | None:
    """The event of the first plan that falls back: none of the plans `before` did."""
    now = fell_back(plan)
    if not now or any(old is not None and fell_back(old) for old in before):
        return None
    client, why = next(iter(now.items()))
    message = f"{len(now)} devices keep to their CPU limits themselves; {client}: {why}"
    return EventNote("Warning", "CooperativeThrottling", message)


def mismatches(plan: RoundPlan, report: RoundReport) -> dict[str, str]:
    """Client → what it had instead of its plan, where the limit counts as applied.

    Nothing can be said about a report of another round: it gives no mismatches.
    """
    if plan.round != report.round:
        return {}
    had = {done.update.client: done.update.frequency_ghz for done in report.clients}
    return {
        entry.client: f"{had[entry.client]:.2f} GHz instead of {entry.frequency_ghz:.2f} GHz"
        for entry in plan.participants
        if entry.applied and entry.client in had and _is_off(entry, had[entry.client])
    }


def _is_off(entry: ClientPlan, ghz: float) -> bool:
    measured = entry.throttle_milli() is not None
    tolerance = MEASURED_TOLERANCE if measured else QUOTA_TOLERANCE
    return abs(ghz - entry.frequency_ghz) > tolerance * entry.frequency_ghz
