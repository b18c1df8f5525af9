"""What to do about one job, from everything observed about it; `reconcile` calls `decide`.

Level-triggered: the same observation gives the same decision, and once a decision has been
carried out the next one asks for nothing. A finished job is left alone but for its pods, and for
itself when its time is over (`ttlSecondsAfterFinished`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FINISHED, ConditionType, Phase
from lockstep_api.wire import Outcome
from lockstep_operator.core.causes import Cause, causes
from lockstep_operator.core.children import children
from lockstep_operator.core.conditions import (
    Finding,
    degradation,
    readiness,
    telemetry,
    timestamp,
)
from lockstep_operator.core.deadlines import exceeded, kept_s, left_s
from lockstep_operator.core.manifests import identity, reference, spec_hash
from lockstep_operator.core.model import (
    Decision,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
    Settings,
)
from lockstep_operator.core.ownership import (
    Standing,
    advice,
    names_doubled,
    names_taken,
    needed_names,
    of_standing,
    own,
)
from lockstep_operator.core.placement import CLOUD_POD, DoesNotFit, Placement, place
from lockstep_operator.core.reminders import on_acceptance, reminders
from lockstep_operator.core.status import (
    StatusDraft,
    connected,
    is_running,
    needs_place,
    newest_of,
    placed_cloud,
    read_placement,
    written_placement,
)
from lockstep_operator.core.support import unplayable

_STARTED = (Phase.STARTING, Phase.RUNNING)
_SUSPENDED = Phase.SUSPENDED
_PODS = ("StatefulSet", "PodDisruptionBudget", "Job")
_STOPPED_KINDS = (*_PODS, "Service", "ServiceAccount")
_POLICY = "NetworkPolicy"
_LOOK_AGAIN_S = 5.0
"""Between two looks whether names are free: nobody tells when an object of others goes."""
_ACCEPTED = Finding("True", "Valid", "the job can be run")
_NOT_READY = Finding("False", "NotPlaced", "the job has no pods yet")
_PROGRESSING = {
    Phase.STARTING: Finding("True", "Starting", "pods are starting"),
    Phase.RUNNING: Finding("True", "Training", "rounds are running"),
}
_HAS_ENDED = Finding("False", "Finished", "the job has ended")


def decide(observed: Observed, settings: Settings, *, now: datetime) -> Decision:
    """Children to apply and delete, the status to write and events to emit."""
    job = observed.job
    if job.status.phase in FINISHED:
        return _after_the_end(observed, now)
    if observed.report is not None and observed.report.outcome is not None:
        return _finish(observed, observed.report.outcome, now=now)
    if job.spec is None:
        refusal = Finding("False", "InvalidSpec", job.spec_error or "the spec is unreadable")
        return _refuse(job, refusal, now=now)
    return _decide(observed, job.spec, settings=settings, now=now)


def _decide(
    observed: Observed, spec: FederatedJobSpec, *, settings: Settings, now: datetime
) -> Decision:
    """What to do about a job that can be read and has not ended."""
    if reasons := [*unplayable(spec), *names_doubled(observed.job, spec)]:
        refusal = Finding("False", "NotSupported", "; ".join(reasons))
        return _refuse(observed.job, refusal, now=now)
    if asked := settings.allowed.refusals(spec):
        return _refuse(observed.job, Finding("False", "NotAllowed", "; ".join(asked)), now=now)
    if spec.suspend:
        return _suspend(observed, spec, now=now)
    if (end := exceeded(observed, spec, now=now)) is not None:
        return _end(observed, ConditionType.FAILED, end=end, now=now)
    if others := names_taken(observed.job, observed.children):
        return _refuse_names(observed, spec, others=others, now=now)
    decision = _run(observed, spec, settings=settings, now=now)
    notes = on_acceptance(spec, decision.status.phase)
    return replace(decision, events=(*decision.events, *notes))


def _after_the_end(observed: Observed, now: datetime) -> Decision:
    """No pods; and no job either, once it was kept for as long as it asked to be."""
    job = observed.job
    rest_s = kept_s(job.spec, job.status.completion_time, now=now)
    left = () if observed.pods else (_POLICY,)  # strangers do not reach pods on their way out
    stop = _to_stop(observed, (*_STOPPED_KINDS, *left))
    return Decision((), stop, job.status, (), requeue_in_s=rest_s, delete_job=rest_s == 0)


def _suspend(observed: Observed, spec: FederatedJobSpec, *, now: datetime) -> Decision:
    draft = _stopped_draft(observed, spec, now=now)
    done = draft.shown.round or 0
    message = f"the job is suspended after {done} of {spec.training.rounds} rounds"
    suspended = Finding("False", "Suspended", message)
    draft.say(_ACCEPTED, ConditionType.ACCEPTED)
    draft.say(suspended, ConditionType.READY, ConditionType.PROGRESSING, ConditionType.DEGRADED)
    return draft.decided(_SUSPENDED, message, delete=_to_stop(observed, _PODS))


def _stopped_draft(observed: Observed, spec: FederatedJobSpec, *, now: datetime) -> StatusDraft:
    """Pods go, the volume stays; of the placement only the cloud pod's, where the volume is."""
    cloud = placed_cloud(observed.job.status)
    draft = _draft(observed, now)
    draft.placement = written_placement(Placement({CLOUD_POD: cloud})) if cloud else None
    draft.active_time = None
    draft.clients = connected(observed, spec)
    return draft


def _refuse_names(
    observed: Observed,
    spec: FederatedJobSpec,
    *,
    others: Mapping[ObjectRef, Manifest],
    now: datetime,
) -> Decision:
    """No pods, which would find the objects of others under the names of the job's own."""
    draft = _stopped_draft(observed, spec, now=now)
    refusal = Finding("False", "NameTaken", advice(others))
    draft.say(refusal, ConditionType.ACCEPTED)
    without = Finding("False", refusal.reason, "the job has no pods: its names are taken")
    draft.say(without, ConditionType.READY, ConditionType.PROGRESSING, ConditionType.DEGRADED)
    stop = _to_stop(observed, _PODS)
    return draft.decided(Phase.REFUSED, refusal.message, delete=stop, requeue_in_s=_LOOK_AGAIN_S)


def _run(
    observed: Observed, spec: FederatedJobSpec, *, settings: Settings, now: datetime
) -> Decision:
    """Place the job if it has no place, and bring its children about.

    A started job one of whose nodes is gone keeps its place until another one fits.
    """
    phase, told = _progress(observed)
    progressing = _PROGRESSING[phase]
    kept = read_placement(observed.job.status, spec)
    found = _place(observed, spec, kept=kept)
    if isinstance(found, DoesNotFit):
        if kept is None or not _has_started(observed):
            return _wait(observed, spec, message=found.message, now=now)
        message = f"a node of the job is gone, and without it the job {found.message}"
        found, progressing = kept, Finding("False", "DoesNotFit", message)
    why = causes(observed)
    draft = _running_draft(observed, spec, placement=found, now=now)
    draft.say(readiness(observed, spec, found=why), ConditionType.READY)
    draft.say(progressing, ConditionType.PROGRESSING)
    left = _left_over(observed)
    if left:  # they go before ours can come
        gone = tuple(ref for ref, manifest in left.items() if not _is_going(manifest))
        decision = draft.decided(phase, told, delete=gone, requeue_in_s=_LOOK_AGAIN_S)
    else:
        allowed = replace(settings, bounds=observed.bounds)
        wanted = children(observed.job, found, settings=allowed)
        decision = draft.decided(
            phase,
            told,
            apply=_to_apply(observed, wanted),
            delete=_not_wanted(observed, wanted, kind=_POLICY),
        )
    return _watched(observed, spec, decision=decision, why=why, now=now)


def _watched(
    observed: Observed,
    spec: FederatedJobSpec,
    *,
    decision: Decision,
    why: Sequence[Cause],
    now: datetime,
) -> Decision:
    """The decision about a job that is to run, with what time alone adds to it."""
    active = replace(observed, job=replace(observed.job, status=decision.status))
    notes, look_again_s = reminders(decision.status, observed.report, why=why, now=now)
    waits = (left_s(active, spec, now=now), look_again_s, decision.requeue_in_s)
    in_s = min((s for s in waits if s is not None), default=None)
    return replace(
        decision,
        events=(*decision.events, *notes),
        requeue_in_s=None if in_s is None else max(0.0, in_s),
    )


def _place(
    observed: Observed, spec: FederatedJobSpec, *, kept: Placement | None
) -> Placement | DoesNotFit:
    """The place that the job has, or a new one if it needs one."""
    if kept is not None and not needs_place(observed.job, {node.name for node in observed.nodes}):
        return kept
    volume = () if kept is not None else placed_cloud(observed.job.status)
    return place(spec, observed.nodes, cloud_nodes=volume)


def _progress(observed: Observed) -> tuple[Phase, str]:
    """The phase of a job that is to run, and what tells people of it when it is new."""
    heard = observed.report
    if not is_running(observed):
        return Phase.STARTING, "pods are being started"
    if heard is None or heard.plan is None:  # the operator before this one has told
        return Phase.RUNNING, "rounds are running"
    return Phase.RUNNING, f"round {heard.plan.round} has been planned"


def _has_started(observed: Observed) -> bool:
    return observed.job.status.phase in _STARTED or observed.job.status.start_time is not None


def _running_draft(
    observed: Observed, spec: FederatedJobSpec, *, placement: Placement, now: datetime
) -> StatusDraft:
    draft = _draft(observed, now)
    draft.placement = written_placement(placement)
    draft.active_time = draft.active_time or timestamp(now)
    draft.clients = connected(observed, spec)
    draft.say(_ACCEPTED, ConditionType.ACCEPTED)
    draft.say(degradation(draft.shown, observed.report), ConditionType.DEGRADED)
    draft.say(telemetry(spec, observed.report), ConditionType.TELEMETRY_DEGRADED)
    return draft


def _wait(observed: Observed, spec: FederatedJobSpec, *, message: str, now: datetime) -> Decision:
    """Nothing is created; the next resync tries again."""
    draft = _draft(observed, now)
    draft.clients = connected(observed, spec)
    draft.say(_ACCEPTED, ConditionType.ACCEPTED)
    draft.say(_NOT_READY, ConditionType.READY)
    draft.say(Finding("False", "DoesNotFit", message), ConditionType.PROGRESSING)
    return draft.decided(Phase.PENDING, message)


def _refuse(job: JobView, refusal: Finding, *, now: datetime) -> Decision:
    """Leaves alone what runs already: an edit that takes the reason away goes on."""
    draft = StatusDraft(job, now)
    draft.say(refusal, ConditionType.ACCEPTED)
    draft.say(Finding("False", refusal.reason, "the job is refused"), ConditionType.PROGRESSING)
    return draft.decided(Phase.REFUSED, refusal.message)


def _finish(observed: Observed, outcome: Outcome, *, now: datetime) -> Decision:
    """The job has ended: its last numbers, the outcome, and no more pods."""
    failed = outcome.result == "Failed"
    kind = ConditionType.FAILED if failed else ConditionType.COMPLETE
    reason = "TrainingFailed" if failed else outcome.result
    return _end(observed, kind, end=Finding("True", reason, outcome.message), now=now)


def _end(observed: Observed, kind: ConditionType, *, end: Finding, now: datetime) -> Decision:
    spec, newest = observed.job.spec, newest_of(observed.report).report
    draft = _draft(observed, now)
    draft.completion_time = timestamp(now)
    if newest is not None and spec is not None:
        draft.clients = f"{len(newest.clients)}/{spec.clients()}"
    draft.say(_HAS_ENDED, ConditionType.READY, ConditionType.PROGRESSING)
    draft.say(end, kind)
    return draft.decided(
        Phase.FAILED if kind is ConditionType.FAILED else Phase.COMPLETED,
        end.message,
        delete=_to_stop(observed, _STOPPED_KINDS),
        requeue_in_s=kept_s(spec, draft.completion_time, now=now),
    )


def _draft(observed: Observed, now: datetime) -> StatusDraft:
    """A draft that knows what was heard of the job."""
    draft = StatusDraft(observed.job, now)
    draft.hear(observed.report)
    return draft


def _to_stop(observed: Observed, kinds: Iterable[str]) -> tuple[ObjectRef, ...]:
    """What a job without pods does not need; its settings and its volume stay."""
    there = own(observed).items()
    return tuple(ref for ref, one in there if ref.kind in kinds and not _is_going(one))


def _to_apply(observed: Observed, wanted: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The children that are missing or were applied in another form."""
    return tuple(manifest for manifest in wanted if _differs(observed, manifest))


def _not_wanted(
    observed: Observed, wanted: Iterable[Manifest], *, kind: str
) -> tuple[ObjectRef, ...]:
    """The job's own objects of a kind that it is to have no more."""
    still = {reference(manifest) for manifest in wanted}
    return tuple(ref for ref in _to_stop(observed, (kind,)) if ref not in still)


def _differs(observed: Observed, manifest: Manifest) -> bool:
    existing = observed.children.get(reference(manifest))
    if existing is None:
        return True
    if _is_going(existing):
        return False
    changed = spec_hash(existing) != spec_hash(manifest) or identity(existing) != identity(manifest)
    return changed or _scaled(existing, manifest)


def _scaled(existing: Manifest, manifest: Manifest) -> bool:
    """Whether somebody else has set another number of pods: the hash does not see that."""
    wanted = manifest.get("spec", {}).get("replicas")
    return wanted is not None and existing.get("spec", {}).get("replicas") != wanted


def _left_over(observed: Observed) -> dict[ObjectRef, Manifest]:
    """What a deleted job of the same name has left under names that this one needs."""
    needed = needed_names(observed.job).all
    there = {ref: observed.children[ref] for ref in needed if ref in observed.children}
    return of_standing(there, Standing.LEFT_OVER, job=observed.job)


def _is_going(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))
