"""The status that a job gets: its draft, what was heard, placement as it is written and read back.

`decide` calls it: each of its branches drafts one status. Reports live in memory only; what they
added to the status is never taken back when a restarted operator has heard none yet.
"""

import math
from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime

from lockstep_api.mistrust import Mistrusted, SatOut
from lockstep_api.names import Role
from lockstep_api.privacy import LedgerMark
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import (
    FINISHED,
    AbsentClient,
    ConditionType,
    EnergyJoules,
    FederatedJobStatus,
    LastPlan,
    LastRound,
    Phase,
    PlacedPods,
    PlannedClient,
    TrainedClient,
)
from lockstep_api.text import printable
from lockstep_api.wire import ClientPlan, PlanBasis, RoundPlan, RoundReport
from lockstep_operator.core.conditions import Finding, moment, set_condition, timestamp
from lockstep_operator.core.model import (
    Decision,
    EventNote,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
)
from lockstep_operator.core.placement import CLOUD_POD, Placement, pod_sets
from lockstep_operator.core.privacy import Counted, ledger_of, more_of, newer_of, privacy_state
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status_tiers import (
    TiersHeard,
    from_distillation,
    last_distillation,
    missed_steps,
    of_tiers,
)

MOST_PLANNED = 64
"""Clients of a round that a status has."""
_FIGURES = 5
"""Significant ones, of what a plan was made of."""
_WARNINGS = (Phase.PENDING, Phase.REFUSED, Phase.FAILED)


class StatusDraft:
    """The status that a decision leads to: the old one, in which a branch of `decide` sets what it
    is about. It leaves only as a decision, with the one event that tells of a new phase."""

    def __init__(self, job: JobView, now: datetime) -> None:
        status = job.status
        self.placement = status.placement
        self.active_time = status.active_time
        self.completion_time = status.completion_time
        self.clients = status.clients
        self._job = job
        self._now = now
        self._shown = status
        self._conditions = status.conditions

    @property
    def shown(self) -> FederatedJobStatus:
        """What is known of rounds and plans."""
        return self._shown

    def hear(self, heard: JobState | None) -> None:
        """Take in what is newer than the old status."""
        newest, spec = newest_of(heard), self._job.spec
        self._shown = with_progress(self._shown, newest, spec=spec, now=self._now)

    def say(self, found: Finding, *types: ConditionType) -> None:
        """Set conditions of these types to what was found."""
        generation = self._job.generation
        for type_ in types:
            self._conditions = set_condition(
                self._conditions, type_, found=found, generation=generation, now=self._now
            )

    def decided(
        self,
        phase: Phase,
        message: str,
        *,
        apply: tuple[Manifest, ...] = (),
        delete: tuple[ObjectRef, ...] = (),
        requeue_in_s: float | None = None,
    ) -> Decision:
        """The decision with this status; `message` tells people of the phase when it is new."""
        status = self._shown.model_copy(
            update={
                "phase": phase,
                "conditions": self._conditions,
                "observed_generation": self._job.generation,
                "placement": self.placement,
                "active_time": self.active_time,
                "completion_time": self.completion_time,
                "clients": self.clients,
            }
        )
        events = self._told(phase, message)
        return Decision(apply, delete, status, events, requeue_in_s=requeue_in_s)

    def _told(self, phase: Phase, message: str) -> tuple[EventNote, ...]:
        if phase is self._job.status.phase:
            return ()
        return (EventNote("Warning" if phase in _WARNINGS else "Normal", phase.value, message),)


@dataclass(frozen=True, slots=True)
class Newest:
    """What a status update knows: the newest finished round, the newest plan, the start."""

    report: RoundReport | None
    plan: RoundPlan | None
    started_at: datetime | None
    tiers: TiersHeard | None = None
    private_rounds: int | None = None
    ledger: LedgerMark | None = None


def newest_of(heard: JobState | None) -> Newest:
    """The newest of what was heard; an outcome carries the last round's report."""
    if heard is None:
        return Newest(None, None, None)
    reports = [heard.report, heard.outcome.report if heard.outcome else None]
    newest = max((r for r in reports if r is not None), key=lambda r: r.round, default=None)
    tiers = TiersHeard(newest, heard.plan, heard.examples, heard.edges, heard.cut)
    counted = heard.private_rounds
    return Newest(newest, heard.plan, heard.started_at, tiers, counted, heard.ledger)


def with_progress(
    status: FederatedJobStatus,
    progress: Newest,
    *,
    spec: FederatedJobSpec | None,
    now: datetime,
) -> FederatedJobStatus:
    """The status with what is newer in `progress`."""
    rounds = status.rounds if spec is None else spec.training.rounds
    updates: dict[str, object] = {"rounds": rounds}
    updates |= _from_report(status, progress.report)
    updates |= _from_plan(status, progress.plan)
    if spec is not None:
        known = None if status.privacy is None else status.privacy.rounds
        counted = more_of(known, progress.private_rounds) or 0
        ledger = newer_of(ledger_of(status.privacy), progress.ledger)
        updates["privacy"] = privacy_state(spec, Counted(counted, ledger))
    if spec is not None and progress.tiers is not None:
        updates |= of_tiers(status, progress.tiers, spec=spec)
    if status.start_time is None and (progress.plan or progress.report):
        updates["start_time"] = timestamp(progress.started_at or now)
    merged = status.model_copy(update=updates)
    return merged.model_copy(update={"progress": _progress(merged.round or 0, merged.rounds)})


def _progress(done: int, rounds: int | None) -> str | None:
    """Finished rounds of all; of a job whose rounds were made less than that, those it had."""
    return None if rounds is None else f"{done}/{max(done, rounds)}"


def _from_report(status: FederatedJobStatus, report: RoundReport | None) -> dict[str, object]:
    if report is None or (report.round < (status.round or 0) and _is_possible(status)):
        return {}
    return {
        "round": report.round,
        "accuracy": _rounded(report.accuracy, 4, before=status.accuracy),
        "loss": _rounded(report.loss, 4, before=status.loss),
        "elapsed_seconds": round(report.elapsed_seconds, 1),
        "energy_joules": _energy(report.energy_joules),
        "last_round": _last_round(report),
        **from_distillation(report),
    }


def _last_round(report: RoundReport) -> LastRound:
    clients = [
        TrainedClient(
            client=done.update.client,
            steps_asked=done.asked_steps,
            steps_done=done.update.steps,
            kept=float(f"{min(done.kept):.3g}") if done.kept else None,
        )
        for done in report.clients[:MOST_PLANNED]
    ]
    doubted = report.mistrusted or Mistrusted()
    return LastRound(
        round=report.round,
        seconds=round(report.seconds, 3),
        upload_bytes=report.upload_bytes(),
        clients=clients,
        taken_back=[printable(why) for why in doubted.taken_back] or None,
        sat_out=[_absent(one) for one in doubted.sat_out[:MOST_PLANNED]] or None,
        missed_steps=missed_steps(report),
        distillation=last_distillation(report),
    )


def _absent(one: SatOut) -> AbsentClient:
    why = None if one.why is None else printable(one.why)
    return AbsentClient(client=one.client, returns=one.returns, why=why)


def _is_possible(status: FederatedJobStatus) -> bool:
    """Whether its round is one that was planned; else somebody else has written it."""
    return status.last_plan is not None and (status.round or 0) <= status.last_plan.round


def _rounded(value: float | None, digits: int, *, before: float | None = None) -> float | None:
    """The value with so many digits; the one before when there is none that JSON can hold."""
    return before if value is None or not math.isfinite(value) else round(value, digits)


def _energy(energy: EnergyJoules) -> EnergyJoules:
    return EnergyJoules(
        model=_rounded(energy.model, 2),
        cpu=_rounded(energy.cpu, 2),
        measured=_rounded(energy.measured, 2),
    )


def _from_plan(status: FederatedJobStatus, plan: RoundPlan | None) -> dict[str, object]:
    old = status.last_plan
    if plan is None or (old is not None and plan.round < old.round):
        return {}
    shown = [_planned(entry) for entry in plan.participants[:MOST_PLANNED]]
    return {"last_plan": LastPlan(round=plan.round, planned=plan.planned, clients=shown)}


def _planned(entry: ClientPlan) -> PlannedClient:
    shown = PlannedClient(
        client=entry.client,
        frequency_ghz=entry.frequency_ghz,
        cpu_milli=entry.cpu_milli,
        steps=entry.asked_steps(),
        batch_size=entry.batch_size,
        actuator=entry.actuator,
        applied=entry.applied,
        reason=entry.reason,
    )
    return shown if entry.basis is None else shown.model_copy(update=_basis(entry.basis))


def _basis(basis: PlanBasis) -> dict[str, float]:
    """What the plan was made of; what is not known takes no room."""
    told = basis.model_dump(exclude_none=True, by_alias=False)
    return {name: float(f"{value:.{_FIGURES}g}") for name, value in told.items()}


def is_running(observed: Observed) -> bool:
    """A round has been planned since the job became active, as the status or the report says."""
    status, heard = observed.job.status, observed.report
    if status.phase is Phase.RUNNING and status.last_plan is not None:
        return True
    if heard is None or heard.plan is None:
        return False
    active = moment(status.active_time)
    if active is None:  # the plan is from before it was suspended, or lost its place or names
        return status.phase not in {Phase.SUSPENDED, Phase.PENDING, Phase.REFUSED}
    return heard.planned_at is not None and heard.planned_at > active


def connected(observed: Observed, spec: FederatedJobSpec) -> str:
    """Ready device pods of all ("9/10")."""
    ready = sum(pod.ready for pod in observed.pods if pod.role == Role.DEVICE)
    return f"{ready}/{spec.clients()}"


def written_placement(placement: Placement) -> list[PlacedPods]:
    """The placement as the status keeps it."""
    return [
        PlacedPods(name=pods.shown, nodes=list(nodes)) for pods, nodes in placement.by_set.items()
    ]


def placed_cloud(status: FederatedJobStatus) -> tuple[str, ...]:
    """Where the cloud pod, and so its volume, was placed; empty when it never was."""
    return _placed(status).get(CLOUD_POD.shown, ())


def read_placement(status: FederatedJobStatus, spec: FederatedJobSpec) -> Placement | None:
    """The placement that the status keeps; None when it lacks a part of the job."""
    placed, wanted = _placed(status), pod_sets(spec)
    if not all(placed.get(pods.shown) for pods in wanted):
        return None
    return Placement({pods: placed[pods.shown] for pods in wanted})


def _placed(status: FederatedJobStatus) -> dict[str, tuple[str, ...]]:
    return {entry.name: tuple(entry.nodes) for entry in status.placement or ()}


def needs_place(job: JobView, nodes: Set[str]) -> bool:
    """Whether a job that is to run has no place, or one on a node that is not among `nodes`."""
    if job.spec is None or job.spec.suspend or job.status.phase in FINISHED:
        return False
    kept = read_placement(job.status, job.spec)
    return kept is None or not kept.nodes() <= nodes
