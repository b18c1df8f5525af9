"""The planning step: from what a job's cloud pod says to a plan whose limits are in force; pure.

    hear     what the request says               → the job's state, events
    know     what telemetry says besides         → what is known of the devices
    draw     what a plan is made from            → the plan, events
    limits   the plan                            → what is to be put in force
    redraw   the plan, told what is in force     → the plan around devices that kept their limits
    settle   the plan as it was put in force     → the job's state, events, the round that ended

`planner` does the I/O in between; whoever simulates a job calls the same functions without any. A
state goes in and the next one comes out: nothing else is remembered.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from lockstep_allocator.fleet import Method
from lockstep_api.spec import Actuator, FederatedJobSpec, Mode
from lockstep_api.status import LastPlan
from lockstep_api.text import few
from lockstep_api.wire import Outcome, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.allocate import NotComputable
from lockstep_operator.core.assignments import (
    edge_of_clients,
    examples_by_cluster,
    told_assignment,
)
from lockstep_operator.core.cuts import Choice, choose_cut
from lockstep_operator.core.figures import back_work, from_report, from_telemetry, known_clients
from lockstep_operator.core.insight import ClientInsight, Insight, combined, merged, stale
from lockstep_operator.core.model import EventNote
from lockstep_operator.core.plan import (
    fallback_note,
    has_anyway,
    left_to_devices,
    mismatches,
    needs_telemetry,
    plan_round,
    replanned,
)
from lockstep_operator.core.policy_source import PolicyUse
from lockstep_operator.core.privacy import NOTHING, Counted, more_of, newer_of, privacy_plan
from lockstep_operator.core.state import FinishedRound, JobState, PlannedRound
from lockstep_operator.core.worth import half_steps, prior_half_steps, with_round
from lockstep_operator.errors import UnfitRequest

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """After a request was heard."""

    state: JobState
    events: tuple[EventNote, ...] = ()
    mismatches: int = 0
    """Clients that say now that they had another frequency than planned."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan is made from."""

    spec: FederatedJobSpec
    insight: Insight
    policy: Method | None = None
    """For policy ppo; None stands for the equaliser."""
    policy_problem: str | None = None
    """Why the policy that was asked for cannot be used."""
    use: PolicyUse | None = None
    """The same for counting; None: nobody counts."""
    private: Counted = NOTHING
    """What counts against the job's ε, as its status says."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """After a plan was drawn; none of its limits is in force yet."""

    state: JobState
    plan: RoundPlan
    events: tuple[EventNote, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """After a plan was put in force."""

    state: JobState
    events: tuple[EventNote, ...] = ()
    finished: FinishedRound | None = None
    """The round before, of a job that learns from its rounds."""


def hear(state: JobState, request: PlanRequest, *, spec: FederatedJobSpec) -> Heard:
    """Take in what a request says of the job; what it repeats is told and counted once."""
    fresh = (notice for notice in request.notices if notice not in state.notices)
    events = tuple(EventNote(note.type, note.reason, note.message) for note in fresh)
    told = replace(
        state,
        checkpoint_problem=request.checkpoint_problem,
        given_up=request.given_up,
        notices=tuple(request.notices),
        private_rounds=more_of(state.private_rounds, request.private_rounds),
        ledger=newer_of(state.ledger, request.ledger),
        edges=tuple(one.edge for one in request.edges),
    )
    report = request.report
    if report is None or (state.report is not None and state.report.round == report.round):
        return Heard(told, events)  # a repeated request: its plan may be the next round's already
    report = known_clients(report, spec)
    off = {} if state.plan is None else mismatches(state.plan, report)
    return Heard(_with_report(told, report, spec=spec, off=off), events, len(off))


def _with_report(
    state: JobState, report: RoundReport, *, spec: FederatedJobSpec, off: dict[str, str]
) -> JobState:
    plan = () if state.plan is None else state.plan.participants
    planned = spec.training.local_steps.planned is not None
    unlimited = {one.client for one in plan if not one.applied}
    edges = {} if state.plan is None else edge_of_clients(state.plan, report)
    believed = from_report(report, spec, unlimited=unlimited, edges=edges)
    measured = {
        client: merged(one, state.measured.get(client, ClientInsight()))
        for client, one in believed.clients.items()
    }
    return replace(
        state,
        report=report,
        mismatches=off,
        measured={**state.measured, **measured},
        history=with_round(state.history, report) if planned else (),
        doubts=believed.doubts,
        energy_doubts=believed.energy_doubts,
        back_work={**state.back_work, **back_work(report, spec)},
    )


def know(
    state: JobState, request: PlanRequest, *, telemetry: Insight | None, spec: FederatedJobSpec
) -> Insight:
    """What is known: of devices from telemetry (None: it was not asked) and reports, of the worth
    of steps from the job's rounds."""
    known = _known(state, request, telemetry=telemetry, spec=spec)
    known = replace(known, back_work=state.back_work, cuts=request.cuts)
    if spec.training.local_steps.planned is None:
        return known
    half = half_steps(state.history, prior=prior_half_steps(spec.strategy))
    examples = {one.client: one.examples for one in request.clients}
    return replace(known, half_steps=half, examples=examples)


def _known(
    state: JobState, request: PlanRequest, *, telemetry: Insight | None, spec: FederatedJobSpec
) -> Insight:
    if telemetry is None:
        return Insight(state.measured)
    if telemetry.problem is not None:
        return Insight(state.measured, _problems(telemetry.problem, state.doubts))
    reported = [one.update.client for one in request.report.clients] if request.report else []
    believed = from_telemetry(telemetry.clients, state.measured, spec=spec)
    problem = _problems(stale(telemetry.clients, reported), (*believed.doubts, *state.doubts))
    return Insight(combined(believed.clients, state.measured), problem)


def _problems(problem: str | None, doubts: Sequence[str]) -> str | None:
    if not doubts:
        return problem
    told = f"figures that cannot be are left out: {few(doubts, _SHOWN, comma='; ')}"
    return told if problem is None else f"{problem}; {told}"


def draw(state: JobState, request: PlanRequest, *, basis: Basis) -> Drawn:
    """Plan the requested round.

    Raises:
        UnfitRequest: the request names clients or edges that are not of this job, or the job cannot
            be planned for those that are connected.
    """
    choice, warnings = _cut(state, request, spec=basis.spec)
    plan, uncomputable = _planned(state, request, basis=basis, choice=choice)
    if basis.spec.allocation.actuator is Actuator.COOPERATIVE:
        plan = left_to_devices(plan)
    known = (Counted(state.private_rounds or 0, state.ledger), basis.private)
    told_of = Counted(request.private_rounds or 0, request.ledger)
    account = privacy_plan(basis.spec, told=told_of, known=known)
    plan = plan.model_copy(update={"privacy": account})
    problem = basis.policy_problem
    events: tuple[EventNote, ...] = ()
    if problem is not None and problem != state.policy_problem:
        message = f"policy equalize stands in for ppo: {problem}"
        events = (EventNote("Warning", "PolicyUnavailable", message),)
    missing = "; ".join(one for one in (basis.insight.problem, uncomputable) if one) or None
    told = replace(
        state,
        telemetry_problem=missing,
        policy_problem=problem,
        plan_problem=None,
        cut=choice,
        examples=examples_by_cluster(plan, request),
    )
    return Drawn(told, plan, (*events, *warnings))


def undrawn(state: JobState, request: PlanRequest, *, error: UnfitRequest) -> Heard:
    """Take in that a round could not be planned, and why; the same again is told once."""
    problem = f"round {request.round} is not planned: {error}"
    if problem == state.plan_problem:
        return Heard(state)
    event = EventNote("Warning", "RoundNotPlanned", problem)
    return Heard(replace(state, plan_problem=problem), (event,))


def _cut(
    state: JobState, request: PlanRequest, *, spec: FederatedJobSpec
) -> tuple[Choice | None, tuple[EventNote, ...]]:
    """Where the model is cut, and what is to be said of it once."""
    if spec.mode is not Mode.SPLIT:
        return None, ()
    known = state.cut
    if known and known.candidates == tuple(request.cuts) and request.cut in (None, known.layer):
        return known, ()
    choice = choose_cut(spec, request.cuts, kept=request.cut)
    if choice.warning is None or request.cut is not None:
        return choice, ()
    message = f"the model is cut after {choice.layer} ({choice.why}): {choice.warning}"
    return choice, (EventNote("Warning", "CutUnusual", message),)


def _planned(
    state: JobState, request: PlanRequest, *, basis: Basis, choice: Choice | None
) -> tuple[RoundPlan, str | None]:
    """The plan, and why it was made without what is known: a job never stops for its figures."""
    plan = partial(
        plan_round,
        basis.spec,
        request,
        before=state.plan,
        cut=None if choice is None else choice.candidate,
    )
    try:
        return plan(insight=basis.insight, policy=basis.policy), None
    except NotComputable as error:
        return plan(), f"{error}: as if nothing was measured yet"


def limits(plan: RoundPlan, *, but: Container[str] = ()) -> dict[str, int]:
    """Client → millicores that are to be put in force; `but` are clients that just failed."""
    return {
        one.client: one.cpu_milli
        for one in plan.participants
        if not one.applied and one.client not in but
    }


def redraw(plan: RoundPlan, basis: Basis) -> RoundPlan | None:
    """The plan made anew around devices whose limits are not in force; None: it stays."""
    has_ghz = has_anyway(plan, basis.insight)
    if not has_ghz or not needs_telemetry(basis.spec):
        return None
    try:
        return replanned(
            basis.spec, plan, has_ghz=has_ghz, insight=basis.insight, policy=basis.policy
        )
    except NotComputable:
        return None


def settle(
    state: JobState, plan: RoundPlan, *, basis: Basis, before: LastPlan | None, now: datetime
) -> Settled:
    """Take in a plan that says what is in force; `before` is the one in the job's status."""
    note = fallback_note(plan, (state.plan, before))
    state, assigned = told_assignment(state, plan, now=now)
    first = state.started_at is None and plan.round == 1
    learns = basis.spec.allocation.online
    settled = replace(
        state,
        plan=plan,
        started_at=now if first else state.started_at,
        planned_at=now,
        on=PlannedRound(basis.spec, plan, basis.insight, now.timestamp()) if learns else None,
    )
    finished = _finished(state, plan.round) if learns else None
    notes = tuple(one for one in (note, assigned) if one is not None)
    return Settled(settled, notes, finished)


def _finished(state: JobState, next_round: int) -> FinishedRound | None:
    """The round that was on, unless it is planned once more."""
    on, report = state.on, state.report
    if on is None or report is None or on.plan.round == next_round:
        return None
    return FinishedRound(on, report) if report.round == on.plan.round else None


def ended(state: JobState, outcome: Outcome) -> JobState:
    """Take in how a job ended."""
    counted = more_of(state.private_rounds, outcome.private_rounds)
    report = outcome.report or state.report
    return replace(state, outcome=outcome, report=report, private_rounds=counted)
