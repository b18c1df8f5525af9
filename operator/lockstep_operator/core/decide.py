"""What to do about one job, from everything observed about it; `reconcile` calls `decide`.

Level-triggered: the same observation gives the same decision, and once a decision has been
carried out the next one asks for nothing. A finished job is left alone but for its pods, and for
itself when its time is over (`ttlSecondsAfterFinished`).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import ConditionType, FederatedJobStatus, Phase, PlacedPods
from lockstep_api.wire import Outcome
from lockstep_operator.core.children import children, reference, spec_hash
from lockstep_operator.core.conditions import (
    CLIENTS_MISSING,
    Finding,
    degradation,
    missing,
    moment,
    readiness,
    telemetry,
    timestamp,
)
from lockstep_operator.core.model import (
    Decision,
    EventNote,
    JobView,
    Manifest,
    ObjectRef,
    Observed,
    Settings,
)
from lockstep_operator.core.placement import DoesNotFit, Placement, place
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status import (
    connected,
    newest_of,
    placed_cloud,
    read_placement,
    status_for,
    with_progress,
    written_placement,
)
from lockstep_operator.core.support import unsupported

TERMINAL = (Phase.COMPLETED, Phase.FAILED)
_STARTED = (Phase.STARTING, Phase.RUNNING)
_SUSPENDED = Phase.SUSPENDED
_PODS = ("StatefulSet", "PodDisruptionBudget")
_STOPPED_KINDS = (*_PODS, "Service", "ServiceAccount")
_PATIENCE_S = 60.0
"""How long pods may take to be ready, and between two events about clients that are missing."""
_REMINDER_S = 600.0
_WARNINGS = (Phase.PENDING, Phase.REFUSED, Phase.FAILED)
_ACCEPTED = Finding("True", "Valid", "the job can be run")
_NOT_READY = Finding("False", "NotPlaced", "the job has no pods yet")


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Children to apply and delete, the status to write and events to emit."""
    job = observed.job
    if job.status.phase in TERMINAL:
        return _after_the_end(observed, now)
    if observed.report is not None and observed.report.outcome is not None:
        return _finish(observed, observed.report.outcome, now=now)
    if job.spec is None:
        refusal = Finding("False", "InvalidSpec", job.spec_error or "the spec is unreadable")
        return _refuse(observed, refusal, now)
    return _decide(observed, job.spec, settings=settings, now=now)


def _decide(
    observed: Observed, spec: FederatedJobSpec, *, settings: Settings, now: datetime
) -> Decision:
    """What to do about a job that can be read and has not ended."""
    if reasons := unsupported(spec):
        return _refuse(observed, Finding("False", "NotSupported", "; ".join(reasons)), now)
    if spec.suspend:
        return _suspend(observed, spec, now)
    if (left_s := _left_s(observed.job, spec, now)) is not None and left_s <= 0:
        return _exceed(observed, spec, now)
    return _run(observed, spec, settings=settings, now=now)


def _after_the_end(observed: Observed, now: datetime) -> Decision:
    """No pods; and no job either, once it was kept for as long as it asked to be."""
    job = observed.job
    end = moment(job.status.completion_time)
    kept_s = None if job.spec is None else job.spec.ttl_seconds_after_finished
    left_s = None
    if end is not None and kept_s is not None:
        left_s = max(0.0, kept_s - (now - end).total_seconds())
    stop = _to_stop(observed, _STOPPED_KINDS)
    return Decision((), stop, job.status, (), requeue_in_s=left_s, delete_job=left_s == 0)


def _left_s(job: JobView, spec: FederatedJobSpec, now: datetime) -> float | None:
    """Seconds until the job has been active for too long; None without a limit."""
    active = moment(job.status.active_time)
    if spec.active_deadline_seconds is None or active is None or job.status.phase is _SUSPENDED:
        return None
    return spec.active_deadline_seconds - (now - active).total_seconds()


def _exceed(observed: Observed, spec: FederatedJobSpec, now: datetime) -> Decision:
    message = f"the job was active for longer than {spec.active_deadline_seconds} s"
    failed = Finding("True", "DeadlineExceeded", message)
    return _end(observed, ConditionType.FAILED, failed, now=now)


def _suspend(observed: Observed, spec: FederatedJobSpec, now: datetime) -> Decision:
    """Pods go, the volume stays; of the placement only the cloud pod's, where the volume is."""
    job = observed.job
    cloud = placed_cloud(job.status)
    base = with_progress(job.status, newest_of(observed.report), spec=spec, now=now).model_copy(
        update={
            "placement": [PlacedPods(name=names.Role.CLOUD, nodes=list(cloud))] if cloud else None,
            "active_time": None,
            "clients": connected(observed, spec),
        }
    )
    done = base.round or 0
    message = f"the job is suspended after {done} of {spec.training.rounds} rounds"
    suspended = Finding("False", "Suspended", message)
    findings = {
        ConditionType.ACCEPTED: _ACCEPTED,
        ConditionType.READY: suspended,
        ConditionType.PROGRESSING: suspended,
        ConditionType.DEGRADED: Finding("False", "Suspended", message),
    }
    status = status_for(observed, phase=_SUSPENDED, base=base, findings=findings, now=now)
    stop = _to_stop(observed, _PODS)
    return Decision((), stop, status, _events(job, status, message))


def _run(
    observed: Observed, spec: FederatedJobSpec, *, settings: Settings, now: datetime
) -> Decision:
    """Place the job if it has no place, and bring its children about.

    A started job one of whose nodes is gone keeps its place until another one fits.
    """
    kept = read_placement(observed.job.status, spec)
    if kept and not _node_gone(kept, observed):
        found: Placement | DoesNotFit = kept
    else:
        volume = () if kept else placed_cloud(observed.job.status)
        found = place(spec, observed.nodes, cloud_nodes=volume)
    if not isinstance(found, DoesNotFit):
        progressing = _progressing(observed)
        placement = found
    elif kept is not None and _has_started(observed):
        message = f"a node of the job is gone, and without it the job {found.message}"
        progressing = Finding("False", "DoesNotFit", message)
        placement = kept
    else:
        return _wait(observed, spec, message=found.message, now=now)
    status = _running_status(observed, spec, placement=placement, progressing=progressing, now=now)
    wanted = children(observed.job, placement, settings)
    active = replace(observed.job, status=status)
    left_s = _left_s(active, spec, now)
    late, look_again_s = _late(active, now)
    events = (
        *_events(observed.job, status, "pods are being started"),
        *_missing(status, observed.report),
        *late,
    )
    waits = [seconds for seconds in (left_s, look_again_s) if seconds is not None]
    return Decision(
        _to_apply(observed, wanted),
        _to_replace(observed, wanted),
        status,
        events,
        requeue_in_s=max(0.0, min(waits)) if waits else None,
    )


def _late(job: JobView, now: datetime) -> tuple[tuple[EventNote, ...], float | None]:
    """A starting job whose pods take long tells which; and when to look whether they do."""
    active = moment(job.status.active_time)
    if job.status.phase is not Phase.STARTING or active is None:
        return (), None
    left_s = _PATIENCE_S - (now - active).total_seconds()
    ready = next((c for c in job.status.conditions if c.type is ConditionType.READY), None)
    if left_s > 0 or ready is None or ready.status == "True":
        return (), left_s if left_s > 0 else None
    return (EventNote("Warning", "PodsNotReady", ready.message, every_s=_REMINDER_S),), None


def _missing(status: FederatedJobStatus, report: JobState | None) -> tuple[EventNote, ...]:
    """Clients that gave nothing to the last round are named, but not for every round."""
    if report is None or report.report is None or not report.report.lost:
        return ()
    if status.phase is not Phase.RUNNING:
        return ()
    return (EventNote("Warning", CLIENTS_MISSING, missing(report.report), every_s=_PATIENCE_S),)


def _progressing(observed: Observed) -> Finding:
    if _is_running(observed):
        return Finding("True", "Training", "rounds are running")
    return Finding("True", "Starting", "pods are starting")


def _is_running(observed: Observed) -> bool:
    """A round has been planned since the job became active, as the status or the report says."""
    status, heard = observed.job.status, observed.report
    if status.phase is Phase.RUNNING:
        return True
    if heard is None or heard.plan is None:
        return False
    if status.phase in {_SUSPENDED, Phase.PENDING}:  # the plan is from before it was suspended
        return False
    active = moment(status.active_time)
    return active is None or (heard.planned_at is not None and heard.planned_at > active)


def _has_started(observed: Observed) -> bool:
    return observed.job.status.phase in _STARTED or observed.job.status.start_time is not None


def _node_gone(placement: Placement, observed: Observed) -> bool:
    return not placement.nodes() <= {node.name for node in observed.nodes}


def _running_status(
    observed: Observed,
    spec: FederatedJobSpec,
    *,
    placement: Placement,
    progressing: Finding,
    now: datetime,
) -> FederatedJobStatus:
    heard = newest_of(observed.report)
    base = with_progress(observed.job.status, heard, spec=spec, now=now).model_copy(
        update={
            "placement": written_placement(placement),
            "active_time": observed.job.status.active_time or timestamp(now),
            "clients": connected(observed, spec),
        }
    )
    findings = {
        ConditionType.ACCEPTED: _ACCEPTED,
        ConditionType.READY: readiness(observed, spec),
        ConditionType.PROGRESSING: progressing,
        ConditionType.DEGRADED: degradation(base, observed.report),
        ConditionType.TELEMETRY_DEGRADED: telemetry(spec, observed.report),
    }
    phase = Phase.RUNNING if _is_running(observed) else Phase.STARTING
    return status_for(observed, phase=phase, base=base, findings=findings, now=now)


def _wait(observed: Observed, spec: FederatedJobSpec, *, message: str, now: datetime) -> Decision:
    """Nothing is created; the next resync tries again."""
    base = with_progress(
        observed.job.status, newest_of(observed.report), spec=spec, now=now
    ).model_copy(update={"clients": connected(observed, spec)})
    findings = {
        ConditionType.ACCEPTED: _ACCEPTED,
        ConditionType.READY: _NOT_READY,
        ConditionType.PROGRESSING: Finding("False", "DoesNotFit", message),
    }
    status = status_for(observed, phase=Phase.PENDING, base=base, findings=findings, now=now)
    return Decision((), (), status, _events(observed.job, status, message))


def _refuse(observed: Observed, refusal: Finding, now: datetime) -> Decision:
    """Leaves alone what runs already: an edit that takes the reason away goes on."""
    findings = {
        ConditionType.ACCEPTED: refusal,
        ConditionType.PROGRESSING: Finding("False", refusal.reason, "the job is refused"),
    }
    base = observed.job.status
    status = status_for(observed, phase=Phase.REFUSED, base=base, findings=findings, now=now)
    return Decision((), (), status, _events(observed.job, status, refusal.message))


def _finish(observed: Observed, outcome: Outcome, *, now: datetime) -> Decision:
    """The job has ended: its last numbers, the outcome, and no more pods."""
    failed = outcome.result == "Failed"
    kind = ConditionType.FAILED if failed else ConditionType.COMPLETE
    reason = "TrainingFailed" if failed else outcome.result
    return _end(observed, kind, Finding("True", reason, outcome.message), now=now)


def _end(observed: Observed, kind: ConditionType, end: Finding, *, now: datetime) -> Decision:
    findings = {
        ConditionType.READY: Finding("False", "Finished", "the job has ended"),
        ConditionType.PROGRESSING: Finding("False", "Finished", "the job has ended"),
        kind: end,
    }
    phase = Phase.FAILED if kind is ConditionType.FAILED else Phase.COMPLETED
    base = _final_numbers(observed, now)
    status = status_for(observed, phase=phase, base=base, findings=findings, now=now)
    ended = replace(observed, job=replace(observed.job, status=status))
    after = _after_the_end(ended, now)
    return replace(after, delete_job=False, events=_events(observed.job, status, end.message))


def _final_numbers(observed: Observed, now: datetime) -> FederatedJobStatus:
    job, heard = observed.job, newest_of(observed.report)
    base = with_progress(job.status, heard, spec=job.spec, now=now)
    updates: dict[str, object] = {"completion_time": timestamp(now)}
    if heard.report is not None and job.spec is not None:
        updates["clients"] = f"{len(heard.report.clients)}/{job.spec.clients()}"
    return base.model_copy(update=updates)


def _to_stop(observed: Observed, kinds: Iterable[str]) -> tuple[ObjectRef, ...]:
    """What a job without pods does not need; its settings and its volume stay."""
    return tuple(
        ref
        for ref, manifest in observed.children.items()
        if ref.kind in kinds and not _is_going(manifest)
    )


def _to_apply(observed: Observed, wanted: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The children that are missing or were applied in another form."""
    return tuple(manifest for manifest in wanted if _differs(observed, manifest))


def _differs(observed: Observed, manifest: Manifest) -> bool:
    existing = observed.children.get(reference(manifest))
    if existing is None:
        return True
    if _is_going(existing) or _is_of_another(existing, observed.job):
        return False
    return spec_hash(existing) != spec_hash(manifest) or _scaled(existing, manifest)


def _scaled(existing: Manifest, manifest: Manifest) -> bool:
    """Whether somebody else has set another number of pods: the hash does not see that."""
    wanted = manifest.get("spec", {}).get("replicas")
    return wanted is not None and existing.get("spec", {}).get("replicas") != wanted


def _to_replace(observed: Observed, wanted: Iterable[Manifest]) -> tuple[ObjectRef, ...]:
    """Left over from a deleted job of the same name: they go before ours can come."""
    found = [(ref, observed.children.get(ref)) for ref in map(reference, wanted)]
    return tuple(
        ref
        for ref, manifest in found
        if manifest is not None
        and not _is_going(manifest)
        and _is_of_another(manifest, observed.job)
    )


def _is_going(manifest: Manifest) -> bool:
    return bool(manifest["metadata"].get("deletionTimestamp"))


def _is_of_another(manifest: Manifest, job: JobView) -> bool:
    """Whether an earlier job of this name owns the object, and this one does not."""
    owners = manifest["metadata"].get("ownerReferences") or []
    uids = {owner["uid"] for owner in owners if owner.get("kind") == names.KIND}
    return bool(uids) and job.uid not in uids


def _events(job: JobView, status: FederatedJobStatus, message: str) -> tuple[EventNote, ...]:
    """One event when the phase changes."""
    if status.phase is None or status.phase is job.status.phase:
        return ()
    if status.phase is Phase.RUNNING:
        message = "round 1 has been planned"
    kind = "Warning" if status.phase in _WARNINGS else "Normal"
    return (EventNote(kind, status.phase.value, message),)
